"""Ways to a robust set that go with any recipe: attacks on the real images that the set is compared with."""

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
from ddsdk.running import Schedule
from ddsdk.students import AlternatingStudents, FixedTeachers, FreshStudents, TrainedRuns, Training
from ddsdk.synthetic import SyntheticView
from ddsdk.training import Adversary, evaluating_mode, soft_cross_entropy
from ddsdk_integrations.robustness.attacks import PixelAdversary
from ddsdk_integrations.robustness.threat import Threat

if TYPE_CHECKING:
    from ddsdk.students import MakeStudent


@dataclass(frozen=True, kw_only=True)
class _Hardened(IterativeRecipe):
    """A recipe whose real images are attacked.

    Attributes:
        recipe: Recipe that is hardened; its own `ipc` counts.
        threat: Distance by which images are moved, in the unit range.
        attack_steps: Gradient steps of each attack.
        of: Name of the recipe.
    """

    recipe: IterativeRecipe
    threat: Threat
    attack_steps: PositiveInt = 7
    of: str = dataclasses.field(default="", init=False)

    def check(self) -> None:
        """Check that the recipe is one that this hardens."""
        require(isinstance(self.recipe, IterativeRecipe), "recipe", "be an iterative recipe", self.recipe)
        object.__setattr__(self, "ipc", self.recipe.ipc)
        object.__setattr__(self, "of", self.recipe.name)

    @final
    def evaluation(self, real: dd.RealData) -> dd.Evaluation:
        """Return the recipe's own."""
        return self.recipe.evaluation(real)

    @final
    def adversary(self, real: dd.RealData) -> PixelAdversary:
        """Return the attack on the images of `real`."""
        return PixelAdversary(preprocess=real.preprocess, threat=self.threat, steps=self.attack_steps)


@final
@dataclass(frozen=True, kw_only=True)
class AdversarialLearning(_Hardened):
    """Learn the set whose student is right on attacked images: bi-level methods made tri-level.

    min_S E max_{|d| <= radius} loss(student trained on S; T + d). The student is kernel or feature ridge regression
    (KIP, FRePo, RFAD: adversarial kernel distillation), or a network that has trained on the set (DD, SLDD, RaT-BPTT
    and the like: robust data set learning). The attack sees the student exactly as it is tested, and the gradient to
    the set is taken at the attacked images. `recipe` is one whose objective is `ddsdk.objectives.FitAndTest` or
    `ddsdk.objectives.TrainAndTest`.

    Differences from the published algorithms: sets are distilled, where robust data set learning makes one as large as
    the data; kernels are those of fully connected networks.

    Cost: `attack_steps` more passes over the real batch in every step.

    References:
        Tsilivis, Su and Kempe, "Can we achieve robustness from data alone?", 2022, arXiv:2207.11727.
        Wu, Wang, Zhu, Wang and He, "Towards Robust Dataset Learning", 2022, arXiv:2211.10752.
    """

    name: ClassVar[str] = "adversarial-learning"

    def parts(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the recipe's plan with an adversary in its objective."""
        plan = self.recipe.plan(real, make_student=make_student, rng=rng)
        found = plan.objective
        testing = isinstance(found, FitAndTest | TrainAndTest)
        rule = "have the objective FitAndTest or TrainAndTest; RobustMatching hardens those that match"
        require(testing, "recipe", rule, f"{self.of} with {type(found).__name__}")
        hardened = dataclasses.replace(found, adversary=self.adversary(real))  # type: ignore[type-var]
        return dataclasses.replace(plan, objective=hardened)


_Teachers = Literal["own", "robust"]


@final
@dataclass(frozen=True, kw_only=True)
class RobustMatching(_Hardened):
    """Match attacked real images, under students of the recipe or under networks that are flat at the images.

    A few networks are trained on the real data with the curvature of their loss penalised (GUARD). They are what the
    attack fools; an untrained student, such as distribution matching has, cannot be. With ``students="robust"`` they
    take the place of the recipe's students too. `recipe` is one that matches under networks and trains none of its own
    before it starts.

    Attributes:
        attacked: Whether real images are attacked; otherwise only the students change.
        students: ``"own"``, those of the recipe, or ``"robust"``, the flat networks.
        networks: Number of flat networks.
        network_epochs: Epochs of their training on the real data.
        network_lr: Their learning rate; momentum is 0.9.
        network_images: Real images of each class that they see; None for all.
        curvature: Weight of the penalty, see `ddsdk.training.CurvaturePenalty`; 0 gives plain networks.
        curvature_step: Step of the penalty.

    References:
        Zhou et al., "ROME is Forged in Adversity", ICML 2025 (attacked real batches, robust pools); Xue et al.,
        "Towards Adversarially Robust Dataset Distillation by Curvature Regularization", AAAI 2025, arXiv:2403.10045.
    """

    name: ClassVar[str] = "robust-matching"
    attacked: bool = True
    students: _Teachers = "own"
    networks: PositiveInt = 2
    network_epochs: int = 10
    network_lr: float = 0.01
    network_images: int | None = None
    curvature: float = 1.0
    curvature_step: PositiveFloat = 1.0

    def check(self) -> None:
        """Check choices, the training of the networks, and that the recipe trains none of its own."""
        super().check()
        known = list(get_args(_Teachers))
        require(self.students in known, "students", f"be one of {known}", self.students)
        changed = self.attacked or self.students == "robust"
        require(changed, "attacked", "be True where students are the recipe's own", self.attacked)
        alone = not self.recipe.trains_networks()
        require(alone, "recipe", "train no networks of its own before it starts", self.of)
        self._training()

    def runs(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> TrainedRuns:
        """Return the flat networks; none is trained before it is needed."""
        seed = derive(rng, "robust networks").initial_seed()
        return TrainedRuns(real, make_student, self._training(), count=self.networks, seed=seed)

    def parts(self, real: dd.RealData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the recipe's plan with attacked images, flat students, or both."""
        plan = self.recipe.plan(real, make_student=make_student, rng=rng)
        runs = self.runs(real, make_student=make_student, rng=rng)
        flat: FixedTeachers[nn.Module] = FixedTeachers(lambda i: runs.network(i).requires_grad_(False), self.networks)
        if self.attacked:
            adversary, found = self.adversary(real), plan.objective
            attacked: Objective[Any] | Schedule[Any] = (
                Schedule(lambda step: OnAttacked(found.at(step), adversary, flat))
                if isinstance(found, Schedule)
                else OnAttacked(found, adversary, flat)
            )
            plan = dataclasses.replace(plan, objective=attacked)
        if self.students == "own":
            return plan
        plain = isinstance(plan.students, FreshStudents | AlternatingStudents)
        rule = "have single networks as students where flat ones take their place"
        require(plain, "recipe", rule, f"{self.of} with {type(plan.students).__name__}")
        return dataclasses.replace(plan, students=flat)

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
class OnAttacked:
    """An objective whose real images are attacked before it sees them.

    Attributes:
        objective: Objective that is minimised.
        adversary: Attack on the images.
        victims: Networks whose loss the attack raises; one for each step.
    """

    objective: Objective[Any]
    adversary: Adversary
    victims: FixedTeachers[nn.Module]

    def __call__(
        self,
        student: Any,  # noqa: ANN401
        real: Source,
        syn: SyntheticView,
        rng: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield the terms of the objective."""
        victim = self.victims.draw(derive(rng, "victim"))
        yield from self.objective(student, AttackedSource(real, victim, self.adversary), syn, rng)


@final
class AttackedSource:
    """Real data whose batches are attacked as they are drawn.

    Args:
        real: Source of the batches.
        victim: Network from value-space images to logits, whose cross-entropy the attack raises.
        adversary: Attack on the images.
    """

    def __init__(self, real: Source, victim: nn.Module, adversary: Adversary) -> None:
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
        """Draw at most `n` items of class `c` without replacement, attacked."""
        return self._attacked(self._real.of_class(c, n, rng), rng)

    def mixed(self, n: int, rng: torch.Generator) -> dd.Batch:
        """Draw at most `n` items of any class without replacement, attacked."""
        return self._attacked(self._real.mixed(n, rng), rng)

    def _attacked(self, batch: dd.Batch, rng: torch.Generator) -> dd.Batch:
        x, y = batch
        with evaluating_mode(self._victim):
            attacked = self._adversary(lambda z: soft_cross_entropy(self._victim(z), y), x, derive(rng, "adversary"))
        return dd.Batch(attacked, y)
