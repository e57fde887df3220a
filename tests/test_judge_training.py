"""How the judge trains: schedules, optimizers, losses, stored order with a pace of its own, and kernels."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest
import torch

import ddsdk as dd
from ddsdk.foundation.errors import ArtifactError
from ddsdk.judging import TrainingSet, cached_score, judge
from ddsdk.synthetic import FixedLabels, LearnedRate, Pixels, centred_labels
from ddsdk.training import FullyConnectedNTK, PerStepSchedule, by_protocol

SHORT = dd.TrainingProtocol(
    name="test", network_options={"width": 4, "depth": 2}, networks=1, epochs=3, batch_size=40, lr=0.05
)


@pytest.fixture(scope="module")
def batch(digits):
    train, _ = digits
    index = torch.cat([train.index_of_class(c)[:10] for c in range(10)])
    return train.batch(index)


def scores_of(batch):
    return dd.Batch(batch.x, centred_labels(batch.y.argmax(1), 10))


def trained(make, batch, protocol, per_step=None):
    """Return the weights that the judge reaches, in float64, and the fresh ones."""
    network, fresh = (make(dd.generator("init")).double() for _ in range(2))
    both = dd.Batch(batch.x.double(), batch.y.double())
    list(by_protocol.train(network, both, protocol, dd.generator("train"), per_step or PerStepSchedule()))
    return list(network.parameters()), fresh, both


def slow_loss(protocol, outputs, labels):
    if protocol.loss == "mse":
        return ((outputs - labels) ** 2).sum() / 2 / len(labels)
    return -(labels * outputs.log_softmax(1)).sum() / len(labels)


def slow_parts(batch, protocol):
    """Give the batches in the stored order, pass after pass."""
    for _ in range(protocol.epochs):
        for at in range(0, len(batch.x), protocol.batch_size):
            part = slice(at, at + protocol.batch_size)
            yield batch.x[part], batch.y[part]


def slow_sgd(network, batch, protocol, rates, momenta):
    params = list(network.parameters())
    velocity = [torch.zeros_like(p) for p in params]
    for (x, y), rate, momentum in zip(slow_parts(batch, protocol), rates, momenta, strict=True):
        grads = torch.autograd.grad(slow_loss(protocol, network(x), y), params)
        with torch.no_grad():
            for p, g, v in zip(params, grads, velocity, strict=True):
                v.mul_(momentum).add_(g + protocol.weight_decay * p)
                p.sub_(rate * v)
    return params


def slow_adam(network, batch, protocol, rates):
    params = list(network.parameters())
    first, second = ([torch.zeros_like(p) for p in params] for _ in range(2))
    for t, ((x, y), rate) in enumerate(zip(slow_parts(batch, protocol), rates, strict=True), 1):
        grads = torch.autograd.grad(slow_loss(protocol, network(x), y), params)
        with torch.no_grad():
            for p, g, m, v in zip(params, grads, first, second, strict=True):
                g = g + protocol.weight_decay * p
                m.mul_(protocol.momentum).add_((1 - protocol.momentum) * g)
                v.mul_(0.999).add_(0.001 * g * g)
                unbiased = (v / (1 - 0.999**t)).sqrt() + 1e-8
                p.sub_(rate * m / (1 - protocol.momentum**t) / unbiased)
    return params


def close(a, b):
    for one, two in zip(a, b, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-9)


@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_stored_order_equals_a_slow_loop(make_digit_student, batch, loss, optimizer):
    """100 images in batches of 40 are 3 steps a pass, the last one of 20 images."""
    protocol = dataclasses.replace(
        SHORT, loss=loss, optimizer=optimizer, order="stored", schedule="cosine", warm_up=0.3, lr=0.01
    )
    given = scores_of(batch)
    found, network, exact = trained(make_digit_student, given, protocol)
    rates = [protocol.rate_at(k, 3) for k in range(9)]
    slow = (
        slow_sgd(network, exact, protocol, rates, [0.9] * 9)
        if optimizer == "sgd"
        else slow_adam(network, exact, protocol, rates)
    )
    close(found, slow)


def test_each_step_has_its_learned_rate_and_momentum(make_digit_student, batch):
    protocol = dataclasses.replace(SHORT, order="stored")
    rates = tuple(0.01 * (k + 1) for k in range(9))
    # Without momentum for a step, what was gathered before is gone, and the step itself is remembered.
    momenta = (0.0, 0.5, 0.9, 0.0, 0.3, 0.0, 0.0, 0.8, 0.9)
    found, network, exact = trained(make_digit_student, batch, protocol, PerStepSchedule(rates, momenta))
    close(found, slow_sgd(network, exact, protocol, rates, momenta))
    found, network, exact = trained(make_digit_student, batch, protocol, PerStepSchedule(rates))
    close(found, slow_sgd(network, exact, protocol, rates, [0.9] * 9))


def test_a_cosine_after_a_warm_up():
    protocol = dataclasses.replace(SHORT, epochs=5, schedule="cosine", warm_up=0.2, decay=0.1, lr=2.0)
    rates = [protocol.rate_at(k, 4) for k in range(20)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    slow = [2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi * k / 16)) / 2) for k in range(16)]
    assert rates[4:] == pytest.approx(slow)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    steps = dataclasses.replace(protocol, schedule="steps", decay_at=(0.6,))
    rates = [steps.rate_at(k, 4) for k in range(20)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, *[2.0] * 9, *[0.2] * 8])
    plain = dataclasses.replace(protocol, warm_up=0.0)
    assert plain.rate_at(0, 4) == 2.0
    assert dataclasses.replace(plain, epochs=1).rate_at(0, 1) == 2.0


def test_labels_are_read_as_the_protocol_says(digits, batch):
    _, test = digits
    given = scores_of(batch)

    def score(labels, rows=given):
        protocol = dataclasses.replace(SHORT, labels=labels)
        return dd.evaluate(rows, test, protocol, seed=dd.generator("judge"))[0]

    (plain,) = dd.evaluate(batch, test, SHORT, seed=dd.generator("judge"))
    hard, near, stored = score("hard"), score("probabilities"), score("stored")
    # Centred one-hot rows give the one-hot rows back.
    assert hard.accuracies == near.accuracies == plain.accuracies
    assert (hard.labels, near.labels, stored.labels) == ("scores as hard", "scores as probabilities", "scores")
    assert (plain.labels, plain.loss) == ("hard", "cross-entropy")
    assert score("hard", batch).labels == "hard"
    soft = dd.Batch(batch.x, 0.5 * batch.y + 0.05)
    assert (score("stored", soft).labels, score("hard", soft).labels) == ("soft", "soft as hard")
    assert score("hard", soft).accuracies == plain.accuracies
    assert hard.stored_floats == 100 * 64 + 1000


def test_regression_on_scores_learns(digits, batch):
    _, test = digits
    protocol = dataclasses.replace(
        SHORT,
        network_options={"width": 8, "depth": 2, "norm": "none"},
        epochs=40,
        loss="mse",
        optimizer="adam",
        schedule="cosine",
        lr=3e-3,
    )
    score = dd.evaluate(scores_of(batch), test, protocol, seed=dd.generator("judge"))
    assert score.mean > 0.6
    assert (score[0].labels, score[0].loss) == ("scores", "mse")


KERNEL = dd.TrainingProtocol(
    name="kernel", network="fc-ntk", network_options={"depth": 2, "ridge": 1e-3}, learner="kernel"
)


def test_a_kernel_is_judged_without_training(digits, batch):
    _, test = digits
    given = scores_of(batch)
    steps = list(judge.evaluation_steps(TrainingSet(given, KERNEL), test, rng=dd.generator(0)))
    assert [(step.done, step.total) for step in steps] == [(1, 1)]
    score = steps[-1].score
    gram = FullyConnectedNTK(depth=2)(given.x, given.x)
    ridge = 1e-3 * gram.trace() / 100 * torch.eye(100)
    held = test.batch(torch.arange(len(test)))
    cross = FullyConnectedNTK(depth=2)(held.x, given.x)
    found = (cross @ torch.linalg.inv(gram + ridge) @ given.y.double()).argmax(1)
    assert score.accuracies == (int((found == test.labels).sum()) / len(test),)
    assert score.mean > 0.7
    assert (score.network, score.loss, score.labels) == ("fc-ntk kernel (depth 2, ridge 0.001)", "ridge", "scores")
    # Chance has no part in it.
    assert dd.evaluate(given, test, KERNEL, seed=1).accuracies == score.accuracies
    # A network that is asked for is trained.
    network = KERNEL.changed(network="convnet", options={"width": 4}, epochs=1, networks=1)
    assert dd.evaluate(given, test, network, seed=1)[0].network == "convnet (width 4)"


def test_a_set_with_a_pace_is_judged_in_its_order(digits, batch, tmp_path):
    train, test = digits
    protocol = dataclasses.replace(SHORT, order="stored", batch_size=50, epochs=2)
    rates = (0.01, 0.02, 0.03, 0.04)
    distilled = dd.Distilled(
        batch.x,
        batch.y,
        class_names=train.class_names,
        preprocess=train.preprocess,
        protocol=protocol.to_dict(),
        learned_lr=rates,
        learned_momentum=(0.5,) * 4,
    )
    kept = cached_score(tmp_path, "dd", distilled, test, protocol, 0)
    per_step = PerStepSchedule(distilled.learned_lr, distilled.learned_momentum)
    rng, training_set = dd.generator(0), TrainingSet(batch, protocol, per_step)
    assert kept.accuracies == judge.last_score(judge.evaluation_steps(training_set, test, rng=rng)).accuracies
    assert kept == cached_score(tmp_path, "dd", distilled, test, protocol, 0)
    # A protocol that shuffles the set has a rate of its own.
    shuffled = dataclasses.replace(protocol, order="shuffled")
    other = cached_score(tmp_path, "dd", distilled, test, shuffled, 0)
    assert other.accuracies == dd.evaluate(batch, test, shuffled, seed=0).accuracies
    with pytest.raises(ValueError, match="learned_lr must hold one number for each of the 6 steps"):
        cached_score(tmp_path, "dd", distilled, test, protocol.changed(epochs=3), 0)


def test_every_reading_of_hard_labels_is_one_score(digits, batch, tmp_path):
    train, test = digits
    names = {"class_names": train.class_names, "preprocess": train.preprocess}
    for rows, count in ((batch.y, 1), (scores_of(batch).y, 3)):
        space = "probabilities" if count == 1 else "scores"
        distilled = dd.Distilled(batch.x, rows, label_space=space, **names)
        folder = tmp_path / space
        for labels in ("stored", "probabilities", "hard"):
            cached_score(folder, "x", distilled, test, dataclasses.replace(SHORT, labels=labels, epochs=1), 0)
        assert len(dd.read_scores(folder)) == count


@pytest.mark.parametrize(
    ("per_step", "changes", "text"),
    [
        (PerStepSchedule((0.1,) * 8), {"order": "stored"}, "one number for each of the 9 steps of 3 epochs, got 8"),
        (PerStepSchedule((0.1,) * 9), {}, "order must be 'stored' where each step has its own learning rate"),
        (PerStepSchedule((), (0.1,)), {"order": "stored"}, "learned_momentum must hold one number"),
        (PerStepSchedule((), (0.1,) * 9), {"order": "stored", "optimizer": "adam"}, "optimizer must be 'sgd'"),
    ],
)
def test_a_pace_that_does_not_fit_is_refused(digits, batch, per_step, changes, text):
    _, test = digits
    with pytest.raises(ValueError, match=text):
        TrainingSet(batch, dataclasses.replace(SHORT, **changes), per_step).check(test)


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"network": "ntk"}, ValueError, "did you mean 'fc-ntk'"),
        ({"network_options": {"width": 3}}, TypeError, "options of kernel 'fc-ntk' must be among"),
        ({"network_options": {"ridge": -1.0}}, ValueError, "strength must be finite and not negative"),
        ({"network_options": {"rule": "trance"}}, ValueError, "rule must be one of"),
    ],
)
def test_kernels_refuse_nonsense(digits, batch, changes, kind, text):
    _, test = digits
    with pytest.raises(kind, match=text):
        dd.evaluate(batch, test, dataclasses.replace(KERNEL, **changes), seed=0)


BAD = [
    {"loss": "l1"},
    {"optimizer": "adamw"},
    {"schedule": "linear"},
    {"order": "random"},
    {"learner": "forest"},
    {"labels": "soft"},
    {"warm_up": 1.0},
    {"warm_up": -0.1},
    {"warm_up": float("nan")},
    {"optimizer": "adam", "momentum": 1.0},
]


@pytest.mark.parametrize("values", BAD)
def test_evaluations_refuse_nonsense(values):
    with pytest.raises(ValueError, match=f"{list(values)[-1]} must"):
        dd.TrainingProtocol(**values)
    with pytest.raises(ArtifactError, match="evaluation must be valid"):
        dd.TrainingProtocol.from_dict(values)


def test_later_entries_stand_in_a_manifest_only_where_they_differ():
    old = {"protocol", "network", "network_options", "networks", "epochs", "batch_size", "lr", "momentum"}
    old |= {"weight_decay", "decay_at", "decay", "augmentation", "mix"}
    assert set(dd.TrainingProtocol().to_dict()) == old
    changes = {
        "loss": "mse",
        "optimizer": "adam",
        "schedule": "cosine",
        "warm_up": 0.1,
        "order": "stored",
        "learner": "kernel",
        "labels": "hard",
    }
    all_new = dd.TrainingProtocol(**changes)
    assert set(all_new.to_dict()) == old | set(changes)
    assert dd.TrainingProtocol.from_dict(json.loads(json.dumps(all_new.to_dict()))) == all_new


def test_a_change_of_order_or_labels_is_named():
    stored = dd.TrainingProtocol(name="own", order="stored")
    assert stored.changed(order="stored", labels="stored") == stored
    changed = stored.changed(order="shuffled", labels="hard")
    assert changed.name == "own, shuffled order, labels hard"
    assert (changed.order, changed.labels) == ("shuffled", "hard")


def held_out_accuracy(digits, syn, protocol):
    _, test = digits
    looks = dd.Validation(held=test, epochs=1, width=4)
    return looks.under(protocol, rng=dd.generator("look"))(syn)


def test_validation_looks_under_every_kind_of_protocol(digits, batch):
    _, test = digits
    classes = batch.y.argmax(1)
    rate = LearnedRate(0.05, steps=4, momentum=0.5)
    syn = dd.SyntheticSet(Pixels(batch.x), FixedLabels(batch.y), classes, 10, rate)
    stored = dataclasses.replace(SHORT, order="stored", batch_size=50, epochs=2)
    # As many epochs as there are rates, although a look takes fewer elsewhere.
    narrow = stored.changed(options={"width": 4}, networks=1)
    per_step = PerStepSchedule(rate.rates, rate.momenta)
    steps = judge.evaluation_steps(TrainingSet(batch, narrow, per_step), test, rng=dd.generator("look"))
    assert held_out_accuracy(digits, syn, stored) == judge.last_score(steps).mean
    plain = dd.SyntheticSet(syn.parametrization, syn.labels, classes, 10)
    by_kernel = dd.evaluate(batch, test, KERNEL, seed=dd.generator("look"))
    assert held_out_accuracy(digits, plain, KERNEL) == by_kernel.mean


@pytest.mark.parametrize("schedule", ["steps", "cosine"])
def test_steps_are_those_of_whole_epochs(digits, batch, schedule):
    make = dd.network_factory("convnet", digits[0].image_shape, 10, width=4, depth=2)
    protocol = dataclasses.replace(SHORT, schedule=schedule, decay_at=(0.5,), warm_up=0.2)
    by_epochs, by_steps, fewer = (make(dd.generator("init")) for _ in range(3))
    list(by_protocol.train(by_epochs, batch, protocol, dd.generator("train")))
    by_protocol.train_steps(by_steps, batch, protocol, 3 * protocol.steps_in_epoch(100), dd.generator("train"))
    for a, b in zip(by_epochs.parameters(), by_steps.parameters(), strict=True):
        assert torch.equal(a, b)
    by_protocol.train_steps(fewer, batch, protocol, 4, dd.generator("train"))
    assert not torch.equal(next(fewer.parameters()), next(by_steps.parameters()))
    with pytest.raises(ValueError, match="steps"):
        by_protocol.train_steps(fewer, batch, protocol, 0, dd.generator("train"))


def test_fewer_steps_see_the_whole_schedule(digits, batch, monkeypatch):
    make, seen = dd.network_factory("convnet", digits[0].image_shape, 10, width=4, depth=2), []
    monkeypatch.setattr(
        by_protocol, "gradient_step", lambda n, optimizer, *_, **__: seen.append(optimizer.param_groups[0]["lr"])
    )
    protocol = dataclasses.replace(SHORT, epochs=2, decay_at=(0.5,), decay=0.1, lr=1.0)
    by_protocol.train_steps(make(dd.generator(0)), batch, protocol, 5, dd.generator(0))
    assert seen == pytest.approx([1, 1, 1, 0.1, 0.1])
    seen.clear()
    cosine = dataclasses.replace(protocol, schedule="cosine", decay=0.0)
    by_protocol.train_steps(make(dd.generator(0)), batch, cosine, 4, dd.generator(0))
    assert seen == pytest.approx([(1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)])
