"""Robust distillation with any recipe: adversarial attacks on the real images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final, get_args

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.data import Source
from ddsdk.foundation import PositiveFloat, PositiveInt, derive, require
from ddsdk.objectives import FitAndTest, Objective, TrainAndTest
from ddsdk.recipes import IterativeRecipe
from ddsdk.running import ObjectiveSchedule
from ddsdk.students import AlternatingStudents, FixedTeachers, FreshStudents, TrainedRuns, Training
from ddsdk.synthetic import SyntheticView
from ddsdk.training import InputAttack, evaluating_mode, soft_cross_entropy
from ddsdk_integrations.robustness.attacks import TrainingPGD
from ddsdk_integrations.robustness.threat import Threat

if TYPE_CHECKING:
    from ddsdk.students import MakeStudent


@dataclass(frozen=True, kw_only=True)
class _Hardened(IterativeRecipe):
    """Base class of recipes that wrap another recipe and attack its real images.

    Attributes:
        recipe: Recipe that is made robust; its own `ipc` is used.
        threat: Norm and radius of the perturbations, in the unit range.
        attack_steps: Number of gradient steps of each attack.
        of: Name of the wrapped recipe, set automatically.
    """

    recipe: IterativeRecipe
    threat: Threat
    attack_steps: PositiveInt = 7
    of: str = dataclasses.field(default="", init=False)

    def check(self) -> None:
        """Check that the wrapped recipe is an iterative one, and take over its `ipc` and name."""
        require(isinstance(self.recipe, IterativeRecipe), "recipe", "be an iterative recipe", self.recipe)
        object.__setattr__(self, "ipc", self.recipe.ipc)
        object.__setattr__(self, "of", self.recipe.name)

    @final
    def protocol(self, real: dd.RealData) -> dd.TrainingProtocol:
        """Return the evaluation protocol of the wrapped recipe."""
        return self.recipe.protocol(real)

    @final
    def adversary(self, real: dd.RealData) -> TrainingPGD:
        """Return the attack on the images of `real`."""
        return TrainingPGD(preprocess=real.preprocess, threat=self.threat, steps=self.attack_steps)


@final
@dataclass(frozen=True, kw_only=True)
class AdversarialLearning(_Hardened):
    """Adversarial learning of a set: bi-level methods with an attack on the real images as a third level.

    min_S E max_{|d| <= radius} loss(student trained on S; T + d). The student is kernel or feature ridge regression
    (KIP, FRePo, RFAD: adversarial kernel distillation), or a network that is trained on the set (DD, SLDD, RaT-BPTT and
    similar methods: robust dataset learning). The attack uses the same student as the outer loss, and the gradient of
    the set is taken at the attacked images. The objective of `recipe` must be `ddsdk.objectives.FitAndTest` or
    `ddsdk.objectives.TrainAndTest`.

    Differences from the published algorithms: the set is distilled, while robust dataset learning makes a set as large
    as the data; kernels are those of fully connected networks.

    Cost: `attack_steps` additional passes over the real batch in every step.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness import AdversarialLearning, Threat
        >>> real = ddsdk.load("digits")
        >>> recipe = AdversarialLearning(recipe=ddsdk.KIP(ipc=1, steps=1), threat=Threat("linf", 0.1))
        >>> ddsdk.distill(recipe, real).images.shape
        torch.Size([10, 1, 8, 8])

    References:
        Tsilivis, Su and Kempe, "Can we achieve robustness from data alone?", 2022, arXiv:2207.11727.
        Wu, Wang, Zhu, Wang and He, "Towards Robust Dataset Learning", 2022, arXiv:2211.10752.
    """

    name: ClassVar[str] = "adversarial-learning"

    def parts(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the plan of the wrapped recipe with an attack in its objective."""
        plan = self.recipe.plan(real, make_student=make_student, rng=rng)
        objective = plan.objective
        is_bilevel = isinstance(objective, FitAndTest | TrainAndTest)
        rule = "have the objective FitAndTest or TrainAndTest; take RobustMatching for matching recipes"
        require(is_bilevel, "recipe", rule, f"{self.of} with {type(objective).__name__}")
        one_hot_rows = dataclasses.replace(objective, adversary=self.adversary(real))  # type: ignore[type-var]
        return dataclasses.replace(plan, objective=one_hot_rows)


_StudentChoice = Literal["own", "robust"]


@final
@dataclass(frozen=True, kw_only=True)
class RobustMatching(_Hardened):
    """Robust matching: a matching recipe with attacked real images, or with robust networks as students, or both.

    A few networks are trained on the real data with a penalty on the curvature of their loss (GUARD), and the attack
    raises the loss of these networks. Untrained students, as in distribution matching, cannot guide an attack. With
    ``students="robust"`` the networks also replace the students of the recipe. `recipe` must match under student
    networks, and must not train networks (such as experts) before its first step.

    Attributes:
        attacked: Whether real images are attacked; if false, only the students change.
        students: Students of the matching: ``"own"``, those of the recipe, or ``"robust"``, the regularised networks.
        networks: Number of curvature-regularised networks.
        network_epochs: Number of epochs of their training on the real data.
        network_lr: Learning rate of their training; momentum is 0.9.
        network_images: Number of real images of each class in their training; None for all.
        curvature: Weight of the penalty, see `ddsdk.training.CurvaturePenalty`; 0 gives plain training.
        curvature_step: Length of the finite-difference step of the penalty, in units of the value space.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness import RobustMatching, Threat
        >>> real = ddsdk.load("digits")
        >>> student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> dm = ddsdk.DM(ipc=1, steps=1)
        >>> recipe = RobustMatching(recipe=dm, threat=Threat("linf", 0.1), network_epochs=1, network_images=2)
        >>> ddsdk.distill(recipe, real, make_student=student).images.shape
        torch.Size([10, 1, 8, 8])

    References:
        Zhou et al., "ROME is Forged in Adversity", ICML 2025 (attacked real batches, robust pools); Xue et al.,
        "Towards Adversarially Robust Dataset Distillation by Curvature Regularization", AAAI 2025, arXiv:2403.10045.
    """

    name: ClassVar[str] = "robust-matching"
    attacked: bool = True
    students: _StudentChoice = "own"
    networks: PositiveInt = 2
    network_epochs: int = 10
    network_lr: float = 0.01
    network_images: int | None = None
    curvature: float = 1.0
    curvature_step: PositiveFloat = 1.0

    def check(self) -> None:
        """Check the parameters, and that the wrapped recipe trains no networks before its first step."""
        super().check()
        choices = list(get_args(_StudentChoice))
        require(self.students in choices, "students", f"be one of {choices}", self.students)
        has_effect = self.attacked or self.students == "robust"
        require(has_effect, "attacked", 'be True for students="own"', self.attacked)
        rule = "train no networks of its own before its first step"
        require(not self.recipe.trains_networks(), "recipe", rule, self.of)
        self._training()

    def runs(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> TrainedRuns:
        """Return the curvature-regularised networks, each trained when it is first used."""
        seed = derive(rng, "robust networks").initial_seed()
        return TrainedRuns(real, make_student, self._training(), count=self.networks, seed=seed)

    def parts(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the plan of the wrapped recipe with attacked images, robust students, or both."""
        plan = self.recipe.plan(real, make_student=make_student, rng=rng)
        runs = self.runs(real, make_student=make_student, rng=rng)
        robust: FixedTeachers[nn.Module] = FixedTeachers(lambda i: runs.network(i).requires_grad_(False), self.networks)
        if self.attacked:
            adversary, objective = self.adversary(real), plan.objective
            attacked: Objective[Any] | ObjectiveSchedule[Any] = (
                ObjectiveSchedule(lambda step: AttackedObjective(objective.at(step), adversary, robust))
                if isinstance(objective, ObjectiveSchedule)
                else AttackedObjective(objective, adversary, robust)
            )
            plan = dataclasses.replace(plan, objective=attacked)
        if self.students == "own":
            return plan
        replaceable = isinstance(plan.students, FreshStudents | AlternatingStudents)
        rule = 'have single networks as students (FreshStudents or AlternatingStudents) for students="robust"'
        require(replaceable, "recipe", rule, f"{self.of} with {type(plan.students).__name__}")
        return dataclasses.replace(plan, students=robust)

    def _training(self) -> Training:
        return Training(
            epochs=self.network_epochs,
            lr=self.network_lr,
            momentum=0.9,
            thin=self.network_epochs,
            images=self.network_images,
            curvature=self.curvature,
            curvature_step=self.curvature_step,
        )


@final
@dataclass(frozen=True)
class AttackedObjective:
    """Objective with attacked real images.

    Attributes:
        objective: Objective that is minimised on attacked images.
        adversary: Attack on the real images.
        victims: Networks whose loss the attack raises; one random network for each step.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk_integrations.robustness import AttackedObjective, Threat, TrainingPGD
        >>> real = ddsdk.load("digits")
        >>> student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> adversary = TrainingPGD(preprocess=real.preprocess, threat=Threat("linf", 0.1))
        >>> victims = ddsdk.students.FixedTeachers(lambda i: student(ddsdk.generator("victim", i)))
        >>> attack = lambda plan: dataclasses.replace(
        ...     plan, objective=AttackedObjective(plan.objective, adversary, victims)
        ... )
        >>> distilled = ddsdk.distill(ddsdk.DM(ipc=1, steps=1), real, make_student=student, transform=attack)
    """

    objective: Objective[Any]
    adversary: InputAttack
    victims: FixedTeachers[nn.Module]

    def __call__(
        self,
        student: Any,  # noqa: ANN401
        real: Source,
        syn: SyntheticView,
        rng: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield the terms of the objective on attacked real images."""
        victim = self.victims.draw(derive(rng, "victim"))
        yield from self.objective(student, AttackedSource(real, victim, self.adversary), syn, rng)


@final
class AttackedSource:
    """Real data whose batches are attacked when they are drawn.

    Args:
        real: Source of the original batches.
        victim: Network from value-space images to logits, whose cross-entropy the attack raises.
        adversary: Attack on the images.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness import AttackedSource, Threat, TrainingPGD
        >>> real = ddsdk.load("digits")
        >>> victim = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator("weights"))
        >>> source = AttackedSource(real, victim, TrainingPGD(preprocess=real.preprocess, threat=Threat("linf", 0.1)))
        >>> source.of_class(3, 5, ddsdk.generator("batch")).x.shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(self, real: Source, victim: nn.Module, adversary: InputAttack) -> None:
        self._real, self._victim, self._adversary = real, victim, adversary

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self._real.num_classes

    @property
    def device(self) -> torch.device:
        """Device of the batches."""
        return self._real.device

    def of_class(self, c: int, n: int, rng: torch.Generator) -> dd.Batch:
        """Return at most `n` attacked images of class `c` with labels, drawn without replacement."""
        return self._attacked(self._real.of_class(c, n, rng), rng)

    def mixed(self, n: int, rng: torch.Generator) -> dd.Batch:
        """Return at most `n` attacked images of any class with labels, drawn without replacement."""
        return self._attacked(self._real.mixed(n, rng), rng)

    def _attacked(self, batch: dd.Batch, rng: torch.Generator) -> dd.Batch:
        x, y = batch
        with evaluating_mode(self._victim):
            attacked = self._adversary(lambda z: soft_cross_entropy(self._victim(z), y), x, derive(rng, "adversary"))
        return dd.Batch(attacked, y)
