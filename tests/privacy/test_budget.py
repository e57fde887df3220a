"""Budget and ledger: the cost of a composition, the noise that fits what is left, and a stop where it ends."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ddsdk.artefact import NoisedRelease
from ddsdk_integrations.privacy.accounting import epsilon_of
from ddsdk_integrations.privacy.budget import Budget, BudgetSpentError, Ledger

Q = 256 / 60_000


def sums(count, noise=2.0, rate=0.02, what="sums"):
    return NoisedRelease(what=what, clip=1.0, noise_multiplier=noise, sample_rate=rate, count=count)


def noise_for(budget, **how):
    return Ledger(budget).noise_for(**how)


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


def losses(noise, rate, remove, step):
    """Return the privacy loss of one sampled release on a grid, rounded up: probabilities, and the index of loss 0.

    P is the mixture (1 - q) N(0, s^2) + q N(1, s^2), Q is N(0, s^2); removing compares P with Q, adding Q with P.
    """
    x = np.linspace(-30 * noise, 1 + 30 * noise, 400_001)
    middle = (x[1:] + x[:-1]) / 2
    width = x[1] - x[0]
    base = np.exp(-0.5 * (middle / noise) ** 2) / (noise * math.sqrt(2 * math.pi)) * width
    shifted = np.exp(-0.5 * ((middle - 1) / noise) ** 2) / (noise * math.sqrt(2 * math.pi)) * width
    mixed = (1 - rate) * base + rate * shifted
    ratio = np.log1p(rate * np.expm1((2 * middle - 1) / (2 * noise**2)))
    weights, loss = (mixed, ratio) if remove else (base, -ratio)
    index = np.ceil(loss / step).astype(int)
    low = index.min()
    return np.bincount(index - low, weights), int(low)


def composed_epsilon(history, delta, remove, step=2e-4):
    """Return epsilon of a composition by convolving privacy losses: slow, direct, and no code of the accountants."""
    total, low = np.ones(1), 0
    for noise, rate, count in history:
        one, start = losses(noise, rate, remove, step)
        size = 1 << math.ceil(math.log2(len(one) * count + len(total)))
        size = min(size, 1 << 22)
        keep = one > 1e-30
        first, last = int(keep.argmax()), len(keep) - int(keep[::-1].argmax())
        one, start = one[first:last], start + first
        spectrum = np.fft.rfft(one, size) ** count * np.fft.rfft(total, size)
        total, low = np.fft.irfft(spectrum, size).clip(0), low + start * count
    loss = (low + np.arange(len(total))) * step
    left, right = 0.0, 40.0
    for _ in range(60):
        middle = (left + right) / 2
        above = loss > middle
        found = float((total[above] * -np.expm1(middle - loss[above])).sum())
        left, right = (middle, right) if found > delta else (left, middle)
    return right


@pytest.mark.parametrize(
    "history",
    [((1.0, 0.05, 60),), ((2.0, 0.2, 30),), ((3.0, 1.0, 1), (1.2, 0.02, 100))],
    ids=["sampled", "often sampled", "two kinds"],
)
def test_the_accountants_agree_with_an_independent_one(history):
    """Privacy losses convolved directly; rounding up on the grid makes them a little too large."""
    delta = 1e-5
    exact = max(composed_epsilon(history, delta, remove) for remove in (True, False))
    assert epsilon_of(history, delta, "prv") == pytest.approx(exact, rel=0.03, abs=0.02)
    assert 0.97 * exact <= epsilon_of(history, delta, "rdp") <= 1.35 * exact


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
    assert (ledger.epsilon, ledger.releases) == (0, ())
    ledger.reserve(sums(60, noise))
    # What two restarts cost adds up.
    with pytest.raises(
        BudgetSpentError, match=r"41 releases of sums would bring epsilon to 1\.0.*budget is 1 at delta"
    ):
        ledger.reserve(sums(41, noise))
    assert ledger.epsilon == pytest.approx(epsilon_of(((noise, 0.02, 60),), 1e-5, "rdp"))
    ledger.reserve(sums(40, noise))
    assert ledger.releases == (sums(100, noise),)
    assert 0.98 < ledger.epsilon <= 1
    with pytest.raises(BudgetSpentError):
        ledger.reserve(sums(10_000, 100.0, what="other"))


def test_kinds_of_releases_compose():
    ledger = Ledger(Budget(epsilon=3, delta=1e-5))
    ledger.reserve(sums(5, 2.0, 0.1))
    ledger.reserve(sums(5, 3.0, 0.05, "gradients"))
    assert ledger.epsilon == pytest.approx(epsilon_of(((2.0, 0.1, 5), (3.0, 0.05, 5)), 1e-5, "rdp"))
    assert ledger.epsilon > epsilon_of(((2.0, 0.1, 5),), 1e-5, "rdp")


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_budgets_at_the_edge_give_noise_or_a_refusal(accountant):
    """Tiny ones, where the tight accountant has no answer, and nearly spent ones, where the loose one has none."""
    ledger = Ledger(Budget(epsilon=0.03, delta=1e-5, accountant=accountant))
    ledger.reserve(sums(10, ledger.noise_for(sample_rate=0.01, releases=10), 0.01))
    assert ledger.epsilon <= 0.03
    with pytest.raises(BudgetSpentError, match=r"makes 10 releases fit: epsilon 0 of 0.0005 is spent"):
        noise_for(Budget(epsilon=5e-4, delta=1e-5, accountant=accountant), sample_rate=0.01, releases=10)
    ledger = Ledger(Budget(epsilon=1, delta=1e-5, accountant=accountant))
    ledger.reserve(sums(1, ledger.noise_for(sample_rate=1.0, releases=1, share=0.95), 1.0))
    ledger.reserve(sums(5, ledger.noise_for(sample_rate=0.05, releases=5), 0.05, "rest"))
    assert 0.95 < ledger.epsilon <= 1


def test_all_kinds_are_entered_or_none():
    ledger = Ledger(Budget(epsilon=1, delta=1e-5))
    with pytest.raises(BudgetSpentError, match="1 releases of a and 100 releases of b would bring epsilon to"):
        ledger.reserve(sums(1, 20.0, 1.0, "a"), sums(100, 2.0, 1.0, "b"))
    assert ledger.releases == ()


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_noise_is_the_least_that_fits_what_is_left(accountant):
    ledger = Ledger(Budget(epsilon=1, delta=1e-5, accountant=accountant))
    first = ledger.noise_for(sample_rate=1.0, releases=1, share=0.3)
    ledger.reserve(sums(1, first, 1.0, "means"))
    assert 0.28 < ledger.epsilon <= 0.3
    rest = ledger.noise_for(sample_rate=0.05, releases=20)
    ledger.reserve(sums(20, rest, 0.05))
    assert 0.98 < ledger.epsilon <= 1
    with pytest.raises(BudgetSpentError, match=r"is spent, and the limit is 0.3"):
        ledger.noise_for(sample_rate=0.05, releases=1000, share=0.3)


def test_a_ledger_on_disk_counts_over_processes_and_crashes(tmp_path, monkeypatch):
    budget, path = Budget(epsilon=1, delta=1e-5), tmp_path / "ledger.json"
    one, two = Ledger(budget, path), Ledger(budget, path)
    one.reserve(sums(3, 20.0))
    # A second owner of the same file sees what the first entered, though it was opened before.
    two.reserve(sums(4, 20.0))
    assert Ledger(budget, path).releases == (sums(7, 20.0),)
    # Neither a link nor another name of the same file is another ledger.
    (tmp_path / "link.json").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    Ledger(budget, tmp_path / "link.json").reserve(sums(1, 20.0))
    relative = Ledger(budget, "ledger.json")
    monkeypatch.chdir("/")
    relative.reserve(sums(1, 20.0))
    assert two.releases == one.releases == (sums(9, 20.0),)
    with pytest.raises(ValueError, match="budget must be that of the ledger"):
        Ledger(Budget(epsilon=2, delta=1e-5), path)
    path.write_text(json.dumps({"releases": []}))
    with pytest.raises(ValueError, match=r"path must hold a ledger, got 'ledger.json'"):
        Ledger(budget, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(epsilon=0, delta=1e-5), "epsilon must"),
        (lambda: Budget(epsilon=1, delta=0), "delta must lie strictly between 0 and 1"),
        (lambda: Budget(epsilon=1, delta=1e-5, accountant="gdp"), "accountant must be rdp or prv"),
        (lambda: noise_for(Budget(epsilon=1, delta=1e-5), sample_rate=0, releases=5), "sample_rate must lie"),
        (lambda: noise_for(Budget(epsilon=1, delta=1e-5), sample_rate=0.1, releases=0), "releases must be at least 1"),
        (lambda: noise_for(Budget(epsilon=1, delta=1e-5), sample_rate=0.1, releases=1, share=2), "share must lie"),
        (lambda: sums(0), "count must be at least 1"),
        (lambda: sums(1, noise=math.inf), "noise_multiplier must be positive"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
