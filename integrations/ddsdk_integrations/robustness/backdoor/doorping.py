"""DOORPING: a backdoor trigger that is optimised during distillation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.data import Source
from ddsdk.foundation import (
    CheckedDataclass,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    as_generator,
    derive,
    require,
    require_count,
)
from ddsdk.recipes import IterativeRecipe
from ddsdk.running import Run
from ddsdk.students import MakeStudent, Students, StudentUpdate, TrainOnSynthetic, prepare_student
from ddsdk_integrations.robustness.backdoor.triggers import PoisonedData, Trigger

S = TypeVar("S")
_MARGIN = 1e-3
"""Smallest distance of initial colours from 0 and 1: colours are optimised as logits, which are infinite there."""


@final
@dataclass(frozen=True, kw_only=True)
class DoorpingSettings(CheckedDataclass):
    """Settings of DOORPING's trigger optimisation.

    The defaults of aim, neurons, factor, stop_below, lr and steps are those of the authors' code, which optimises the
    trigger after every update of the network.

    Attributes:
        aim: Loss of the trigger: ``"neuron"`` (published) raises the activation of the features with the largest
            incoming weights to `factor` times its initial value; ``"label"`` minimises the cross-entropy of stamped
            images to the target class.
        neurons: Number of channels of the last layer before the head whose activation is raised; ``"neuron"`` only.
        factor: Factor by which the activation is raised; ``"neuron"`` only.
        stop_below: Loss below which the optimisation stops early.
        lr: Learning rate of the patch's pixels (Adam).
        steps: Largest number of Adam steps in one optimisation.
        every: Number of distillation steps between two optimisations.
        images: Largest number of stamped images in an Adam step.

    Examples:
        >>> from ddsdk_integrations.robustness.backdoor import DoorpingSettings
        >>> DoorpingSettings(aim="label", steps=50).every
        1
    """

    aim: Literal["neuron", "label"] = "neuron"
    neurons: PositiveInt = 1
    factor: PositiveFloat = 10.0
    stop_below: NonNegativeFloat = 0.5
    lr: PositiveFloat = 0.08
    steps: PositiveInt = 1000
    every: PositiveInt = 1
    images: PositiveInt = 128

    def __post_init__(self) -> None:
        require(self.aim in ("neuron", "label"), "aim", "be 'neuron' or 'label'", self.aim)
        super().__post_init__()


def optimised_trigger(
    network: nn.Module, poisoned: PoisonedData, trigger: Trigger, settings: DoorpingSettings, rng: torch.Generator
) -> Trigger:
    """Return the trigger with colours optimised for one network; the position of the patch stays.

    For the aim ``"neuron"``, a ValueError is raised if the network has no layer of weights before its head, fewer
    channels than `settings.neurons`, or a number of features that is no multiple of its channels.

    Args:
        network: Network from images of the value space to logits; for ``"neuron"`` one of `ddsdk.NETWORKS`.
        poisoned: Poisoned data whose original images are stamped.
        trigger: Trigger at the start of the optimisation.
        settings: Aim and hyperparameters of the optimisation.
        rng: Generator of the choice of images.

    Cost: `settings.steps` forward and backward passes over `settings.images` images.
    """
    chosen = torch.randperm(len(poisoned.originals), generator=rng)[: settings.images]
    originals = poisoned.originals[chosen.to(poisoned.originals.device)]
    patch = trigger.patch.detach().to(originals.device).clamp(_MARGIN, 1 - _MARGIN).logit().requires_grad_()
    optimizer = torch.optim.Adam([patch], lr=settings.lr)
    trigger_loss = _TriggerLoss(network, poisoned, settings)
    for _ in range(settings.steps):
        stamped = dataclasses.replace(trigger, patch=patch.sigmoid()).stamp(originals)
        loss = trigger_loss(stamped)
        if float(loss.detach()) < settings.stop_below:
            break
        (patch.grad,) = torch.autograd.grad(loss, [patch])
        optimizer.step()
    return dataclasses.replace(trigger, patch=patch.detach().sigmoid().cpu())


class _TriggerLoss:
    """Loss of the trigger optimisation on one network, for either aim."""

    def __init__(self, network: nn.Module, poisoned: PoisonedData, settings: DoorpingSettings) -> None:
        self._network, self._poisoned, self._settings = network, poisoned, settings
        self._channels = _largest_channels(network, settings.neurons) if settings.aim == "neuron" else None
        self._goal: Tensor | None = None

    def __call__(self, unit: Tensor) -> Tensor:
        x = self._poisoned.data.preprocess(unit)
        if self._channels is None:
            target = torch.full((len(x),), self._poisoned.target, device=x.device)
            return cross_entropy(self._network(x), target)
        channels, largest = self._channels
        features = self._network.embed(x)  # type: ignore[operator]
        rule = f"have features in {channels} channels, as its last layer of weights"
        require(features.shape[1] % channels == 0, "network", rule, features.shape[1])
        activation = features.reshape(len(x), channels, -1)[:, largest].mean(2)
        # The goal is set once, from the activation on images with the initial patch.
        if self._goal is None:
            self._goal = self._settings.factor * activation.detach()
        loss: Tensor = (activation - self._goal).square().mean()
        return loss


def _largest_channels(network: nn.Module, count: int) -> tuple[int, Tensor]:
    """Return the number of channels of the last layer before the head, and those of largest L1 weight norm."""
    body = getattr(network, "body", None)
    weights = [] if body is None else [p for p in body.parameters() if p.ndim >= 2]
    require(bool(weights), "network", "have a layer of weights before its head", type(network).__name__)
    norms = weights[-1].detach().flatten(1).abs().sum(1)
    require(count <= len(norms), "neurons", f"be at most the {len(norms)} of the last layer", count)
    return len(norms), norms.topk(count).indices


@final
@dataclass(frozen=True, kw_only=True)
class TrainedVictims(CheckedDataclass):
    """Supply of networks that are trained on the current synthetic set, each from new initial weights.

    They imitate the network that a victim trains on the set; the students of a recipe may differ from it, or be
    untrained.

    Attributes:
        make_student: Factory of the victim networks.
        update: Training of each network on the set.
        lr: Learning rate of SGD with momentum 0.9.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness.backdoor import TrainedVictims
        >>> student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> victims = TrainedVictims(make_student=student, update=ddsdk.students.TrainOnSynthetic(epochs=2))
    """

    make_student: MakeStudent
    update: StudentUpdate = TrainOnSynthetic(epochs=40)  # noqa: RUF009 - a frozen value
    lr: PositiveFloat = 0.03

    def next(self, real: Source, syn: dd.SyntheticSet, rng: torch.Generator) -> nn.Module:
        """Return a new network after its training on the set."""
        network = prepare_student(self.make_student, real, derive(rng, "start"))
        optimizer = torch.optim.SGD(network.parameters(), lr=self.lr, momentum=0.9)
        self.update(network, optimizer, real, syn, derive(rng, "lesson"))
        return network

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state, because every network starts anew."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept the empty state of `state_dict`."""


@final
class DoorpingStudents(Generic[S]):
    """Supply of students that also optimises the trigger and stamps the poisoned images anew (DOORPING).

    It returns the students of a recipe's own supply, so it can replace any supply:
    ``dataclasses.replace(plan, students=...)``.

    Args:
        students: Supply of students of the recipe.
        victims: Supply of the networks for which the trigger is optimised, such as `TrainedVictims`. None takes the
            recipe's students, which must then be networks.
        poisoned: Poisoned data that is distilled. It is stamped in place, so it must belong to one run only.
        trigger: Trigger at the start of the run.
        settings: Aim and hyperparameters of the trigger optimisation.

    Differences from the published algorithm: colours are optimised as logits, so they stay in the unit range; the
    activation is the mean over spatial positions of a channel and over stamped images.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk_integrations.robustness.backdoor import DoorpingSettings, DoorpingStudents, Trigger, poison
        >>> real = ddsdk.load("digits")
        >>> trigger, settings = Trigger.corner(real.image_shape), DoorpingSettings(steps=2)
        >>> poisoned = poison(real, trigger, target=0, fraction=0.01, rng=ddsdk.generator("poison"))
        >>> follow = lambda plan: dataclasses.replace(
        ...     plan,
        ...     students=DoorpingStudents(plan.students, poisoned=poisoned, trigger=trigger, settings=settings),
        ... )
        >>> distilled = ddsdk.distill(ddsdk.DM(ipc=1, steps=1), poisoned.data, transform=follow)

    References:
        Liu et al., "Backdoor Attacks Against Dataset Distillation", NDSS 2023, arXiv:2301.01197: DOORPING.
    """

    def __init__(
        self,
        students: Students[S],
        *,
        poisoned: PoisonedData,
        trigger: Trigger,
        settings: DoorpingSettings,
        victims: Students[nn.Module] | None = None,
    ) -> None:
        self._students, self._victims = students, victims
        self._poisoned, self._settings = poisoned, settings
        self._served = 0
        self._stamp(trigger)

    def next(self, real: Source, syn: dd.SyntheticSet, rng: torch.Generator) -> S:
        """Return the recipe's next student, after an optimisation of the trigger if one is due.

        Raises:
            TypeError: If there is no supply of victims and the recipe's student is not a network.
        """
        student = self._students.next(real, syn, rng)
        if self._served % self._settings.every == 0:
            key = derive(rng, "trigger")
            network: object = student
            if self._victims is not None:
                network = self._victims.next(real, syn, derive(key, "victims"))
            if not isinstance(network, nn.Module):
                raise TypeError(
                    f"students must be networks, or victims be given, got {type(network).__name__}: pass "
                    "victims=, such as TrainedVictims"
                )
            self._stamp(optimised_trigger(network, self._poisoned, self.trigger, self._settings, key))
        self._served += 1
        return student

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both supplies, the colours of the trigger and the number of steps so far."""
        return {
            "students": self._students.state_dict(),
            "victims": None if self._victims is None else self._victims.state_dict(),
            "patch": self.trigger.patch,
            "served": self._served,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of `state_dict`, and stamp the poisoned images with the stored trigger."""
        self._students.load_state_dict(state["students"])
        if self._victims is not None:
            self._victims.load_state_dict(state["victims"])
        self._served = state["served"]
        self._stamp(dataclasses.replace(self.trigger, patch=state["patch"]))

    def _stamp(self, trigger: Trigger) -> None:
        self.trigger = trigger
        self._poisoned.restamp_(trigger)


class BackdooredSet(NamedTuple):
    """Distilled set with a backdoor, and the trigger of the backdoor.

    Attributes:
        distilled: Distilled set with the backdoor.
        trigger: Trigger that activates the backdoor.
    """

    distilled: dd.Distilled
    trigger: Trigger


def distil_doorping(
    recipe: IterativeRecipe,
    poisoned: PoisonedData,
    trigger: Trigger,
    *,
    settings: DoorpingSettings,
    make_student: MakeStudent | None = None,
    seed: int | torch.Generator = 0,
    victims: Students[nn.Module] | None = None,
    rounds: int = 1,
) -> BackdooredSet:
    """Return a set with a backdoor: a recipe runs on poisoned data while the trigger is optimised.

    A set that starts from real images copies the initial colours of the trigger, and gradient steps change them slowly.
    A further round starts anew with the optimised colours of the round before. Networks that a recipe trains before its
    first step (experts, teachers) train on images with the initial trigger of the round.

    Args:
        recipe: Recipe that distils the poisoned data.
        poisoned: Poisoned data that is distilled. Its images are changed in place, so they must not be whitened.
        trigger: Trigger at the start of the first round.
        settings: Aim and hyperparameters of the trigger optimisation.
        make_student: Factory of the recipe's networks; None takes the network of the recipe's protocol.
        seed: Root of all random numbers: an integer, or a generator, which is not advanced.
        victims: Supply of the networks for which the trigger is optimised, see `DoorpingStudents`; None takes the
            recipe's students.
        rounds: Number of runs, each from the trigger of the run before; the set of the last run is the result.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness.backdoor import DoorpingSettings, Trigger, distil_doorping, poison
        >>> real = ddsdk.load("digits")
        >>> trigger = Trigger.corner(real.image_shape)
        >>> poisoned = poison(real, trigger, target=0, fraction=0.01, rng=ddsdk.generator("poison"))
        >>> backdoored = distil_doorping(
        ...     ddsdk.DM(ipc=1, steps=1), poisoned, trigger, settings=DoorpingSettings(steps=2)
        ... )
        >>> backdoored.trigger.patch.shape
        torch.Size([1, 2, 2])

    References:
        Liu et al., "Backdoor Attacks Against Dataset Distillation", NDSS 2023, arXiv:2301.01197: DOORPING.
    """
    require_count("rounds", rounds)
    rng, seconds = as_generator(seed), 0.0
    for _ in range(rounds):

        def with_trigger(plan: dd.Plan[Any], trigger: Trigger = trigger) -> dd.Plan[Any]:
            students = DoorpingStudents(
                plan.students, poisoned=poisoned, trigger=trigger, settings=settings, victims=victims
            )
            return dataclasses.replace(plan, students=students)

        # Before `Run` is built: it hashes the data to find trained networks in the cache.
        poisoned.restamp_(trigger)
        run = Run(recipe, poisoned.data, make_student=make_student, seed=rng, transform=with_trigger)
        distilled = run.complete()
        students: Any = run.distillation.plan.students
        trigger = students.trigger
        seconds += distilled.provenance["seconds"]
    provenance = {**distilled.provenance, "seconds": round(seconds, 3)}
    return BackdooredSet(dataclasses.replace(distilled, provenance=provenance), trigger)
