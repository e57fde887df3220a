"""TESLA: trajectory matching with constant memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import training
from ddsdk.foundation import PositiveInt
from ddsdk.recipes.trajectory import MTT_VALUES, FromPixels, Points

if TYPE_CHECKING:
    from ddsdk.recipes.signature import ExpertSegment, Generator, MakeStudent, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class TESLA(FromPixels):
    """Trajectory matching with constant memory: MTT with a gradient that treats the student weights as constants.

    w_N = w_0 - beta sum_k g_k(S), so the gradient of MTT's distance is a sum over student steps. If the weights at
    which g_k is computed are constants, each term needs the graph of its own g_k only. The dependence of later
    gradients on earlier images is dropped, so the gradient differs from MTT's.

    Attributes:
        truncated: Whether the gradient is truncated, as in the paper's code. If false it is the exact gradient of MTT,
            with similarly little memory and about the same time.

    Differences from the published algorithm: labels are hard; the option of soft labels from an expert is left out.
    Otherwise those of MTT, except for the gradient. Values that the paper's code does not name are those of MTT.

    References:
        Cui, Wang, Si and Hsieh, "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", ICML 2023,
        arXiv:2211.10586.

    Examples:
        >>> import ddsdk, os
        >>> _ = os.environ.setdefault("DDSDK_CACHE", "cache")  # folder of the experts
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.TESLA(ipc=1, steps=1, student_steps=2, experts=1, expert_epochs=2, expert_images=20)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (10, 1, 8, 8)
    """

    name: ClassVar[str] = "tesla"
    needs = ("second derivatives",)
    values: ClassVar[Mapping[str, Points]] = {
        **MTT_VALUES,
        "max_start": {**MTT_VALUES["max_start"], 10: 5},
        "image_lr": {**MTT_VALUES["image_lr"], 10: 1000},
    }
    steps: PositiveInt = 10_000
    truncated: bool = True

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[ExpertSegment]:
        """Return the plan of MTT with the truncated gradient."""
        return self.followed(real, make_student, rng, training.truncated if self.truncated else None)
