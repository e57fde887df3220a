"""Staying near: decoded images must still look like the ones that they stand for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from ddsdk.data import Source
from ddsdk.foundation import derive, require
from ddsdk.synthetic import SyntheticView


@final
class Inversion:
    """The squared distance of the images of each class from the images that their latents were found for.

    Mean over the images of a class of ||x_i - anchor_i||^2: it keeps latents where the generator knows its way, while
    another objective moves them. Students are not looked at.

    Args:
        anchors: (M', C, H, W), what all slots decoded to at the start, class by class in the order of the slots.

    References:
        Zhao and Bilen, "Synthesizing Informative Training Samples with GAN", 2022, arXiv:2204.07513: the
        regularisation of the inversion, here by pixels alone.
    """

    def __init__(self, anchors: Tensor) -> None:
        self._anchors = anchors

    def __call__(
        self,
        student: object,  # noqa: ARG002
        real: Source,  # noqa: ARG002
        syn: SyntheticView,
        rng: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield one distance for each class.

        Raises:
            ValueError: If the set decodes to more images than there are anchors.
        """
        seen = 0
        for c in range(syn.num_classes):
            # A source gives at most as many as it is asked for, all of them in their own order.
            images, _ = syn.of_class(c, sys.maxsize, derive(rng, "class", c))
            anchors = self._anchors[seen : seen + len(images)]
            seen += len(images)
            require(seen <= len(self._anchors), "anchors", f"be at least {seen} images", len(self._anchors))
            if len(images):
                yield (images - anchors).square().sum() / len(images)
