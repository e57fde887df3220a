"""Trajectory matching: its ends, its gradient against a plain loop and finite differences, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.objectives.trajectory import MatchTrajectory
from ddsdk.students.experts import ExpertSegment
from ddsdk.synthetic import LearnedLabels, LearnedRate, Pixels
from ddsdk.synthetic.set import LeafView
from ddsdk.training.flat import FlatNetwork, weight_vector
from ddsdk.training.unroll import StepReplay, constant_memory, full_graph, truncated

STEPS, RATE = 5, 0.3
SHAPE, CLASSES = (2, 8, 8), torch.arange(3).repeat_interleave(2)
AUGMENTATION = dd.Augmentation("color_crop_scale")


@pytest.fixture
def network():
    make = dd.network_factory("convnet", SHAPE, 3, width=3, depth=2, norm="none", activation="sigmoid")
    return make(dd.generator("student")).double()


@pytest.fixture
def span(network):
    start = weight_vector(network)
    step = torch.randn(len(start), generator=dd.generator("target"), dtype=torch.float64)
    return ExpertSegment(FlatNetwork(network), start, start + 0.05 * step)


def make_syn(labels=None, rate=RATE):
    images = torch.randn(6, *SHAPE, generator=dd.generator("images"), dtype=torch.float64)
    logits = torch.randn(6, 3, generator=dd.generator("logits"), dtype=torch.float64)
    labels = LearnedLabels(logits) if labels is None else labels
    learned = None if rate is None else LearnedRate(rate).double()
    return dd.SyntheticSet(Pixels(images), labels, CLASSES, 3, learned)


def gradients(match, span, syn):
    """Return the distance and its gradients by images, label logits and rate, as the loop takes them."""
    syn.zero_grad()
    leaves = LeafView(syn)
    (loss,) = match(span, None, leaves, dd.generator("step"))
    torch.autograd.backward(loss, inputs=leaves.inputs)
    leaves.pull_back()
    found = (syn.parametrization.images.grad, syn.labels.logits.grad, syn.rate.value.grad)
    return loss.detach(), [g.clone() for g in found]


def plain(match, network, span, syn, size):
    """The same, written out: a dictionary of weights, one graph, every step in full."""
    x = syn.parametrization.images.detach().clone().requires_grad_()
    logits = syn.labels.logits.detach().clone().requires_grad_()
    rate = syn.rate.value.detach().clone().requires_grad_()
    weights, at = {}, 0
    for name, p in network.named_parameters():
        weights[name] = span.start[at : at + p.numel()].view(p.shape).clone().requires_grad_()
        at += p.numel()
    rng = dd.generator("step")
    order, epoch = [], 0
    for k in range(match.steps):
        if not order:
            order = torch.randperm(6, generator=derive(rng, "order", epoch)).tolist()
            epoch += 1
        part, order = order[:size], order[size:]
        draw = match.augmentation.per_image(len(part), derive(rng, "augmentation", k))
        out = functional_call(network, weights, (draw(x[part]),))
        loss = cross_entropy(out, logits[part].softmax(1))
        steps = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {n: w - rate * g for (n, w), g in zip(weights.items(), steps, strict=True)}
    end = torch.cat([w.reshape(-1) for w in weights.values()])
    distance = ((end - span.target) ** 2).sum() / ((span.start - span.target) ** 2).sum()
    return distance.detach(), list(torch.autograd.grad(distance, [x, logits, rate]))


@pytest.mark.parametrize("batch_size", [None, 6, 3, 4])
@pytest.mark.parametrize("unroll", [constant_memory, StepReplay(graph_bytes=0), full_graph])
def test_the_gradient_is_that_of_the_plain_loop(network, span, batch_size, unroll):
    match = MatchTrajectory(steps=STEPS, batch_size=batch_size, augmentation=AUGMENTATION, unroll=unroll)
    syn = make_syn()
    loss, found = gradients(match, span, syn)
    expected, by_hand = plain(match, network, span, syn, batch_size or 6)
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(found, by_hand, strict=True):
        assert float(theirs.abs().max()) > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-8 * float(theirs.abs().max()))


def test_the_gradient_is_that_of_finite_differences(span):
    match = MatchTrajectory(steps=STEPS, batch_size=4, augmentation=AUGMENTATION)
    syn = make_syn()
    _, found = gradients(match, span, syn)
    stored = (syn.parametrization.images, syn.labels.logits, syn.rate.value)

    def distance():
        (loss,) = match(span, None, LeafView(syn), dd.generator("step"))
        return float(loss.detach())

    for tensor, gradient in zip(stored, found, strict=True):
        step = torch.randn(tensor.shape, generator=dd.generator("way"), dtype=torch.float64) * 1e-6
        with torch.no_grad():
            tensor.add_(step)
            above = distance()
            tensor.sub_(2 * step)
            below = distance()
            tensor.add_(step)
        slope = float((gradient * step).sum())
        assert above - below == pytest.approx(2 * slope, rel=1e-5)


def test_a_student_that_stays_has_distance_1_and_one_that_meets_the_target_0(span):
    syn = make_syn()
    match = MatchTrajectory(steps=STEPS, augmentation=AUGMENTATION)
    still = dd.SyntheticSet(syn.parametrization, syn.labels, CLASSES, 3, LearnedRate(1e-12, low=1e-12))
    (loss,) = match(span, None, LeafView(still), dd.generator("step"))
    assert float(loss.detach()) == pytest.approx(1, abs=1e-9)

    ends = []

    def noting(*args, **kwargs):
        ends.append(constant_memory(*args, **kwargs))
        return ends[-1]

    (loss,) = MatchTrajectory(steps=STEPS, augmentation=AUGMENTATION, unroll=noting)(
        span, None, LeafView(syn), dd.generator("step")
    )
    assert float(loss.detach()) > 0
    (loss,) = match(span._replace(target=ends[0][-1].detach()), None, LeafView(syn), dd.generator("step"))
    assert float(loss.detach()) == 0


def test_the_truncated_gradient_is_another_one(span):
    exact = MatchTrajectory(steps=STEPS)
    short = MatchTrajectory(steps=STEPS, unroll=truncated)
    loss, (images, labels, rate) = gradients(exact, span, make_syn())
    same, (images_2, labels_2, rate_2) = gradients(short, span, make_syn())
    assert loss == same
    for a, b in ((images, images_2), (labels, labels_2), (rate[None], rate_2[None])):
        assert not torch.allclose(a, b, rtol=1e-6)
    assert float(torch.cosine_similarity(images.flatten(), images_2.flatten(), dim=0)) > 0.5


def test_one_step_has_nothing_to_truncate(span):
    _, exact = gradients(MatchTrajectory(steps=1), span, make_syn())
    _, short = gradients(MatchTrajectory(steps=1, unroll=truncated), span, make_syn())
    for a, b in zip(exact, short, strict=True):
        torch.testing.assert_close(a, b)


def test_augmentation_is_drawn_for_each_image_and_step(span):
    seen = []

    class Watched:
        def per_image(self, n, rng):
            seen.append((n, rng.initial_seed()))
            return dd.Augmentation().per_image(n, rng)

    match = MatchTrajectory(steps=3, batch_size=4, augmentation=Watched(), unroll=StepReplay(graph_bytes=0))
    gradients(match, span, make_syn())
    forward, backward = seen[:3], seen[3:]
    assert [n for n, _ in forward] == [4, 2, 4]
    assert len({seed for _, seed in forward}) == 3
    assert backward == forward[::-1]


def test_impossible_matches_are_refused(span, tiny):
    with pytest.raises(ValueError, match=r"steps must be at least 1, got 0"):
        MatchTrajectory(steps=0)
    with pytest.raises(ValueError, match=r"batch_size must be at least 1, got 0"):
        MatchTrajectory(steps=1, batch_size=0)
    match = MatchTrajectory(steps=1)
    with pytest.raises(ValueError, match="rate must be learned with the set"):
        next(match(span, tiny, LeafView(make_syn(rate=None)), dd.generator(0)))
