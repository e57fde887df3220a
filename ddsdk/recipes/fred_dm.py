"""FreD with the objective of DM: frequency coefficients, trained by distribution matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import running, students
from ddsdk.foundation import PositiveInt
from ddsdk.recipes.distribution import SGDMatching
from ddsdk.recipes.frequency import FrequencyRecipe

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class FreDDM(FrequencyRecipe, SGDMatching):
    """Frequency-domain distillation by distribution matching: k coefficients of each image, learned with DM's distance.

    min_F sum_c ||mean psi_theta(A(IDCT(M_c * F_c))) - mean psi_theta(A(T_c))||^2, with fresh networks theta and the
    same random augmentation A of real and synthetic images of a class. The masks M_c and the number of images are those
    of `fred`. No experts are trained, so that a set takes minutes.

    Attributes:
        image_lr: Learning rate of the coefficients (SGD). None for the published 1e6 for unnormalised coefficients,
            which is 1e6 / (4HW) for those of `ddsdk.synthetic.Frequencies`, 244 for 32 x 32 pixels.
        real_batch: Real images per class in one step.

    Differences from the published algorithm: k is a sixteenth of the pixels for each ipc and image size, unless
    `coefficients` is given; the authors' script for CIFAR-10 has 64 with ipc 2. Those of `dm` apply too.

    References:
        Shin, Shin and Moon, "Frequency Domain-based Dataset Distillation", NeurIPS 2023, arXiv:2311.08819.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.FreDDM(ipc=1, coefficients=16, steps=2, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> distilled = ddsdk.distill(recipe, real, make_student=make_student)
        >>> tuple(distilled.images.shape)  # 64 / 16 images for each class
        (40, 1, 8, 8)
    """

    name: ClassVar[str] = "fred-dm"
    sums_over_classes: ClassVar[bool] = True
    needs = ("features",)
    real_batch: PositiveInt = 256

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return matching of mean embeddings by squared distances, over coefficients."""
        return running.Plan(
            syn=self.frequency_set(real, self.start, rng),
            objective=self.mean_match(real, self.real_batch),
            students=students.FreshStudents(make_student),
            make_optimizer=self.sgd(self.coefficient_rate(real, 1e6)),
            steps=self.steps,
        )
