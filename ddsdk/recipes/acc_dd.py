"""Acc-DD: IDC under a few early networks that are varied instead of trained anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import foundation, students
from ddsdk.foundation import PositiveInt, require
from ddsdk.recipes.sweeping import Sweeping, without

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData, TrainedRuns


@final
@dataclass(frozen=True, kw_only=True)
class AccDD(Sweeping):
    """Model augmentation: IDC whose networks are a few early trained ones, each time moved a little at random.

    theta <- theta + alpha d, with d a random direction whose filters are as long as those of theta, and alpha
    uniform in [low, high]. Early networks have strong gradients, and their neighbours replace a new training for
    each network, so far fewer networks do.

    Attributes:
        pool: Networks that are trained on the real data at the start, and kept in the cache.
        pool_epochs: Epochs of the training of these networks.
        low: Smallest length of the random step, relative to that of each filter.
        high: Largest length of the random step.

    Differences from the published algorithm: those of `ddsdk.IDC`. The number of networks that serve, a fifth of
    IDC's, was chosen here; the paper reports results at 5 to 20 times fewer steps than IDC. The rate for l1 is that
    of IDC. A network that was drawn goes on with IDC's lessons while it serves.

    References:
        Zhang et al., "Accelerating Dataset Distillation via Model Augmentation", CVPR 2023, arXiv:2212.06152.
    """

    name: ClassVar[str] = "acc-dd"
    published_students: ClassVar[int] = 400
    rates: ClassVar[dict[str, float]] = {"l1": 1e-4, "mse": 1e-2}
    pool: PositiveInt = 5
    pool_epochs: PositiveInt = 2
    low: float = 0.01
    high: float = 0.09

    def check(self) -> None:
        """Check the metric and the perturbation."""
        super().check()
        require(0 <= self.low <= self.high, "low and high", "satisfy 0 <= low <= high", (self.low, self.high))

    def runs(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> TrainedRuns:
        """Return the pool of early networks; those that are missing are made at first use."""
        training = students.Training(
            epochs=self.pool_epochs,
            lr=self.student_lr,
            momentum=0.9,
            weight_decay=5e-4,
            batch_size=64,
            augmentation=without("cutout", self.augmentation),
            mix=self.mix,
        )
        seed = foundation.derive(rng, "pool").initial_seed()
        return students.TrainedRuns(real, make_student, training, count=self.pool, seed=seed)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return matching of random real images under neighbours of the pool."""
        runs = self.runs(real, make_student=make_student, rng=rng)
        near = students.Perturbed(runs=runs, low=self.low, high=self.high)
        return self.sweeps(real, make_student=near, rng=rng)
