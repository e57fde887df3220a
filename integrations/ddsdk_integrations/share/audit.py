"""Attacks on a set, and what it is good for on the same networks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import require_count, root
from ddsdk.judging import LikelihoodRatio, Roc, confidences, roc, trained_networks
from ddsdk_integrations.share.figures import Figures, figures
from ddsdk_integrations.share.groups import group_ids


@final
@dataclass(frozen=True, kw_only=True)
class Audit:
    """What attacks on a set found, and what it is good for. Passing them proves nothing.

    Attributes:
        membership: How well networks that train on the set tell distilled from held-out records.
        distance: How well the distance to the nearest synthetic image does.
        near_copies: Synthetic images nearer to a record than the nearest hundredth of held-out records are.
        smallest_distance: Least distance of a synthetic image to a record, root mean square over pixels of 0..1.
        shadow: The likelihood-ratio attack on the recipe, where shadow runs were made.
        figures: Of networks that train on the set, on held-out groups.
    """

    membership: Roc
    distance: Roc
    near_copies: int
    smallest_distance: float
    shadow: LikelihoodRatio | None
    figures: Figures

    @property
    def record(self) -> dict[str, Any]:
        """Plain values for the card."""
        return {
            "membership_auc": self.membership.auc,
            "membership_at_1": self.membership.at_1,
            "distance_auc": self.distance.auc,
            "distance_at_1": self.distance.at_1,
            "near_copies": self.near_copies,
            "smallest_distance": self.smallest_distance,
            **({} if self.shadow is None else {"shadow": _shadow_record(self.shadow)}),
            "meaning": "attacks that were tried; passing them proves nothing",
        }


def _shadow_record(shadow: LikelihoodRatio) -> dict[str, float]:
    return {"runs": shadow.runs, "confidence_auc": shadow.confidence.auc, "distance_auc": shadow.distance.auc}


def audit(
    distilled: dd.Distilled,
    inside: dd.RealData,
    outside: dd.RealData,
    groups: Sequence[Hashable] | Tensor,
    *,
    seed: int | torch.Generator = 0,
    networks: int = 3,
    shadow: LikelihoodRatio | None = None,
) -> Audit:
    """Attack a set, and measure its use on the same networks.

    Args:
        distilled: Set that is attacked.
        inside: Records that it was made of.
        outside: Held-out records; of other groups, or the audit shows nothing.
        groups: Groups of the held-out images, one entry each.
        seed: Root of the networks: an integer, or a generator, which is not advanced.
        networks: Number of networks that train on the set, by its own protocol.
        shadow: Result of `ddsdk.audit_by_likelihood` on the recipe; None without one.
    """
    require_count("networks", networks)
    seen, unseen = (side.to("cpu").with_preprocess(distilled.preprocess) for side in (inside, outside))
    trained = trained_networks(distilled, None, networks, root(seed))
    near = dd.nearest_records(distilled, inside, outside)
    return Audit(
        membership=roc(confidences(trained, seen), confidences(trained, unseen)),
        distance=near.scores,
        near_copies=near.copies,
        smallest_distance=near.smallest,
        shadow=shadow,
        figures=figures(trained, unseen, group_ids(groups, len(unseen))),
    )
