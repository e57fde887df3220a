"""Checks that refuse, before any record is read, configurations that break the privacy guarantee."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.modules.batchnorm import _BatchNorm

import ddsdk as dd
from ddsdk.foundation import require, require_count
from ddsdk.training import pieces

_MANY, _FEW = 16, 2
_COMPARED_AT_ONCE = 64
_CUT_MARGIN = 1e-4
_digest = partial(hashlib.blake2b, digest_size=16)
_SELECTION = (
    "choosing among sets by their score on private records is a release that no ledger counts. Score the sets on "
    "public data, after the run"
)
_STARTS_FROM_RECORDS = ("real", "k-means", "means", "herding")


class PrivacyError(ValueError):
    """An operation would reveal private records without noise; the message gives the reason and the way out."""


def refuse_fitted_values(preprocess: dd.Preprocess, statistics: str) -> None:
    """Refuse normalisation and whitening whose constants may come from the records.

    Raises:
        PrivacyError: If the value space is not the unit range and `statistics` names no source of its constants.
    """
    if preprocess.space != "unit" and not statistics.strip():
        raise PrivacyError(
            f"statistics must name the source of the constants of the value space {preprocess.space!r}, got "
            f"{statistics!r}: mean, std and whitening of the records reveal them without noise. Take public "
            "constants, or unit-range images and paid_normalisation"
        )


def refuse_mixing(network: nn.Module) -> None:
    """Refuse a network with batch normalisation or running statistics, which mix the records of a batch.

    Every module is checked, also frozen ones: the validator of Opacus checks only modules with trainable parameters.

    Raises:
        PrivacyError: If a module has batch or running statistics.
    """
    for name, module in network.named_modules():
        kind = type(module).__name__
        if isinstance(module, _BatchNorm) or getattr(module, "track_running_stats", False):
            raise PrivacyError(
                f"network must treat records one by one, got {kind} at {name or 'its root'}: take a group or an "
                "instance norm without running statistics"
            )


def refuse_bad_student(make_student: Callable[[torch.Generator], nn.Module], *, embeds: bool = False) -> None:
    """Refuse a factory whose networks mix records, or lack `embed` where features are needed.

    Raises:
        TypeError: If `embeds` is true and the network has no `embed`.
    """
    network = make_student(dd.generator("a network to look at"))
    refuse_mixing(network)
    if embeds and not callable(getattr(network, "embed", None)):
        raise TypeError(f"make_student must build networks with embed, got {type(network).__name__}")


def checked_rows(rows: Callable[[dd.Batch], Tensor], batch: dd.Batch, width: int) -> Tensor:
    """Return the rows of a batch, (B, `width`), without a graph; ValueError for a wrong shape or integer values."""
    with torch.enable_grad():
        found = rows(batch).detach()
    shape = (len(batch.x), width)
    require(tuple(found.shape) == shape, "rows", f"have shape {shape}", tuple(found.shape))
    require(found.is_floating_point(), "rows", "be floating point", found.dtype)
    return found


def refuse_mixed_rows(
    rows: Callable[[dd.Batch], Tensor], width: int, real: dd.RealData, *, thorough: bool = True
) -> None:
    """Refuse rows of a wrong shape, or that depend on other records: mixup, top-k of a batch, any batch statistic.

    The test uses noise images: the rows of some images must not change when the other images of the batch change from
    dark to bright.

    Args:
        rows: Function from records to rows, (B, D).
        width: Length D of a row.
        real: Private records; only shapes and device are read.
        thorough: Size of the test batch: 16 images beside 16 others if true, 2 beside 2 if false.

    Raises:
        PrivacyError: If a row changes with other images of its batch.
    """
    require_count("width", width)
    count = _MANY if thorough else _FEW
    dark, middle, bright = (_noise_images(real, count, low) for low in (0.0, 0.4, 0.8))

    def beside(others: dd.Batch) -> Tensor:
        both = dd.Batch(torch.cat([middle.x, others.x]), torch.cat([middle.y, others.y]))
        return checked_rows(rows, both, width)[:count].cpu().double()

    first, second = beside(dark), beside(bright)
    bound = 1e-4 * float(first.abs().max())
    if not torch.allclose(first, second, rtol=1e-3, atol=bound):
        raise PrivacyError(
            "rows must depend on one record each, got a row that changes with the rest of its batch: mixing, batch "
            "statistics and selection across records break the bound on the influence of one record"
        )


def _noise_images(real: dd.RealData, count: int, low: float) -> dd.Batch:
    rng = dd.generator("noise images", round(10 * low))
    x = low + 0.2 * torch.rand(count, *real.image_shape, generator=rng, dtype=torch.float32)
    classes = torch.randint(real.num_classes, (count,), generator=rng)
    return dd.Batch(x.to(real.device), one_hot(classes, real.num_classes).to(real.device, x.dtype))


def refuse_records(public: dd.RealData, real: dd.RealData) -> None:
    """Refuse public images that are among the records: copies, subsets and second loads included.

    Images of the unit range are compared to 8 bit, once rounded and once cut off, so that conversions between uint8 and
    float of any kind are found. Images that were mirrored, cropped or otherwise changed are not.

    Raises:
        PrivacyError: If an image of `public` has the pixels of a record.
    """
    known = frozenset(chain.from_iterable(real.computed_once("digests to 8 bit", lambda: list(_digests(real)))))
    found = [i for i, digests in enumerate(_digests(public)) if not known.isdisjoint(digests)]
    if found:
        raise PrivacyError(
            f"public must not hold records, got {public.name!r}, where {len(found)} of {len(public)} images have the "
            f"pixels of a record, the first at position {found[0]}: leave these images out with public.subset"
        )


def _digests(data: dd.RealData) -> Iterator[tuple[bytes, bytes]]:
    """Yield two digests for each image: of its pixels rounded to 8 bit, and of its pixels cut off to 8 bit."""
    for part in pieces(len(data), _COMPARED_AT_ONCE):
        levels = 255 * data.unit_images(torch.arange(len(data))[part]).cpu().double()
        # The margin holds the rounding errors of 255 (k / 255) in float32.
        grids = levels.round(), (levels + _CUT_MARGIN).floor()
        for rounded, cut in zip(*(grid.clamp(0, 255).to(torch.uint8).numpy() for grid in grids), strict=True):
            yield _digest(b"rounded" + rounded.tobytes()).digest(), _digest(b"cut" + cut.tobytes()).digest()


def refuse_private_start(start: str, allowed: tuple[str, ...]) -> None:
    """Refuse initial images that are records, or means of records without noise.

    Raises:
        PrivacyError: If `start` is not one of `allowed`.
    """
    if start not in allowed:
        reason = ": images that begin as records are records without noise" if start in _STARTS_FROM_RECORDS else ""
        raise PrivacyError(f"start must be one of {', '.join(allowed)}, got {start!r}{reason}")


def refuse_options(*, start: object, validation: object) -> None:
    """Refuse options of a run that may use the records without an entry in the ledger.

    Raises:
        PrivacyError: If a warm start or a validation is given.
    """
    if start is not None:
        raise PrivacyError(
            f"start must be left out for private records, got {type(start).__name__}: an earlier set may reveal the "
            'records. Give public images to PrivateData as public=, and take start="public"'
        )
    if validation is not None:
        raise PrivacyError(
            f"validation must be left out for private records, got {type(validation).__name__}: {_SELECTION}"
        )


def refuse_unsealed(plan: dd.Plan[Any]) -> None:
    """Refuse a plan that validates or finishes its set, because these functions may use records without noise.

    Raises:
        PrivacyError: If the plan has a validation or a final step.
    """
    if plan.validate is not None:
        raise PrivacyError(f"plan must not validate, got a validation: {_SELECTION}")
    if plan.finish is not None:
        raise PrivacyError(
            "plan must not finish a set, got a function: labels of a teacher that was trained on the records are a "
            "release that no ledger counts. Change the set after the run, with public data only"
        )
