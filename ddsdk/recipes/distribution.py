"""The frame that the distribution-matching family shares: its common fields, their checks and the evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from ddsdk import data, training
from ddsdk.recipes.base import IterativeRecipe
from ddsdk.recipes.parts import augmentation_for, check_numbers

if TYPE_CHECKING:
    from ddsdk.data import RealData


@dataclass(frozen=True, kw_only=True)
class DistributionMatching(IterativeRecipe):
    """Matching of features, or of what they are distributed like.

    Attributes:
        steps: Image steps.
        image_lr: Learning rate of the images.
        start: Where the images start: noise, real, k-means, means or herding.
        augmentation: DSA operations joined by "_"; empty for none. None takes the published ones that suit the data:
            without flip unless the data is mirror-safe.
    """

    steps: int = 20_000
    image_lr: float | None = None
    start: str = "real"
    augmentation: str | None = None

    @final
    def check_fields(self, *, counts: str = "", rates: str = "", momenta: str = "", weights: str = "") -> None:
        """Check the common fields, and more by their names, separated by spaces; None counts as derived."""
        check_numbers(
            self, counts=f"steps real_batch {counts}", rates=f"image_lr {rates}", momenta=momenta, weights=weights
        )

    @final
    def siamese(self, real: RealData) -> data.Augmentation:
        """Return the augmentation of both sides."""
        return data.Augmentation(augmentation_for(real, self.augmentation))

    @final
    def evaluation(self, real: RealData) -> training.Evaluation:
        """Return the published protocol of the field, with the recipe's augmentation."""
        return training.Evaluation.published(augmentation_for(real, self.augmentation))
