"""FTD: flat trajectory distillation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk.foundation import NonNegativeFloat
from ddsdk.recipes.trajectory import MTT_VALUES, FromPixels, Points

if TYPE_CHECKING:
    from ddsdk.recipes.signature import ExpertSpan, Generator, MakeStudent, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class FTD(FromPixels):
    """Flat trajectory distillation: MTT with experts in flat regions, and the average of the set over its steps.

    A student drifts off a trajectory where the loss is curved. Experts therefore take sharpness-aware steps, which
    lead along flat regions; and the result is the exponential moving average of the images.

    Attributes:
        average: Decay of the average. None takes the published one, to the power that leaves as much of the start in a
            run of `steps` as in one of 5000.

    Differences from the published algorithm: those of MTT. The paper weighs the surrogate gap by 0.3 or 1 depending on
    the data; here it is 0.3, which later authors found to do everywhere.

    References:
        Du, Jiang, Tan, Zhou and Li, "Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation",
        CVPR 2023, arXiv:2211.11004. Values as in its table 7.
    """

    name: ClassVar[str] = "ftd"
    values: ClassVar[Mapping[str, Points]] = {**MTT_VALUES, "average": {10: 0.9999, 100: 0.9995, 500: 0.999}}
    sharpness: NonNegativeFloat = 0.01

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[ExpertSpan]:
        """Return MTT's plan with flat experts and an average."""
        plan = self.followed(real, make_student, rng)
        return dataclasses.replace(plan, average=self.derived_average(real, 5000))
