"""Sums of objectives, the classification loss, and byproducts that are stacked."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.data.augment import NO_DRAW
from ddsdk.foundation import derive
from ddsdk.objectives import ClassMatch, CrossEntropy, WeightedSum, filter_cosine, stacked, weight_gradients
from ddsdk.recipes.parts import pixel_set
from ddsdk.synthetic import FixedLabels, Pixels, hard_labels
from ddsdk.synthetic.set import LeafView
from ddsdk.training.micro import MICRO_BATCH

RNG = ("objective", 3)


@pytest.fixture
def syn(tiny):
    return pixel_set(tiny, 3, "real", dd.generator("set"))


@pytest.fixture
def student(make_student):
    return make_student(dd.generator("student"))


def fixed(*values):
    """An objective whose terms are these multiples of the mean pixel."""

    def objective(student, real, syn, rng):
        x, _ = syn.mixed(99, rng)
        for value in values:
            yield value * x.mean()

    return objective


def run(objective, student, real, syn):
    """Loss and gradient, as the loop takes them."""
    syn.zero_grad()
    leaves, terms = LeafView(syn), []
    for term in objective(student, real, leaves, dd.generator(*RNG)):
        torch.autograd.backward(term, inputs=leaves.inputs)
        leaves.pull_back()
        terms.append(float(term.detach()))
    return terms, syn.parametrization.images.grad


def test_a_total_weighs_the_terms_of_its_parts(student, tiny, syn):
    mean = float(syn.parametrization.images.detach().mean())
    total = WeightedSum(((2.0, fixed(1, 3)), (-0.5, fixed(1)), (0.0, fixed(7)), (1, fixed(5))))
    terms, gradient = run(total, student, tiny, syn)
    assert terms == pytest.approx([2 * mean, 6 * mean, -0.5 * mean, 5 * mean], rel=1e-5)
    each = (8 - 0.5 + 5) / syn.parametrization.images.numel()
    torch.testing.assert_close(gradient, torch.full_like(gradient, each))


def test_a_weight_may_be_a_function_of_the_student(student, tiny, syn):
    def share(net):
        assert net is student
        return 0.25

    terms, _ = run(WeightedSum(((share, fixed(4)),)), student, tiny, syn)
    assert terms == run(fixed(1), student, tiny, syn)[0]


@pytest.mark.parametrize("weight", [0.0, 0, lambda _: 0.0])
def test_a_part_of_no_weight_is_not_computed(student, tiny, syn, weight):
    def never(student, real, syn, rng):
        raise AssertionError

    total = WeightedSum(((weight, never), (1.0, fixed(2))))
    assert run(total, student, tiny, syn)[0] == run(fixed(2), student, tiny, syn)[0]
    assert list(WeightedSum(())(student, tiny, syn, dd.generator(0))) == []


def test_parts_draw_numbers_of_their_own_that_do_not_depend_on_the_others(student, tiny, syn):
    seen = []

    def noted(student, real, syn, rng):
        seen.append(rng.initial_seed())
        yield syn.mixed(99, rng).x.mean()

    run(WeightedSum(((1.0, noted), (1.0, noted))), student, tiny, syn)
    run(WeightedSum(((0.0, noted), (2.0, noted))), student, tiny, syn)
    assert seen[0] != seen[1] == seen[2]
    assert seen[0] == derive(dd.generator(*RNG), "part", 0).initial_seed()


def test_a_total_in_a_total_is_the_product_of_weights(student, tiny, syn):
    nested = WeightedSum(((0.5, WeightedSum(((4.0, fixed(1)), (2.0, fixed(1))))),))
    terms, _ = run(nested, student, tiny, syn)
    one = run(fixed(1), student, tiny, syn)[0][0]
    assert terms == pytest.approx([2 * one, one])


def test_a_part_of_a_total_keeps_no_graph_of_the_one_before(student, tiny, syn):
    """Each term is computed when it is asked for, and not before."""
    done = []

    def late(name):
        def objective(student, real, syn, rng):
            for i in range(2):
                done.append((name, i))
                yield syn.mixed(99, rng).x.mean()

        return objective

    terms = WeightedSum(((1.0, late("a")), (1.0, late("b"))))(student, tiny, LeafView(syn), dd.generator(0))
    for i in range(4):
        next(terms)
        assert len(done) == i + 1


def test_cross_entropy_is_the_mean_over_each_class(student, tiny, syn):
    terms, gradient = run(CrossEntropy(), student, tiny, syn)
    images = syn.parametrization.images.detach().clone().requires_grad_()
    slow = []
    for c in range(3):
        total = 0.0
        for image in images[3 * c : 3 * c + 3]:
            logits = student(image[None])[0]
            total = total + (logits.exp().sum().log() - logits[c]) / 3
        slow.append(total)
    assert terms == pytest.approx([float(t.detach()) for t in slow], rel=1e-5)
    (wanted,) = torch.autograd.grad(sum(slow), images)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_cross_entropy_reads_soft_labels(student, tiny, syn):
    rows = torch.rand(9, 3, generator=dd.generator("rows"))
    rows = rows / rows.sum(1, keepdim=True)
    soft = dd.SyntheticSet(syn.parametrization, FixedLabels(rows), syn.classes, 3)
    terms, _ = run(CrossEntropy(), student, tiny, soft)
    for c, term in enumerate(terms):
        logits = student(soft.parametrization.images[3 * c : 3 * c + 3]).log_softmax(1)
        assert term == pytest.approx(-float((rows[3 * c : 3 * c + 3] * logits).sum(1).mean().detach()), rel=1e-5)


def test_a_teacher_judges_in_place_of_the_student(student, make_student, tiny, syn):
    teacher = make_student(dd.generator("teacher"))
    taught = run(CrossEntropy(teacher=teacher), student, tiny, syn)
    assert taught[0] == run(CrossEntropy(), teacher, tiny, syn)[0]
    assert taught[0] != run(CrossEntropy(), student, tiny, syn)[0]
    assert all(p.grad is None for p in teacher.parameters())


def test_cross_entropy_augments_each_image_and_takes_a_batch(student, tiny, syn):
    objective = CrossEntropy(augmentation=dd.Augmentation("crop+color"), batch=2)
    terms, _ = run(objective, student, tiny, syn)
    leaves = LeafView(syn)
    for c, term in enumerate(terms):
        key = derive(dd.generator(*RNG), "class", c)
        x, y = leaves.of_class(c, 2, derive(key, "synthetic"))
        assert len(x) == 2
        draw = objective.augmentation.per_image(2, derive(key, "augmentation"))
        slow = [cross_entropy(student(draw.rows(i, i + 1)(x[i : i + 1])), y[i : i + 1]) for i in range(2)]
        assert term == pytest.approx(float(sum(slow).detach()) / 2, rel=1e-5)


def test_a_class_without_images_has_no_term(student, tiny, syn):
    labels = hard_labels(torch.tensor([0, 0, 2]), 3)
    images = Pixels(syn.parametrization.images[[0, 1, 6]])
    lopsided = dd.SyntheticSet(images, labels, torch.tensor([0, 0, 2]), 3)
    assert len(run(CrossEntropy(), student, tiny, lopsided)[0]) == 2


def test_a_batch_of_nothing_is_refused():
    for batch, rule in ((0, "be at least 1, got 0"), (1.5, "be an integer, got 1.5")):
        with pytest.raises(ValueError, match=f"^batch must {rule}$"):
            CrossEntropy(batch=batch)


def rows_of(student, batch, *, graph):
    """A byproduct with a row for each image, in two tensors."""
    with torch.set_grad_enabled(graph):
        return student.embed(batch.x), student(batch.x) * batch.y


@pytest.mark.parametrize("pieces", [None, 1, 3, 100])
@pytest.mark.parametrize("augmented", [False, True])
def test_stacked_rows_are_those_of_the_whole_batch(student, tiny, monkeypatch, pieces, augmented):
    batch = tiny.batch(torch.arange(10))
    draw = dd.Augmentation("crop+color").siamese(dd.generator("draw")) if augmented else NO_DRAW
    wanted = rows_of(student, dd.Batch(draw(batch.x), batch.y), graph=False)
    monkeypatch.setitem(MICRO_BATCH, "cpu", pieces)
    found = stacked(rows_of, student, batch, draw)
    assert len(found) == 2
    for a, b in zip(found, wanted, strict=True):
        assert not a.requires_grad
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def pairwise(a, b):
    return sum(torch.cdist(x.flatten(1), y.flatten(1)).mean() for x, y in zip(a, b, strict=True))


def test_a_match_gathers_samples_and_takes_the_classes_it_is_told(student, tiny, syn):
    asked = []

    def first_ones(student, real, c, n, rng):
        asked.append((c, n))
        return real.batch(real.index_of_class(c)[:n])

    objective = ClassMatch(
        byproduct=rows_of, distance=pairwise, real_batch=4, gather=stacked, sample=first_ones, classes=(2, 0)
    )
    terms, gradient = run(objective, student, tiny, syn)
    assert asked == [(2, 4), (0, 4)]
    for c, term in zip((2, 0), terms, strict=True):
        real = tiny.batch(tiny.index_of_class(c)[:4])
        shown = dd.Batch(syn.parametrization.images.detach()[3 * c : 3 * c + 3], torch.eye(3)[[c] * 3])
        slow = pairwise(rows_of(student, shown, graph=False), rows_of(student, real, graph=False))
        assert term == pytest.approx(float(slow.detach()), rel=1e-4)
    moved = (gradient != 0).flatten(1).any(1)
    assert torch.equal(moved, syn.classes != 1)


@pytest.mark.parametrize("classes", [None, (0, 1, 2)])
def test_all_classes_one_by_one_are_the_whole_match(student, tiny, syn, classes):
    def match(chosen):
        return ClassMatch(
            byproduct=weight_gradients,
            distance=filter_cosine,
            real_batch=4,
            augmentation=dd.Augmentation("crop"),
            classes=chosen,
        )

    whole, gradient = run(match(classes), student, tiny, syn)
    gradient = gradient.clone()
    apart, total = [], torch.zeros_like(gradient)
    for c in range(3):
        terms, part = run(match((c,)), student, tiny, syn)
        apart += terms
        total += part
    assert whole == pytest.approx(apart, rel=1e-6)
    torch.testing.assert_close(total, gradient)
    assert math.isfinite(sum(whole))
