"""Base class of the recipes of FreD: images are stored as a few coefficients of the cosine transform."""

from __future__ import annotations

import math
from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, final, get_args

from ddsdk import synthetic
from ddsdk.foundation import PositiveInt, require
from ddsdk.recipes.base import Recipe
from ddsdk.recipes.parts import cycled_images, hard_label_set

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, RealData, SyntheticSet
    from ddsdk.synthetic import LearnedRate


@dataclass(frozen=True, kw_only=True)
class FrequencyRecipe(Recipe, ABC):
    """A recipe whose images are k coefficients of each channel, see `ddsdk.synthetic.Frequencies`.

    Attributes:
        ipc: Storage budget, as the number of images per class with equally many floats; at least 1.
        coefficients: Number of stored coefficients of each channel, k. A class has floor(ipc H W / k) images, but at
            least two for the mask "class". None for a sixteenth of the pixels, the published 64 for CIFAR-10.
        mask: Choice of the stored frequencies by the initial images: "class" for those of the largest variance in each
            class, "all" for those of the largest variance over all classes, "low" for the lowest ones.
    """

    coefficients: PositiveInt | None = None
    mask: synthetic.Mask = "class"

    def check(self) -> None:
        """Check that the mask is known."""
        super().check()
        masks = list(get_args(synthetic.Mask))
        require(self.mask in masks, "mask", f"be one of {masks}", self.mask)

    @final
    def stored_coefficients(self, real: RealData) -> int:
        """Return the number of stored coefficients of each channel, k."""
        pixels = math.prod(real.image_shape[1:])
        k = max(1, pixels // 16) if self.coefficients is None else self.coefficients
        require(k <= pixels, "coefficients", f"not exceed the {pixels} pixels of a channel", k)
        return k

    @final
    def images_per_class(self, real: RealData) -> int:
        """Return the number of images per class, floor(ipc H W / k)."""
        affordable = self.ipc * math.prod(real.image_shape[1:]) // self.stored_coefficients(real)
        return max(2 if self.mask == "class" else 1, affordable)

    @final
    def frequency_set(
        self, real: RealData, start: str, rng: Generator, rate: LearnedRate | None = None
    ) -> SyntheticSet:
        """Return the set of the initial images, projected on the chosen frequencies, with hard labels."""
        count = self.images_per_class(real)
        images = cycled_images(real, self.ipc, count, start, rng)
        classes = synthetic.class_slots(real.num_classes, count)
        parametrization = synthetic.Frequencies(images, classes, self.stored_coefficients(real), self.mask)
        return hard_label_set(real, count, parametrization, rate)

    @final
    def coefficient_rate(self, real: RealData, published: float) -> float:
        """Return the rate of the stored coefficients that equals a rate of the authors' unnormalised ones.

        An unnormalised coefficient is X = s F, where F is the stored one and s = 2 sqrt(HW). Its gradient is that of F
        divided by s. A step of -r dL/dX on X therefore changes F by -(r / s^2) dL/dF, and s^2 = 4HW.
        """
        return published / (4 * math.prod(real.image_shape[1:]))
