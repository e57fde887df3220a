"""Audits: bounds against exact sums, curves against definitions, and a broken distiller that is caught."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from careless_distillers import QUICK, copying, digits, noise_only

import ddsdk as dd
from ddsdk.synthetic import Pixels
from ddsdk_integrations.privacy import NDPDC, Budget, Ledger, PrivateData
from ddsdk_integrations.privacy.audit import audit_in_one_run, mislabelled
from ddsdk_integrations.privacy.bounds import one_run_bound, p_value


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


@pytest.mark.parametrize(
    ("right", "guesses", "canaries", "odds", "delta", "exact"),
    [
        # 1/2, and 2 m delta P[none is right] = 2 delta / 2.
        (1, 1, 1, 1, "1/10", "6/10"),
        # 9/16, and 2 * 3 delta max(6/16, (6/16 + 1/16) / 2).
        (2, 2, 3, 3, "1/10", "63/80"),
        # 1/16, and 2 * 5 delta max(4/16, (4/16 + 6/16) / 2, 14/16 / 3, 15/16 / 4): the largest mean is the second.
        (4, 4, 5, 1, "1/20", "7/32"),
    ],
)
def test_the_p_value_of_a_few_guesses_is_that_worked_out_by_hand(right, guesses, canaries, odds, delta, exact):
    """Theorem 5.2 of Steinke et al., in fractions; `odds` is e^epsilon to one."""
    found = p_value(right, guesses, canaries, epsilon=math.log(odds), delta=float(Fraction(delta)))
    assert found == pytest.approx(float(Fraction(exact)), rel=1e-12)


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


def test_canaries_keep_the_facts_of_the_records():
    real, _ = digits()
    facts = {"name": "words", "pictures": False, "mirror_safe": True}
    names = {"class_names": real.class_names, "preprocess": real.preprocess}
    made = mislabelled(dd.RealData(real.images, real.labels, **names, **facts), dd.generator("canaries"))
    assert {fact: getattr(made, fact) for fact in facts} == facts


def test_one_run_refutes_a_distiller_that_copies():
    real, held = digits()
    canaries = mislabelled(held, dd.generator("canaries"))
    assert bool((canaries.labels != held.labels).all())
    found = audit_in_one_run(copying, real, canaries, delta=1e-5, seed=dd.generator("audit"))
    assert found.refutes(1.0)
    assert found.score == "distance"
    assert found.epsilon <= found.ceiling
    assert "Passing an audit is no proof" in str(found)
    blind = audit_in_one_run(noise_only, real, canaries, delta=1e-5, seed=dd.generator("audit"), networks=1)
    assert blind.epsilon == 0
    assert not blind.refutes(0.5)


def test_records_are_scored_in_the_value_space_of_the_set():
    """A distiller may normalise as it likes: its networks must see records as they saw its images."""
    real, held = digits()
    canaries = mislabelled(held, dd.generator("canaries"))
    other = dd.Preprocess.normalise([0.0], [0.05])
    found = [
        audit_in_one_run(distil, real, canaries, delta=1e-5, seed=dd.generator("audit"), networks=1)
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
        # Drawn once: a plan is changed twice, on noise images first.
        start = torch.cat([records.of_class(c, 40, rng).x for c in range(10)])

        def from_records(plan):
            syn = dd.SyntheticSet(Pixels(start), plan.syn.labels, plan.syn.classes, 10)
            return dataclasses.replace(plan, syn=syn)

        made = dd.distill(recipe, private, make_student=make, seed=rng, transform=from_records)
        return dataclasses.replace(made, protocol=QUICK.to_dict())

    seen = []

    def watched(records, rng):
        seen.append(cheat(records, rng))
        return seen[-1]

    found = audit_in_one_run(watched, real, canaries, delta=1e-4, seed=dd.generator("audit"), networks=1)
    assert seen[0].certificate.epsilon <= 1
    assert found.refutes(1.0)
