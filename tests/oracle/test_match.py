"""Class matching against the plain version that has whole batches and one graph, and distances against python loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import gradcheck

import ddsdk as dd
from benchmarks.machine.reference import plain_dc_loss, plain_dm_loss, plain_gradient, plain_network
from ddsdk.foundation import derive
from ddsdk.objectives import ClassMatch, cosine, filter_cosine, mean_embedding, squared, weight_gradients
from ddsdk.synthetic import FixedLabels, LearnedLabels, Pixels, class_slots, hard_labels
from ddsdk.synthetic.set import LeafView
from ddsdk.training.micro import MICRO_BATCH

METHODS = {"dm": (mean_embedding, squared, plain_dm_loss), "dc": (weight_gradients, filter_cosine, plain_dc_loss)}
DISTANCES = {"squared": squared, "cosine": cosine, "filter_cosine": filter_cosine}


class Cast:
    """Another source in another precision."""

    def __init__(self, source, dtype):
        self._source, self._dtype = source, dtype
        self.num_classes, self.device = source.num_classes, source.device

    def of_class(self, c, n, rng):
        return dd.Batch(*(t.to(self._dtype) for t in self._source.of_class(c, n, rng)))

    def mixed(self, n, rng):
        return dd.Batch(*(t.to(self._dtype) for t in self._source.mixed(n, rng)))


def synthetic(real, dtype, ipc=3):
    rng = dd.generator("synthetic")
    classes = class_slots(real.num_classes, ipc)
    images = torch.randn(len(classes), *real.image_shape, generator=rng, dtype=dtype)
    labels = FixedLabels(torch.eye(real.num_classes, dtype=dtype)[classes])
    return dd.SyntheticSet(Pixels(images), labels, classes, real.num_classes)


def network(real, dtype=torch.float64, **options):
    options = {"width": 4, "depth": 2} | options
    return dd.network_factory("convnet", real.image_shape, real.num_classes, **options)(dd.generator("student")).to(
        dtype
    )


def matched(objective, student, real, syn, rng):
    """Return the loss and the gradient of the stored images, as the loop takes them."""
    leaves, total = LeafView(syn), 0.0
    for term in objective(student, real, leaves, rng):
        torch.autograd.backward(term, inputs=leaves.inputs)
        leaves.pull_back()
        total += float(term.detach())
    return total, syn.parametrization.images.grad


def replayed(objective, real, syn, rng):
    """Return the augmented batches that the objective draws, class by class, found from the keys alone."""
    pairs = []
    for c in range(real.num_classes):
        key = derive(rng, "class", c)
        draw = objective.augmentation.siamese(derive(key, "augmentation"))
        a = real.of_class(c, objective.real_batch, derive(key, "real"))
        b = syn.of_class(c, objective.synthetic_batch or 10**9, derive(key, "synthetic"))
        pairs.append((dd.Batch(draw(a.x), a.y), b, draw))
    return pairs


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)])
@pytest.mark.parametrize("augmentation", ["", "color", "crop_cutout_flip", "scale_rotate"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pieces", [None, 3])
def test_loss_and_gradient_equal_the_plain_version(tiny, monkeypatch, pieces, method, augmentation, dtype, tolerance):
    monkeypatch.setitem(MICRO_BATCH, "cpu", pieces)
    byproduct, distance, plain = METHODS[method]
    objective = ClassMatch(
        byproduct=byproduct,
        distance=distance,
        real_batch=7,
        synthetic_batch=2,
        augmentation=dd.Augmentation(augmentation),
    )
    real, syn, student = Cast(tiny, dtype), synthetic(tiny, dtype), network(tiny, dtype)
    rng = dd.generator("step", 3)
    loss, gradient = matched(objective, student, real, syn, rng)

    pairs = replayed(objective, real, syn, rng)
    index = {i: draw for i, (*_, draw) in enumerate(pairs)}
    calls = iter(index.values())

    def under_augmentation(net, real_batch, syn_batch):
        return plain(net, real_batch, dd.Batch(next(calls)(syn_batch.x), syn_batch.y))

    leaves = [s.x.detach().requires_grad_() for _, s, _ in pairs]
    synthetic_batches = [dd.Batch(x, s.y) for x, (_, s, _) in zip(leaves, pairs, strict=True)]
    expected, by_class = plain_gradient(
        under_augmentation, plain_network(student), [r for r, *_ in pairs], synthetic_batches, leaves
    )
    assert math.isclose(loss, expected, rel_tol=tolerance)
    found = torch.zeros_like(gradient)
    for c, (grad, (_, batch, _)) in enumerate(zip(by_class, pairs, strict=True)):
        for row, image in zip(grad, batch.x, strict=True):
            (slot,) = [int(s) for s in syn.slots_of_class(c) if torch.equal(syn.parametrization.images[s], image)]
            found[slot] = row
    scale = float(found.abs().max())
    assert scale > 0
    assert float((gradient - found).abs().max()) <= tolerance * max(1.0, scale)


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_give_the_whole_batch(tiny, monkeypatch, method):
    byproduct, distance, _ = METHODS[method]
    objective = ClassMatch(byproduct=byproduct, distance=distance)
    results = []
    for size in (None, 1, 2, 4):
        monkeypatch.setitem(MICRO_BATCH, "cpu", size)
        syn = synthetic(tiny, torch.float64)
        results.append(matched(objective, network(tiny), Cast(tiny, torch.float64), syn, dd.generator(0)))
    for loss, gradient in results[1:]:
        assert math.isclose(loss, results[0][0], rel_tol=1e-11)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("method", METHODS)
def test_frozen_and_trainable_students_match_alike(tiny, method):
    byproduct, distance, _ = METHODS[method]
    objective = ClassMatch(byproduct=byproduct, distance=distance)
    found = []
    for trainable in (True, False):
        student = network(tiny).requires_grad_(trainable)
        syn = synthetic(tiny, torch.float64)
        found.append(matched(objective, student, Cast(tiny, torch.float64), syn, dd.generator(0)))
        assert all(p.grad is None and p.requires_grad == trainable for p in student.parameters())
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_only_the_classes_that_were_drawn_get_a_gradient(tiny):
    syn = synthetic(tiny, torch.float64)
    objective = ClassMatch(byproduct=mean_embedding, distance=squared, synthetic_batch=1)
    leaves = LeafView(syn)
    terms = objective(network(tiny), Cast(tiny, torch.float64), leaves, dd.generator(0))
    torch.autograd.backward(next(terms), inputs=leaves.inputs)
    leaves.pull_back()
    touched = syn.parametrization.images.grad.flatten(1).any(1)
    assert touched.sum() == 1
    assert int(syn.classes[touched]) == 0


def test_classes_without_synthetic_images_are_passed_over(tiny):
    classes = torch.tensor([0, 0, 2])
    images = torch.randn(3, *tiny.image_shape, generator=dd.generator(0))
    syn = dd.SyntheticSet(Pixels(images), hard_labels(classes, 3), classes, 3)
    objective = ClassMatch(byproduct=mean_embedding, distance=squared)
    terms = list(objective(network(tiny, torch.float32), tiny, LeafView(syn), dd.generator(0)))
    assert len(terms) == 2


@pytest.mark.parametrize("distance", ["filter_cosine", "squared", "cosine"])
def test_gradient_matching_agrees_with_finite_differences(distance):
    rng = dd.generator("finite differences")
    student = dd.network_factory("convnet", (1, 4, 4), 2, width=3, depth=1, activation="sigmoid")(rng).double()
    labels = torch.eye(2, dtype=torch.float64)
    target = dd.Batch(torch.randn(2, 1, 4, 4, generator=rng, dtype=torch.float64), labels)
    wanted = weight_gradients(student, target, graph=False)
    x = torch.randn(2, 1, 4, 4, generator=rng, dtype=torch.float64, requires_grad=True)

    def loss(images):
        return DISTANCES[distance](weight_gradients(student, dd.Batch(images, labels), graph=True), wanted)

    assert gradcheck(loss, x, eps=1e-6, atol=1e-6, rtol=1e-5)


def test_gradient_matching_reaches_learned_labels(tiny):
    syn = synthetic(tiny, torch.float64)
    syn.labels = LearnedLabels(torch.zeros(9, 3, dtype=torch.float64))
    objective = ClassMatch(byproduct=weight_gradients, distance=filter_cosine)
    matched(objective, network(tiny), Cast(tiny, torch.float64), syn, dd.generator(0))
    assert float(syn.labels.logits.grad.abs().sum()) > 0


def slow_rows(tensors):
    return [row.flatten().tolist() for t in tensors for row in t]


def slow_dot(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True))


def slow_squared(a, b):
    return sum((p - q) ** 2 for x, y in zip(slow_rows(a), slow_rows(b), strict=True) for p, q in zip(x, y, strict=True))


def slow_cosine(a, b):
    x, y = ([v for row in slow_rows(t) for v in row] for t in (a, b))
    return 1 - slow_dot(x, y) / (math.sqrt(slow_dot(x, x)) * math.sqrt(slow_dot(y, y)) + 1e-6)


def slow_filter_cosine(a, b):
    return sum(
        1 - slow_dot(x, y) / (math.sqrt(slow_dot(x, x)) * math.sqrt(slow_dot(y, y)) + 1e-6)
        for x, y in zip(slow_rows(a), slow_rows(b), strict=True)
    )


SLOW = {"squared": slow_squared, "cosine": slow_cosine, "filter_cosine": slow_filter_cosine}


def tensors(*key):
    rng = dd.generator("tensors", *key)
    return [torch.randn(s, generator=rng, dtype=torch.float64) for s in ((4, 3, 3, 3), (5, 7), (2, 1))]


@pytest.mark.parametrize("name", DISTANCES)
def test_distance_equals_its_slow_twin(name):
    a, b = tensors("a"), tensors("b")
    assert math.isclose(float(DISTANCES[name](a, b)), SLOW[name](a, b), rel_tol=1e-12)
    assert math.isclose(float(DISTANCES[name](a, a)), SLOW[name](a, a), abs_tol=1e-12)


@pytest.mark.parametrize("name", DISTANCES)
def test_equal_byproducts_are_at_distance_zero(name):
    # The 1e-6 in the denominator of the cosines weighs less, the larger the vectors.
    a = [1e6 * t for t in tensors("a")]
    assert abs(float(DISTANCES[name](a, a))) < 1e-9


@pytest.mark.parametrize("zero", ["a", "b", "both"])
@pytest.mark.parametrize("name", DISTANCES)
def test_zero_byproducts_do_not_give_nan(name, zero):
    a = [t * (zero == "b") for t in tensors("a")]
    b = [t * (zero == "a") for t in tensors("b")]
    for t in a:
        t.requires_grad_()
    value = DISTANCES[name](a, b)
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(t.grad).all() for t in a)


@pytest.mark.parametrize("name", DISTANCES)
def test_byproducts_of_another_length_are_refused(name):
    with pytest.raises(ValueError, match=r"shorter|longer"):
        DISTANCES[name](tensors("a"), tensors("b")[:2])


def test_refusals(tiny):
    with pytest.raises(ValueError, match="real_batch must be at least 1, got 0"):
        ClassMatch(byproduct=mean_embedding, distance=squared, real_batch=0)
    with pytest.raises(ValueError, match="synthetic_batch must be at least 1, got 0"):
        ClassMatch(byproduct=mean_embedding, distance=squared, synthetic_batch=0)
    with pytest.raises(TypeError, match="embed"):
        mean_embedding(torch.nn.Identity(), tiny.batch(torch.arange(2)), graph=True)
