"""What would break the guarantee, refused with its reason before a record is looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.modules.batchnorm import _BatchNorm

import ddsdk as dd

_MANY, _FEW = 16, 2
_CHOOSING = (
    "choosing among sets by their score on private records is a release that nobody counted. Score them on public "
    "data, after the run"
)
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


def refuse_bad_student(make_student: Callable[[torch.Generator], nn.Module], *, embeds: bool = False) -> None:
    """Try a network before anything is spent for it.

    Args:
        make_student: Builds it.
        embeds: Whether it must have `embed`.

    Raises:
        PrivacyError: If it mixes records.
        TypeError: If it has no `embed`.
    """
    network = make_student(dd.generator("a network to look at"))
    refuse_mixing(network)
    if embeds and not callable(getattr(network, "embed", None)):
        raise TypeError(f"make_student must build networks with embed, got {type(network).__name__}")


def refuse_mixed_rows(rows: Callable[[dd.Batch], Tensor], real: dd.RealData, *, thorough: bool = True) -> None:
    """Refuse a function whose row of one record depends on others: mixup, top-k of a batch, any batch statistic.

    It is tried on noise images: rows must stay what they are when others, dark ones, give way to bright ones.

    Args:
        rows: The function.
        real: Gives shapes and device alone.
        thorough: With 16 and 16 images, and not with 2 and 2.

    Raises:
        PrivacyError: If a row changes.
    """
    count = _MANY if thorough else _FEW
    dark, middle, bright = (_noise_images(real, count, low) for low in (0.0, 0.4, 0.8))
    first, second = (_rows_of(rows, middle, others) for others in (dark, bright))
    bound = 1e-4 * float(first.abs().max())
    if first.shape != second.shape or not torch.allclose(first, second, rtol=1e-3, atol=bound):
        raise PrivacyError(
            "rows must depend on one record each, got a row that changes with the rest of its batch: mixing, batch "
            "statistics and selection across records break the bound on what one of them changes"
        )


def _noise_images(real: dd.RealData, count: int, low: float) -> dd.Batch:
    rng = dd.generator("noise images", round(10 * low))
    x = low + 0.2 * torch.rand(count, *real.image_shape, generator=rng)
    classes = torch.randint(real.num_classes, (count,), generator=rng)
    return dd.Batch(x.to(real.device), one_hot(classes, real.num_classes).to(real.device, x.dtype))


def _rows_of(rows: Callable[[dd.Batch], Tensor], kept: dd.Batch, others: dd.Batch) -> Tensor:
    """Return the rows of the first images of a batch."""
    with torch.enable_grad():
        found = rows(dd.Batch(torch.cat([kept.x, others.x]), torch.cat([kept.y, others.y])))
    return found.detach()[: len(kept.x)].double()


def refuse_private_start(start: str, allowed: tuple[str, ...]) -> None:
    """Refuse images that begin as records, or as means of records that are not paid for.

    Raises:
        PrivacyError: Unless the start is among those allowed.
    """
    if start not in allowed:
        reason = ": images that begin as records are records" if start in _STARTS_FROM_RECORDS else ""
        raise PrivacyError(f"start must be one of {', '.join(allowed)}, got {start!r}{reason}")


def refuse_options(*, start: object, validation: object) -> None:
    """Refuse options of a run that may carry something of the records past the ledger.

    Raises:
        PrivacyError: If one is given.
    """
    if start is not None:
        raise PrivacyError(
            f"start must be left out for private records, got {type(start).__name__}: where an earlier set comes from "
            'is unknown here. Give images that everybody may see to PrivateData as public=, and take start="public"'
        )
    if validation is not None:
        raise PrivacyError(
            f"validation must be left out for private records, got {type(validation).__name__}: {_CHOOSING}"
        )


def refuse_unsealed(plan: dd.Plan[Any]) -> None:
    """Refuse a plan that chooses or changes its set by what the mechanism does not see.

    Raises:
        PrivacyError: If it validates, or has something to finish with.
    """
    if plan.validate is not None:
        raise PrivacyError(f"plan must not validate, got a validation: {_CHOOSING}")
    if plan.finish is not None:
        raise PrivacyError(
            "plan must not finish a set, got a function: labels of a teacher that knows the records are a release that "
            "nobody counted. Change the set afterwards, by what is public"
        )
