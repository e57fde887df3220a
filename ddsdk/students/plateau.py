"""Students whose training and replacement depend on their accuracy on real data, within fixed limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from ddsdk.data import Source
from ddsdk.foundation import derive, require_count, require_positive
from ddsdk.students.alternating import MakeOptimizer, NetworkWithOptimizer
from ddsdk.students.fresh import MakeStudent
from ddsdk.students.updates import StudentUpdate
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import probabilities

Check = Callable[[nn.Module, Source, torch.Generator], float]
"""`(student, real, rng) -> accuracy`, 0..1."""


def accuracy_on(images: int) -> Check:
    """Return a check that measures the accuracy on at most `images` random real images.

    The network keeps its mode, because a change to evaluation mode and back would unfreeze batch statistics.

    Examples:
        >>> import ddsdk
        >>> student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)(ddsdk.generator(0))
        >>> 0 <= ddsdk.students.accuracy_on(100)(student, ddsdk.load("digits"), ddsdk.generator(1)) <= 1
        True
    """
    require_count("images", images)

    def check(student: nn.Module, real: Source, rng: torch.Generator) -> float:
        x, y = real.mixed(images, rng)
        correct = probabilities(student, x).argmax(1) == y.argmax(1)
        return float(correct.float().mean())

    return check


def spread(accuracies: Sequence[float], window: int) -> float:
    """Return the difference of the largest and the smallest of the last `window` accuracies."""
    last = accuracies[-window:]
    return max(last) - min(last)


def improves(accuracies: list[float], window: int) -> bool:
    """Return whether the moving average had its highest value within the last `window` accuracies.

    Args:
        accuracies: Accuracies in the order of their measurement, at least one.
        window: Length of the moving average, and number of accuracies without a new highest average that are allowed.
    """
    if len(accuracies) < window:
        return True
    averages = torch.tensor(accuracies, dtype=torch.float64).unfold(0, window, 1).mean(1)
    return len(averages) - 1 - int(averages.argmax()) < window


class CheckedStudents(ABC):
    """A supply of one network whose accuracy is checked when it is new and after each training between two steps.

    Args:
        make_student: Factory of the networks.
        update: Training of the network between two steps.
        check: Measure of the accuracy, such as `accuracy_on`.
        make_optimizer: Factory of the optimizer of a network's parameters.
    """

    def __init__(
        self, make_student: MakeStudent, update: StudentUpdate, check: Check, make_optimizer: MakeOptimizer
    ) -> None:
        self._update, self._check = update, check
        self._learner = NetworkWithOptimizer(make_student, make_optimizer)
        self._accuracies: list[float] = []

    @abstractmethod
    def is_done(self) -> bool:
        """Return whether a new network replaces the present one at the next step."""

    @abstractmethod
    def teach(
        self, student: nn.Module, optimizer: Optimizer, real: Source, syn: SyntheticSet, rng: torch.Generator
    ) -> float:
        """Train the network between two steps.

        Args:
            student: Network, changed in place.
            optimizer: Optimizer of its parameters.
            real: Real data of the distillation.
            syn: Synthetic set before the step.
            rng: Root of the random numbers of this training.

        Returns:
            The accuracy afterwards, 0..1.
        """

    @final
    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> nn.Module:
        """Return a new network, or the present one after its training."""
        if not self._accuracies or self.is_done():
            student, _ = self._learner.renewed(real, rng)
            self._accuracies = [self._check(student, real, derive(rng, "check"))]
        else:
            student, optimizer = self._learner.present(real, rng)
            self._accuracies = [*self._accuracies, self.teach(student, optimizer, real, syn, rng)]
        return student

    @final
    def state_dict(self) -> dict[str, Any]:
        """Return the states of the network and its optimizer, and the accuracies of this network so far."""
        return {"checks": list(self._accuracies), **self._learner.state_dict()}

    @final
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the result of `state_dict`; the network is built at the next step."""
        self._accuracies = list(state["checks"])
        self._learner.load_state_dict(state)


@final
class PlateauStudents(CheckedStudents):
    """A supply of one network that trains until its accuracy changes, and is replaced when its accuracy settles.

    Between two steps the network has updates until the last `window` accuracies differ by more than `moved`, at most
    `most_lessons` updates. A new network replaces it once the accuracies of the last `window` steps differ by less than
    `settled`, or after `longest` steps. The two limits bound the running time, because an accuracy may neither change
    nor settle.

    Args:
        make_student: Factory of the networks.
        update: Training of one update, such as `TrainOnSynthetic`.
        check: Measure of the accuracy, such as `accuracy_on`.
        longest: Largest number of steps for which one network is used.
        most_lessons: Largest number of updates between two steps; 0 leaves the network untrained.
        window: Number of accuracies that are compared, at least 2.
        settled: Spread of the accuracies below which the accuracy has settled.
        moved: Spread of the accuracies above which the accuracy has changed.
        lr: Learning rate of the network (SGD without momentum).

    References:
        Wang et al., "CAFE", CVPR 2022, arXiv:2203.01531, the dynamic bi-level optimisation.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.students import PlateauStudents, TrainOnReal, accuracy_on
        >>> make_student, update = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4), TrainOnReal(steps=1)
        >>> supply = PlateauStudents(make_student, update, accuracy_on(50), longest=5, most_lessons=2)
        >>> swap = lambda plan: dataclasses.replace(plan, students=supply)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
    """

    def __init__(
        self,
        make_student: MakeStudent,
        update: StudentUpdate,
        check: Check,
        *,
        longest: int,
        most_lessons: int,
        window: int = 10,
        settled: float = 0.04,
        moved: float = 0.03,
        lr: float = 0.01,
    ) -> None:
        require_count("longest", longest)
        require_count("most_lessons", most_lessons, least=0)
        require_count("window", window, least=2)
        for name, value in (("settled", settled), ("moved", moved), ("lr", lr)):
            require_positive(name, value)
        super().__init__(make_student, update, check, partial(SGD, lr=lr))
        self._longest, self._most_updates = longest, most_lessons
        self._window, self._settled, self._moved = window, settled, moved

    def is_done(self) -> bool:
        """Return whether the accuracy has settled, or the largest number of steps is reached."""
        steps = len(self._accuracies)
        settled = steps >= self._window and spread(self._accuracies, self._window) < self._settled
        return settled or steps >= self._longest

    def teach(
        self, student: nn.Module, optimizer: Optimizer, real: Source, syn: SyntheticSet, rng: torch.Generator
    ) -> float:
        """Return the accuracy after updates of the network until its accuracy has changed."""
        accuracies = [self._accuracies[-1]]
        for i in range(self._most_updates):
            self._update(student, optimizer, real, syn, derive(rng, "lesson", i))
            accuracies.append(self._check(student, real, derive(rng, "check", i)))
            if spread(accuracies, self._window) > self._moved:
                break
        return accuracies[-1]


@final
class OnlineStudents(CheckedStudents):
    """A supply of one network with an update after every step, which is replaced when its accuracy stops rising.

    A new network replaces it once the moving average over `window` accuracies has had no new highest value for another
    `window` steps, or after `longest` steps.

    Args:
        make_student: Factory of the networks.
        update: Training of the network between two steps.
        check: Measure of the accuracy, such as `accuracy_on`.
        window: Number of accuracies that are averaged.
        longest: Largest number of steps for which one network is used.
        lr: Learning rate of the network (Adam).

    References:
        Bohdal, Yang and Hospedales, "Flexible Dataset Distillation: Learn Labels Instead of Images", 2020,
        arXiv:2006.08572.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.students import OnlineStudents, TrainOnReal, accuracy_on
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> supply = OnlineStudents(make_student, TrainOnReal(steps=1), accuracy_on(50))
        >>> swap = lambda plan: dataclasses.replace(plan, students=supply)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
    """

    def __init__(
        self,
        make_student: MakeStudent,
        update: StudentUpdate,
        check: Check,
        *,
        window: int = 50,
        longest: int = 1000,
        lr: float = 1e-3,
    ) -> None:
        require_count("window", window)
        require_count("longest", longest)
        require_positive("lr", lr)
        super().__init__(make_student, update, check, partial(Adam, lr=lr))
        self._window, self._longest = window, longest

    def is_done(self) -> bool:
        """Return whether the accuracy has stopped rising, or the largest number of steps is reached."""
        return len(self._accuracies) >= self._longest or not improves(self._accuracies, self._window)

    def teach(
        self, student: nn.Module, optimizer: Optimizer, real: Source, syn: SyntheticSet, rng: torch.Generator
    ) -> float:
        """Return the accuracy after one update of the network."""
        self._update(student, optimizer, real, syn, derive(rng, "lesson"))
        return self._check(student, real, derive(rng, "check"))
