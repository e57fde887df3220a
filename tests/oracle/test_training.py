"""Train and test: its gradient against a plain loop and finite differences, windows, micro-batches, and orders."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.objectives import SetTraining, TrainAndTest
from ddsdk.synthetic import FreeLabels, LearnedRate, Pixels
from ddsdk.synthetic.set import LeafView
from ddsdk.training import InnerAdam, InnerSGD, StepReplay, constant_memory, full_graph
from ddsdk.training.flat import FlatNetwork, weight_vector
from ddsdk.training.losses import half_squared_error
from ddsdk.training.micro import MICRO_BATCH

STEPS, SHAPE = 4, (2, 8, 8)
CLASSES = torch.arange(3).repeat_interleave(2)
OPTIMIZERS = {"sgd": InnerSGD(), "momentum": InnerSGD(momentum=0.9), "adam": InnerAdam()}
UNROLLS = {"full": full_graph, "kept": constant_memory, "replayed": StepReplay(graph_bytes=0)}
ORDERS = {"shuffled": 4, "stored": 4, "stratified": 1}


@pytest.fixture
def network():
    make = dd.network_factory("convnet", SHAPE, 3, width=3, depth=2, norm="none", activation="sigmoid")
    return make(dd.generator("student")).double().requires_grad_(False)


class Real:
    """Real data in float64: 70 images, more than one micro-batch."""

    num_classes = 3
    device = torch.device("cpu")

    def __init__(self):
        rng = dd.generator("real")
        self.x = torch.randn(70, *SHAPE, generator=rng, dtype=torch.float64)
        self.y = torch.eye(3, dtype=torch.float64)[torch.arange(70) % 3]

    def mixed(self, n, rng):
        index = torch.randperm(70, generator=rng)[:n]
        return dd.Batch(self.x[index], self.y[index])

    def of_class(self, c, n, rng):
        index = torch.arange(c, 70, 3)[torch.randperm(len(range(c, 70, 3)), generator=rng)[:n]]
        return dd.Batch(self.x[index], self.y[index])


def make_syn(rate=0.3, **options):
    images = torch.randn(6, *SHAPE, generator=dd.generator("images"), dtype=torch.float64)
    rows = 0.3 * torch.randn(6, 3, generator=dd.generator("rows"), dtype=torch.float64)
    labels = FreeLabels(torch.eye(3, dtype=torch.float64)[CLASSES] + rows)
    learned = None if rate is None else LearnedRate(rate, **options).double()
    return dd.SyntheticSet(Pixels(images), labels, CLASSES, 3, learned)


def gradients(objective, network, syn, real=None):
    """Return the loss and its gradients by everything that the set stores, as the loop takes them."""
    syn.zero_grad()
    leaves = LeafView(syn)
    (loss,) = objective(network, real or Real(), leaves, dd.generator("step"))
    torch.autograd.backward(loss, inputs=leaves.inputs)
    leaves.pull_back()
    return loss.detach(), [p.grad.clone() for p in syn.parameters()]


def slopes(objective, network, syn, step=1e-6):
    """Yield, for each stored tensor, the directional derivative that finite differences give, and its direction."""

    def value():
        (loss,) = objective(network, Real(), LeafView(syn), dd.generator("step"))
        return float(loss.detach())

    for p in syn.parameters():
        way = torch.randn(p.shape, generator=dd.generator("way"), dtype=torch.float64)
        with torch.no_grad():
            p.add_(way, alpha=step)
            above = value()
            p.sub_(way, alpha=2 * step)
            below = value()
            p.add_(way, alpha=step)
        yield (above - below) / (2 * step), way


def same(found, wanted, tolerance=1e-9):
    for a, b in zip(found, wanted, strict=True):
        assert float(b.abs().max()) > 0
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_gradient_is_that_of_finite_differences(network, optimizer, order):
    """With each way to pass through the training; a test after the end, and one after every step."""
    augmentation = dd.Augmentation("color_crop_scale")
    training = SetTraining(batch_size=ORDERS[order], order=order, augmentation=augmentation)
    for every_step, steps in ((False, None), (True, STEPS)):
        syn = make_syn(rate=0.05, steps=steps)
        objective = TrainAndTest(
            steps=STEPS,
            training=training,
            optimizer=optimizer,
            real_batch=40,
            augmentation=augmentation,
            every_step=every_step,
        )
        loss, found = gradients(objective, network, syn)
        for gradient, (slope, way) in zip(found, slopes(objective, network, syn), strict=True):
            assert float((gradient * way).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-8)
        for unroll in (full_graph, StepReplay(every=3, graph_bytes=0)):
            again, other = gradients(dataclasses.replace(objective, unroll=unroll), network, syn)
            torch.testing.assert_close(again, loss, rtol=1e-13, atol=1e-13)
            same(other, found)


def plain(network, syn, steps, tested, real_batch):
    """The same written out: one graph of all steps, one test after each of `tested` on one large batch."""
    flat, weights = FlatNetwork(network), weight_vector(network)
    x, y, rate = syn.parametrization.images, syn.labels.values, syn.rate()
    rng, losses = dd.generator("step"), []
    for k in range(steps):
        weights = weights if weights.requires_grad else weights.requires_grad_()
        part = torch.randperm(6, generator=derive(rng, "order", k // 2))[4 * (k % 2) :][:4]
        loss = cross_entropy(flat(weights, x[part]), y[part])
        (step,) = torch.autograd.grad(loss, weights, create_graph=True)
        weights = weights - rate * step
        if k in tested:
            at = derive(derive(rng, "test", len(losses)), "real")
            real_x, real_y = Real().mixed(real_batch, at)
            losses.append(cross_entropy(flat(weights, real_x), real_y))
    total = torch.stack(losses).mean()
    return total.detach(), list(torch.autograd.grad(total, list(syn.parameters())))


@pytest.mark.parametrize("unroll", UNROLLS.values(), ids=UNROLLS)
@pytest.mark.parametrize("size", [None, 7, 64])
def test_pieces_of_a_test_and_the_whole_are_one_gradient(network, monkeypatch, unroll, size):
    monkeypatch.setitem(MICRO_BATCH, "cpu", size)
    training = SetTraining(batch_size=4)
    syn = make_syn()
    end = TrainAndTest(steps=STEPS, training=training, unroll=unroll, real_batch=50)
    every = dataclasses.replace(end, every_step=True)
    for objective, tested in ((end, [STEPS - 1]), (every, range(STEPS))):
        loss, found = gradients(objective, network, syn)
        by_hand, wanted = plain(network, syn, STEPS, tested, 50)
        torch.testing.assert_close(loss, by_hand)
        same(found, wanted, 1e-8)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_window_that_is_the_whole_training_has_no_burn_in(network, optimizer):
    syn = make_syn(rate=0.05)
    whole = TrainAndTest(steps=STEPS, optimizer=optimizer, real_batch=20)
    loss, wanted = gradients(whole, network, syn)
    for window in (STEPS, 2):
        windowed = dataclasses.replace(whole, window=window)
        again, found = gradients(windowed, network, syn)
        assert again == loss
        if window == STEPS:
            same(found, wanted)
        else:
            assert all(not torch.allclose(a, b, rtol=1e-3) for a, b in zip(found, wanted, strict=True))


def test_a_drawn_window_ends_anywhere(network):
    syn, ends = make_syn(rate=0.1, steps=STEPS), []

    def watched(loss, start, inputs, rate, *, steps, optimizer, burn_in=0):
        assert tuple(rate.shape) == (steps + burn_in,)
        ends.append((burn_in, burn_in + steps))
        return full_graph(loss, start, inputs, rate, steps=steps, optimizer=optimizer, burn_in=burn_in)

    drawn = TrainAndTest(steps=STEPS, window=2, drawn=True, unroll=watched, real_batch=5)
    for i in range(30):
        list(drawn(network, Real(), LeafView(syn), dd.generator("step", i)))
    assert set(ends) == {(0, 2), (1, 3), (2, 4)}


def test_every_class_may_have_as_many_real_images(network):
    seen = []

    class Watched(Real):
        def of_class(self, c, n, rng):
            seen.append((c, n))
            return super().of_class(c, n, rng)

    objective = TrainAndTest(steps=1, lr=0.1, real_batch=5, per_class=True)
    list(objective(network, Watched(), LeafView(make_syn(rate=None)), dd.generator("step")))
    assert seen == [(0, 5), (1, 5), (2, 5)]


def test_another_loss_may_teach_and_another_may_judge(network):
    syn = make_syn()
    objective = TrainAndTest(
        steps=1, training=SetTraining(loss=half_squared_error), loss=half_squared_error, real_batch=70
    )
    loss, _ = gradients(objective, network, syn)
    flat, weights = FlatNetwork(network), weight_vector(network).requires_grad_()
    x, y = syn.parametrization.images.detach(), syn.labels.values.detach()
    (step,) = torch.autograd.grad(0.5 * (flat(weights, x) - y).square().sum() / 6, weights)
    real = Real()
    outputs = flat(weights - 0.3 * step, real.x)
    torch.testing.assert_close(loss, (0.5 * (outputs - real.y).square().sum() / 70).detach())


def test_every_image_is_seen_as_often_as_any_other():
    shuffled, stored = SetTraining(batch_size=4), SetTraining(batch_size=4, order="stored")
    for images, sizes in ((10, [4, 4, 2]), (4, [4]), (3, [3])):
        for training in (shuffled, stored):
            parts = [training.part(k, [images], dd.generator(0)) for k in range(2 * len(sizes))]
            assert [len(p) for p in parts] == 2 * sizes
            for half in (parts[: len(sizes)], parts[len(sizes) :]):
                seen = torch.cat(half).tolist()
                assert sorted(seen) == list(range(images))
                assert training.order == "shuffled" or seen == sorted(seen)
            assert torch.equal(training.part(1, [images], dd.generator(0)), parts[1])
    stratified = SetTraining(batch_size=2, order="stratified")
    drawn = [stratified.part(k, [3, 5, 1], dd.generator(0)).tolist() for k in range(60)]
    assert {tuple(sum(at in r for at in part) for r in (range(3), range(3, 8), range(8, 9))) for part in drawn} == {
        (2, 2, 1)
    }
    assert {at for part in drawn for at in part} == set(range(9))


def test_a_step_sees_its_own_images_under_stratified_order(network):
    """The set is taken class by class, wherever its slots lie."""
    syn = make_syn()
    mixed = torch.tensor([2, 0, 1, 0, 2, 1])
    syn = dd.SyntheticSet(syn.parametrization, syn.labels, mixed, 3, syn.rate)
    loss, (x, _) = SetTraining(order="stratified").on(FlatNetwork(network), LeafView(syn), dd.generator(0))
    order = torch.argsort(mixed, stable=True)
    assert torch.equal(x, syn.parametrization.images[order])
    assert float(loss(0, weight_vector(network), syn.at(order, dd.generator(0))).detach()) > 0


def test_impossible_trainings_are_refused(network):
    with pytest.raises(ValueError, match=r"steps must be at least 1, got 0"):
        TrainAndTest(steps=0)
    with pytest.raises(ValueError, match=r"window must be at most 3 steps, got 4"):
        TrainAndTest(steps=3, window=4)
    with pytest.raises(ValueError, match=r"order must be one of .*got 'sorted'"):
        SetTraining(order="sorted")
    with pytest.raises(ValueError, match=r"batch_size must be at least 1, got 0"):
        SetTraining(batch_size=0)
    objective = TrainAndTest(steps=3)
    with pytest.raises(ValueError, match="rate must be learned with the set"):
        next(objective(network, Real(), LeafView(make_syn(rate=None)), dd.generator(0)))
    with pytest.raises(ValueError, match=r"rate must hold one number for each of 3 steps, got \(2,\)"):
        next(objective(network, Real(), LeafView(make_syn(steps=2)), dd.generator(0)))
    with pytest.raises(TypeError, match="student must be a network, got int"):
        next(objective(3, Real(), LeafView(make_syn()), dd.generator(0)))


@pytest.mark.parametrize("scale", ["plain", "log", "softplus"])
def test_a_learned_rate_is_what_it_was_set_to(scale):
    rate = LearnedRate(0.02, low=1e-3, high=0.5, steps=3, momentum=0.5, scale=scale)
    torch.testing.assert_close(rate(), torch.tensor([[0.02, 0.5]] * 3))
    assert rate.rates == pytest.approx([0.02] * 3)
    assert rate.momenta == (0.5,) * 3
    alone = LearnedRate(0.02, scale=scale)
    assert alone().shape == ()
    assert (alone.rates, alone.momenta) == (pytest.approx(0.02), None)
    with torch.no_grad():
        rate.value.add_(torch.tensor([9.0, -9.0, 0.0]))
        rate.momentum.add_(torch.tensor([9.0, -9.0, 0.0]))
    rate.project_()
    assert rate.rates == pytest.approx([0.5, 1e-3, 0.02], rel=1e-5)
    assert rate.momenta == pytest.approx([0.99, 0, 0.5])


def test_impossible_rates_are_refused():
    with pytest.raises(ValueError, match="scale must be one of"):
        LearnedRate(0.1, scale="exp")
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        LearnedRate(0.1, steps=0)
    with pytest.raises(ValueError, match="steps must be a number where momentum is learned, got None"):
        LearnedRate(0.1, momentum=0.5)
    with pytest.raises(ValueError, match=r"momentum must lie in 0 <= value < 1, got 1"):
        LearnedRate(0.1, steps=2, momentum=1.0)
