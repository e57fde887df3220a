"""DCC: gradient matching of all classes at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students
from ddsdk.foundation import NonNegativeInt
from ddsdk.recipes.gradient import AlongStudents

if TYPE_CHECKING:
    from ddsdk.objectives import Objective
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class DCC(AlongStudents):
    """Dataset condensation with contrastive signals: match the gradient of all classes at once.

    min_S sum_t D(grad L(S; theta_t), 1/K sum_c grad L(T_c; theta_t)), D as in DC: differences between classes count,
    where a sum of class-wise distances is also small for what they share. While a network is early, both in the run
    and in its own training, matching stays class-wise, which is steadier.

    With the default augmentation this is the paper's DSAC; `augmentation=""` is its DCC.

    Attributes:
        warm_up: Networks at the start whose first steps match class by class; None takes the paper's quarter of
            `students`.
        warm_up_steps: Number of these steps; all of them where a network serves fewer.

    Differences from the published algorithm: the warm-up is read as both early in the run and early in a network's
    own training. The loops go on for any ipc; the authors' code stops with an error
    where a network serves fewer steps than the warm-up, as at ipc 1. Their CIFAR-100 images are normalised by the
    constants of CIFAR-10, here by their own. Loops are interpolated for an ipc that DC's paper does not list.

    References:
        Lee et al., "Dataset Condensation with Contrastive Signals", ICML 2022, arXiv:2202.02916.
    """

    name: ClassVar[str] = "dcc"
    warm_up: NonNegativeInt | None = None
    warm_up_steps: NonNegativeInt = 10

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return class-wise and then collective matching under students trained on the set."""
        single, joint = self.levels(real, objectives.filter_cosine)
        period, epochs = self.loops()
        early = self.students // 4 if self.warm_up is None else self.warm_up

        def at(step: int) -> Objective[Module]:
            warming = step // period < early and step % period < self.warm_up_steps
            return single if warming else joint

        lesson = students.OnSynthetic(epochs=epochs, augmentation=self.siamese(real))
        return self.along(real, running.Schedule(at), lesson, make_student=make_student, rng=rng)
