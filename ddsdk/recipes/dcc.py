"""DCC: gradient matching of all classes at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students
from ddsdk.foundation import NonNegativeInt
from ddsdk.recipes.gradient import StudentGradientMatching

if TYPE_CHECKING:
    from ddsdk.objectives import Objective
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class DCC(StudentGradientMatching):
    """Dataset condensation with contrastive signals: match the gradient of all classes together.

    min_S sum_t D(grad L(S; theta_t), 1/K sum_c grad L(T_c; theta_t)), with D as in DC. The collective gradient depends
    on differences between classes; a sum of class-wise distances is also small where only common features match. During
    a warm-up, early in the run and early in the training of each student, matching is class-wise, which is more stable.

    The default augmentation gives the paper's DSAC, and `augmentation=""` gives its DCC.

    Attributes:
        warm_up: Students at the beginning of the run that start with class-wise matching; None for the published
            quarter of `students`.
        warm_up_steps: Class-wise image steps of each of these students, at most all of them.

    Differences from the published algorithm: the warm-up is understood as early in the run and early in the training of
    a student. Any ipc is possible; the authors' code stops with an error where a student has fewer steps than the
    warm-up, as at ipc 1. CIFAR-100 images are normalised with their own statistics, in the authors' code with those of
    CIFAR-10. The numbers of steps per student and of student epochs are interpolated for an ipc that DC's paper does
    not list.

    References:
        Lee et al., "Dataset Condensation with Contrastive Signals", ICML 2022, arXiv:2202.02916.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.DCC(ipc=1, students=1, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (10, 1, 8, 8)
    """

    name: ClassVar[str] = "dcc"
    needs = ("second derivatives",)
    warm_up: NonNegativeInt | None = None
    warm_up_steps: NonNegativeInt = 10

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return collective matching with a class-wise warm-up, under students trained on the set."""
        class_wise, collective = self.levels(real, objectives.filter_cosine)
        period, epochs = self.loops()
        early = self.students // 4 if self.warm_up is None else self.warm_up

        def at(step: int) -> Objective[Module]:
            warming = step // period < early and step % period < self.warm_up_steps
            return class_wise if warming else collective

        update = students.TrainOnSynthetic(epochs=epochs, augmentation=self.siamese(real))
        return self.along(real, running.ObjectiveSchedule(at), update, make_student=make_student, rng=rng)
