"""How near a set lies to its records: the audit that catches copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from ddsdk.artefact import Distilled
from ddsdk.data import RealData
from ddsdk.judging.membership import Roc, nearest_distances, roc, unit_images


@final
@dataclass(frozen=True, kw_only=True)
class Nearest:
    """How near a set lies to its records, beside records that it never saw.

    Attributes:
        copies: Images of the set that lie nearer to a record than `threshold`.
        threshold: Distance of the nearest hundredth of the records that were not distilled to those that were.
        smallest: Least distance of an image of the set to a record.
        scores: How well the distance to the nearest image tells records from others.
    """

    copies: int
    threshold: float
    smallest: float
    scores: Roc


def nearest_records(distilled: Distilled, records: RealData, others: RealData) -> Nearest:
    """Compare the images of a set with the records that it was made of, and with records of the same kind.

    Only this catches images that are copies: a network that trains on a set of copies may know little of them.

    Args:
        distilled: The set.
        records: What it was made of.
        others: Held out.
    """
    images, inside, outside = distilled.unit_images().cpu(), unit_images(records), unit_images(others)
    usual = nearest_distances(inside, outside)
    threshold = float(usual.quantile(0.01))
    near = nearest_distances(inside, images)
    return Nearest(
        copies=int((near < threshold).sum()),
        threshold=threshold,
        smallest=float(near.min()),
        scores=roc(-nearest_distances(images, inside), -nearest_distances(images, outside)),
    )
