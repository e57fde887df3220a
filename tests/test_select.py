"""Selection by features against versions that try everything."""

from __future__ import annotations

import pytest
import torch

import ddsdk as dd
from ddsdk.data import herding, k_center, k_means_nearest

FUNCTIONS = {
    "herding": lambda features, n: herding(features, n),
    "k_center": lambda features, n: k_center(features, n),
    "k_means": lambda features, n: k_means_nearest(features, n, dd.generator("k-means")),
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
