"""FTD: flat trajectory distillation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk.foundation import NonNegativeFloat
from ddsdk.recipes.trajectory import MTT_VALUES, FromPixels, Points

if TYPE_CHECKING:
    from ddsdk.recipes.signature import ExpertSegment, Generator, MakeStudent, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class FTD(FromPixels):
    """Flat trajectory distillation: MTT with experts in flat regions of the loss, and a moving average of the images.

    A student drifts away from an expert's trajectory where the loss is curved. The experts therefore take
    sharpness-aware steps, which lead through flat regions. The result is the exponential moving average of the images.

    Attributes:
        average: Decay of the moving average of all stored tensors. None for the published decay, adapted so that the
            initial images keep as much weight after `steps` as after 5000.

    Differences from the published algorithm: those of MTT. The surrogate gap has the weight 0.3; the paper's is 0.3 or
    1, depending on the data, and later authors found 0.3 sufficient everywhere.

    References:
        Du, Jiang, Tan, Zhou and Li, "Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation",
        CVPR 2023, arXiv:2211.11004. Values as in its table 7.

    Examples:
        >>> import ddsdk, os
        >>> _ = os.environ.setdefault("DDSDK_CACHE", "cache")  # folder of the experts
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.FTD(ipc=1, steps=1, student_steps=2, experts=1, expert_epochs=2, expert_images=20)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (10, 1, 8, 8)
    """

    name: ClassVar[str] = "ftd"
    needs = ("second derivatives",)
    values: ClassVar[Mapping[str, Points]] = {**MTT_VALUES, "average": {10: 0.9999, 100: 0.9995, 500: 0.999}}
    sharpness: NonNegativeFloat = 0.01

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[ExpertSegment]:
        """Return the plan of MTT with flat experts and a moving average."""
        plan = self.followed(real, make_student, rng)
        return dataclasses.replace(plan, average=self.derived_average(real, 5000))
