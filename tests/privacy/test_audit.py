"""Audits: bounds against exact sums, curves against definitions, and a broken distiller that is caught."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from private_records import records

import ddsdk as dd
from ddsdk_integrations.privacy import NDPDC, Budget, Ledger, PrivateData, distilled_privately
from ddsdk_integrations.privacy.audit import audit_in_one_run, mislabelled, nearest_records
from ddsdk_integrations.privacy.bounds import one_run_bound, p_value
from ddsdk_integrations.privacy.likelihood import audit_by_likelihood, likelihood_ratios
from ddsdk_integrations.privacy.membership import confidences, nearest_distances, roc

QUICK = dd.Evaluation(protocol="quick", network="mlp", network_options={"width": 64}, epochs=60, lr=0.1)


def test_the_ceiling_is_that_of_perfect_guesses():
    """With delta 0 and r right guesses of r, epsilon is log(p / (1 - p)) for p = 0.05^(1/r);
    known is what another library says."""
    for guesses, known in ((20, 1.82), (100, 3.49), (300, 4.59), (1000, 5.76)):
        p = 0.05 ** (1 / guesses)
        found = one_run_bound(guesses, guesses, guesses, delta=0.0)
        assert found.epsilon == found.ceiling == pytest.approx(math.log(p / (1 - p)), abs=1e-6)
        assert found.epsilon == pytest.approx(known, abs=0.06)


def test_the_p_value_is_the_tail_of_the_guesses():
    chance = 1 / (1 + math.exp(-0.7))
    tail = sum(math.comb(30, k) * chance**k * (1 - chance) ** (30 - k) for k in range(24, 31))
    assert p_value(24, 30, 50, epsilon=0.7, delta=0.0) == pytest.approx(tail, rel=1e-9)
    assert p_value(24, 30, 50, epsilon=0.7, delta=1e-3) > tail
    assert p_value(24, 30, 50, epsilon=0.7, delta=0.5) == 1.0


def test_coins_show_nothing_and_delta_costs():
    assert one_run_bound(50, 100, 100, delta=0.0).epsilon == 0
    assert one_run_bound(80, 100, 100, delta=1e-3).epsilon < one_run_bound(80, 100, 100, delta=0.0).epsilon
    with pytest.raises(ValueError, match=r"right must lie in 0\.\.10"):
        one_run_bound(11, 10, 10, delta=0.0)
    with pytest.raises(ValueError, match="guesses must not exceed the 5 canaries"):
        one_run_bound(1, 10, 5, delta=0.0)


def test_the_bound_is_right_for_randomised_response():
    """Coins told rightly with probability e^eps / (1 + e^eps): the bound exceeds eps in one run of twenty at most."""
    rng, epsilon, runs, n = dd.generator("coins"), 1.0, 400, 200
    chance = 1 / (1 + math.exp(-epsilon))
    wrong = sum(
        one_run_bound(int((torch.rand(n, generator=rng) < chance).sum()), n, n, delta=0.0).epsilon > epsilon
        for _ in range(runs)
    )
    assert wrong <= 0.05 * runs + 3 * math.sqrt(0.05 * 0.95 * runs)


def test_curves_are_those_of_the_definition():
    rng = dd.generator("scores")
    a, b = (
        torch.randn(300, generator=rng).round(decimals=1) + 1,
        torch.randn(400, generator=rng).round(decimals=1),
    )
    found = roc(a, b)
    pairs = (a[:, None] > b).double() + 0.5 * (a[:, None] == b).double()
    assert found.auc == pytest.approx(float(pairs.mean()), abs=1e-9)
    for rate, got in ((0.01, found.at_1), (0.001, found.at_01)):
        best = max(
            float((a > t).double().mean()) for t in b.tolist() if float((b > t).double().mean()) <= rate
        )
        assert got == pytest.approx(best, abs=1e-9)
    with pytest.raises(ValueError, match="members and others must hold scores"):
        roc(a, b[:0])


def test_confidences_are_logits_of_the_true_class():
    real = records(9)
    network = dd.network_factory("mlp", real.image_shape, 3, width=8)(dd.generator(0)).eval()
    p = dd.probabilities(network, real.batch(torch.arange(9)).x).double()[torch.arange(9), real.labels]
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


def digits():
    real = dd.load("digits")
    pick = torch.cat([real.index_of_class(c)[:60] for c in range(10)])
    rest = torch.cat([real.index_of_class(c)[60:100] for c in range(10)])
    return real.subset(pick), real.subset(rest)


def copying(real, rng):
    """Claims epsilon 1, and hands out real images: a broken distiller."""
    pick = torch.cat(
        [dd.choose(real.index_of_class(c), 40, dd.derive(rng, c)) for c in range(real.num_classes)]
    )
    batch = real.batch(pick)
    return dd.Distilled(
        batch.x, batch.y, class_names=real.class_names, preprocess=real.preprocess, evaluation=QUICK.to_dict()
    )


def noise_only(real, rng):
    x = torch.randn(20, *real.image_shape, generator=rng)
    y = torch.eye(10).repeat(2, 1)
    return dd.Distilled(
        x, y, class_names=real.class_names, preprocess=real.preprocess, evaluation=QUICK.to_dict()
    )


def test_one_run_refutes_a_distiller_that_copies():
    real, held = digits()
    canaries = mislabelled(held, dd.generator("canaries"))
    assert bool((canaries.labels != held.labels).all())
    found = audit_in_one_run(copying, real, canaries, delta=1e-5, rng=dd.generator("audit"))
    assert found.refutes(1.0)
    assert found.score == "distance"
    assert found.epsilon <= found.ceiling
    assert "Passing an audit is no proof" in str(found)
    blind = audit_in_one_run(noise_only, real, canaries, delta=1e-5, rng=dd.generator("audit"), networks=1)
    assert blind.epsilon == 0
    assert not blind.refutes(0.5)


def test_records_are_scored_in_the_value_space_of_the_set():
    """A distiller may normalise as it likes: its networks must see records as they saw its images."""
    real, held = digits()
    canaries = mislabelled(held, dd.generator("canaries"))
    other = dd.Preprocess.normalise([0.0], [0.05])
    found = [
        audit_in_one_run(distil, real, canaries, delta=1e-5, rng=dd.generator("audit"), networks=1)
        for distil in (copying, lambda data, rng: copying(data.with_preprocess(other), rng))
    ]
    assert found[1].scores["distance"].auc == pytest.approx(found[0].scores["distance"].auc, abs=0.01)
    assert found[1].scores["confidence"].auc > 0.6


def test_a_real_start_under_a_claim_of_epsilon_1_is_refuted():
    """The plan of a private recipe with another start: certified, and not private."""
    real, held = digits()
    canaries = mislabelled(held, dd.generator("canaries"))
    recipe = NDPDC(ipc=40, releases=5, steps=2, image_lr=50.0, sample_rate=0.5)
    make = dd.network_factory("convnet", real.image_shape, 10, width=4, depth=2)

    def cheat(records, rng):
        budget = Budget(epsilon=1, delta=1e-4)
        private = PrivateData(records, Ledger(budget), class_size=80, statistics="constants")
        plan = recipe.plan(private, make_student=make, rng=rng)
        start = torch.cat([records.of_class(c, 40, rng).x for c in range(10)])
        syn = dd.SyntheticSet(dd.Pixels(start), plan.syn.labels, plan.syn.classes, 10)
        plan = dataclasses.replace(plan, syn=syn)
        how = {"recipe": recipe, "evaluation": QUICK, "make_student": make, "rng": rng}
        return distilled_privately(plan, private, **how)

    seen = []

    def watched(records, rng):
        seen.append(cheat(records, rng))
        return seen[-1]

    found = audit_in_one_run(watched, real, canaries, delta=1e-4, rng=dd.generator("audit"), networks=1)
    assert seen[0].certificate.epsilon <= 1
    assert found.refutes(1.0)


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
    found = audit_by_likelihood(watched, small, rng=dd.generator("lira"), runs=6, networks=1)
    assert len(seen) == 6
    assert len(set(seen)) > 1
    assert found.distance.auc > 0.95
    assert found.confidence.auc > 0.55
    few = real.subset(torch.cat([real.index_of_class(c)[:2] for c in range(10)]))
    with pytest.raises(ValueError, match="records must have enough of each class for halves"):
        audit_by_likelihood(watched, few, rng=dd.generator("few"), runs=4)
    with pytest.raises(ValueError, match="runs must be at least 4"):
        audit_by_likelihood(watched, small, rng=dd.generator("lira"), runs=2)
