"""Splits of images by group, such as by patient, and simulated patients."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

import ddsdk as dd
from ddsdk.foundation import derive, require, require_count


def group_ids(groups: Sequence[Hashable] | Tensor, n: int) -> Tensor:
    """Return the group of each of `n` images as a number from 0, (n,) int64, in the order of first occurrence."""
    entries = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    require(len(entries) == n, "groups", f"have one entry for each of the {n} images", len(entries))
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(entry, len(numbers)) for entry in entries])


def split_by_group(
    records: dd.RealData, groups: Sequence[Hashable] | Tensor, fraction: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return positions of a training and a held-out part, int64 each, with all images of a group in one part.

    Images of one patient are similar. A split of single images would test on near copies of training images, and a
    membership audit would compare members with near copies of members. Groups are visited in random order; a group is
    held out if one of its classes has fewer than `fraction` of its images held out so far. So the share of each class
    is about `fraction`. A part without images of some class raises ValueError.

    Args:
        records: Images of all groups.
        groups: Group of each image, such as the name of its patient.
        fraction: Share of the images of each class to hold out, strictly between 0 and 1.
        rng: Generator of the order of groups.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.share import simulated_patients, split_by_group
        >>> records, patients = simulated_patients(ddsdk.load("digits"), 20, ddsdk.generator(0))
        >>> train, held_out = split_by_group(records, patients, 0.3, ddsdk.generator(1))
        >>> len(set(patients[train].tolist()) & set(patients[held_out].tolist()))
        0
    """
    require(0 < fraction < 1, "fraction", "lie strictly between 0 and 1", fraction)
    ids = group_ids(groups, len(records))
    labels = records.labels.cpu()
    target = fraction * torch.tensor(records.class_sizes)
    sizes, held_out = torch.zeros(records.num_classes), torch.zeros(len(ids), dtype=torch.bool)
    for group in torch.randperm(int(ids.max()) + 1, generator=rng).tolist():
        members = ids == group
        group_sizes = torch.bincount(labels[members], minlength=records.num_classes)
        if bool(((sizes < target) & (group_sizes > 0)).any()):
            held_out |= members
            sizes += group_sizes
    for part, name in ((held_out, "held-out"), (~held_out, "training")):
        counts = torch.bincount(labels[part], minlength=records.num_classes)
        rule = f"be enough for images of each class in the {name} part"
        require(int(counts.min()) > 0, "groups", rule, counts.tolist())
    return torch.nonzero(~held_out).flatten(), torch.nonzero(held_out).flatten()


def simulated_patients(
    real: dd.RealData, per_patient: int, rng: torch.Generator, *, strength: float = 0.3
) -> tuple[dd.RealData, Tensor]:
    """Return images changed to look like those of patients, and the patient of each image, (N,) int64.

    They are a substitute for medical images, which are rarely free to use. A patient has one class and `per_patient`
    images with a common brightness and a common smooth background, as from one person and one device.

    Args:
        real: Images that are distributed over patients.
        per_patient: Images of each patient; the last patient of a class can have fewer.
        rng: Generator of patients, brightness and background.
        strength: Strength of the background, in the unit range.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.share import simulated_patients
        >>> records, patients = simulated_patients(ddsdk.load("digits"), 20, ddsdk.generator(0))
        >>> len(records) == len(patients)
        True
    """
    require_count("per_patient", per_patient)
    patient = torch.empty(len(real), dtype=torch.int64)
    count = 0
    for c in range(real.num_classes):
        index = real.index_of_class(c)
        order = index[torch.randperm(len(index), generator=derive(rng, "order", c))]
        patient[order] = count + torch.arange(len(order)) // per_patient
        count = int(patient[order].max()) + 1
    channels, *size = real.image_shape
    coarse = torch.rand(count, channels, 3, 3, generator=derive(rng, "background"))
    background = strength * interpolate(coarse, size, mode="bilinear", align_corners=True)
    gain = 0.6 + 0.4 * torch.rand(count, 1, 1, 1, generator=derive(rng, "gain"))
    unit = real.images.cpu()
    unit = unit if unit.is_floating_point() else unit.float() / 255
    images = ((1 - strength) * gain[patient] * unit + background[patient]).clamp(0, 1)
    return real.with_items(images, real.labels.cpu()), patient
