"""Judging a set: one way to train, one look at the test set, scores that are kept."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk import judge, scores
from ddsdk.baselines import BASELINES
from ddsdk.inner.micro import MICRO_BATCH

QUICK = dd.Evaluation(
    protocol="test", network_options={"width": 8, "depth": 2}, networks=2, epochs=25, batch_size=64, lr=0.05
)


@pytest.fixture
def chosen(digits, make_digit_student):
    train, _ = digits
    return BASELINES["random"](ipc=10)(train, make_student=make_digit_student, rng=dd.generator("set"))


@pytest.fixture
def batch(chosen):
    return dd.Batch(chosen.images, chosen.labels)


def test_training_on_real_images_beats_chance_and_repeats(digits, batch):
    _, test = digits
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(dd.evaluate(batch, test, QUICK, rng=dd.generator("judge"), name="random"))
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


def test_labels_that_lie_teach_lies(digits, batch):
    _, test = digits
    shifted = dd.Batch(batch.x, batch.y.roll(1, 1))
    score = dd.evaluate(shifted, test, dataclasses.replace(QUICK, networks=1), rng=dd.generator("judge"))
    assert score.mean < 0.2


@pytest.mark.parametrize("pieces", [None, 16])
def test_train_equals_a_slow_loop(digits, make_digit_student, batch, monkeypatch, pieces):
    monkeypatch.setitem(MICRO_BATCH, "cpu", pieces)
    evaluation = dataclasses.replace(QUICK, epochs=6, batch_size=1000)
    network = make_digit_student(dd.generator("init"))
    done = list(judge.train(network, batch, evaluation, dd.generator("train")))
    assert done == [1, 2, 3, 4, 5, 6]

    slow = make_digit_student(dd.generator("init"))
    rate, velocity = evaluation.lr, [torch.zeros_like(p) for p in slow.parameters()]
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


def test_an_epoch_shows_every_image_once(batch):
    from ddsdk.inner.fit import epoch

    parts = list(epoch(batch, 32, dd.Augmentation(), dd.generator("epoch")))
    assert [len(p.x) for p in parts] == [32, 32, 32, 4]
    shown = torch.cat([p.x for p in parts]).flatten(1)
    assert not torch.equal(shown, batch.x.flatten(1))
    assert torch.equal(shown.sum(1).sort().values, batch.x.flatten(1).sum(1).sort().values)


def test_augmentation_is_used_and_repeats(digits, batch):
    _, test = digits
    short = dataclasses.replace(QUICK, networks=1, epochs=3)
    plain, one, two = (
        dd.evaluate(batch, test, dataclasses.replace(short, augmentation=a), rng=dd.generator("judge"))
        for a in ("", "crop_scale_rotate", "crop_scale_rotate")
    )
    assert one.accuracies == two.accuracies != plain.accuracies


def test_batch_norm_networks_are_judged(digits, batch):
    _, test = digits
    options = {"width": 8, "depth": 1, "norm": "batch"}
    evaluation = dataclasses.replace(QUICK, networks=1, epochs=15, network_options=options)
    assert dd.evaluate(batch, test, evaluation, rng=dd.generator("judge")).mean > 0.5


def test_sets_that_do_not_fit_are_refused(digits, batch):
    _, test = digits
    with pytest.raises(ValueError, match=r"images must have shape \(1, 8, 8\), got \(1, 8, 7\)"):
        dd.evaluate((batch.x[..., :7], batch.y), test, QUICK, rng=dd.generator(0))
    with pytest.raises(ValueError, match="labels must have 10 columns, got 9"):
        dd.evaluate((batch.x, batch.y[:, :9]), test, QUICK, rng=dd.generator(0))
    with pytest.raises(ValueError, match="did you mean 'convnet'"):
        wrong = dataclasses.replace(QUICK, network="convent")
        dd.evaluate(batch, test, wrong, rng=dd.generator(0))


@pytest.mark.parametrize(
    "evaluation", [QUICK, dd.Evaluation(), dd.Evaluation.published("crop"), dd.Evaluation.quick()]
)
def test_an_evaluation_survives_json(evaluation):
    values = json.loads(json.dumps(evaluation.to_dict()))
    assert dd.Evaluation.from_dict(values) == evaluation


def test_evaluations_refuse_nonsense():
    with pytest.raises(ValueError, match=r"evaluation must have known keys only, got \['epoch'\]"):
        dd.Evaluation.from_dict({"epoch": 3})
    for name in ("networks", "epochs", "batch_size"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            dd.Evaluation(**{name: 0})
    with pytest.raises(ValueError, match=r"lr must be positive, got 0\.0"):
        dd.Evaluation(lr=0.0)


def test_published_protocols_are_those_of_the_papers():
    plain, augmented = dd.Evaluation.published(), dd.Evaluation.published(dd.DSA_STRATEGY)
    assert (plain.epochs, augmented.epochs) == (300, 1000)
    assert plain.network_label == "convnet (width 128)"
    assert (plain.lr, plain.momentum, plain.weight_decay, plain.batch_size) == (0.01, 0.9, 5e-4, 256)


def test_a_kept_score_is_not_computed_again(digits, chosen, tmp_path, monkeypatch):
    _, test = digits
    short = dataclasses.replace(QUICK, networks=1, epochs=2)
    calls = []

    def counted(*args, **options):
        calls.append(options["name"])
        return judge.evaluate(*args, **options)

    monkeypatch.setattr(scores, "evaluate", counted)
    folder = tmp_path / "scores"
    one = dd.kept_score(folder, "random", chosen, test, short, 0)
    assert dd.kept_score(folder, "random", chosen, test, short, 0) == one
    assert calls == ["random"]
    # Anything that the score depends on makes another one.
    dd.kept_score(folder, "random", chosen, test, short, 1)
    dd.kept_score(folder, "random", chosen, test, dataclasses.replace(short, epochs=3), 0)
    dd.kept_score(folder, "random", chosen, test.subset(torch.arange(300)), short, 0)
    assert len(calls) == 4
    records = dd.read_scores(folder)
    assert len(records) == 4
    assert {r["data"] for r in records} == {"digits"}
    assert {r["ipc"] for r in records} == {10}
    assert one.stored_floats == chosen.manifest.storage.floats
    assert any(tuple(r["score"]["accuracies"]) == one.accuracies for r in records)
    assert dd.read_scores(tmp_path / "none") == []
