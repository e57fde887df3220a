"""What a synthetic set stores, its labels, its starts, and gradients that reach what is stored."""

from __future__ import annotations

from typing import final

import pytest
import torch
from torch import nn

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.recipes.parts import pixel_set
from ddsdk.synthetic import (
    STARTS,
    FixedLabels,
    LearnedLabels,
    LearnedRate,
    Parametrization,
    Pixels,
    class_slots,
    hard_labels,
)
from ddsdk.synthetic.set import LeafView


@final
class Doubling(Parametrization):
    """Two images for each slot, a scaled and a noisy one: several owners, chance, and a decoder."""

    def __init__(self, codes):
        super().__init__()
        self.codes = nn.Parameter(codes.clone())

    def encode(self, images):
        with torch.no_grad():
            self.codes.copy_(images)

    def decode(self, slots, rng):
        codes = self.codes[slots]
        noise = torch.randn(codes.shape, generator=rng, dtype=codes.dtype)
        return torch.cat([codes.square(), codes * noise]), torch.cat([slots, slots])

    def project_(self):
        self.codes.clamp_(-1, 1)

    def stored_floats(self):
        return self.codes.numel()


def images(m=6, shape=(3, 4, 5), dtype=torch.float64):
    return torch.randn(m, *shape, generator=dd.generator("images"), dtype=dtype)


def make_set(parametrization=None, labels=None, ipc=2):
    classes = class_slots(3, ipc)
    labels = labels or FixedLabels(torch.eye(3, dtype=torch.float64)[classes])
    return dd.SyntheticSet(parametrization or Pixels(images(3 * ipc)), labels, classes, 3)


def test_pixels_store_what_they_are_given():
    given = images()
    pixels = Pixels(given)
    assert pixels.stored_floats() == 6 * 3 * 4 * 5
    slots = torch.tensor([4, 0, 4])
    decoded, owners = pixels.decode(slots, dd.generator(0))
    assert torch.equal(decoded, given[slots])
    assert torch.equal(owners, slots)
    pixels.encode(given + 1)
    given.zero_()
    assert torch.equal(pixels.decode(torch.arange(6), dd.generator(0))[0], images() + 1)
    before = pixels.images.detach().clone()
    pixels.project_()
    assert torch.equal(pixels.images, before)


def test_pixels_refuse_what_is_no_image():
    with pytest.raises(ValueError, match=r"images must have shape \(M, C, H, W\), got \(3, 4\)"):
        Pixels(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="images must be finite"):
        Pixels(torch.full((1, 1, 2, 2), torch.nan))


def test_fixed_labels_keep_their_rows_and_learn_nothing():
    rows = torch.tensor([[0.2, 0.8], [1.0, 0.0]])
    labels = FixedLabels(rows)
    assert torch.equal(labels.rows(torch.tensor([1, 0, 1])), rows[[1, 0, 1]])
    assert list(labels.parameters()) == []
    assert torch.equal(hard_labels(torch.tensor([2, 0]), 3).rows(torch.arange(2)), torch.eye(3)[[2, 0]])


@pytest.mark.parametrize("row", [[0.5, 0.6], [-0.1, 1.1], [torch.nan, 1.0], [torch.inf, 0.0]])
def test_labels_that_are_no_distribution_are_refused(row):
    with pytest.raises(ValueError, match="labels row 1 must be probabilities that sum to 1"):
        FixedLabels(torch.tensor([[0.5, 0.5], row]))


def test_learned_labels_are_distributions_with_a_gradient():
    labels = LearnedLabels(torch.tensor([[0.0, 0.0], [3.0, 1.0]]))
    rows = labels.rows(torch.tensor([1, 0, 1]))
    torch.testing.assert_close(rows.sum(1), torch.ones(3))
    rows[:, 0].sum().backward()
    assert (labels.logits.grad != 0).all()


def test_a_set_draws_like_real_data():
    syn = make_set()
    x, y = syn.of_class(1, 99, dd.generator(0))
    assert torch.equal(x, images()[2:4])
    assert y.argmax(1).tolist() == [1, 1]
    one = syn.of_class(1, 1, dd.generator(0))
    assert torch.equal(one.x, syn.of_class(1, 1, dd.generator(0)).x)
    assert one.x.shape[0] == 1
    mixed = syn.mixed(4, dd.generator(1))
    assert len({row.flatten()[0].item() for row in mixed.x}) == 4
    whole = syn.detached(dd.generator(0))
    assert not whole.x.requires_grad
    assert torch.equal(whole.x, images())
    assert (len(syn), syn.num_classes, syn.device.type) == (6, 3, "cpu")


def test_a_set_refuses_classes_that_do_not_exist():
    with pytest.raises(ValueError, match=r"classes must lie in 0\.\.K-1"):
        dd.SyntheticSet(Pixels(images()), hard_labels(torch.zeros(6).long(), 3), torch.arange(6), 3)


def test_a_set_knows_whether_it_is_finite_and_projects_what_it_stores():
    syn = make_set(Doubling(3 * images()))
    syn.project_()
    assert float(syn.parametrization.codes.detach().abs().max()) == 1.0
    assert syn.is_finite()
    syn.parametrization.codes.data[0, 0, 0, 0] = torch.inf
    assert not syn.is_finite()


@pytest.mark.parametrize("chunk", [1, 4, 256])
@pytest.mark.parametrize("make", [Pixels, Doubling])
def test_pull_back_equals_a_direct_backward(make, chunk):
    def loss(x, y):
        return (x.sin() * y.sum(1)[:, None, None, None]).sum() + (y * y).sum() * x.mean()

    learned = LearnedLabels(torch.randn(6, 3, generator=dd.generator("l"), dtype=torch.float64))
    syn = make_set(make(images()), learned)
    leaves = LeafView(syn, chunk)
    for c in (0, 2):
        term = loss(*leaves.of_class(c, 2, dd.generator("draw", c)))
        torch.autograd.backward(term, inputs=leaves.inputs)
        leaves.pull_back()
    found = {name: p.grad.clone() for name, p in syn.named_parameters()}

    # The direct way: decode the same chunks with the same keys, and keep the whole graph.
    syn.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for call, c in enumerate((0, 2), start=1):
        decoded, owners = [], []
        for i, part in enumerate(torch.split(syn.slots_of_class(c), chunk)):
            key = derive(dd.generator("draw", c), "decode", call, i)
            x, owner = syn.parametrization.decode(part, derive(key))
            decoded.append(x)
            owners.append(owner)
        total = total + loss(torch.cat(decoded), syn.labels.rows(torch.cat(owners)))
    total.backward()
    for name, p in syn.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-12, atol=1e-12)


def test_several_terms_may_look_at_one_draw():
    syn = make_set(Doubling(images()))
    leaves = LeafView(syn)
    x, _ = leaves.mixed(99, dd.generator(0))
    for term in (x.square().sum(), x.sum(), (3 * x).sum()):
        torch.autograd.backward(term, inputs=leaves.inputs)
        leaves.pull_back()
    found = syn.parametrization.codes.grad.clone()

    again = make_set(Doubling(images()))
    leaves = LeafView(again)
    x, _ = leaves.mixed(99, dd.generator(0))
    torch.autograd.backward(x.square().sum() + 4 * x.sum(), inputs=leaves.inputs)
    leaves.pull_back()
    torch.testing.assert_close(found, again.parametrization.codes.grad, rtol=1e-12, atol=1e-12)


def test_leaves_keep_no_graph_of_the_decoder():
    leaves = LeafView(make_set(Doubling(images())))
    x, _ = leaves.mixed(99, dd.generator(0))
    assert all(leaf.is_leaf and leaf.grad_fn is None for leaf in leaves.inputs)
    assert x.requires_grad


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("ipc", [1, 3, 5])
def test_every_start_gives_a_set_class_by_class(tiny, start, ipc):
    syn = pixel_set(tiny, ipc, start, dd.generator(0))
    assert syn.parametrization.images.shape == (3 * ipc, *tiny.image_shape)
    assert syn.classes.tolist() == [c for c in range(3) for _ in range(ipc)]
    whole = syn.detached(dd.generator(0))
    assert whole.y.argmax(1).tolist() == syn.classes.tolist()
    assert torch.equal(whole.x, pixel_set(tiny, ipc, start, dd.generator(0)).detached(dd.generator(0)).x)
    if start == "noise":
        assert abs(float(whole.x.mean())) < 0.2
        assert 0.8 < float(whole.x.std()) < 1.2
        return
    for c in range(3):
        members = tiny.batch(tiny.index_of_class(c)).x
        mine = whole.x[syn.classes == c]
        if start == "means":
            # The clusters share out the class: their sizes times their means make its sum.
            nearest = torch.cdist(members.flatten(1), mine.flatten(1)).argmin(1)
            for k, image in enumerate(mine):
                assert torch.allclose(image, members[nearest == k].mean(0), atol=1e-5)
            continue
        found = [int((members == image).flatten(1).all(1).nonzero()) for image in mine]
        assert len(set(found)) == ipc


@pytest.mark.parametrize("start", ["noise", "real"])
def test_random_starts_follow_their_generator(tiny, start):
    one, two = (pixel_set(tiny, 3, start, dd.generator(s)).detached(dd.generator(0)).x for s in (0, 1))
    assert not torch.equal(one, two)


@pytest.mark.parametrize("start", STARTS)
def test_impossible_sizes_are_refused(tiny, start):
    with pytest.raises(ValueError, match="ipc must be at least 1, got 0"):
        pixel_set(tiny, 0, start, dd.generator(0))
    if start != "noise":
        with pytest.raises(ValueError, match=r"ipc must not exceed the 5 images of class 2 \('cat'\), or .*, got 6"):
            pixel_set(tiny, 6, start, dd.generator(0))


def test_an_unknown_start_is_refused_with_the_nearest_name(tiny):
    with pytest.raises(ValueError, match=r"start must be one of noise, .* got 'herdin'; did you mean 'herding'"):
        pixel_set(tiny, 1, "herdin", dd.generator(0))


def test_bounded_pixels_are_clamped_and_free_ones_are_not():
    given = 3 * images(dtype=torch.float32)
    low, high = torch.tensor([-1.0, 0.0, -2.0]).view(3, 1, 1), torch.tensor([1.0, 0.5, 2.0]).view(3, 1, 1)
    syn = make_set(Pixels(given, (low, high)))
    syn.project_()
    assert torch.equal(syn.parametrization.images, torch.minimum(torch.maximum(given, low), high))
    assert {name for name, _ in Pixels(given, (low, high)).named_parameters()} == {"images"}
    assert list(Pixels(given, (low, high)).state_dict()) == ["images"]


def test_a_learned_rate_moves_between_its_bounds():
    rate = LearnedRate(0.01, low=0.001, high=0.5)
    assert float(rate().detach()) == pytest.approx(0.01)
    rate().backward()
    assert float(rate.value.grad) == 1
    for value, wanted in ((-3.0, 0.001), (7.0, 0.5), (0.2, 0.2)):
        rate.value.data.fill_(value)
        rate.project_()
        assert float(rate.value.detach()) == pytest.approx(wanted)
    rate.value.data.fill_(torch.nan)
    rate.project_()
    assert bool(rate.value.isnan())


@pytest.mark.parametrize("scale", ["plain", "log", "softplus"])
@pytest.mark.parametrize("start", [1e-5, 0.01, 1.0, 50.0, 99.0, 101.0, 1e4, 1e30])
def test_a_rate_of_any_size_is_stored_in_each_scale(scale, start):
    rate = LearnedRate(start, low=min(1e-5, start), high=max(10.0, start), scale=scale)
    assert rate.rates == pytest.approx(start, rel=1e-5)
    rate.project_()
    assert rate.rates == pytest.approx(start, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0.0,), {}), "start must be positive and finite, got 0.0"),
        (((float("nan"),), {}), "start must be positive and finite, got nan"),
        (((0.1,), {"low": 0.0}), "low must be positive and finite, got 0.0"),
        (((0.1,), {"high": float("inf")}), "high must be positive and finite, got inf"),
        (((0.1,), {"low": 0.2}), "start must lie in 0.2 <= start <= 1.0, got 0.1"),
        (((2.0,), {}), "start must lie in 0.0001 <= start <= 1.0, got 2.0"),
    ],
)
def test_a_rate_out_of_its_bounds_is_refused(arguments, message):
    given, options = arguments
    with pytest.raises(ValueError, match=f"^{message}$"):
        LearnedRate(*given, **options)


def with_rate(start=0.1):
    plain = make_set()
    return dd.SyntheticSet(plain.parametrization, plain.labels, plain.classes, 3, LearnedRate(start))


def test_a_set_stores_projects_and_checks_its_rate():
    syn = with_rate()
    assert set(syn.state_dict()) == {"classes", "parametrization.images", "labels.probabilities", "rate.value"}
    assert {name for name, _ in syn.named_parameters()} == {"parametrization.images", "rate.value"}
    syn.rate.value.data.fill_(-1.0)
    syn.project_()
    assert float(syn.rate.value.detach()) == pytest.approx(1e-4)
    assert syn.is_finite()
    syn.rate.value.data.fill_(torch.inf)
    assert not syn.is_finite()


def test_an_objective_can_differentiate_by_the_rate():
    syn = with_rate()
    leaves = LeafView(syn)
    x, _ = leaves.mixed(99, dd.generator(0))
    term = (x * leaves.rate.square()).sum()
    assert sum(leaf is syn.rate.value for leaf in leaves.inputs) == 1
    torch.autograd.backward(term, inputs=leaves.inputs)
    leaves.pull_back()
    assert float(syn.rate.value.grad) == pytest.approx(2 * 0.1 * float(images().sum()), rel=1e-5)
    torch.testing.assert_close(syn.parametrization.images.grad, torch.full_like(images(), 0.01))


def test_a_rate_that_is_not_learned_is_refused():
    with pytest.raises(ValueError, match="rate must be learned with the set for this objective, got a set without"):
        _ = LeafView(make_set()).rate


@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_the_whole_set_comes_slot_by_slot(chunk):
    syn = make_set(Doubling(images()))
    leaves = LeafView(syn, chunk)
    x, y = leaves.whole(dd.generator(0))
    assert (len(x), len(y), len(leaves.inputs)) == (12, 12, -(-6 // chunk))
    squares = syn.parametrization.codes.detach().square()
    places = [(squares == image).flatten(1).all(1).nonzero() for image in x]
    assert [int(place) for place in places if len(place)] == list(range(6))
    assert LeafView(make_set()).whole(dd.generator(0)).y.argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
