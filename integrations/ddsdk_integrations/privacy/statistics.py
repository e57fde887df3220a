"""Statistics of private records that are paid for: normalisation, class sizes, class means."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import NoisedRelease
from ddsdk.foundation import require
from ddsdk_integrations.privacy.data import PrivateData
from ddsdk_integrations.privacy.mechanism import Mechanism

_LEAST_STD = 0.01


def paid_normalisation(private: PrivateData, *, noise_multiplier: float) -> PrivateData:
    """Return the records normalised by channel, for the price of one release of all of them.

    A row has a one, the mean of each channel, and that of its squares: all at most 1 in the unit range, so no row is
    shortened.

    Args:
        private: Records in the unit range.
        noise_multiplier: Standard deviation of the noise over the norm of a row.

    Raises:
        BudgetSpentError: If it does not fit.
        ValueError: If the records are not in the unit range, or noise drowned the statistics.
    """
    require(private.preprocess.space == "unit", "private", "be in the unit range", private.preprocess.space)
    channels = private.image_shape[0]
    width = 1 + 2 * channels
    mechanism = private.mechanism(
        "channel moments", releases=1, sample_rate=1.0, clip=math.sqrt(width), noise_multiplier=noise_multiplier
    )

    def moments(batch: dd.Batch) -> Tensor:
        x = batch.x.flatten(2)
        return torch.cat([x.new_ones(len(x), 1), x.mean(2), x.square().mean(2)], 1)

    total = mechanism.noised_sum(moments, width).tolist()
    require(total[0] > 0, "noise_multiplier", "leave a positive number of records", noise_multiplier)
    mean = [min(max(v / total[0], 0.0), 1.0) for v in total[1 : 1 + channels]]
    square = [v / total[0] for v in total[1 + channels :]]
    std = [max(math.sqrt(max(s - m * m, 0.0)), _LEAST_STD) for m, s in zip(mean, square, strict=True)]
    return private.with_preprocess(dd.Preprocess.normalise(mean, std), "paid for in the ledger")


def paid_class_sizes(private: PrivateData, *, noise_multiplier: float) -> tuple[float, ...]:
    """Return the number of records of each class, at least 1, for the price of one release of all of them.

    Args:
        private: Private records.
        noise_multiplier: Standard deviation of each number.
    """
    mechanism = private.mechanism("class sizes", releases=1, sample_rate=1.0, noise_multiplier=noise_multiplier)
    total = mechanism.noised_sum(lambda batch: torch.ones(len(batch.x), 1), 1, by="class")
    return tuple(total.flatten().clamp_min(1).tolist())


def paid_class_means(private: PrivateData, *, share: float) -> Tensor:
    """Return the mean image of each class, (K, C, H, W), for the price of one release of all records.

    A row is an image less the middle of the unit range. In the unit range, normalised or not, its norm has a bound and
    no row is shortened; whitened ones may be.

    Args:
        private: Private records.
        share: Share of epsilon that this and all before it may cost.
    """
    (mechanism,) = private.mechanisms(planned_class_means(private, share=share))
    return released_class_means(private, mechanism)


def planned_class_means(private: PrivateData, *, share: float) -> NoisedRelease:
    """Return the release that `paid_class_means` enters in the ledger."""
    middle, corner = _middle_and_corner(private)
    clip = float((corner - middle).norm())
    return private.planned("class means", releases=1, sample_rate=1.0, clip=clip, share=share)


def released_class_means(private: PrivateData, mechanism: Mechanism) -> Tensor:
    """Return the means of `paid_class_means` by a release that is entered."""
    middle, _ = _middle_and_corner(private)
    total = mechanism.noised_sum(lambda batch: (batch.x - middle).flatten(1), middle.numel(), by="class")
    sizes = total.new_tensor(private.class_sizes)[:, None]
    return (total / sizes).view(-1, *private.image_shape) + middle


def _middle_and_corner(private: PrivateData) -> tuple[Tensor, Tensor]:
    pre, shape = private.preprocess, private.image_shape
    return pre(torch.full(shape, 0.5)).to(private.device), pre(torch.ones(shape)).to(private.device)
