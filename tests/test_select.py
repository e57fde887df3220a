"""Selection by features against versions that try everything."""

from __future__ import annotations

import statistics

import pytest
import torch

import ddsdk as dd
from ddsdk.baselines.base import trained_student
from ddsdk.baselines.scores import window
from ddsdk.data import herding, k_center, k_means_nearest, moderate
from ddsdk.foundation import derive

FUNCTIONS = {
    "herding": lambda features, n: herding(features, n),
    "k_center": lambda features, n: k_center(features, n),
    "k_means": lambda features, n: k_means_nearest(features, n, dd.generator("k-means")),
    "moderate": lambda features, n: moderate(features, n),
}


def features(n=12, f=3):
    return torch.randn(n, f, generator=dd.generator("features"), dtype=torch.float64)


def slow_herding(rows, n):
    mean = sum(rows) / len(rows)
    chosen = []
    for _ in range(n):
        gaps = {}
        for i in range(len(rows)):
            if i not in chosen:
                mine = sum(rows[j] for j in [*chosen, i]) / (len(chosen) + 1)
                gaps[i] = float((mine - mean).norm())
        chosen.append(min(gaps, key=gaps.get))
    return chosen


def slow_k_center(rows, n):
    mean = sum(rows) / len(rows)
    chosen = [min(range(len(rows)), key=lambda i: float((rows[i] - mean).norm()))]
    while len(chosen) < n:
        free = [i for i in range(len(rows)) if i not in chosen]
        chosen.append(max(free, key=lambda i: min(float((rows[i] - rows[j]).norm()) for j in chosen)))
    return chosen


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_herding_and_k_center_equal_their_slow_twins(n):
    found = features()
    assert herding(found, n).tolist() == slow_herding(list(found), n)
    assert k_center(found, n).tolist() == slow_k_center(list(found), n)


def slow_moderate(rows, n):
    mean = sum(rows) / len(rows)
    distances = [sum(float(v) ** 2 for v in row - mean) ** 0.5 for row in rows]
    gaps = {i: abs(distance - statistics.median(distances)) for i, distance in enumerate(distances)}
    return sorted(gaps, key=gaps.get)[:n]


@pytest.mark.parametrize("count", [11, 12])
@pytest.mark.parametrize("n", [1, 4, 11])
def test_moderate_equals_its_slow_twin(count, n):
    found = features(count)
    assert moderate(found, n).tolist() == slow_moderate(list(found), n)


@pytest.mark.parametrize(("skip", "first"), [(0.0, 0), (0.25, 3), (0.5, 6), (0.9, 8), (1.0, 8)])
def test_a_window_of_scores_begins_behind_the_share_of_the_largest(skip, first):
    scores = torch.randperm(12, generator=dd.generator("scores")).double()
    falling = sorted(range(12), key=lambda i: -float(scores[i]))
    assert window(scores, 4, skip).tolist() == falling[first : first + 4]


@pytest.mark.parametrize("skip", [0.0, 0.4])
def test_el2n_takes_the_window_of_the_mean_norms_of_its_students(skip):
    real = dd.load("digits").subset(torch.arange(150))
    make = dd.network_factory("convnet", real.image_shape, 10, width=4)
    method, rng = dd.baselines.EL2N(ipc=2, students=2, skip=skip), dd.generator("el2n")
    found = method.select(real, make_student=make, rng=rng)
    totals = torch.zeros(len(real))
    for i in range(2):
        student = trained_student(real, 1, make_student=make, rng=derive(rng, "student", i)).eval()
        with torch.no_grad():
            for j in range(len(real)):
                x, y = real.batch(torch.tensor([j]))
                totals[j] += float((student(x).softmax(1) - y).norm())
    for c in range(10):
        mine = sorted((j for j in range(150) if int(real.labels[j]) == c), key=lambda j: -float(totals[j]))
        first = round(skip * len(mine))
        assert found[c].tolist() == mine[first : first + 2]


def test_the_moderate_baseline_takes_embeddings_of_a_trained_network_in_each_class():
    real = dd.load("digits").subset(torch.arange(150))
    make = dd.network_factory("convnet", real.image_shape, 10, width=4)
    rng = dd.generator("moderate")
    student = trained_student(real, 1, make_student=make, rng=rng).eval()
    found = dd.baselines.Moderate(ipc=3).select(real, make_student=make, rng=rng)
    with torch.no_grad():
        for c in range(10):
            index = (real.labels == c).nonzero().flatten()
            rows = list(student.embed(real.batch(index).x).double())
            # The two images around the median of an even number are equally near to it.
            assert set(found[c].tolist()) == set(index[slow_moderate(rows, 3)].tolist())


def test_k_means_takes_the_item_nearest_each_centre():
    centres = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]], dtype=torch.float64)
    spread = torch.randn(3, 7, 2, generator=dd.generator("spread"), dtype=torch.float64)
    rows = (centres[:, None] + spread).flatten(0, 1)
    nearest = set()
    for blob in range(3):
        mine = rows[7 * blob : 7 * blob + 7]
        nearest.add(7 * blob + min(range(7), key=lambda i: float((mine[i] - mine.mean(0)).norm())))
    assert set(k_means_nearest(rows, 3, dd.generator(0)).tolist()) == nearest


@pytest.mark.parametrize("name", FUNCTIONS)
def test_choices_are_distinct_repeatable_and_leave_the_features_alone(name):
    select, found = FUNCTIONS[name], features()
    before = found.clone()
    for n in (1, 4, 12):
        chosen = select(found, n)
        assert chosen.dtype == torch.int64
        assert len(set(chosen.tolist())) == n
        assert torch.equal(select(found, n), chosen)
    assert torch.equal(found, before)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equal_items_are_still_chosen_once(name):
    assert sorted(FUNCTIONS[name](torch.ones(5, 2), 5).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("n", [0, 13, -1])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_impossible_numbers_are_refused(name, n):
    with pytest.raises(ValueError, match=f"n must lie in 1..12, got {n}"):
        FUNCTIONS[name](features(), n)
