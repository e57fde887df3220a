"""A queue of networks of different ages, some of which train at every step."""

from __future__ import annotations

from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from ddsdk.data import Source
from ddsdk.foundation import derive, generator, require_count
from ddsdk.students.fresh import MakeStudent, prepare_student
from ddsdk.students.plateau import Check
from ddsdk.students.supply import Unchanging
from ddsdk.students.updates import StudentUpdate
from ddsdk.synthetic import SyntheticSet


class ScoredStudent(NamedTuple):
    """A network with its accuracy.

    Attributes:
        network: Network of the step; the next step may overwrite its weights.
        accuracy: Accuracy on real images, 0..1, after its last update; 0 before the first update.

    Examples:
        >>> from operator import attrgetter
        >>> from ddsdk.objectives import ClassMatch, PartObjective, mean_embedding, squared
        >>> match = ClassMatch(byproduct=mean_embedding, distance=squared)
        >>> objective = PartObjective(attrgetter("network"), match)  # for a plan with QueueStudents
    """

    network: nn.Module
    accuracy: float


@final
class QueueStudents:
    """A supply of a random network of a queue; some networks of the queue train between two steps.

    Every `push_every` steps a network with random weights joins the queue, and the oldest network leaves a full queue.
    The queue so has students of all stages of training, for the cost of a few batches at each step.

    Args:
        make_student: Factory of the networks.
        update: Training of a network between two steps.
        check: Measure of the accuracy after an update, such as `accuracy_on`.
        queue: Largest number of networks. The memory and every checkpoint of a run hold their weights: 100 ConvNets of
            width 128 take 128 MB, of width 32 10 MB.
        first: Number of networks at the first step.
        push_every: Number of steps between two new networks.
        trained: Number of networks that train between two steps.
        lr: Learning rate of the networks (SGD).
        momentum: Momentum within one update; each update starts with an empty momentum buffer.

    References:
        Zhao et al., "Improved Distribution Matching for Dataset Condensation", CVPR 2023, arXiv:2307.09742.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.students import QueueStudents, TrainOnReal, accuracy_on
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> supply = QueueStudents(make_student, TrainOnReal(steps=1), accuracy_on(50), queue=4)
        >>> supply.next(ddsdk.load("digits"), None, ddsdk.generator(0)).accuracy
        0.0
    """

    def __init__(
        self,
        make_student: MakeStudent,
        update: StudentUpdate,
        check: Check,
        *,
        queue: int = 100,
        first: int = 3,
        push_every: int = 30,
        trained: int = 2,
        lr: float = 0.01,
        momentum: float = 0.9,
    ) -> None:
        counts = {"queue": queue, "first": first, "push_every": push_every, "trained": trained}
        for name, value in counts.items():
            require_count(name, value)
        self._make_student, self._update, self._check = make_student, update, check
        self._queue, self._first, self._push_every, self._trained = queue, first, push_every, trained
        self._sgd: dict[str, Any] = {"lr": lr, "momentum": momentum}
        self._served = 0
        # Vectors are replaced and never changed in place, so that snapshots of a run share them.
        self._vectors: list[Tensor] = []
        self._accuracies: list[float] = []
        self._network: nn.Module | None = None

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> ScoredStudent:
        """Return a random network of the queue, after the updates between two steps."""
        if self._network is None:
            self._network = prepare_student(self._make_student, real, generator("template"))
        if self._served == 0:
            for i in range(min(self._first, self._queue)):
                self._push(real, derive(rng, "first", i))
        else:
            self._train_some(self._network, real, syn, derive(rng, "lessons"))
            if self._served % self._push_every == 0:
                self._push(real, derive(rng, "fresh"))
        self._served += 1
        position = int(torch.randint(len(self._vectors), (), generator=derive(rng, "pick")))
        _write(self._network, self._vectors[position])
        return ScoredStudent(self._network, self._accuracies[position])

    def state_dict(self) -> dict[str, Any]:
        """Return the weights and accuracies of the queue, oldest first, and the number of steps so far."""
        return {"served": self._served, "vectors": Unchanging(self._vectors), "accuracies": list(self._accuracies)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from the result of `state_dict`."""
        self._served = state["served"]
        self._vectors = list(state["vectors"])
        self._accuracies = list(state["accuracies"])

    def _push(self, real: Source, rng: torch.Generator) -> None:
        self._vectors.append(_read(prepare_student(self._make_student, real, rng)))
        self._accuracies.append(0.0)
        del self._vectors[: -self._queue], self._accuracies[: -self._queue]

    def _train_some(self, network: nn.Module, real: Source, syn: SyntheticSet, rng: torch.Generator) -> None:
        positions = torch.randperm(len(self._vectors), generator=derive(rng, "chosen"))[: self._trained]
        for position in positions.tolist():
            _write(network, self._vectors[position])
            optimizer = torch.optim.SGD(network.parameters(), **self._sgd)
            self._update(network, optimizer, real, syn, derive(rng, "lesson", position))
            self._accuracies[position] = self._check(network, real, derive(rng, "check", position))
            self._vectors[position] = _read(network)


def _state(network: nn.Module) -> list[Tensor]:
    """Return weights and normalisation statistics, without the integer counters, which frozen layers do not use."""
    return [t for t in network.state_dict().values() if t.is_floating_point()]


def _read(network: nn.Module) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in _state(network)])


def _write(network: nn.Module, vector: Tensor) -> None:
    tensors = _state(network)
    with torch.no_grad():
        for tensor, values in zip(tensors, torch.split(vector, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))
