"""The hook of adversarial training, and curvature at the inputs, against plain versions."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.judging import TrainingSet, trained_network
from ddsdk.objectives import ByFeatures, FitAndTest, TrainAndTest, by_kernel
from ddsdk.students import TrainedRuns, Training
from ddsdk.synthetic import FreeLabels, LearnedScale, Pixels
from ddsdk.training import CurvaturePenalty, FullyConnectedNTK, Ridge, full_graph
from ddsdk.training.by_protocol import train as train_on
from ddsdk.training.fit import batch_gradient

SHAPE, CLASSES = (1, 8, 8), torch.arange(3).repeat_interleave(2)


class Real:
    """Forty images in float64 that are shown as they are, whatever is asked for."""

    num_classes = 3
    device = torch.device("cpu")

    def __init__(self, x=None):
        self.x = torch.randn(40, *SHAPE, generator=dd.generator("real"), dtype=torch.float64) if x is None else x
        self.y = torch.eye(3, dtype=torch.float64)[torch.arange(40) % 3]

    def mixed(self, n, rng):
        return dd.Batch(self.x, self.y)

    def of_class(self, c, n, rng):
        return dd.Batch(self.x[c::3], self.y[c::3])


class Recorder:
    """Moves images by a constant, and keeps what it was asked."""

    def __init__(self):
        self.losses, self.moved = [], []

    def __call__(self, loss, x, rng):
        z = x.detach().requires_grad_()
        value = loss(z)
        (gradient,) = torch.autograd.grad(value, z)
        self.losses.append(float(value.detach()))
        self.moved.append((x + 0.1 * gradient.sign()).detach())
        return self.moved[-1]


def make_syn(scale=None):
    images = torch.randn(6, *SHAPE, generator=dd.generator("images"), dtype=torch.float64)
    rows = torch.eye(3, dtype=torch.float64)[CLASSES] - 1 / 3
    return dd.SyntheticSet(Pixels(images), FreeLabels(rows), CLASSES, 3, scale=scale).double()


def network(**how):
    make = dd.network_factory("convnet", SHAPE, 3, width=3, depth=1, norm="none", activation="sigmoid", **how)
    return make(dd.generator("student")).double().requires_grad_(False)


def taken(objective, student, syn, real):
    from ddsdk.synthetic.set import LeafView

    syn.zero_grad()
    leaves = LeafView(syn)
    total = 0.0
    for term in objective(student, real, leaves, dd.generator("step")):
        term.backward()
        total += float(term.detach())
    leaves.pull_back()
    return total, [p.grad.clone() for p in syn.parameters()]


OBJECTIVES = {
    "kernel": (FitAndTest(compare=by_kernel, ridge=Ridge(strength=1e-3), real_batch=40), FullyConnectedNTK(depth=1)),
    "features": (FitAndTest(compare=ByFeatures(), ridge=Ridge(strength=1e-3), real_batch=40), None),
    "cross-entropy": (
        FitAndTest(compare=ByFeatures(), ridge=Ridge(strength=1e-3), real_batch=40, loss="cross-entropy"),
        None,
    ),
    "unrolled": (TrainAndTest(steps=3, lr=0.1, unroll=full_graph, real_batch=40), None),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_under_attack_is_the_plain_one_on_the_attacked_images(name):
    objective, student = OBJECTIVES[name]
    student = network() if student is None else student
    recorder, syn = Recorder(), make_syn(LearnedScale(5.0) if name == "cross-entropy" else None)
    plain, _ = taken(objective, student, syn, Real())
    value, gradients = taken(dataclasses.replace(objective, adversary=recorder), student, syn, Real())
    # What the attack was shown is the loss of the very student that is tested.
    assert sum(recorder.losses) / 40 == pytest.approx(plain, rel=1e-9)
    assert value > plain
    attacked, expected = taken(objective, student, syn, Real(torch.cat(recorder.moved)))
    assert value == pytest.approx(attacked, rel=1e-12)
    for mine, theirs in zip(gradients, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_adversary_that_does_nothing_changes_nothing(name):
    objective, student = OBJECTIVES[name]
    student = network() if student is None else student
    syn = make_syn(LearnedScale(5.0) if name == "cross-entropy" else None)
    idle = dataclasses.replace(objective, adversary=lambda loss, x, rng: x)
    (a, first), (b, second) = (taken(o, student, syn, Real()) for o in (objective, idle))
    assert a == b
    assert all(map(torch.equal, first, second))


def test_adversarial_training_sees_attacked_images_in_every_step(tiny):
    protocol = dataclasses.replace(
        dd.TrainingProtocol.published(), network_options={"width": 4, "depth": 1}, epochs=2, batch_size=8
    )
    batch, recorder = tiny.batch(torch.arange(len(tiny))), Recorder()
    trained = [
        trained_network(TrainingSet(batch, protocol), 0, rng=dd.generator("t"), adversary=adversary)
        for adversary in (recorder, lambda loss, x, rng: x, None)
    ]
    hard, idle, plain = ([p.detach() for p in t.parameters()] for t in trained)
    assert len(recorder.moved) == 2 * 3
    assert all(map(torch.equal, idle, plain))
    assert not torch.equal(hard[0], plain[0])
    # By hand: the first step of plain descent on the first attacked batch.
    network = dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=1)(dd.generator("init"))
    one = dataclasses.replace(protocol, epochs=1, batch_size=20, momentum=0.0, weight_decay=0.0, order="stored")
    before = [p.detach().clone() for p in network.parameters()]
    attack = Recorder()
    for _ in train_on(network, batch, one, dd.generator("t"), adversary=attack):
        pass
    moved = [(a - b).detach() for a, b in zip(before, network.parameters(), strict=True)]
    for p, value in zip(network.parameters(), before, strict=True):
        p.data.copy_(value)
    loss = cross_entropy(network(attack.moved[0]), batch.y)
    for step, gradient in zip(moved, torch.autograd.grad(loss, list(network.parameters())), strict=True):
        assert torch.allclose(step, one.lr * gradient, atol=1e-6)


def smooth_network():
    return network().requires_grad_(True)


def batch_of(n=5):
    real = Real()
    return dd.Batch(real.x[:n], real.y[:n])


def test_curvature_is_finite_differences_of_the_input_gradient():
    student, batch = smooth_network(), batch_of()
    found = CurvaturePenalty(weight=2.0, step=0.7)(student, batch)
    total = 0.0
    for n in range(len(batch.x)):
        x, y = batch.x[n : n + 1], batch.y[n : n + 1]

        def loss(z, y=y):
            return float(cross_entropy(student(z), y).detach())

        def gradient(at, loss=loss):
            h, out = 1e-5, torch.zeros_like(at)
            for i in range(at.numel()):
                e = torch.zeros(at.numel(), dtype=at.dtype)
                e[i] = h
                e = e.view_as(at)
                out.view(-1)[i] = (loss(at + e) - loss(at - e)) / (2 * h)
            return out

        here = gradient(x)
        total += float((gradient(x + 0.7 * here / here.norm()) - here).norm())
    assert float(found.detach()) == pytest.approx(2.0 * total, rel=1e-4)


def test_a_small_step_measures_the_hessian():
    student, batch = smooth_network(), batch_of(3)
    found = float(CurvaturePenalty(weight=1.0, step=1e-4)(student, batch).detach()) / 1e-4
    total = 0.0
    for n in range(3):
        x, y = batch.x[n : n + 1], batch.y[n : n + 1]
        hessian = torch.autograd.functional.hessian(lambda z, y=y: cross_entropy(student(z), y), x)
        (g,) = torch.autograd.grad(cross_entropy(student(x.requires_grad_()), y), x)
        total += float((hessian.reshape(x.numel(), x.numel()) @ (g / g.norm()).flatten()).norm())
    assert found == pytest.approx(total, rel=1e-3)


def test_gradients_of_the_curvature_reach_the_weights():
    student, batch = smooth_network(), batch_of(2)
    penalty = CurvaturePenalty(weight=3.0, step=0.5)
    batch_gradient(student, batch, penalty=penalty)
    with_penalty = [p.grad.clone() for p in student.parameters()]
    batch_gradient(student, batch)
    plain = [p.grad.clone() for p in student.parameters()]
    alone = torch.autograd.grad(penalty(student, batch), list(student.parameters()), allow_unused=True)
    assert any(extra is not None and float(extra.abs().max()) > 1e-3 for extra in alone)
    for a, b, extra in zip(with_penalty, plain, alone, strict=True):
        share = torch.zeros_like(b) if extra is None else extra / 2
        assert torch.allclose(a, b + share, atol=1e-9)


def test_curvature_trains_flatter_networks(tiny, tmp_path):
    make = dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=1)
    measure = CurvaturePenalty(weight=1.0, step=1.0)
    batch, found = tiny.batch(torch.arange(len(tiny))), []
    for weight in (0.0, 10.0):
        training = Training(epochs=30, lr=0.05, batch_size=20, curvature=weight, curvature_step=1.0)
        runs = TrainedRuns(tiny, make, training, count=1, seed=0, folder=tmp_path)
        found.append(float(measure(runs.network(0), batch).detach()))
    assert found[1] < 0.7 * found[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CurvaturePenalty(weight=-1.0), "weight must be finite and not negative"),
        (lambda: CurvaturePenalty(step=0.0), "step must be positive"),
        (lambda: Training(epochs=1, curvature=-1.0), "curvature must be finite"),
        (lambda: Training(epochs=1, curvature=1.0, sharpness=0.1), "curvature must be 0"),
        (lambda: dd.SRe2L(teacher_curvature=-1.0), "teacher_curvature must be finite"),
        (lambda: dd.SRe2L(teacher_curvature_step=0.0), "teacher_curvature_step must be positive"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()
