"""Images of people: splits by a group column with nobody on both sides, and simulated patients."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

import ddsdk as dd
from ddsdk.foundation import derive, require, require_count


def group_ids(groups: Sequence[Hashable] | Tensor, n: int) -> Tensor:
    """Return the group of each of `n` images as a number from 0, (n,) int64."""
    entries = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    require(len(entries) == n, "groups", f"have one entry for each of the {n} images", len(entries))
    known: dict[Hashable, int] = {}
    return torch.tensor([known.setdefault(entry, len(known)) for entry in entries])


def split_by_group(
    records: dd.RealData, groups: Sequence[Hashable] | Tensor, fraction: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Split so that all images of a group are on one side: (positions of the rest, positions held out), int64.

    Images of one patient are alike. In a split image by image, a test holds the like of what was seen, and an audit
    compares members with non-members that are members in all but name. Groups are taken at random, and one is held out
    as long as fewer than `fraction` of the images of one of its classes are; so each class has about its share.

    Args:
        records: All images.
        groups: Groups of the images, one entry each, such as the names of patients.
        fraction: Part of the images of each class to hold out, strictly between 0 and 1.
        rng: Generator of the order of groups.

    Raises:
        ValueError: If a class would lack images on one side.
    """
    require(0 < fraction < 1, "fraction", "lie strictly between 0 and 1", fraction)
    ids = group_ids(groups, len(records))
    labels = records.labels.cpu()
    wanted = fraction * torch.tensor(records.class_sizes)
    held, out = torch.zeros(records.num_classes), torch.zeros(len(ids), dtype=torch.bool)
    for group in torch.randperm(int(ids.max()) + 1, generator=rng).tolist():
        members = ids == group
        sizes = torch.bincount(labels[members], minlength=records.num_classes)
        if bool(((held < wanted) & (sizes > 0)).any()):
            out |= members
            held += sizes
    for side, name in ((out, "held out"), (~out, "left")):
        counts = torch.bincount(labels[side], minlength=records.num_classes)
        rule = f"be so many that images of each class are {name}"
        require(int(counts.min()) > 0, "groups", rule, counts.tolist())
    return torch.nonzero(~out).flatten(), torch.nonzero(out).flatten()


def simulated_patients(
    real: dd.RealData, per_patient: int, rng: torch.Generator, *, strength: float = 0.3
) -> tuple[dd.RealData, Tensor]:
    """Return the images as those of people, and the number of the patient of each, (N,) int64.

    A stand-in for medical images, of which none can be had without asking. A patient has one class and `per_patient`
    images, which share a brightness and a smooth background, as images of one person from one device do.

    Args:
        real: Images of all patients.
        per_patient: Images of each patient; the last one of a class has fewer.
        rng: Generator of patients, brightness and background.
        strength: Strength of the background, in the unit range.
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
