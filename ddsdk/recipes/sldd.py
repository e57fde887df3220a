"""SLDD: soft-label dataset distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk.foundation import require_count
from ddsdk.recipes.unrolled import OrderedBatches

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ddsdk.data import RealData
    from ddsdk.running import Plan
    from ddsdk.students import MakeStudent


@final
@dataclass(frozen=True, kw_only=True)
class SLDD(OrderedBatches):
    """Soft-label dataset distillation: DD with labels that are learned, and need not be probabilities.

    DD's problem over images, rates and label rows Y: a student descends -mean sum_c Y_ic log softmax(f(x_i))_c, which
    is defined for any real Y. An image may teach several classes, so there may be fewer images than classes.

    Attributes:
        steps: Image steps.
        passes: How often a student goes through all batches.
        images: Images of the whole set, in place of ipc for each class; there may be fewer than classes. They start
            as images of the first classes, and again.
        image_lr: Learning rate of images, labels and learned rates (Adam); halved ten times over the run.
        student_lr: Where the learned rate of each step starts. None takes 0.01 for grey images and 0.001 for others.
        real_batch: Real images on which a student is tested.
        start: Where the images start: noise, real, k-means, means or herding.

    The defaults are for a GPU; what DD says of a CPU holds here.

    Differences from the published algorithm: those of DD. Labels start one-hot.

    References:
        Sucholutsky and Schonlau, "Soft-Label Dataset Distillation and Text Dataset Distillation", IJCNN 2021,
        arXiv:1910.02551.
    """

    name: ClassVar[str] = "sldd"
    grey_lr: ClassVar[float] = 0.01
    images: int | None = None

    def check(self) -> None:
        """Check counts and rates."""
        self.check_fields(counts="passes")
        if self.images is not None:
            require_count("images", self.images)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: torch.Generator) -> Plan[nn.Module]:
        """Return DD's plan with free labels."""
        images = self.ipc * real.num_classes if self.images is None else self.images
        return self.ordered(real, make_student=make_student, rng=rng, images=images, learned=True)
