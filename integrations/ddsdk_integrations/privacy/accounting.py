"""Epsilon of a composition of Poisson-sampled Gaussian mechanisms, by the accountants of Opacus."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Literal

from opacus.accountants import create_accountant
from opacus.accountants.analysis import rdp

import ddsdk as dd
from ddsdk.artefact import NoisedRelease
from ddsdk.foundation import require

Accountant = Literal["rdp", "prv"]
History = tuple[tuple[float, float, int], ...]
"""Noise multiplier, sampling rate and number of releases of each kind."""

ACCOUNTANTS = ("rdp", "prv")
# The grid of the PRV accountant grows with epsilon and with the number of releases. A guarantee of epsilon 100 is
# meaningless anyway, and a grid for more than a million releases takes minutes and gigabytes.
_TIGHT_BELOW, _TIGHT_RELEASES = 100.0, 1_000_000
# Renyi orders: low orders serve large epsilons, high orders small ones; the default orders of Opacus end at 63.
_ORDERS = [1 + i / 20 for i in range(1, 200)] + [float(i) for i in range(11, 128)] + [2.0**i for i in range(7, 11)]
# The series of a fractional order converges slowly for much noise: seconds at 100, hours at 1e6. The divergence rises
# with the order, so that of the next whole order, which is a finite sum, is an upper bound.
_WHOLE_ORDERS_ABOVE = 20.0


def history_of(releases: tuple[NoisedRelease, ...]) -> History:
    """Return noise multiplier, sampling rate and count of each release."""
    return tuple((release.noise_multiplier, release.sample_rate, release.count) for release in releases)


def certified_epsilon(certificate: dd.Certificate, accountant: Accountant | None = None) -> float:
    """Return epsilon, computed anew from the releases of a certificate and not read from its claim.

    `ValueError` is raised if `accountant` is None and the certificate names another accountant.

    Args:
        certificate: Certificate of a set, see `ddsdk.Distilled.certificate`.
        accountant: Privacy accountant, ``"rdp"`` or ``"prv"``, see `Budget`. None takes that of the certificate.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import Budget, Ledger, PrivateData, certified_epsilon, private_class_sizes
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> sizes = private_class_sizes(private, noise_multiplier=20)
        >>> certified_epsilon(private.certificate) == private.certificate.epsilon < 1
        True
    """
    if accountant is None:
        found = next((name for name in ACCOUNTANTS if certificate.accountant.split(" ")[0] == name), None)
        rule = "be given for a certificate of neither, as rdp or prv"
        require(found is not None, "accountant", rule, certificate.accountant)
        accountant = "prv" if found == "prv" else "rdp"
    require(accountant in ACCOUNTANTS, "accountant", "be rdp or prv", accountant)
    return epsilon_of(history_of(certificate.releases), certificate.delta, accountant)


@lru_cache(maxsize=256)
def epsilon_of(history: History, delta: float, accountant: Accountant) -> float:
    """Return the epsilon of a composition of Poisson-sampled Gaussian mechanisms.

    Args:
        history: Noise multiplier, sampling rate and number of releases of each kind.
        delta: Delta of the guarantee, in 0 < value < 1.
        accountant: Privacy accountant, ``"rdp"`` or ``"prv"``; see `Budget`.
    """
    if not history:
        return 0.0
    spent = sum(
        rdp.compute_rdp(q=rate, noise_multiplier=noise, steps=count, orders=_orders(noise))
        for noise, rate, count in history
    )
    with warnings.catch_warnings():
        # Opacus warns if the best Renyi order is the first or last one: the bound is then valid, but looser.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        loose = max(0.0, float(rdp.get_privacy_spent(orders=_ORDERS, rdp=spent, delta=delta)[0]))
    many = sum(count for _, _, count in history) > _TIGHT_RELEASES
    if accountant == "rdp" or loose > _TIGHT_BELOW or many:
        return loose
    counter = create_accountant(mechanism="prv")
    counter.history = list(history)
    try:
        return min(loose, max(0.0, float(counter.get_epsilon(delta=delta))))
    except (ValueError, OverflowError, RuntimeError):
        # The grid of the PRV accountant fails for tiny and huge privacy losses; the RDP bound is still valid.
        return loose


def _orders(noise: float) -> list[float]:
    return [float(math.ceil(order)) for order in _ORDERS] if noise > _WHOLE_ORDERS_ABOVE else _ORDERS
