"""TESLA: trajectory matching with constant memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import training
from ddsdk.foundation import PositiveInt
from ddsdk.recipes.trajectory import MTT_VALUES, FromPixels, Points

if TYPE_CHECKING:
    from ddsdk.recipes.signature import ExpertSpan, Generator, MakeStudent, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class TESLA(FromPixels):
    """Trajectory matching with constant memory: MTT with a gradient that takes each step's weights for constants.

    w_N = w_0 - beta sum_k g_k(S): the gradient of MTT's distance is a sum over steps, of which each needs the graph of
    its own g_k alone, once the weights at which g_k is taken count as constants. How earlier images change later
    gradients is dropped: the gradient is truncated, and not MTT's.

    Attributes:
        truncated: Whether this is dropped, as in the paper's code. If false the gradient is MTT's own, at as little
            memory and about the same time.

    Differences from the published algorithm: hard labels; the option of soft labels from the expert's target is
    left out. Otherwise those of MTT, but for the gradient. Values are those of MTT where the paper's code names none.

    References:
        Cui, Wang, Si and Hsieh, "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", ICML 2023,
        arXiv:2211.10586.
    """

    name: ClassVar[str] = "tesla"
    values: ClassVar[Mapping[str, Points]] = {
        **MTT_VALUES,
        "max_start": {**MTT_VALUES["max_start"], 10: 5},
        "image_lr": {**MTT_VALUES["image_lr"], 10: 1000},
    }
    steps: PositiveInt = 10_000
    truncated: bool = True

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[ExpertSpan]:
        """Return MTT's plan with the truncated gradient."""
        return self.followed(real, make_student, rng, training.truncated if self.truncated else None)
