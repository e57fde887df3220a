"""DM: distribution matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import running, students
from ddsdk.foundation import PositiveInt
from ddsdk.recipes.distribution import SGDMatching
from ddsdk.recipes.parts import pixel_set

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class DM(SGDMatching):
    """Distribution matching: match the class means of the embeddings of random networks.

    min_S E_theta sum_c ||mean psi_theta(A(S_c)) - mean psi_theta(A(T_c))||^2, with the same random augmentation A of
    real and synthetic images of a class (eq. 5). The network psi_theta is drawn anew for each step and never trained.

    Attributes:
        image_lr: Learning rate of the images (SGD). None for the published 1, or 10 from ipc 100 on, because the mean
            divides the gradient of each image by ipc.
        real_batch: Real images per class in one image step.

    Differences from the published algorithm: none for networks without BatchNorm. BatchNorm uses fixed statistics of 16
    real images per class; the paper's code embeds the images of all classes in one batch. The evaluation keeps the
    momentum at the learning-rate decay, where the authors' code builds a new optimizer.

    References:
        Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, arXiv:2110.04181.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.DM(ipc=1, steps=2, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (10, 1, 8, 8)
    """

    name: ClassVar[str] = "dm"
    sums_over_classes: ClassVar[bool] = True
    needs = ("features",)
    real_batch: PositiveInt = 256

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return matching of mean embeddings by squared distances, under fresh networks."""
        return running.Plan(
            syn=pixel_set(real, self.ipc, self.start, rng),
            objective=self.mean_match(real, self.real_batch),
            students=students.FreshStudents(make_student),
            make_optimizer=self.sgd(1.0 if self.ipc < 100 else 10.0),
            steps=self.steps,
        )
