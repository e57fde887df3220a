"""DREAM: IDC that compares with representative real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives
from ddsdk.foundation import PositiveInt
from ddsdk.recipes.sweeping import Sweeping

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class DREAM(Sweeping):
    """Representative matching: IDC whose real images stand nearest the k-means centres of their class.

    Random batches pull the set to and fro, mostly towards the dense middle of a class; images that cover the class
    give a steadier gradient, so fewer steps do. The tiles start as k-means images too.

    Attributes:
        candidates: Random images of the class that are clustered at each step.

    Differences from the published algorithm: those of `ddsdk.IDC`. The authors' code clusters a whole class every
    ten steps of a network; here `candidates` of it are clustered at every step, see `ddsdk.objectives.Representative`.
    The start
    clusters pixels where theirs clusters features. The variant that matches features too (DREAM+) is not offered.

    References:
        Liu et al., "DREAM: Efficient Dataset Distillation by Representative Matching", ICCV 2023, arXiv:2302.14416.
    """

    name: ClassVar[str] = "dream"
    real_batch: PositiveInt = 128
    start: str = "k-means"
    candidates: PositiveInt = 512

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return matching of representative real images under fresh networks that train on real data."""
        sample = objectives.Representative(candidates=self.candidates)
        return self.sweeps(real, make_student=make_student, rng=rng, sample=sample)
