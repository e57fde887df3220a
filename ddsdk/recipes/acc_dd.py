"""Acc-DD: IDC under a few pretrained networks whose weights are perturbed instead of newly trained networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import foundation, students
from ddsdk.foundation import PositiveInt, require
from ddsdk.recipes.sweeping import TiledGradientMatching, without

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData, TrainedRuns


@final
@dataclass(frozen=True, kw_only=True)
class AccDD(TiledGradientMatching):
    """Model augmentation: IDC under randomly perturbed copies of a few networks at an early stage of training.

    Each copy has the weights theta + alpha d. The filters of the random direction d are scaled to the norms of those of
    theta, and alpha is uniform in [low, high]. Networks early in training have large gradients, and perturbed copies
    replace the training of new networks, so a run needs far fewer networks than IDC.

    Attributes:
        pool: Number of networks that are pretrained on the real data and stored in the cache folder.
        pool_epochs: Training epochs of these networks.
        low: Smallest length of the perturbation, relative to the norm of each filter.
        high: Largest length of the perturbation, relative to the norm of each filter.

    Differences from the published algorithm: those of `ddsdk.IDC`. The number of networks, a fifth of IDC's, was chosen
    here; the paper reports results with 5 to 20 times fewer steps than IDC. The learning rate for l1 is that of IDC. A
    perturbed network trains on real images between sweeps, as in IDC.

    References:
        Zhang et al., "Accelerating Dataset Distillation via Model Augmentation", CVPR 2023, arXiv:2212.06152.

    Examples:
        >>> import ddsdk, os
        >>> _ = os.environ.setdefault("DDSDK_CACHE", "cache")  # folder of the pretrained networks
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.AccDD(ipc=1, steps=2, student_steps=1, pool=1, pool_epochs=1)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)  # four tiles for each canvas
        (40, 1, 8, 8)
    """

    name: ClassVar[str] = "acc-dd"
    needs = ("second derivatives",)
    training_fields = ("pool", "pool_epochs")
    published_students: ClassVar[int] = 400
    rates: ClassVar[dict[str, float]] = {"l1": 1e-4, "mse": 1e-2}
    pool: PositiveInt = 5
    pool_epochs: PositiveInt = 2
    low: float = 0.01
    high: float = 0.09

    def check(self) -> None:
        """Check the metric and the bounds of the perturbation."""
        super().check()
        require(0 <= self.low <= self.high, "low and high", "satisfy 0 <= low <= high", (self.low, self.high))

    def runs(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> TrainedRuns:
        """Return the training runs of the pretrained networks; missing ones are trained at first use."""
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
        """Return the plan of IDC, with random real images and perturbed networks of the pool."""
        runs = self.runs(real, make_student=make_student, rng=rng)
        perturbed = students.PerturbedExperts(runs=runs, low=self.low, high=self.high)
        return self.sweeps(real, make_student=perturbed, rng=rng)
