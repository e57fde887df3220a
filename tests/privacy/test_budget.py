"""Budget and ledger: the cost of a composition, the noise that fits it, and a stop where it ends."""

from __future__ import annotations

import math

import pytest

from ddsdk_integrations.privacy.budget import Budget, BudgetSpentError, Ledger, epsilon_of, noise_for

Q = 256 / 60_000


@pytest.mark.parametrize(
    ("releases", "epsilon", "noise"),
    [(10_000, 1, 1.885), (10_000, 10, 0.604), (100_000, 1, 5.547), (200_000, 10, 1.214)],
)
def test_the_noise_of_published_settings(releases, epsilon, noise):
    """Searched to a thousandth, where Opacus' own search stops within a hundredth of epsilon below the target."""
    found = noise_for(Budget(epsilon=epsilon, delta=1e-5), sample_rate=Q, releases=releases)
    assert found == pytest.approx(noise, rel=0.01)
    assert epsilon_of(((found, Q, releases),), 1e-5, "rdp") <= epsilon
    assert epsilon_of(((0.995 * found, Q, releases),), 1e-5, "rdp") > epsilon


def gaussian_delta(epsilon, mu):
    """The exact trade-off of one Gaussian mechanism of sensitivity 1 and noise 1 / mu (Balle and Wang, 2018)."""

    def phi(x):
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    return phi(-epsilon / mu + mu / 2) - math.exp(epsilon) * phi(-epsilon / mu - mu / 2)


@pytest.mark.parametrize(("noise", "releases"), [(1.0, 1), (2.0, 1), (4.0, 9)])
def test_the_accountants_bound_the_closed_form_of_full_samples(noise, releases):
    """Releases of the whole data compose to one Gaussian mechanism, whose epsilon can be computed."""
    mu, delta = math.sqrt(releases) / noise, 1e-5
    low, high = 0.0, 50.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(middle, mu) > delta else (low, middle)
    history = ((noise, 1.0, releases),)
    assert high <= epsilon_of(history, delta, "rdp") <= 1.25 * high
    assert epsilon_of(history, delta, "prv") == pytest.approx(high, rel=0.02)


def test_the_tight_accountant_needs_less_noise():
    noise = {
        name: noise_for(Budget(epsilon=1, delta=1e-5, accountant=name), sample_rate=0.02, releases=200)
        for name in ("rdp", "prv")
    }
    assert 0.85 * noise["rdp"] < noise["prv"] < noise["rdp"]
    assert epsilon_of(((noise["prv"], 0.02, 200),), 1e-5, "prv") <= 1


def test_a_ledger_counts_and_stops():
    budget = Budget(epsilon=1, delta=1e-5)
    noise = noise_for(budget, sample_rate=0.02, releases=100)
    ledger = Ledger(budget)
    assert ledger.epsilon == 0
    first = ledger.reserve("sums", noise_multiplier=noise, sample_rate=0.02, count=60)
    assert ledger.epsilon == 0
    # What is reserved is not free for others, and what two restarts cost adds up.
    with pytest.raises(
        BudgetSpentError, match=r"41 releases of sums would bring epsilon to 1\.0.*budget is 1 at delta"
    ):
        ledger.reserve("sums", noise_multiplier=noise, sample_rate=0.02, count=41)
    second = ledger.reserve("sums", noise_multiplier=noise, sample_rate=0.02, count=40)
    for _ in range(60):
        first.spend()
    assert [(r.what, r.count) for r in ledger.releases] == [("sums", 60)]
    assert ledger.epsilon == pytest.approx(epsilon_of(((noise, 0.02, 60),), 1e-5, "rdp"))
    with pytest.raises(BudgetSpentError, match="all releases of sums that were reserved are made"):
        first.spend()
    for _ in range(40):
        second.spend()
    assert ledger.releases[0].count == 100
    assert 0.98 < ledger.epsilon <= 1
    with pytest.raises(BudgetSpentError):
        ledger.reserve("other", noise_multiplier=100.0, sample_rate=0.02, count=10_000)


def test_kinds_of_releases_compose():
    ledger = Ledger(Budget(epsilon=3, delta=1e-5))
    a = ledger.reserve("sums", noise_multiplier=2.0, sample_rate=0.1, count=5)
    b = ledger.reserve("gradients", noise_multiplier=3.0, sample_rate=0.05, count=5)
    for one in (a, b):
        for _ in range(5):
            one.spend()
    assert ledger.epsilon == pytest.approx(epsilon_of(((2.0, 0.1, 5), (3.0, 0.05, 5)), 1e-5, "rdp"))
    assert ledger.epsilon > epsilon_of(((2.0, 0.1, 5),), 1e-5, "rdp")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(epsilon=0, delta=1e-5), "epsilon must"),
        (lambda: Budget(epsilon=1, delta=0), "delta must lie strictly between 0 and 1"),
        (lambda: Budget(epsilon=1, delta=1e-5, accountant="gdp"), "accountant must be rdp or prv"),
        (lambda: noise_for(Budget(epsilon=1, delta=1e-5), sample_rate=0, releases=5), "sample_rate must lie"),
        (
            lambda: noise_for(Budget(epsilon=1, delta=1e-5), sample_rate=0.1, releases=0),
            "releases must be at least 1",
        ),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
