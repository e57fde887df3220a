"""Attacks on sets: curves against definitions, distances against a loop, and copies that are found."""

from __future__ import annotations

import pytest
import torch
from careless_distillers import copying, digits, noise_only

import ddsdk as dd
from ddsdk.judging.likelihood import audit_by_likelihood, likelihood_ratios
from ddsdk.judging.membership import confidences, nearest_distances, nearest_records, roc
from ddsdk.training import probabilities


def test_curves_are_those_of_the_definition():
    rng = dd.generator("scores")
    a, b = (torch.randn(300, generator=rng).round(decimals=1) + 1, torch.randn(400, generator=rng).round(decimals=1))
    found = roc(a, b)
    pairs = (a[:, None] > b).double() + 0.5 * (a[:, None] == b).double()
    assert found.auc == pytest.approx(float(pairs.mean()), abs=1e-9)
    for rate, got in ((0.01, found.at_1), (0.001, found.at_01)):
        best = max(float((a > t).double().mean()) for t in b.tolist() if float((b > t).double().mean()) <= rate)
        assert got == pytest.approx(best, abs=1e-9)
    with pytest.raises(ValueError, match="members and others must hold scores"):
        roc(a, b[:0])


def test_confidences_are_logits_of_the_true_class(tiny):
    real = tiny.subset(torch.arange(9))
    network = dd.network_factory("mlp", real.image_shape, 3, width=8)(dd.generator(0)).eval()
    p = probabilities(network, real.batch(torch.arange(9)).x).double()[torch.arange(9), real.labels]
    assert torch.allclose(confidences([network], real), (p / (1 - p)).log(), atol=1e-4)


def test_distances_are_those_of_a_loop():
    rng = dd.generator("d")
    images, seen = torch.rand(4, 1, 5, 5, generator=rng), torch.rand(7, 1, 5, 5, generator=rng)
    wanted = [min(float((x - s).square().mean().sqrt()) for s in images) for x in seen]
    assert nearest_distances(images, seen).tolist() == pytest.approx(wanted, abs=1e-5)


def test_likelihood_ratios_find_what_runs_leave_behind():
    rng = dd.generator("runs")
    members = torch.rand(16, 200, generator=rng) < 0.5
    hard = torch.randn(200, generator=rng) * 3
    scores = hard + torch.randn(16, 200, generator=rng) + 2.0 * members
    ratios = likelihood_ratios(scores, members)
    assert roc(ratios[members], ratios[~members]).auc > 0.85
    # Without knowing how hard a record is, the same scores tell little.
    assert roc(scores[members], scores[~members]).auc < 0.75
    blind = likelihood_ratios(torch.randn(16, 200, generator=rng), members)
    assert abs(roc(blind[members], blind[~members]).auc - 0.5) < 0.05


def test_copies_are_counted():
    real, held = digits()
    copied = nearest_records(copying(real, dd.generator(1)), real, held)
    assert copied.copies == 400
    assert copied.smallest < 1e-3
    assert copied.scores.auc > 0.7
    other = nearest_records(noise_only(real, dd.generator(1)), real, held)
    assert other.copies == 0
    assert abs(other.scores.auc - 0.5) < 0.1


def test_shadow_runs_distil_again():
    real, _ = digits()
    seen = []

    def watched(half, rng):
        seen.append(len(half))
        return copying(half, rng)

    small = real.subset(torch.cat([real.index_of_class(c)[:25] for c in range(10)]))
    # 40 of each class are asked of halves of about 12: everything in them is handed out.
    found = audit_by_likelihood(watched, small, seed=dd.generator("lira"), runs=6, networks=1)
    assert len(seen) == 6
    assert len(set(seen)) > 1
    assert found.distance.auc > 0.95
    assert found.confidence.auc > 0.55
    few = real.subset(torch.cat([real.index_of_class(c)[:2] for c in range(10)]))
    with pytest.raises(ValueError, match="records must have enough of each class for halves"):
        audit_by_likelihood(watched, few, seed=dd.generator("few"), runs=4)
    with pytest.raises(ValueError, match="runs must be at least 4"):
        audit_by_likelihood(watched, small, seed=dd.generator("lira"), runs=2)
