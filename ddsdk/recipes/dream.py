"""DREAM: IDC with representative real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives
from ddsdk.foundation import PositiveInt
from ddsdk.recipes.sweeping import TiledGradientMatching

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class DREAM(TiledGradientMatching):
    """Representative matching: IDC with real images that are nearest to the k-means centres of their class.

    The gradients of random batches vary from step to step and favour the dense middle of a class. Images that cover the
    class give a more stable gradient, so fewer steps are needed. The tiles start as k-means images too.

    Attributes:
        candidates: Random real images of the class that are clustered in each step.

    Differences from the published algorithm: those of `ddsdk.IDC`. The authors' code clusters a whole class every ten
    steps of a network; here each step clusters `candidates` images, see `ddsdk.objectives.Representative`. The initial
    images come from clusters of pixels, in the authors' code from clusters of features. The variant that also matches
    features (DREAM+) is not offered.

    References:
        Liu et al., "DREAM: Efficient Dataset Distillation by Representative Matching", ICCV 2023, arXiv:2302.14416.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.DREAM(ipc=1, steps=2, student_steps=1, real_batch=8, candidates=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)  # four tiles for each canvas
        (40, 1, 8, 8)
    """

    name: ClassVar[str] = "dream"
    needs = ("second derivatives", "features")
    real_batch: PositiveInt = 128
    start: str = "k-means"
    candidates: PositiveInt = 512

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return the plan of IDC with representative real images."""
        sample = objectives.Representative(candidates=self.candidates)
        return self.sweeps(real, make_student=make_student, rng=rng, sample=sample)
