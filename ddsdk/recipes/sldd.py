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
    """Soft-label dataset distillation: DD with labels that are learned, and need not be probabilities.

    DD's problem over images, rates and label rows Y: a student descends -mean sum_c Y_ic log softmax(f(x_i))_c, which
    is defined for any real Y. An image may teach several classes, so there may be fewer images than classes.

    Attributes:
        images: Images of the whole set, in place of ipc for each class; there may be fewer than classes. They start
            as images of the first classes, and again.
        student_lr: Start of the learned rate of each step. None takes 0.01 for grey images and 0.001 for others.

    The defaults are for a GPU; what DD says of a CPU holds here.

    Differences from the published algorithm: those of DD. Labels start one-hot.

    References:
        Sucholutsky and Schonlau, "Soft-Label Dataset Distillation and Text Dataset Distillation", IJCNN 2021,
        arXiv:1910.02551.
    """

    name: ClassVar[str] = "sldd"
    grey_lr: ClassVar[float] = 0.01
    images: PositiveInt | None = None

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return DD's plan with free labels."""
        images = self.ipc * real.num_classes if self.images is None else self.images
        return self.ordered(real, make_student=make_student, rng=rng, images=images, learned=True)
