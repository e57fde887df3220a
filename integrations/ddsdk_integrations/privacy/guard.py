"""What would break the guarantee, refused with its reason before a record is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.modules.batchnorm import _BatchNorm

import ddsdk as dd

__all__ = [
    "PrivacyError",
    "refuse_fitted_values",
    "refuse_mixed_rows",
    "refuse_mixing",
    "refuse_private_start",
    "refuse_selection",
]

_TRIED = 4
_STARTS_FROM_RECORDS = ("real", "k-means", "means", "herding")


class PrivacyError(ValueError):
    """Something would show records without noise; the message says what, and why."""


def refuse_fitted_values(preprocess: dd.Preprocess, statistics: str) -> None:
    """Refuse a value space whose numbers may come from the records.

    Raises:
        PrivacyError: For normalisation and whitening, unless it is said where they come from.
    """
    if preprocess.space != "unit" and not statistics.strip():
        raise PrivacyError(
            f"statistics must say where the numbers of the value space {preprocess.space!r} come from, got "
            f"{statistics!r}: mean, std and whitening of the records are functions of them without noise. Take public "
            "constants, or unit-range images and paid_normalisation"
        )


def refuse_mixing(network: nn.Module) -> None:
    """Refuse a network in which one record changes what is made of another.

    Every module is looked at, frozen ones too: the validator of Opacus sees only those with trainable parameters.

    Raises:
        PrivacyError: If there is batch normalisation, or a norm with running statistics.
    """
    for name, module in network.named_modules():
        kind = type(module).__name__
        if isinstance(module, _BatchNorm) or getattr(module, "track_running_stats", False):
            raise PrivacyError(
                f"network must treat records one by one, got {kind} at {name or 'its root'}: take a group or an "
                "instance norm without running statistics"
            )


def refuse_mixed_rows(rows: Callable[[dd.Batch], Tensor], real: dd.RealData) -> None:
    """Refuse a function whose row of one record depends on others: mixup, top-k of a batch, any batch statistic.

    It is tried on noise images, one by one and together; `real` gives shapes alone.

    Raises:
        PrivacyError: If it gives other rows.
    """
    rng = dd.generator("noise images")
    x = torch.rand(_TRIED, *real.image_shape, generator=rng).to(real.device)
    y = one_hot(torch.arange(_TRIED) % real.num_classes, real.num_classes).to(x)
    with torch.enable_grad():
        together = rows(dd.Batch(x, y)).detach()
        alone = torch.cat([rows(dd.Batch(x[i : i + 1], y[i : i + 1])).detach() for i in range(_TRIED)])
    same = together.shape == alone.shape and torch.allclose(
        together, alone, rtol=1e-3, atol=1e-4 * float(alone.abs().max())
    )
    if not same:
        raise PrivacyError(
            "rows must depend on one record each, got a row that changes with the rest of its batch: mixing, batch "
            "statistics and selection across records break the bound on what one of them changes"
        )


def refuse_private_start(start: str, allowed: tuple[str, ...]) -> None:
    """Refuse images that begin as records, or as means of records that are not paid for.

    Raises:
        PrivacyError: Unless the start is among those allowed.
    """
    if start not in allowed:
        reason = ": images that begin as records are records" if start in _STARTS_FROM_RECORDS else ""
        raise PrivacyError(f"start must be one of {', '.join(allowed)}, got {start!r}{reason}")


def refuse_selection(plan: dd.Plan[Any]) -> None:
    """Refuse a plan that chooses its set on held-out records.

    Raises:
        PrivacyError: If it validates.
    """
    if plan.validate is not None:
        raise PrivacyError(
            "plan must not validate, got a validation: choosing among sets by their score on private records is a "
            "release that nobody counted. Score them on public data, after the run"
        )
