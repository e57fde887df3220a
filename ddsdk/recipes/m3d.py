"""M3D: matching of all moments of the embeddings by the maximum mean discrepancy."""

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
    """Maximum mean discrepancy: DM with a kernel distance of all moments of the embeddings, not only the mean.

    min_S E_theta sum_c MMD^2(psi_theta(A(S_c)), psi_theta(A(T_c))) with Gaussian kernels of several widths, each
    multiplied by its squared width: see `ddsdk.objectives.GaussianMMD`. Canvases are cut into factor^2 tiles. A random
    network is replaced after several image steps.

    Attributes:
        image_lr: Learning rate of the images (SGD). None for that of DM: 1, or 10 from ipc 100 on.
        real_batch: Real images per class in one image step.
        steps_per_student: Image steps before a random network is replaced.
        factor: Tiles along each side of a canvas; 1 for plain images.

    Differences from the published algorithm: the authors had published no code with hyperparameters when this was
    written. Kernels, widths, rates, steps and batch sizes are choices of this library: five widths around the mean
    distance, scaled so that DM's learning rate is suitable. Pixels are clamped to the unit range. The evaluation is
    that of DSA and DM.

    References:
        Zhang et al., "M3D: Dataset Condensation by Minimizing Maximum Mean Discrepancy", AAAI 2024, arXiv:2312.15927.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.M3D(ipc=1, steps=1, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)  # four tiles for each canvas
        (40, 1, 8, 8)
    """

    name: ClassVar[str] = "m3d"
    sums_over_classes: ClassVar[bool] = True
    needs = ("features",)
    steps: PositiveInt = 10_000
    real_batch: PositiveInt = 256
    steps_per_student: PositiveInt = 10
    factor: PositiveInt = 2

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return kernel matching of all embeddings, under random networks that are replaced after a few steps."""
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
