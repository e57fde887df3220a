"""Refusals of all that would break the guarantee, with the reason, before a record is looked at."""

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
    """Refuse normalisation and whitening without a source of their numbers, which may be the records."""
    if preprocess.space != "unit" and not statistics.strip():
        raise PrivacyError(
            f"statistics must say where the numbers of the value space {preprocess.space!r} come from, got "
            f"{statistics!r}: mean, std and whitening of the records are functions of them without noise. Take public "
            "constants, or unit-range images and paid_normalisation"
        )


def refuse_mixing(network: nn.Module) -> None:
    """Refuse a network with batch normalisation or running statistics: one record changes what is made of another.

    Every module is looked at, frozen ones too: the validator of Opacus sees only those with trainable parameters.
    """
    for name, module in network.named_modules():
        kind = type(module).__name__
        if isinstance(module, _BatchNorm) or getattr(module, "track_running_stats", False):
            raise PrivacyError(
                f"network must treat records one by one, got {kind} at {name or 'its root'}: take a group or an "
                "instance norm without running statistics"
            )


def refuse_bad_student(make_student: Callable[[torch.Generator], nn.Module], *, embeds: bool = False) -> None:
    """Refuse a factory of networks that mix records, or have no `embed` where they must, before anything is spent."""
    network = make_student(dd.generator("a network to look at"))
    refuse_mixing(network)
    if embeds and not callable(getattr(network, "embed", None)):
        raise TypeError(f"make_student must build networks with embed, got {type(network).__name__}")


def refuse_mixed_rows(rows: Callable[[dd.Batch], Tensor], real: dd.RealData, *, thorough: bool = True) -> None:
    """Refuse a function whose row of one record depends on others: mixup, top-k of a batch, any batch statistic.

    It is tried on noise images: rows must stay what they are when others, dark ones, give way to bright ones.

    Args:
        rows: Function from records to rows.
        real: Records, of which shapes and device alone are read.
        thorough: Whether it is tried with 16 and 16 images, or with 2 and 2.
    """
    count = _MANY if thorough else _FEW
    dark, middle, bright = (_noise_images(real, count, low) for low in (0.0, 0.4, 0.8))

    def beside(others: dd.Batch) -> Tensor:
        with torch.enable_grad():
            found = rows(dd.Batch(torch.cat([middle.x, others.x]), torch.cat([middle.y, others.y])))
        return found.detach()[:count].double()

    first, second = beside(dark), beside(bright)
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


def refuse_private_start(start: str, allowed: tuple[str, ...]) -> None:
    """Refuse images that begin as records, or as means of records that are not paid for."""
    if start not in allowed:
        reason = ": images that begin as records are records" if start in _STARTS_FROM_RECORDS else ""
        raise PrivacyError(f"start must be one of {', '.join(allowed)}, got {start!r}{reason}")


def refuse_options(*, start: object, validation: object) -> None:
    """Refuse options of a run that may carry something of the records past the ledger."""
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
    """Refuse a plan that validates or finishes its set, for the mechanism does not see by what."""
    if plan.validate is not None:
        raise PrivacyError(f"plan must not validate, got a validation: {_CHOOSING}")
    if plan.finish is not None:
        raise PrivacyError(
            "plan must not finish a set, got a function: labels of a teacher that knows the records are a release that "
            "nobody counted. Change the set afterwards, by what is public"
        )
