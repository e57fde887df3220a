"""DSA: gradient matching with differentiable siamese augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from ddsdk.recipes.gradient import GradientMatching


@final
@dataclass(frozen=True, kw_only=True)
class DSA(GradientMatching):
    """Differentiable siamese augmentation: DC with the same random augmentation of real and synthetic images.

    Each class and step draws one operation with one set of parameters, which is applied to all real and synthetic
    images of the class. Students and evaluation networks train with the same operations, drawn anew for each image.
    Images start as random real ones.

    Differences from the published algorithm: the image steps are the published ones. The numbers of steps per student
    and of student epochs are interpolated for an ipc that the paper does not list. The evaluation keeps the momentum at
    the learning-rate decay, where the authors' code builds a new optimizer.

    References:
        Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021,
        arXiv:2102.08259.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.DSA(ipc=1, students=1, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (10, 1, 8, 8)
    """

    name: ClassVar[str] = "dsa"
    needs = ("second derivatives",)
