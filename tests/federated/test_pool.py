"""Putting sets together: capped weights, how much one client can do, copies and outliers."""

from __future__ import annotations

import pytest
import torch
from federation import TASK, TRAIN

import ddsdk as dd
from ddsdk_integrations.federated import Contribution, Screen, Weighing
from ddsdk_integrations.federated.pool import pooled
from ddsdk_integrations.federated.updates import robust_mean

K = TASK.num_classes


def contribution(node, classes, counts=None, seed=0, shift=0.0, images=None):
    classes = torch.tensor(classes)
    if images is None:
        rows = [TRAIN.index_of_class(int(c))[(17 * node + 5 * i + seed) % 100] for i, c in enumerate(classes)]
        images = (TRAIN.images[torch.stack(rows)].float() + shift).clamp(-2, 3)
    tally = torch.bincount(classes, minlength=K).tolist() if counts is None else counts
    return Contribution(
        node=node,
        images=images,
        labels=torch.nn.functional.one_hot(classes, K).float(),
        classes=classes,
        examples=sum(tally),
        counts=tuple(tally),
        rate=(),
        meta={},
    )


def with_counts(node, classes, **of):
    return contribution(node, classes, [of.get(f"c{c}", 0) for c in range(K)])


def test_images_count_the_same_unless_examples_are_asked_for():
    sets = [contribution(1, [0, 0, 1]), contribution(2, [0])]
    pool = pooled(sets, TASK, Weighing(), quota=4)
    assert torch.equal(pool.weights, torch.ones(4))
    assert pool.share == 1.0  # class 1 has one holder
    assert pool.influence == {0: 4 / 5, 1: 1.0}
    batch = pool.batch(TASK)
    assert torch.equal(batch.y, pool.labels)
    assert torch.allclose(batch.x, TASK.preprocess(pool.images))


def test_examples_weigh_within_a_class_and_classes_count_the_same():
    sets = [with_counts(1, [0, 0, 1], c0=30, c1=10), with_counts(2, [0], c0=10)]
    pool = pooled(sets, TASK, Weighing(by="examples"), quota=4)
    # Class 0: shares 3/4 over two images and 1/4 over one; class 1: all.
    wanted = torch.tensor([0.375, 0.375, 1.0, 0.25])
    assert torch.allclose(pool.weights, wanted / wanted.mean())
    assert pool.weights.mean() == pytest.approx(1)


def test_a_claimed_count_is_capped_by_the_median():
    sets = [with_counts(1, [0], c0=10), with_counts(2, [0], c0=10), with_counts(3, [0], c0=10**6)]
    pool = pooled(sets, TASK, Weighing(by="examples", cap=3), quota=4)
    assert pool.share == pytest.approx(30 / 50)


@pytest.mark.parametrize("by", ["images", "examples"])
def test_no_client_does_more_than_the_stated_influence(by):
    """Try what an adversary could claim, and compare its share with the bound that is printed."""
    weighing, quota = Weighing(by=by, cap=3), 5
    others = [with_counts(1, [0, 0], c0=7), with_counts(2, [0], c0=20), with_counts(3, [0, 0, 0], c0=12)]
    bound = pooled([*others, with_counts(4, [0], c0=5)], TASK, weighing, quota=quota).influence[0]
    reached = 0.0
    for images in range(1, quota + 1):
        for claim in (1, 10, 50, 10**6):
            sets = [*others, with_counts(4, [0] * images, c0=claim)]
            pool = pooled(sets, TASK, weighing, quota=quota)
            reached = max(reached, float(pool.weights[-images:].sum() / pool.weights.sum()))
    assert 0.3 < reached <= bound + 1e-6


def test_the_screen_refuses_copies_and_keeps_the_first():
    first, second = contribution(1, [0, 1, 2]), contribution(2, [0, 1, 2], seed=50)
    rng = dd.generator("noise")
    noise = 0.002 * torch.randn(first.images.shape, generator=rng)
    near = contribution(3, [0, 1, 2], images=first.images + noise)
    left, refused = Screen()([first, second, near], TASK)
    assert [one.node for one in left] == [1, 2]
    assert [(r.node, r.check) for r in refused] == [(3, 11)]
    assert "100 % of the images are copies of those of node 1" in refused[0].reason
    left, refused = Screen(near=0)([first, second, near], TASK)
    assert len(left) == 3


def test_the_screen_refuses_the_class_that_is_another():
    classes = [0] * 8 + [1] * 8
    honest = [contribution(i, classes, seed=11 * i) for i in range(1, 6)]
    swapped = contribution(6, classes, images=contribution(6, classes[::-1], seed=3).images)
    blank = contribution(7, [0, 0, 0, 4], images=torch.full((4, *TASK.image_shape), 2.5))
    left, refused = Screen()([*honest, swapped, blank], TASK)
    assert {(r.node, r.check) for r in refused} == {(6, 12), (7, 12)}
    assert refused[2].reason == "2 of 2 classes lie far from the median"
    assert [one.node for one in left] == [1, 2, 3, 4, 5]
    # A class goes alone where most of a set is sound; what nobody else holds cannot be judged.
    left, _ = Screen(whole=1.0)([*honest, swapped, blank], TASK)
    assert [one.node for one in left] == [1, 2, 3, 4, 5, 7]
    assert left[-1].classes.tolist() == [4]
    # Four are too few to tell who is wrong.
    left, refused = Screen()([*honest[:3], swapped], TASK)
    assert refused == []


def test_an_update_moves_the_mean_no_further_than_stated():
    rng = dd.generator("updates")
    honest = [torch.randn(50, generator=rng) for _ in range(5)]
    for evil in (torch.full((50,), 1e6), -1e6 * torch.ones(50), torch.zeros(50)):
        for trim in (0.0, 0.2):
            mean, moved = robust_mean([*honest, evil], [1.0] * 6, trim=trim, cap=2.0)
            without, _ = robust_mean([*honest, honest[0]], [1.0] * 6, trim=trim, cap=2.0)
            assert float((mean - without).norm()) <= 2 * moved + 1e-4
            assert float(mean.norm()) < 10


def test_the_robust_mean_without_limits_is_the_weighted_mean():
    rng = dd.generator("updates")
    updates = [torch.randn(7, generator=rng, dtype=torch.float64) for _ in range(3)]
    mean, _ = robust_mean(updates, [1.0, 2.0, 1.0], trim=0.0, cap=1e9)
    assert torch.allclose(mean, (updates[0] + 2 * updates[1] + updates[2]) / 4, atol=1e-6)
    three = [torch.tensor([1.0, 9.0]), torch.tensor([2.0, -9.0]), torch.tensor([100.0, 3.0])]
    mean, _ = robust_mean(three, [1.0] * 3, trim=0.34, cap=1e9)
    assert torch.equal(mean, torch.tensor([2.0, 3.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Weighing(by="size"), "by must be images or examples"),
        (lambda: Weighing(cap=0.5), "cap must be finite and at least 1"),
        (lambda: Screen(far=1.0), "far must be above 1"),
        (lambda: Screen(least=2), "least must be at least 3"),
        (lambda: Screen(whole=1.5), "whole must lie in 0..1"),
        (lambda: Screen(copies=0.0), "copies must lie in 0 < value <= 1"),
        (lambda: robust_mean([torch.ones(1)], [1.0], trim=0.5, cap=2), "trim must lie in 0 <= value < 0.5"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
