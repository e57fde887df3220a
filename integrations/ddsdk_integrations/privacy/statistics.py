"""Differentially private statistics of the records: normalisation, class sizes and class means."""

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


def private_normalisation(private: PrivateData, *, noise_multiplier: float) -> PrivateData:
    """Return the records normalised by channel with a noised mean and standard deviation: one release of all records.

    The row of a record holds a one, the mean of each channel and the mean of its squares. All are at most 1 in the
    unit range, so clipping changes no row. `BudgetSpentError` is raised if the release would exceed the budget,
    `ValueError` if the records are not in the unit range or the noised number of records is not positive.

    Args:
        private: Private records in the unit range.
        noise_multiplier: Standard deviation of the noise, divided by the largest norm of a row.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import Budget, Ledger, PrivateData, private_normalisation
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> private_normalisation(private, noise_multiplier=20).preprocess.space
        'normalised'
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
    # Noise can push a mean out of the unit range and a variance below zero.
    mean = [min(max(v / total[0], 0.0), 1.0) for v in total[1 : 1 + channels]]
    square = [v / total[0] for v in total[1 + channels :]]
    std = [max(math.sqrt(max(s - m * m, 0.0)), _LEAST_STD) for m, s in zip(mean, square, strict=True)]
    return private.with_preprocess(dd.Preprocess.normalise(mean, std), "paid for in the ledger")


def private_class_sizes(private: PrivateData, *, noise_multiplier: float) -> tuple[float, ...]:
    """Return the noised number of records of each class, (K,), at least 1 each: one release of all records.

    Args:
        private: Private records with their ledger.
        noise_multiplier: Standard deviation of the noise of each number, in records.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import Budget, Ledger, PrivateData, private_class_sizes
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> len(private_class_sizes(private, noise_multiplier=20))
        10
    """
    mechanism = private.mechanism("class sizes", releases=1, sample_rate=1.0, noise_multiplier=noise_multiplier)
    total = mechanism.noised_sum(lambda batch: torch.ones(len(batch.x), 1, dtype=torch.float32), 1, by="class")
    return tuple(total.flatten().clamp_min(1).tolist())


def private_class_means(private: PrivateData, *, share: float) -> Tensor:
    """Return the noised mean image of each class, (K, C, H, W): one release of all records.

    The row of a record is its image minus mid-grey. Without whitening its norm has a known bound, so clipping changes
    no row; whitened rows may be clipped.

    Args:
        private: Private records with their ledger.
        share: Share of the budget's epsilon, in 0 < value <= 1, that all releases up to this one may spend.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import Budget, Ledger, PrivateData, private_class_means
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> private_class_means(private, share=0.5).shape
        torch.Size([10, 1, 8, 8])
    """
    (mechanism,) = private.mechanisms(planned_class_means(private, share=share))
    return released_class_means(private, mechanism)


def planned_class_means(private: PrivateData, *, share: float) -> NoisedRelease:
    """Return the planned release of `private_class_means`, which is not in the ledger yet."""
    middle, corner = _middle_and_corner(private)
    clip = float((corner - middle).norm())
    return private.planned("class means", releases=1, sample_rate=1.0, clip=clip, share=share)


def released_class_means(private: PrivateData, mechanism: Mechanism) -> Tensor:
    """Return noised class means, (K, C, H, W), by a mechanism whose release is in the ledger."""
    middle, _ = _middle_and_corner(private)
    total = mechanism.noised_sum(lambda batch: (batch.x - middle).flatten(1), middle.numel(), by="class")
    sizes = total.new_tensor(private.class_sizes)[:, None]
    return (total / sizes).view(-1, *private.image_shape) + middle


def _middle_and_corner(private: PrivateData) -> tuple[Tensor, Tensor]:
    to_value_space, shape = private.preprocess, private.image_shape
    middle, corner = (to_value_space(torch.full(shape, grey, dtype=torch.float32)) for grey in (0.5, 1.0))
    return middle.to(private.device), corner.to(private.device)
