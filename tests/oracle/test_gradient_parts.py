"""Parts of the gradient-matching family against slow and obvious versions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.objectives import (
    ClassMatch,
    CollectiveMatch,
    FilterGap,
    Representative,
    absolute,
    body_gradients,
    cluster_members,
    filter_cosine,
    squared,
    weight_gradients,
)
from ddsdk.students import InterpolatedExperts, PerturbedExperts, TrainedRuns, Training, perturb_filters_
from ddsdk.synthetic import FixedLabels, LearnedLabels, Pixels
from ddsdk.synthetic.set import LeafView
from ddsdk.training import weight_vector
from ddsdk.training.micro import MICRO_BATCH


class Cast:
    """Another source in double precision, maybe with its first classes only."""

    def __init__(self, source, classes=None):
        self._source, self.device = source, source.device
        self.num_classes = source.num_classes if classes is None else classes

    def of_class(self, c, n, rng):
        return dd.Batch(*(t.double() for t in self._source.of_class(c, n, rng)))

    def mixed(self, n, rng):
        return dd.Batch(*(t.double() for t in self._source.mixed(n, rng)))


def network(real, **options):
    options = {"width": 4, "depth": 2} | options
    make = dd.network_factory("convnet", real.image_shape, real.num_classes, **options)
    return make(dd.generator("student")).double()


def synthetic(real, sizes=(3, 1, 2), *, learned=False):
    classes = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    images = torch.randn(len(classes), *real.image_shape, generator=dd.generator("set"), dtype=torch.float64)
    one_hot = torch.eye(real.num_classes, dtype=torch.float64)[classes]
    labels = LearnedLabels(2 * one_hot) if learned else FixedLabels(one_hot)
    return dd.SyntheticSet(Pixels(images), labels, classes, real.num_classes)


def matched(objective, student, real, syn, rng):
    """Return the loss and the gradients of what is stored, as the loop takes them."""
    leaves, total = LeafView(syn), 0.0
    for term in objective(student, real, leaves, rng):
        torch.autograd.backward(term, inputs=leaves.inputs)
        leaves.pull_back()
        total += float(term.detach())
    return total, [p.grad for p in syn.parameters()]


def loss_gradients(student, x, y, skip=0):
    weights = [p for p in student.parameters() if p.ndim > 1]
    weights = weights[: len(weights) - skip]
    return torch.autograd.grad(cross_entropy(student(x), y), weights, create_graph=True)


# Distances.


def pairs():
    rng = dd.generator("tensors")
    shapes = ((4, 3, 3, 3), (5, 7), (2, 1))
    return [[torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes] for _ in range(2)]


def slow_absolute(a, b):
    return sum(abs(p - q) for x, y in zip(a, b, strict=True) for p, q in zip(x.flatten(), y.flatten(), strict=True))


def slow_gap(weight):
    def distance(a, b):
        total = 0.0
        for x, y in zip(a, b, strict=True):
            for row, other in zip(x, y, strict=True):
                p, q = row.flatten().tolist(), other.flatten().tolist()
                dot = sum(i * j for i, j in zip(p, q, strict=True))
                lengths = math.hypot(*p) * math.hypot(*q)
                total += 1 - dot / (lengths + 1e-6)
                total += weight * math.hypot(*(i - j for i, j in zip(p, q, strict=True)))
        return total

    return distance


DISTANCES = {
    "absolute": (absolute, slow_absolute),
    "angle": (FilterGap(0), slow_gap(0)),
    "angle and length": (FilterGap(0.3), slow_gap(0.3)),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_distance_equals_its_slow_twin(name):
    fast, slow = DISTANCES[name]
    a, b = pairs()
    assert math.isclose(float(fast(a, b)), slow(a, b), rel_tol=1e-12)
    large = [1e6 * t for t in a]
    assert abs(float(fast(large, large))) < 1e-9


@pytest.mark.parametrize("zero", ["a", "b", "both", "equal"])
@pytest.mark.parametrize("name", DISTANCES)
def test_zero_and_equal_byproducts_do_not_give_nan(name, zero):
    a, b = pairs()
    a = [(t * (zero in ("b", "equal"))).requires_grad_() for t in a]
    b = [t.detach() for t in a] if zero == "equal" else [t * (zero == "a") for t in b]
    value = DISTANCES[name][0](a, b)
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(t.grad).all() for t in a)


def test_the_angle_alone_does_not_see_length():
    a, _ = pairs()
    longer = [3 * t for t in a]
    assert float(filter_cosine(a, longer)) < 1e-4
    gaps = sum(float(2 * row.norm()) for t in a for row in t)
    assert math.isclose(float(FilterGap(1.0)(a, longer)), gaps, rel_tol=1e-4)


# Byproducts.


@pytest.mark.parametrize("name", ["convnet", "mlp"])
def test_body_gradients_are_those_of_all_weights_but_the_head(tiny, name):
    make = dd.network_factory(name, tiny.image_shape, tiny.num_classes)
    student = make(dd.generator(0)).double()
    x, y = Cast(tiny).mixed(5, dd.generator(1))
    found = body_gradients(student, dd.Batch(x, y), graph=True)
    expected = loss_gradients(student, x, y, skip=1)
    assert len(found) == len(weight_gradients(student, dd.Batch(x, y), graph=False)) - 1
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
        assert a.requires_grad
        assert a.shape[0] != tiny.num_classes
    assert not any(g.requires_grad for g in body_gradients(student, dd.Batch(x, y), graph=False))


def test_a_student_that_is_all_head_is_refused(tiny):
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 12, 3))
    batch = tiny.batch(torch.arange(2))
    with pytest.raises(ValueError, match="student must have a weight beside its linear head, got 'Seq"):
        body_gradients(student, batch, graph=False)


# Collective matching.


def plain_collective(objective, student, real, syn, rng):
    """The distance with every graph kept and the real images taken at once, found from the keys alone."""
    draw = objective.augmentation.siamese(derive(rng, "augmentation"))
    shown = objective.synthetic_batch or 10**9
    ours, theirs = [], []
    for c in range(real.num_classes):
        if (syn.classes == c).any():
            ours.append(syn.of_class(c, shown, derive(rng, "synthetic", c)))
            x, y = real.of_class(c, objective.real_batch, derive(rng, "real", c))
            theirs.append([g.detach() for g in loss_gradients(student, draw(x), y)])
    value = loss_gradients(student, draw(torch.cat([b.x for b in ours])), torch.cat([b.y for b in ours]))
    target = [torch.stack(layer).mean(0) for layer in zip(*theirs, strict=True)]
    loss = objective.distance(value, target)
    stored = list(syn.parameters())
    return float(loss.detach()), torch.autograd.grad(loss, stored)


@pytest.mark.parametrize("pieces", [None, 1, 3, 4])
@pytest.mark.parametrize("augmentation", ["", "color_crop+flip_scale"])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("distance", [filter_cosine, squared, FilterGap(0.5)], ids=["filter_cosine", "squared", "gap"])
def test_collective_matching_equals_the_plain_version(tiny, monkeypatch, pieces, augmentation, learned, distance):
    monkeypatch.setitem(MICRO_BATCH, "cpu", pieces)
    objective = CollectiveMatch(
        byproduct=weight_gradients,
        distance=distance,
        real_batch=7,
        synthetic_batch=2,
        augmentation=dd.Augmentation(augmentation),
    )
    real, syn, student, rng = Cast(tiny), synthetic(tiny, learned=learned), network(tiny), dd.generator(3)
    loss, gradients = matched(objective, student, real, syn, rng)
    expected, slow = plain_collective(objective, student, real, syn, rng)
    assert math.isclose(loss, expected, rel_tol=1e-9)
    for a, b in zip(gradients, slow, strict=True):
        assert float(b.abs().max()) > 0
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-10)


def test_collective_is_class_wise_where_there_is_one_class(tiny):
    real = Cast(tiny, classes=1)
    found = []
    for kind in (ClassMatch, CollectiveMatch):
        objective = kind(byproduct=weight_gradients, distance=filter_cosine)
        syn = synthetic(tiny, (4,))
        found.append(matched(objective, network(tiny), real, syn, dd.generator(0)))
    (loss, (gradient,)), (other, (same,)) = found
    assert math.isclose(loss, other, rel_tol=1e-12)
    torch.testing.assert_close(gradient, same)


def test_classes_without_synthetic_images_take_no_part(tiny):
    objective = CollectiveMatch(byproduct=weight_gradients, distance=squared)
    syn = synthetic(tiny, (2, 0, 2))
    loss, _ = matched(objective, network(tiny), Cast(tiny), syn, dd.generator(0))
    expected, _ = plain_collective(objective, network(tiny), Cast(tiny), syn, dd.generator(0))
    assert math.isclose(loss, expected, rel_tol=1e-9)
    empty = synthetic(tiny, (0, 0, 0))
    assert not list(objective(network(tiny), Cast(tiny), LeafView(empty), dd.generator(0)))


def test_a_set_of_all_real_images_is_at_distance_zero(tiny):
    even = tiny.subset(torch.cat([tiny.index_of_class(c)[:5] for c in range(3)]))
    classes = even.labels
    images, one_hot = (t.double() for t in even.batch(torch.arange(15)))
    syn = dd.SyntheticSet(Pixels(images), FixedLabels(one_hot), classes, 3)
    for distance in (squared, absolute, FilterGap(1.0)):
        objective = CollectiveMatch(byproduct=body_gradients, distance=distance)
        loss, _ = matched(objective, network(tiny), Cast(even), syn, dd.generator(0))
        assert abs(loss) < 1e-3


# Representative images.


class Plane(torch.nn.Module):
    """Embeds an image as its first two pixels."""

    def embed(self, x):
        return x.flatten(1)[:, :2]


def planted(sizes=(30, 20, 3, 2), spread=0.004):
    """One class of images in clusters that lie far apart, and a second class that is in the way."""
    centres = torch.tensor([[0.1, 0.1], [0.1, 0.9], [0.9, 0.1], [0.9, 0.9]])
    rng = dd.generator("planted")
    images = torch.rand(sum(sizes) + 4, 1, 4, 4, generator=rng)
    cluster = torch.arange(4).repeat_interleave(torch.tensor(sizes))
    noise = spread * torch.randn(len(cluster), 2, generator=rng)
    images[: len(cluster), 0, 0, :2] = centres[cluster] + noise
    labels = torch.tensor([0] * len(cluster) + [1] * 4)
    real = dd.RealData(images, labels, class_names=("a", "b"), preprocess=dd.Preprocess.unit(1))
    return real, centres, cluster


@pytest.mark.parametrize("seed", range(5))
def test_representative_images_are_the_nearest_to_the_planted_centres(seed):
    real, _, cluster = planted()
    found = Representative()(Plane(), real, 0, 4, dd.generator(seed))
    points = Plane().embed(real.batch(real.index_of_class(0)).x)
    picked = [int((points == p).all(1).nonzero()) for p in Plane().embed(found.x)]
    assert sorted(int(cluster[i]) for i in picked) == [0, 1, 2, 3]
    for i in picked:
        members = torch.nonzero(cluster == cluster[i]).flatten()
        distances = (points[members] - points[members].mean(0)).norm(dim=1)
        own = float((points[i] - points[members].mean(0)).norm())
        # Distances of many points are taken by products, whose rounding may swap two that are nearly as near.
        assert own <= float(distances.min()) + 0.01 * float(distances.mean())
    assert found.y.argmax(1).tolist() == [0] * 4


def test_representative_images_are_distinct_members_and_can_be_replayed(tiny):
    student = network(tiny).float()
    sample = Representative(candidates=8, rounds=3)
    for c, size in enumerate((9, 6, 5)):
        for n in (1, 3, 5, 20):
            a, b = (sample(student, tiny, c, n, dd.generator("step", n)) for _ in range(2))
            assert torch.equal(a.x, b.x)
            assert 1 <= len(a.x) <= min(n, size)
            assert len({tuple(x.flatten().tolist()) for x in a.x}) == len(a.x)
            assert a.y.argmax(1).tolist() == [c] * len(a.x)
    assert len(sample(student, tiny, 2, 20, dd.generator(0)).x) == 5


def test_twins_are_chosen_once():
    features = torch.zeros(6, 2)
    assert cluster_members(features, 3, 2, dd.generator(0)).tolist() == [0]
    features[5] = 1
    assert cluster_members(features, 3, 2, dd.generator(0)).tolist() in ([0, 5], [5, 0])


# The pool.


@pytest.fixture
def runs(tiny, make_student, tmp_path):
    training = Training(epochs=2, lr=0.05, batch_size=4)
    return TrainedRuns(tiny, make_student, training, count=3, seed=5, folder=tmp_path)


def same(network, weights):
    return torch.equal(weight_vector(network), weights)


def test_the_ends_of_the_line_are_the_snapshots(runs):
    for seed in range(4):
        rng = dd.generator(seed)
        first, last = (InterpolatedExperts(runs=runs, low=a, high=a)(rng) for a in (0.0, 1.0))
        (run,) = [i for i in range(3) if same(last, runs.weights(i, -1))]
        assert same(first, runs.weights(run, 0))
        between = weight_vector(InterpolatedExperts(runs=runs)(rng))
        a, b = runs.weights(run, 0), runs.weights(run, -1)
        share = (between - a) @ (b - a) / (b - a).square().sum()
        assert 0 <= float(share) <= 1
        torch.testing.assert_close(between, a + share * (b - a), rtol=1e-4, atol=1e-6)


def test_all_runs_are_drawn(runs):
    seen = {
        i
        for seed in range(20)
        for i in range(3)
        if same(InterpolatedExperts(runs=runs, low=1.0)(dd.generator(seed)), runs.weights(i, -1))
    }
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("seed", range(3))
def test_a_filter_moves_by_its_share_and_vectors_stay(runs, seed):
    found = PerturbedExperts(runs=runs, low=0.02, high=0.07)(dd.generator(seed))
    shares = []
    for run in range(3):
        origin = runs.network(run)
        steps = []
        for p, q in zip(found.parameters(), origin.parameters(), strict=True):
            p, q = p.detach(), q.detach()
            if p.ndim == 1:
                steps += [] if torch.equal(p, q) else [math.inf]
                continue
            for row, before in zip(p, q, strict=True):
                steps.append(float((row - before).norm() / before.norm()))
        shares.append((min(steps), max(steps)))
    low, high = min(shares, key=lambda s: s[1] - s[0])
    assert math.isclose(low, high, rel_tol=1e-3)
    assert 0.02 <= low <= 0.07


def test_directions_have_no_side():
    mean = torch.zeros(6, 4)
    for seed in range(300):
        layer = torch.nn.Linear(4, 6)
        with torch.no_grad():
            layer.weight.fill_(0.5)
        perturb_filters_(layer, 1.0, dd.generator(seed))
        mean += (layer.weight.detach() - 0.5) / 300
    assert float(mean.norm(dim=1).max()) < 0.2
