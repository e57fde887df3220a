"""A trigger that is optimised while the set is distilled."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.data import Source
from ddsdk.foundation import Checked, NonNegativeFloat, PositiveFloat, PositiveInt, derive, require, require_count, root
from ddsdk.recipes import IterativeRecipe
from ddsdk.running import Run
from ddsdk.students import Lesson, MakeStudent, OnSynthetic, Students, enrol
from ddsdk_integrations.robustness.backdoor.triggers import Poisoned, Trigger

S = TypeVar("S")
_MARGIN = 1e-3
"""Colours are moved as logits, which have no end at 0 and 1."""


@final
@dataclass(frozen=True, kw_only=True)
class Doorping(Checked):
    """Settings of a trigger that follows the networks of a run.

    Aim, neurons, factor, bound, rate and steps are those of the authors' code, which follows every network update.

    Attributes:
        aim: ``"neuron"``: raise the response of the features with the largest incoming weights to `factor` times what
            it was (published). ``"label"``: let the networks take stamped images of other classes for the target.
        neurons: Number of channels of the last layer before the head that count; ``"neuron"`` only.
        factor: Factor of the response; ``"neuron"`` only.
        stop_below: Loss below which the optimisation stops.
        lr: Learning rate of the pixels of the patch (Adam).
        steps: Largest number of Adam steps, each time.
        every: Steps of the distillation between two times.
        images: Largest number of originals that are stamped in an Adam step.
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
    network: nn.Module, poisoned: Poisoned, trigger: Trigger, settings: Doorping, rng: torch.Generator
) -> Trigger:
    """Return `trigger` with the colours that the network answers to; its place stays.

    Args:
        network: Network from images of the value space to logits; for the aim ``"neuron"`` one of the catalogue.
        poisoned: Data whose originals are stamped.
        trigger: Trigger at the start.
        settings: Aim and optimisation.
        rng: Generator of the choice of images.

    Raises:
        ValueError: If the aim is ``"neuron"`` and the network has no layer of weights before its head, fewer channels
            than `neurons`, or features that are not those of its channels.

    Cost: `settings.steps` forward and backward passes over `settings.images` images.
    """
    picked = torch.randperm(len(poisoned.originals), generator=rng)[: settings.images]
    originals = poisoned.originals[picked.to(poisoned.originals.device)]
    patch = trigger.patch.detach().to(originals.device).clamp(_MARGIN, 1 - _MARGIN).logit().requires_grad_()
    optimizer = torch.optim.Adam([patch], lr=settings.lr)
    answer = _Answer(network, poisoned, settings)
    for _ in range(settings.steps):
        shown = dataclasses.replace(trigger, patch=patch.sigmoid()).stamp(originals)
        loss = answer(shown)
        if float(loss.detach()) < settings.stop_below:
            break
        (patch.grad,) = torch.autograd.grad(loss, [patch])
        optimizer.step()
    return dataclasses.replace(trigger, patch=patch.detach().sigmoid().cpu())


class _Answer:
    """The loss of an aim on one network."""

    def __init__(self, network: nn.Module, poisoned: Poisoned, settings: Doorping) -> None:
        self._network, self._poisoned, self._settings = network, poisoned, settings
        self._channels = _largest_channels(network, settings.neurons) if settings.aim == "neuron" else None
        self._wanted: Tensor | None = None

    def __call__(self, unit: Tensor) -> Tensor:
        x = self._poisoned.data.preprocess(unit)
        if self._channels is None:
            target = torch.full((len(x),), self._poisoned.target, device=x.device)
            return cross_entropy(self._network(x), target)
        layers, chosen = self._channels
        features = self._network.embed(x)  # type: ignore[operator]
        rule = f"have features in {layers} channels, as its last layer of weights"
        require(features.shape[1] % layers == 0, "network", rule, features.shape[1])
        response = features.reshape(len(x), layers, -1)[:, chosen].mean(2)
        if self._wanted is None:
            self._wanted = self._settings.factor * response.detach()
        loss: Tensor = (response - self._wanted).square().mean()
        return loss


def _largest_channels(network: nn.Module, count: int) -> tuple[int, Tensor]:
    """Return the number of channels of the last layer before the head, and those with the largest incoming weights."""
    body = getattr(network, "body", None)
    weights = [] if body is None else [p for p in body.parameters() if p.ndim >= 2]
    require(bool(weights), "network", "have a layer of weights before its head", type(network).__name__)
    size = weights[-1].detach().flatten(1).abs().sum(1)
    require(count <= len(size), "neurons", f"be at most the {len(size)} of the last layer", count)
    return len(size), size.topk(count).indices


@final
@dataclass(frozen=True, kw_only=True)
class TrainedVictims(Checked):
    """A supply of networks that were trained on the synthetic set as it is now, each from a new start.

    These are what a victim will train; the students of a recipe may be others, or random.

    Attributes:
        make_student: Factory of the networks.
        lesson: Training of each network.
        lr: Learning rate of SGD with momentum 0.9.
    """

    make_student: MakeStudent
    lesson: Lesson = OnSynthetic(epochs=40)  # noqa: RUF009 - a frozen value
    lr: PositiveFloat = 0.03

    def next(self, real: Source, syn: dd.SyntheticSet, rng: torch.Generator) -> nn.Module:
        """Return a new network after its lesson."""
        network = enrol(self.make_student, real, derive(rng, "start"))
        optimizer = torch.optim.SGD(network.parameters(), lr=self.lr, momentum=0.9)
        self.lesson(network, optimizer, real, syn, derive(rng, "lesson"))
        return network

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no memory from one network to the next."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


@final
class DoorpingStudents(Generic[S]):
    """A supply of students that lets the trigger follow networks of the run, and stamps the poisoned images again.

    It hands out what the supply of a recipe hands out, so it takes the place of any: ``dataclasses.replace(plan,
    students=...)``.

    Args:
        students: Supply of the recipe itself.
        victims: Supply of the networks that the trigger follows, such as `TrainedVictims`. None takes the recipe's own
            students, which then must be networks.
        poisoned: Data that is distilled; it is stamped again in place, and so may be given to one run only.
        trigger: Trigger at the start.
        settings: Aim and optimisation of the trigger.

    Differences from the published algorithm: colours are moved as logits, so they stay in the unit range; the response
    is the mean over places of a channel and over stamped images.

    References:
        Liu et al., "Backdoor Attacks Against Dataset Distillation", NDSS 2023, arXiv:2301.01197: DOORPING.
    """

    def __init__(
        self,
        students: Students[S],
        *,
        poisoned: Poisoned,
        trigger: Trigger,
        settings: Doorping,
        victims: Students[nn.Module] | None = None,
    ) -> None:
        self._students, self._victims = students, victims
        self._poisoned, self._settings = poisoned, settings
        self._served = 0
        self._stamp(trigger)

    def next(self, real: Source, syn: dd.SyntheticSet, rng: torch.Generator) -> S:
        """Return the recipe's student, after the trigger has followed."""
        student = self._students.next(real, syn, rng)
        if self._served % self._settings.every == 0:
            key = derive(rng, "trigger")
            network: object = student
            if self._victims is not None:
                network = self._victims.next(real, syn, derive(key, "victims"))
            if not isinstance(network, nn.Module):
                raise TypeError(f"students must be networks, or victims be given, got {type(network).__name__}")
            self._stamp(optimised_trigger(network, self._poisoned, self.trigger, self._settings, key))
        self._served += 1
        return student

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both supplies, the colours of the trigger and the number of steps that it has seen."""
        return {
            "students": self._students.state_dict(),
            "victims": None if self._victims is None else self._victims.state_dict(),
            "patch": self.trigger.patch,
            "served": self._served,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave, and stamp the images so again."""
        self._students.load_state_dict(state["students"])
        if self._victims is not None:
            self._victims.load_state_dict(state["victims"])
        self._served = state["served"]
        self._stamp(dataclasses.replace(self.trigger, patch=state["patch"]))

    def _stamp(self, trigger: Trigger) -> None:
        self.trigger = trigger
        self._poisoned.restamp_(trigger)


class Opened(NamedTuple):
    """A set with a back door.

    Attributes:
        distilled: Set with the door.
        trigger: Trigger that opens it.
    """

    distilled: dd.Distilled
    trigger: Trigger


def distil_doorping(
    recipe: IterativeRecipe,
    poisoned: Poisoned,
    trigger: Trigger,
    *,
    settings: Doorping,
    make_student: MakeStudent | None = None,
    seed: int | torch.Generator = 0,
    victims: Students[nn.Module] | None = None,
    rounds: int = 1,
) -> Opened:
    """Run a recipe on poisoned data with a trigger that follows the run.

    A set that starts from real images copies the first colours of the trigger, and steps change them slowly. A second
    round starts anew with the colours that the first one found.

    Networks that a recipe trains before its first step (experts, teachers) see the trigger with which the round starts.

    Args:
        recipe: Recipe that runs the loop.
        poisoned: Data that is distilled; its images change, and so must not be whitened.
        trigger: Trigger at the start.
        settings: Optimisation of the trigger.
        make_student: Factory of the recipe's networks; None takes the network of its own protocol.
        seed: Root of every random number: an integer, or a generator, which is not advanced.
        victims: Supply of the networks that the trigger follows, see `DoorpingStudents`; None for the recipe's own.
        rounds: Number of runs, each from the trigger of the one before; the last one's set is the result.
    """
    require_count("rounds", rounds)
    rng, seconds = root(seed), 0.0
    for _ in range(rounds):

        def followed(plan: dd.Plan[Any], trigger: Trigger = trigger) -> dd.Plan[Any]:
            students = DoorpingStudents(
                plan.students, poisoned=poisoned, trigger=trigger, settings=settings, victims=victims
            )
            return dataclasses.replace(plan, students=students)

        # Before the run is made, which hashes the data for the networks that it trains.
        poisoned.restamp_(trigger)
        run = Run(recipe, poisoned.data, make_student=make_student, seed=rng, transform=followed)
        distilled = run.complete()
        students: Any = run.distillation.plan.students
        trigger = students.trigger
        seconds += distilled.provenance["seconds"]
    told = {**distilled.provenance, "seconds": round(seconds, 3)}
    return Opened(dataclasses.replace(distilled, provenance=told), trigger)
