"""DREAM: IDC that compares with representative real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives
from ddsdk.foundation import require_count
from ddsdk.recipes.sweeping import Sweeping

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ddsdk.data import RealData
    from ddsdk.running import Plan
    from ddsdk.students import MakeStudent


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
    real_batch: int = 128
    start: str = "k-means"
    candidates: int = 512

    def check(self) -> None:
        """Check counts, rates and the metric."""
        self.check_fields()
        require_count("candidates", self.candidates)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: torch.Generator) -> Plan[nn.Module]:
        """Return matching of representative real images under fresh networks that train on real data."""
        sample = objectives.Representative(candidates=self.candidates)
        return self.sweeps(real, make_student=make_student, rng=rng, sample=sample)
