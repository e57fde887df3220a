"""SLDD: soft-label dataset distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk.foundation import PositiveInt
from ddsdk.recipes.unrolled import OrderedBatches

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class SLDD(OrderedBatches):
    """Soft-label dataset distillation: DD with learned labels, which need not be probabilities.

    The problem of DD is solved over images, rates and label rows Y. A student minimises -mean sum_c Y_ic log
    softmax(f(x_i))_c, which is defined for any real Y. One image can represent several classes, so the set may have
    fewer images than classes.

    Attributes:
        images: Number of images in the whole set, in place of ipc per class; it may be smaller than the number of
            classes. Image i starts as an image of class i mod K. None for ipc per class.
        student_lr: Initial value of the learned rate of each training step. None for 0.01 on grey images, 0.001 on
            others.

    The defaults are for a GPU; the CPU settings of DD apply here too.

    Differences from the published algorithm: those of DD. Labels start one-hot.

    References:
        Sucholutsky and Schonlau, "Soft-Label Dataset Distillation and Text Dataset Distillation", IJCNN 2021,
        arXiv:1910.02551.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.SLDD(images=5, steps=1, passes=1, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> len(ddsdk.distill(recipe, real, make_student=make_student))
        5
    """

    name: ClassVar[str] = "sldd"
    needs = ("second derivatives",)
    grey_lr: ClassVar[float] = 0.01
    images: PositiveInt | None = None

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return the plan of DD with free labels."""
        images = self.ipc * real.num_classes if self.images is None else self.images
        return self.ordered(real, make_student=make_student, rng=rng, images=images, learned=True)
