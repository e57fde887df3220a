"""Splits: every image is given once, and shares have the moments that the distribution says."""

from __future__ import annotations

import pytest
import torch

import ddsdk as dd
from ddsdk_integrations.federated import dirichlet, quantity_skew, shards

LABELS = torch.arange(10).repeat_interleave(60)[torch.randperm(600, generator=dd.generator("labels"))]


@pytest.mark.parametrize(
    "split",
    [
        lambda rng: dirichlet(LABELS, 7, 0.1, rng),
        lambda rng: dirichlet(LABELS, 7, 0.003, rng, least=0),
        lambda rng: dirichlet(LABELS, 7, 1e4, rng),
        lambda rng: shards(LABELS, 7, 2, rng),
        lambda rng: quantity_skew(LABELS, 7, 0.3, rng),
    ],
    ids=["dirichlet", "almost one client a class", "alike", "shards", "quantity"],
)
def test_every_image_is_given_once_and_a_seed_gives_the_same_split(split):
    parts = split(dd.generator("split"))
    assert len(parts) == 7
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(600))
    again = split(dd.generator("split"))
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    other = split(dd.generator("other"))
    assert not all(torch.equal(a, b) for a, b in zip(parts, other, strict=True))


@pytest.mark.parametrize("alpha", [0.05, 0.5, 5.0])
def test_shares_have_the_moments_of_a_dirichlet_distribution(alpha):
    n, draws, labels = 4, 600, torch.zeros(1000, dtype=torch.int64)
    shares = torch.tensor(
        [
            [len(part) / 1000 for part in dirichlet(labels, n, alpha, dd.generator("moments", i), least=0)]
            for i in range(draws)
        ]
    )
    assert shares.mean(0).sub(1 / n).abs().max() < 0.06
    variance = (1 / n) * (1 - 1 / n) / (n * alpha + 1)
    assert float(shares.var(0).mean()) == pytest.approx(variance, rel=0.12)


def test_a_small_concentration_gives_a_class_to_one_client():
    parts = dirichlet(LABELS, 5, 1e-3, dd.generator("split"), least=0)
    largest = torch.stack([torch.bincount(LABELS[p], minlength=10) for p in parts]).max(0).values
    assert (largest >= 59).sum() >= 9
    alike = dirichlet(LABELS, 5, 1e5, dd.generator("split"))
    assert all(torch.bincount(LABELS[p], minlength=10).sub(12).abs().max() <= 1 for p in alike)


def test_every_client_has_at_least_what_was_asked_for():
    parts = dirichlet(LABELS, 10, 0.1, dd.generator("split"), least=20)
    assert min(map(len, parts)) >= 20


def test_shards_hold_few_classes():
    parts = shards(LABELS, 5, 2, dd.generator("split"))
    assert [len(part) for part in parts] == [120] * 5
    assert all(len(LABELS[part].unique()) <= 2 for part in parts)


def test_quantity_skew_keeps_the_mix_of_classes():
    labels = LABELS.repeat(20)
    parts = quantity_skew(labels, 5, 0.5, dd.generator("split"))
    sizes = [len(p) for p in parts]
    assert max(sizes) > 3 * min(sizes) >= 3
    largest = max(parts, key=len)
    assert torch.bincount(labels[largest]).float().div(len(largest)).sub(0.1).abs().max() < 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: dirichlet(LABELS, 0, 0.1, rng), "clients must be at least 1, got 0"),
        (lambda rng: dirichlet(LABELS, 2, 0.0, rng), "alpha must be"),
        (lambda rng: dirichlet(LABELS, 10, 0.1, rng, least=61), "least must not exceed 600 images"),
        (lambda rng: dirichlet(LABELS, 10, 0.01, rng, least=60, tries=3), "least must be reachable in 3 draws"),
        (lambda rng: shards(LABELS, 100, 7, rng), "per_client must leave an image for each of 700 shards"),
        (lambda rng: quantity_skew(LABELS, 601, 1.0, rng), "clients must not exceed 600 images"),
    ],
)
def test_bad_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(dd.generator("split"))
