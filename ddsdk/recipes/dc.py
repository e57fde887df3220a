"""DC: dataset condensation with gradient matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from ddsdk.recipes.gradient import GradientMatching


@final
@dataclass(frozen=True, kw_only=True)
class DC(GradientMatching):
    """Dataset condensation: match the gradients of a student on real and on synthetic images, class by class.

    min_S sum_t sum_c D(grad L(S_c; theta_t), grad L(T_c; theta_t)), where D is the sum over filters of 1 - cosine and
    theta_t are the weights of a network that trains on S (eq. 9 and 10). Images start as noise, without augmentation.

    Differences from the published algorithm: the image steps are the published ones. The numbers of steps per student
    and of student epochs are interpolated for an ipc that the paper does not list. On MNIST the authors' code trains
    evaluation networks with random crop, scaling and rotation; here the evaluation has no augmentation unless
    `augmentation` names some. The evaluation keeps the momentum at the learning-rate decay, where the authors' code
    builds a new optimizer.

    References:
        Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, arXiv:2006.05929.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.DC(ipc=1, students=1, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (10, 1, 8, 8)
    """

    name: ClassVar[str] = "dc"
    needs = ("second derivatives",)
    start: str = "noise"
    augmentation: str | None = ""
