"""Split by a group column: nobody is on both sides."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import require


def group_ids(groups: Sequence[Hashable] | Tensor, n: int) -> Tensor:
    """Return the group of each image as a number from 0, (n,) int64.

    Args:
        groups: One entry for each image, such as the name of its patient.
        n: How many images there are.

    Raises:
        ValueError: If there are not `n` entries.
    """
    entries = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    require(len(entries) == n, "groups", f"have one entry for each of the {n} images", len(entries))
    known: dict[Hashable, int] = {}
    return torch.tensor([known.setdefault(entry, len(known)) for entry in entries])


def split_by_group(
    records: dd.RealData, groups: Sequence[Hashable] | Tensor, fraction: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Split so that all images of a group are on one side: (positions of the rest, positions held out), int64.

    Images of one patient are alike. Split image by image, a test then asks for what was seen, and an audit compares
    members with non-members that are members in all but name. Groups are taken at random, and one is held out as long
    as fewer than `fraction` of the images of one of its classes are; so each class has about its share.

    Args:
        records: The images.
        groups: One entry for each image, such as the name of its patient.
        fraction: Part of the images of each class to hold out.
        rng: Draws the groups.

    Raises:
        ValueError: If `fraction` does not lie strictly between 0 and 1, or a class would lack images on one side.
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
