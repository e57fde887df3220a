"""Judging a set: one way to train, one look at the test set, scores that are kept."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.baselines import BASELINES
from ddsdk.data.augment import cutmix
from ddsdk.experiments.table_view import score_table
from ddsdk.foundation import derive
from ddsdk.foundation.errors import ArtifactError
from ddsdk.judging import TrainingSet, cached_score, judge, scores
from ddsdk.students import prepare_student
from ddsdk.training.by_protocol import train
from ddsdk.training.fit import accuracy
from ddsdk.training.micro import MICRO_BATCH

QUICK = dd.TrainingProtocol(
    name="test", network_options={"width": 8, "depth": 2}, networks=2, epochs=25, batch_size=64, lr=0.05
)


@pytest.fixture
def chosen(digits, make_digit_student):
    train, _ = digits
    return dd.distill(BASELINES["random"](ipc=10), train, make_student=make_digit_student, seed=dd.generator("set"))


@pytest.fixture
def batch(chosen):
    return dd.Batch(chosen.images, chosen.labels)


def test_training_on_real_images_beats_chance_and_repeats(digits, batch):
    _, test = digits
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found += dd.evaluate(batch, test, QUICK, seed=dd.generator("judge"), name="random")
    one, two = found
    assert one.accuracies == two.accuracies
    assert len(one.accuracies) == 2
    assert one.accuracies[0] != one.accuracies[1]
    assert one.mean > 0.6
    assert one.std > 0
    assert (one.name, one.protocol, one.network) == ("random", "test", "convnet (width 8, depth 2)")
    assert (one.images, one.stored_floats) == (100, 100 * 64 + 100)
    assert one.seconds > 0
    assert dataclasses.replace(one, accuracies=(0.5,)).std == 0


def test_a_seed_is_an_integer_or_its_generator(digits, batch):
    _, test = digits
    short = dataclasses.replace(QUICK, networks=1, epochs=1)
    one, same, other = (dd.evaluate(batch, test, short, seed=s).accuracies for s in (3, dd.generator(3), 4))
    assert one == same != other
    with pytest.raises(TypeError, match=r"seed must be an integer or a torch.Generator, got True"):
        dd.evaluate(batch, test, short, seed=True)


def test_labels_that_lie_teach_lies(digits, batch):
    _, test = digits
    shifted = dd.Batch(batch.x, batch.y.roll(1, 1))
    score = dd.evaluate(shifted, test, dataclasses.replace(QUICK, networks=1), seed=dd.generator("judge"))
    assert score.mean < 0.2


@pytest.mark.parametrize("pieces", [None, 16])
def test_train_equals_a_slow_loop(digits, make_digit_student, batch, monkeypatch, pieces):
    monkeypatch.setitem(MICRO_BATCH, "cpu", pieces)
    protocol = dataclasses.replace(QUICK, epochs=6, batch_size=1000)
    network = make_digit_student(dd.generator("init"))
    done = list(train(network, batch, protocol, dd.generator("train")))
    assert done == [1, 2, 3, 4, 5, 6]

    slow = make_digit_student(dd.generator("init"))
    rate, velocity = protocol.lr, [torch.zeros_like(p) for p in slow.parameters()]
    for i in range(6):
        if i == 3:
            rate *= 0.1
        grads = torch.autograd.grad(cross_entropy(slow(batch.x), batch.y), list(slow.parameters()))
        with torch.no_grad():
            for p, g, v in zip(slow.parameters(), grads, velocity, strict=True):
                v.mul_(0.9).add_(g + 5e-4 * p)
                p.sub_(rate * v)
    for a, b in zip(network.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_the_rate_falls_at_each_of_its_decays():
    protocol = dataclasses.replace(QUICK, epochs=10, lr=0.5, decay_at=(0.3, 0.55, 0.9), decay=0.1)
    rate, slow = 0.5, []
    for i in range(10):
        if i in (3, 5, 9):
            rate *= 0.1
        slow.append(rate)
    assert [protocol.rate_in(i) for i in range(10)] == pytest.approx(slow)
    constant = dataclasses.replace(protocol, decay_at=())
    assert {constant.rate_in(i) for i in range(10)} == {0.5}
    # The first epoch has the full rate, and a decay after the last epoch none to fall on.
    ends = dataclasses.replace(protocol, decay_at=(0.0, 1.0))
    assert [ends.rate_in(i) for i in range(3)] == pytest.approx([0.5, 0.05, 0.05])
    assert ends.rate_in(9) == pytest.approx(0.05)
    twice = dataclasses.replace(protocol, decay_at=(0.5, 0.5))
    assert twice.rate_in(5) == pytest.approx(0.005)


def test_several_decays_reach_the_training(make_digit_student, batch):
    protocol = dataclasses.replace(QUICK, epochs=4, batch_size=1000, decay_at=(0.25, 0.5), decay=0.5)
    network = make_digit_student(dd.generator("init"))
    list(train(network, batch, protocol, dd.generator("train")))
    slow = make_digit_student(dd.generator("init"))
    velocity = [torch.zeros_like(p) for p in slow.parameters()]
    for rate in (0.05, 0.025, 0.0125, 0.0125):
        grads = torch.autograd.grad(cross_entropy(slow(batch.x), batch.y), list(slow.parameters()))
        with torch.no_grad():
            for p, g, v in zip(slow.parameters(), grads, velocity, strict=True):
                v.mul_(0.9).add_(g + 5e-4 * p)
                p.sub_(rate * v)
    for a, b in zip(network.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_an_epoch_mixes_after_it_augments(batch):
    from ddsdk.training.fit import epoch

    augmentation, rng = dd.Augmentation("crop+scale"), dd.generator("epoch")
    order = torch.randperm(100, generator=derive(rng, "order"))
    parts = list(epoch(batch, 32, augmentation, rng, mix=1.0))
    for i, (part, at) in enumerate(zip(parts, torch.split(order, 32), strict=True)):
        draw = augmentation.per_image(len(at), derive(rng, "augmentation", i))
        x, y = cutmix(draw(batch.x[at]), batch.y[at], 1.0, derive(rng, "mix", i))
        assert torch.equal(part.x, x)
        assert torch.equal(part.y, y)
    assert sum(float(part.y.amax(1).min()) < 1 for part in parts) >= 3


def test_mixing_is_part_of_a_protocol(digits, batch):
    _, test = digits
    short = dataclasses.replace(QUICK, networks=1, epochs=3)
    plain, one, two = (
        dd.evaluate(batch, test, dataclasses.replace(short, mix=m), seed=dd.generator("judge")) for m in (0.0, 0.5, 0.5)
    )
    assert one.accuracies == two.accuracies != plain.accuracies


def test_accuracy_leaves_every_layer_in_its_mode(digits):
    train, test = digits
    make = dd.network_factory("convnet", train.image_shape, 10, width=4, depth=2, norm="batch")
    network = prepare_student(make, train, dd.generator(0))
    modes = [layer.training for layer in network.modules()]
    assert True in modes
    assert False in modes
    x, _ = test.batch(torch.arange(32))
    accuracy(network, x, test.labels[:32])
    assert [layer.training for layer in network.modules()] == modes


def test_an_epoch_shows_every_image_once(batch):
    from ddsdk.training.fit import epoch

    parts = list(epoch(batch, 32, dd.Augmentation(), dd.generator("epoch")))
    assert [len(p.x) for p in parts] == [32, 32, 32, 4]
    shown = torch.cat([p.x for p in parts]).flatten(1)
    assert not torch.equal(shown, batch.x.flatten(1))
    assert torch.equal(shown.sum(1).sort().values, batch.x.flatten(1).sum(1).sort().values)


def test_augmentation_is_used_and_repeats(digits, batch):
    _, test = digits
    short = dataclasses.replace(QUICK, networks=1, epochs=3)
    plain, one, two = (
        dd.evaluate(batch, test, dataclasses.replace(short, augmentation=a), seed=dd.generator("judge"))
        for a in ("", "crop_scale_rotate", "crop_scale_rotate")
    )
    assert one.accuracies == two.accuracies != plain.accuracies


def test_batch_norm_networks_are_judged(digits, batch):
    _, test = digits
    options = {"width": 8, "depth": 1, "norm": "batch"}
    protocol = dataclasses.replace(QUICK, networks=1, epochs=15, network_options=options)
    assert dd.evaluate(batch, test, protocol, seed=dd.generator("judge")).mean > 0.5


def test_sets_that_do_not_fit_are_refused(digits, batch):
    _, test = digits
    with pytest.raises(ValueError, match=r"images must have shape \(1, 8, 8\), got \(1, 8, 7\)"):
        dd.evaluate((batch.x[..., :7], batch.y), test, QUICK, seed=0)
    with pytest.raises(ValueError, match="labels must have 10 columns, got 9"):
        dd.evaluate((batch.x, batch.y[:, :9]), test, QUICK, seed=0)
    with pytest.raises(ValueError, match="did you mean 'convnet'"):
        wrong = dataclasses.replace(QUICK, network="convent")
        dd.evaluate(batch, test, wrong, seed=0)


@pytest.mark.parametrize(
    "protocol",
    [
        QUICK,
        dd.TrainingProtocol(),
        dd.TrainingProtocol.published("crop"),
        dd.TrainingProtocol.quick(),
        dd.TrainingProtocol(decay_at=(), mix=0.5),
        dd.TrainingProtocol(decay_at=(0.5, 0.75, 1.0), augmentation="flip+crop_color"),
    ],
)
def test_an_evaluation_survives_json(protocol):
    values = json.loads(json.dumps(protocol.to_dict()))
    assert dd.TrainingProtocol.from_dict(values) == protocol


def test_a_protocol_with_one_decay_as_a_number_can_be_read():
    """Sets that were written before there could be several."""
    values = dd.TrainingProtocol().to_dict()
    for given in (0.5, 0.25, 1, 0):
        found = dd.TrainingProtocol.from_dict(values | {"decay_at": given})
        assert found == dd.TrainingProtocol(decay_at=(given,))
        assert json.loads(json.dumps(found.to_dict()))["decay_at"] == [given]
    del values["mix"]
    assert dd.TrainingProtocol.from_dict(values) == dd.TrainingProtocol()
    for given in (True, "0.5", None, [0.5, "1"], [True], 1.5, [-0.1], [float("nan")]):
        with pytest.raises(ArtifactError, match="evaluation must be valid"):
            dd.TrainingProtocol.from_dict(values | {"decay_at": given})


def test_evaluations_refuse_nonsense():
    with pytest.raises(ValueError, match=r"evaluation must have known keys only, got \['epoch'\]"):
        dd.TrainingProtocol.from_dict({"epoch": 3})
    for name in ("networks", "epochs", "batch_size"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            dd.TrainingProtocol(**{name: 0})
    for lr in (0.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"lr must be positive and finite, got {lr}"):
            dd.TrainingProtocol(lr=lr)
    for mix in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"mix must lie in 0\.\.1, got {mix}"):
            dd.TrainingProtocol(mix=mix)
    for decays in ((-0.1,), (0.5, 1.5), (float("nan"),)):
        with pytest.raises(ValueError, match=r"decay_at must hold fractions 0\.\.1, got "):
            dd.TrainingProtocol(decay_at=decays)
    for values in ({"network": 5}, {"augmentation": 5}, {"epochs": True}, {"network_options": []}, {"lr": "1"}):
        with pytest.raises(ArtifactError, match="evaluation must be valid") as caught:
            dd.TrainingProtocol.from_dict(values)
        assert caught.value.reason == "evaluation"
    with pytest.raises(ArtifactError, match="momentum must be finite and not negative, got -1"):
        dd.TrainingProtocol.from_dict({"momentum": -1})


def test_published_protocols_are_those_of_the_papers():
    plain, augmented = dd.TrainingProtocol.published(), dd.TrainingProtocol.published(dd.DSA_STRATEGY)
    assert (plain.epochs, augmented.epochs) == (300, 1000)
    assert plain.network_label == "convnet (width 128)"
    assert (plain.lr, plain.momentum, plain.weight_decay, plain.batch_size) == (0.01, 0.9, 5e-4, 256)


def test_a_kept_score_is_not_computed_again(digits, chosen, tmp_path, monkeypatch):
    _, test = digits
    short = dataclasses.replace(QUICK, networks=1, epochs=2)
    calls = []

    def counted(*args, **options):
        calls.append(options["name"])
        return judge.evaluation_steps(*args, **options)

    monkeypatch.setattr(scores, "evaluation_steps", counted)
    folder = tmp_path / "scores"
    one = cached_score(folder, "random", chosen, test, short, 0)
    assert cached_score(folder, "random", chosen, test, short, 0) == one
    assert calls == ["random"]
    # Anything that the score depends on makes another one.
    cached_score(folder, "random", chosen, test, short, 1)
    cached_score(folder, "random", chosen, test, dataclasses.replace(short, epochs=3), 0)
    cached_score(folder, "random", chosen, test.subset(torch.arange(300)), short, 0)
    assert len(calls) == 4
    records = dd.read_scores(folder)
    assert len(records) == 4
    assert {r["data"] for r in records} == {"digits"}
    assert {r["ipc"] for r in records} == {10}
    assert one.stored_floats == chosen.manifest.storage.floats
    assert any(tuple(r["score"]["accuracies"]) == one.accuracies for r in records)
    assert dd.read_scores(tmp_path / "none") == []
    assert all(set(r["conditions"]["versions"]) == {"ddsdk", "torch"} for r in records)
    cached_score(folder, "random", chosen, test, short, 0, fresh=True)
    assert len(calls) == 5


def test_a_set_is_judged_under_its_learned_rate(digits, chosen, tmp_path):
    _, test = digits
    short = dataclasses.replace(QUICK, networks=1, epochs=2, lr=0.03)
    learned = dataclasses.replace(chosen, learned_lr=0.125)
    found = cached_score(tmp_path, "learned", learned, test, short, 0)
    by_hand = cached_score(tmp_path, "by hand", chosen, test, dataclasses.replace(short, lr=0.125), 0)
    assert found.accuracies == by_hand.accuracies
    assert {r["conditions"]["protocol"]["lr"] for r in dd.read_scores(tmp_path)} == {0.125}


@pytest.mark.parametrize("name", ["../x", "..", "/", "a/../../b", "\x1b", ""])
def test_no_name_leads_out_of_the_folder(digits, chosen, tmp_path, name):
    _, test = digits
    folder = tmp_path / "deep" / "scores"
    cached_score(folder, name, chosen, test, dataclasses.replace(QUICK, networks=1, epochs=1), 0)
    assert {p.parent.parent for p in tmp_path.rglob("*") if p.is_file()} == {folder}
    (record,) = dd.read_scores(folder)
    assert record["score"]["name"] == name


def test_scores_of_other_classes_are_refused(digits, chosen, tmp_path):
    _, test = digits
    other = dataclasses.replace(chosen, class_names=tuple("abcdefghij"))
    with pytest.raises(ValueError, match="class names of test must be those of the set"):
        cached_score(tmp_path, "random", other, test, QUICK, 0)


def test_scores_lie_beside_the_set_and_not_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert scores.results_folder(Path("out/set")) == Path("out/set-results")
    assert scores.results_folder(Path()) == tmp_path.with_name(f"{tmp_path.name}-results")


def test_an_evaluation_tells_how_far_it_is(digits, batch):
    _, test = digits
    short = dataclasses.replace(QUICK, networks=2, epochs=3)
    steps = list(judge.evaluation_steps(TrainingSet(batch, short), test, rng=dd.generator("judge")))
    assert [step.done for step in steps] == [1, 2, 3, 4, 5, 6, 6]
    assert {step.total for step in steps} == {6}
    assert all(step.score is None for step in steps[:-1])
    whole = dd.evaluate(batch, test, short, seed=dd.generator("judge"))
    assert steps[-1].score.accuracies == whole.accuracies
    with pytest.raises(ValueError, match="labels must have 10 columns, got 9"):
        judge.evaluation_steps(TrainingSet(dd.Batch(batch.x, batch.y[:, :9]), short), test, rng=dd.generator(0))


def test_a_changed_protocol_says_what_changed():
    paper = dd.TrainingProtocol.published()
    assert paper.changed() == paper
    assert paper.changed(options={"width": 128}, network="convnet", epochs=300) == paper
    assert paper.changed(networks=20) == dataclasses.replace(paper, networks=20)
    narrow = paper.changed(options={"width": 32, "depth": 2}, epochs=10)
    assert narrow.name == "published, 10 epochs, width 32, depth 2"
    assert dict(narrow.network_options) == {"width": 32, "depth": 2}
    other = paper.changed(network="lenet")
    assert (other.name, other.network, dict(other.network_options)) == ("published, lenet", "lenet", {})


def test_a_published_figure_stands_beside_the_published_protocol_only():
    paper = dd.TrainingProtocol.published()
    score = {"name": "dc", "accuracies": [0.9], "network": "convnet", "protocol": "published"}
    score |= {"images": 10, "stored_floats": 1, "seconds": 1.0}
    shown = {}
    narrow = dataclasses.replace(paper, network_options={"width": 32})
    for key, protocol in {
        "paper": paper,
        "repeats": paper.changed(networks=20),
        "width": paper.changed(options={"width": 32}),
        "depth": paper.changed(options={"depth": 2}),
        "network": paper.changed(network="mlp"),
        "epochs": paper.changed(epochs=10),
        "unnamed": narrow,
    }.items():
        conditions = {"set": "x", "protocol": protocol.to_dict()}
        named = {**score, "name": "random"}
        record = {"score": named, "data": "mnist", "ipc": 1, "distil_seconds": None, "conditions": conditions}
        shown[key] = "| 64.9 |" in score_table([record], [])
    assert shown == dict.fromkeys(shown, False) | {"paper": True, "repeats": True}
    assert score_table([{**record, "score": score}], []).count("\n") == 2


def test_a_published_figure_stands_beside_the_own_protocol_of_a_set(tiny):
    distilled = dd.distill(dd.BASELINES["random"](ipc=1), tiny)
    protocol = dd.FRePo(ipc=1).protocol(tiny)
    distilled = dataclasses.replace(distilled, protocol=protocol.to_dict())
    score = {"name": "frepo", "accuracies": [0.9], "network": "convnet", "protocol": protocol.name, "images": 3}
    score |= {"stored_floats": 1, "seconds": 1.0}
    for networks, epochs, shown in ((3, None, True), (3, 7, False)):
        conditions = {
            "set": distilled.content_id,
            "protocol": protocol.changed(networks=networks, epochs=epochs).to_dict(),
        }
        record = {"score": score, "data": "mnist", "ipc": 1, "distil_seconds": None, "conditions": conditions}
        assert ("| 93.0 |" in score_table([record], [distilled])) == shown


def test_a_reduced_protocol_of_a_network_without_a_width_keeps_its_options():
    protocol = dd.TrainingProtocol.published().changed(network="torchvision:resnet18")
    reduced = judge.reduced_protocol(protocol, networks=1, epochs=2, width=8)
    assert (reduced.network, reduced.epochs, dict(reduced.network_options)) == ("torchvision:resnet18", 2, {})
