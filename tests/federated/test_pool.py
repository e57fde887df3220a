"""Putting sets together: capped weights, how much one client can do, copies and outliers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from federation import TASK, TRAIN

import ddsdk as dd
from ddsdk_integrations.federated import (
    AverageUpdates,
    Contribution,
    CrossClientFilter,
    MergedSteps,
    PoolWeights,
    Quorum,
    ReplyLimits,
)
from ddsdk_integrations.federated.agreement import _Examples, _held_out, _moments, harmful
from ddsdk_integrations.federated.cross_client import FeatureNetworks
from ddsdk_integrations.federated.pool import pooled
from ddsdk_integrations.federated.updates import robust_mean

K = TASK.num_classes
SCREEN, RNG = CrossClientFilter(), dd.generator("screen")


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


def test_images_of_clients_that_send_as_many_weigh_the_same():
    pool = pooled([contribution(1, [0, 0, 1]), contribution(2, [0, 0])], TASK, PoolWeights())
    assert torch.equal(pool.weights, torch.ones(5))
    assert pool.share == 1.0  # class 1 has one holder
    assert pool.influence == {0: 1 / 2, 1: 1.0}
    batch = pool.batch(TASK)
    assert torch.equal(batch.y, pool.labels)
    assert torch.allclose(batch.x, TASK.preprocess(pool.images))


def test_no_client_dominates_a_class_by_its_number_of_images():
    """Six clients send 5 images of a class and one sends 50: it has a seventh of the class, not 50 of 80."""
    sets = [contribution(i, [0] * 5) for i in range(6)] + [contribution(6, [0] * 50)]
    pool = pooled(sets, TASK, PoolWeights())
    assert pool.share == pytest.approx(1 / 7)
    assert pool.influence[0] == pytest.approx(1 / 7)
    assert torch.allclose(pool.weights[-50:], torch.tensor(80 / 7 / 50))
    # A class with more images has more weight, and a client with fewer images than usual has less.
    small = pooled([*sets[:2], contribution(7, [0]), contribution(8, [1])], TASK, PoolWeights())
    assert float(small.weights[10]) == pytest.approx(float(small.weights[0]))


def test_examples_weigh_within_a_class_and_classes_count_the_same():
    sets = [with_counts(1, [0, 0, 1], c0=30, c1=10), with_counts(2, [0], c0=10)]
    pool = pooled(sets, TASK, PoolWeights(by="examples", cap=3))
    # Class 0: shares 3/4 over two images and 1/4 over one; class 1: all.
    wanted = torch.tensor([0.375, 0.375, 1.0, 0.25])
    assert torch.allclose(pool.weights, wanted / wanted.mean())
    assert pool.weights.mean() == pytest.approx(1)


def test_a_claimed_count_is_capped_by_the_median():
    sets = [with_counts(1, [0], c0=10), with_counts(2, [0], c0=10), with_counts(3, [0], c0=10**6)]
    pool = pooled(sets, TASK, PoolWeights(by="examples", cap=3))
    assert pool.share == pytest.approx(30 / 50)


@pytest.mark.parametrize("liar", [0, 1])
def test_of_two_holders_the_smaller_count_caps_the_other(liar):
    """The median of an even number is the lower one: with the upper one a liar would cap itself."""
    counts = [10, 30]
    sets = [with_counts(i, [0], c0=10**6 if i == liar else n) for i, n in enumerate(counts)]
    pool = pooled(sets, TASK, PoolWeights(by="examples", cap=3))
    shares = (pool.weights / pool.weights.sum()).tolist()
    wanted = [10**6, 30] if liar == 0 else [10, 10**6]
    least = min(wanted)
    assert shares == pytest.approx([min(n, 3 * least) / (4 * least) for n in wanted])
    assert pool.influence[0] == pytest.approx(0.75)


@pytest.mark.parametrize("by", ["images", "examples"])
@pytest.mark.parametrize("counts", [(7, 20, 12), (1, 1000, 5), (1, 1, 1), (50, 2, 900)])
def test_no_client_does_more_than_the_stated_influence(by, counts):
    """Try what an adversary could claim, and compare its share with the bound that is printed."""
    weighing, quota = PoolWeights(by=by, cap=3), 5
    others = [with_counts(i, [0] * (1 + i % 3), c0=n) for i, n in enumerate(counts)]
    bound = pooled([*others, with_counts(4, [0], c0=5)], TASK, weighing).influence[0]
    reached = 0.0
    for images in range(1, quota + 1):
        for claim in (1, 3, 10, 30, 100, 1000, 10**6):
            sets = [*others, with_counts(4, [0] * images, c0=claim)]
            pool = pooled(sets, TASK, weighing)
            reached = max(reached, float(pool.weights[-images:].sum() / pool.weights.sum()))
    assert 0.3 < reached <= bound + 1e-6


def test_soft_labels_count_where_they_lie():
    """Half of every label of an adversary lies on class 0, for which it sends no more than its quota."""
    quota = 3
    others = [contribution(i, [0] * 3 + [1] * 3) for i in range(1, 5)]
    mine = contribution(9, [c for c in range(K) for _ in range(quota)])
    rows = 0.51 * mine.labels
    rows[:, 0] += 0.49
    pool = pooled([*others, dataclasses.replace(mine, labels=rows)], TASK, PoolWeights())
    mass = (pool.labels * pool.weights[:, None])[:, 0]
    reached = float(mass[-len(rows) :].sum() / mass.sum())
    assert 0.5 < reached <= pool.influence[0]
    assert pool.share == pytest.approx(1.0)  # it alone has class 9
    examples = pooled([*others, dataclasses.replace(mine, labels=rows)], TASK, PoolWeights(by="examples"))
    assert examples.influence[0] == 1.0


def test_the_screen_refuses_copies_and_keeps_the_first():
    first, second = contribution(1, [0, 1, 2]), contribution(2, [0, 1, 2], seed=50)
    rng = dd.generator("noise")
    noise = 0.002 * torch.randn(first.images.shape, generator=rng)
    near = contribution(3, [0, 1, 2], images=first.images + noise)
    left, refused = SCREEN([first, second, near], TASK, RNG)
    assert [one.node for one in left] == [1, 2]
    assert [(r.node, r.check) for r in refused] == [(3, 11)]
    assert "100 % of the images are copies of those of node 1" in refused[0].reason
    left, refused = dataclasses.replace(SCREEN, near=0)([first, second, near], TASK, RNG)
    assert len(left) == 3


def test_the_screen_refuses_the_class_that_is_another():
    classes = [0] * 8 + [1] * 8
    honest = [contribution(i, classes, seed=11 * i) for i in range(1, 6)]
    swapped = contribution(6, classes, images=contribution(6, classes[::-1], seed=3).images)
    mixed = contribution(7, [*classes, 4], images=contribution(7, [0] * 16 + [4], seed=3).images)
    left, refused = SCREEN([*honest, swapped, mixed], TASK, RNG)
    assert {(r.node, r.check, r.class_id) for r in refused} == {(6, 13, 0), (6, 13, 1), (6, 13, None), (7, 13, 1)}
    assert "the other clients agree with 0 % of class '1'" in {r.reason for r in refused}
    assert [one.node for one in left] == [1, 2, 3, 4, 5, 7]
    # A class goes alone where most of a set is sound; what only one client holds cannot be judged.
    assert left[-1].classes.tolist() == [0] * 8 + [4]
    # With two other clients no one can tell who is wrong.
    left, refused = SCREEN([*honest[:2], swapped], TASK, RNG)
    assert refused == []
    # Three that exchange the classes are most of five: none of the two others is refused in their place.
    three = [contribution(i, classes, images=contribution(i, classes[::-1], seed=3).images) for i in (6, 8, 9)]
    left, refused = SCREEN([*honest[:2], *three], TASK, RNG)
    assert {r.node for r in refused} <= {6, 8, 9}


def test_images_beyond_the_quota_of_the_others_are_left_out():
    """Twice as many images as the median of the others are used, and no fixed number."""
    usual = [contribution(i, [0] * 5 + [1] * 5, seed=11 * i) for i in range(1, 4)]
    many = contribution(4, [0] * 50 + [1] * 5)
    left, refused = SCREEN([*usual, many], TASK, RNG)
    assert [torch.bincount(one.classes).tolist() for one in left] == [[5, 5]] * 3 + [[10, 5]]
    assert [(r.node, r.check, r.name, r.hostile) for r in refused] == [(4, 12, "quota", False)]
    assert "40 of 55 images exceed 2 times the median of the others" in refused[0].reason
    # The images that stay are drawn with the secret of the server.
    again, _ = SCREEN([*usual, many], TASK, dd.generator("another secret"))
    assert not torch.equal(left[-1].images, again[-1].images)
    left, refused = dataclasses.replace(SCREEN, quota=float("inf"))([*usual, many], TASK, RNG)
    assert len(left[-1].images) == 55 and refused == []


def test_one_image_of_a_class_takes_no_quota_from_its_holder():
    rare = contribution(1, [0] * 5 + [1] * 20 + [2] * 20)
    poor = [contribution(i, [0] * 20 + [1] * 20 + [2], seed=11 * i) for i in (2, 3)]
    left, refused = SCREEN([rare, *poor], TASK, RNG)
    assert torch.bincount(left[0].classes).tolist() == [5, 20, 20]
    assert refused == []


def test_clean_images_judge_a_majority():
    """Four of seven exchange all classes; five clean images of each class refuse them, and no one else."""
    sets = [drawn(i, 5, exchanged=i >= 3) for i in range(7)]
    clean = TRAIN.subset(torch.cat([TRAIN.index_of_class(c)[-5:] for c in range(K)]))
    left, refused = SCREEN(sets, TASK, RNG, clean)
    assert [one.node for one in left] == [0, 1, 2]
    assert {r.check for r in refused} == {13}
    assert all("the clean images agree" in r.reason for r in refused)
    # Without them, no honest client is refused by the majority either.
    _, refused = SCREEN(sets, TASK, RNG)
    assert not {r.node for r in refused} & {0, 1, 2}


def test_harm_is_that_of_the_clients_without_which_clean_images_fit_better():
    networks = FeatureNetworks.of(TASK, RNG).matched
    clean = TRAIN.subset(torch.cat([TRAIN.index_of_class(c)[-5:] for c in range(K)]))
    honest = [drawn(i, 5) for i in range(3)]
    assert harmful(honest, TASK, networks, clean) == {}
    found = harmful([*honest, *(drawn(i, 50, exchanged=True) for i in range(3, 7))], TASK, networks, clean)
    assert set(found) == {3, 4, 5, 6}
    assert all(0 < share < 1 for share in found.values())


def test_agreement_with_held_out_clean_images_is_that_of_a_refit():
    """The usual agreement of clean images leaves out each image in turn; here each is left out by hand."""
    clean = TRAIN.subset(torch.cat([TRAIN.index_of_class(c)[:4] for c in range(K)]))
    examples = _Examples(torch.randn(40, 30, dtype=torch.double, generator=dd.generator("x")), clean.labels)
    examples.x[torch.arange(40), clean.labels] += 4
    moments, found = _moments(examples, K), []
    target = torch.nn.functional.one_hot(clean.labels, K).double() - 1 / K
    for i in range(40):
        x, y = examples.x[i], target[i]
        gram = moments.regularized() - torch.outer(x, x)
        weights = torch.linalg.solve(gram, moments.cross - torch.outer(x, y))
        found.append(float((x @ weights).argmax() == clean.labels[i]))
    assert 0.2 < sum(found) / 40 < 1
    assert _held_out(examples, K).tolist() == found


def drawn(node, per_class, *, exchanged=False):
    """Return a random sample of the digits, each under its class, or under the next one."""
    rng = dd.generator("drawn", node)
    members = [TRAIN.index_of_class(c) for c in range(K)]
    rows = torch.cat([rows[torch.randperm(len(rows), generator=rng)[:per_class]] for rows in members])
    images = TRAIN.images[rows.roll(per_class) if exchanged else rows].float()
    return contribution(node, torch.arange(K).repeat_interleave(per_class).tolist(), images=images)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("per_class", [20, 2])
def test_exchanged_classes_are_seen(per_class, seed):
    sets = [drawn(10 * seed + i, per_class, exchanged=i == 9) for i in range(10)]
    left, refused = SCREEN(sets, TASK, dd.generator("screen", seed))
    liar = sets[-1].node
    assert {one.node for one in refused} == {liar}
    assert liar not in {one.node for one in left}


def moves():
    rng = dd.generator("updates")
    honest = [torch.randn(40, generator=rng) * (1 + i) for i in range(5)]
    tried = [torch.zeros(40), 1e6 * torch.ones(40), -1e6 * torch.ones(40), 5 * torch.randn(40, generator=rng)]
    return honest, [*tried, -sum(honest), honest[4]]


@pytest.mark.parametrize(("trim", "cap"), [(0.0, 1.0), (0.0, 3.0), (0.2, 1.0), (0.34, 1.0), (0.1, 1.0)])
@pytest.mark.parametrize("clients", [2, 3, 4, 5])
def test_no_client_moves_the_mean_of_updates_further_than_stated(trim, cap, clients):
    honest, tried = moves()
    honest = honest[: clients - 1]
    means, bounds = zip(*[robust_mean([*honest, one], trim=trim, cap=cap) for one in tried], strict=True)
    reached = max(float((a - b).norm()) for a in means for b in means)
    # Whatever it sends, and so whatever the report says, its reach is that of the others' updates.
    assert reached <= min(bounds) * (1 + 1e-5)
    assert all(torch.isfinite(mean).all() for mean in means)


def test_a_bound_is_that_of_the_one_who_could_do_most():
    found = [torch.tensor([x]) for x in (0.0, 10.0, 1e6)]
    mean, reach = robust_mean(found, trim=0.34, cap=1.0)
    assert float(mean) == 10.0
    # The second client could have moved it from 0 to 10^6.
    assert reach == pytest.approx(1e6)
    assert robust_mean([torch.ones(3)], trim=0.0, cap=1.0)[1] == float("inf")


def test_the_robust_mean_is_the_mean_where_nothing_is_extreme():
    rng = dd.generator("updates")
    updates = [torch.randn(7, generator=rng, dtype=torch.float64) for _ in range(3)]
    mean, _ = robust_mean(updates, trim=0.0, cap=1e9)
    assert torch.allclose(mean, sum(updates) / 3)
    three = [torch.tensor([1.0, 9.0]), torch.tensor([2.0, -9.0]), torch.tensor([100.0, 3.0])]
    mean, _ = robust_mean(three, trim=0.34, cap=1e9)
    assert torch.equal(mean, torch.tensor([2.0, 3.0]))
    mean, _ = robust_mean([torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([50.0])], trim=0.0, cap=4.0)
    assert torch.equal(mean, torch.tensor([2.0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PoolWeights(by="size"), "by must be images or examples"),
        (lambda: PoolWeights(cap=0.5), "cap must be finite and at least 1"),
        (lambda: CrossClientFilter(quota=0.5), "quota must be at least 1"),
        (lambda: CrossClientFilter(least=1), "least must be at least 2"),
        (lambda: CrossClientFilter(agree=1.5), "agree must lie in 0..1"),
        (lambda: Quorum(share=0.0), "share must lie in 0 < value <= 1"),
        (lambda: Quorum(grace=1.5), "grace must lie in 0..1"),
        (lambda: Quorum(patience=0), "patience must be at least 1"),
        (lambda: CrossClientFilter(whole=1.5), "whole must lie in 0..1"),
        (lambda: CrossClientFilter(copies=0.0), "copies must lie in 0 < value <= 1"),
        (lambda: AverageUpdates(trim=0.5), "trim must lie in 0 <= value < 0.5"),
        (lambda: AverageUpdates(cap=0.5), "cap must be finite and at least 1"),
        (lambda: MergedSteps(passes=0), "passes must be at least 1"),
        (lambda: MergedSteps(reach=0.0), "reach must be"),
        (lambda: ReplyLimits(codecs=("components",)), "codecs must be among"),
        (lambda: ReplyLimits(codecs=("tiles",)), "codecs must be among"),
        (lambda: ReplyLimits(images=0), "images must be at least 1"),
        (lambda: ReplyLimits(bounds=(1.0, 0.0)), "bounds must be a lower and a higher number"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
