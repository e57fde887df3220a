"""M3D: matching of all moments of the embeddings by a kernel discrepancy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students
from ddsdk.foundation import PositiveInt
from ddsdk.recipes.distribution import SGDMatching
from ddsdk.recipes.parts import multiformation_set

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class M3D(SGDMatching):
    """Minimise the maximum mean discrepancy of embeddings: DM with a distance of all moments, not the mean alone.

    min_S E_theta sum_c MMD^2(psi_theta(A(S_c)), psi_theta(A(T_c))) with Gaussian kernels of several widths, each
    multiplied by its squared width: see `ddsdk.objectives.GaussianMMD`. Canvases are cut into factor^2 tiles, and a
    random network serves for several image steps.

    Attributes:
        image_lr: Learning rate of the images (SGD). None takes that of DM: 1, and 10 from ipc 100 on.
        real_batch: Real images of each class in one step.
        steps_per_student: Image steps for which a random network serves.
        factor: Tiles along each side of a stored image; 1 for plain images.

    Differences from the published algorithm: the authors published no code with hyperparameters when this was written.
    Kernels, their widths, rates, steps and batch sizes are choices of this library: five widths around the mean
    distance, in units in which DM's learning rate serves. Pixels stay where the unit range lies. The evaluation is the
    published one of DSA and DM.

    References:
        Zhang et al., "M3D: Dataset Condensation by Minimizing Maximum Mean Discrepancy", AAAI 2024, arXiv:2312.15927.
    """

    name: ClassVar[str] = "m3d"
    steps: PositiveInt = 10_000
    real_batch: PositiveInt = 256
    steps_per_student: PositiveInt = 10
    factor: PositiveInt = 2

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return kernel matching of all embeddings under networks that serve for a few steps."""
        return running.Plan(
            syn=multiformation_set(real, self.ipc, self.factor, self.start, rng),
            objective=objectives.ClassMatch(
                byproduct=objectives.all_features,
                distance=objectives.GaussianMMD(),
                gather=objectives.stacked,
                real_batch=self.real_batch,
                augmentation=self.siamese(real),
            ),
            students=students.FreshStudents(make_student, period=self.steps_per_student),
            make_optimizer=self.sgd(1.0 if self.ipc < 100 else 10.0),
            steps=self.steps,
        )
