"""A queue of networks of all ages, some of which train on real data at every step."""

from __future__ import annotations

from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from ddsdk.data import Source
from ddsdk.foundation import derive, generator, require_count
from ddsdk.students.fresh import MakeStudent, enrol
from ddsdk.students.lessons import Lesson
from ddsdk.students.plateau import Check
from ddsdk.synthetic import SyntheticSet


class Rated(NamedTuple):
    """A network with its accuracy.

    Attributes:
        network: Network; the next step may change its weights.
        accuracy: Accuracy on real images, 0..1, after its last lesson; 0 before the first one.
    """

    network: nn.Module
    accuracy: float


@final
class QueueStudents:
    """One network of a queue at random for each step; between two steps some of the queue have a lesson.

    Every `push_every` steps a fresh network joins, and the oldest one leaves a full queue. So all ages of training
    are there at once, for the price of a few real batches at each step.

    Args:
        make_student: Factory of the networks.
        lesson: Lesson of a network between two steps.
        check: Measure of its accuracy after a lesson.
        queue: Largest number of networks. They are part of every snapshot of a run, as flat vectors: 100 ConvNets of
            width 128 take 128 MB, and of width 32 take 10 MB; ten are enough for a run of some minutes.
        first: Networks at the start.
        push_every: Steps between two fresh networks.
        trained: Networks that have a lesson between two steps.
        lr: Learning rate of the networks (SGD).
        momentum: Momentum within a lesson; it is not kept from one lesson to the next.

    References:
        Zhao et al., "Improved Distribution Matching for Dataset Condensation", CVPR 2023, arXiv:2307.09742.
    """

    def __init__(
        self,
        make_student: MakeStudent,
        lesson: Lesson,
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
        self._make_student, self._lesson, self._check = make_student, lesson, check
        self._queue, self._first, self._push_every, self._trained = queue, first, push_every, trained
        self._sgd: dict[str, Any] = {"lr": lr, "momentum": momentum}
        self._served = 0
        # Vectors are replaced and never written to, so that a state may share them.
        self._vectors: list[Tensor] = []
        self._accuracies: list[float] = []
        self._network: nn.Module | None = None

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> Rated:
        """Return one of the networks, after the lessons of some."""
        if self._network is None:
            self._network = enrol(self._make_student, real, generator("template"))
        if self._served == 0:
            for i in range(min(self._first, self._queue)):
                self._push(real, derive(rng, "first", i))
        else:
            self._teach(self._network, real, syn, derive(rng, "lessons"))
            if self._served % self._push_every == 0:
                self._push(real, derive(rng, "fresh"))
        self._served += 1
        at = int(torch.randint(len(self._vectors), (), generator=derive(rng, "pick")))
        _write(self._network, self._vectors[at])
        return Rated(self._network, self._accuracies[at])

    def state_dict(self) -> dict[str, Any]:
        """Return the weights and accuracies of the queue, oldest first, and the number of steps served."""
        return {"served": self._served, "vectors": list(self._vectors), "accuracies": list(self._accuracies)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self._served = state["served"]
        self._vectors = list(state["vectors"])
        self._accuracies = list(state["accuracies"])

    def _push(self, real: Source, rng: torch.Generator) -> None:
        self._vectors.append(_read(enrol(self._make_student, real, rng)))
        self._accuracies.append(0.0)
        del self._vectors[: -self._queue], self._accuracies[: -self._queue]

    def _teach(self, network: nn.Module, real: Source, syn: SyntheticSet, rng: torch.Generator) -> None:
        chosen = torch.randperm(len(self._vectors), generator=derive(rng, "chosen"))[: self._trained]
        for at in chosen.tolist():
            _write(network, self._vectors[at])
            optimizer = torch.optim.SGD(network.parameters(), **self._sgd)
            self._lesson(network, optimizer, real, syn, derive(rng, "lesson", at))
            self._accuracies[at] = self._check(network, real, derive(rng, "check", at))
            self._vectors[at] = _read(network)


def _state(network: nn.Module) -> list[Tensor]:
    """Return the weights and the statistics of normalisation; counters are of no use to frozen ones."""
    return [t for t in network.state_dict().values() if t.is_floating_point()]


def _read(network: nn.Module) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in _state(network)])


def _write(network: nn.Module, vector: Tensor) -> None:
    places = _state(network)
    with torch.no_grad():
        for place, piece in zip(places, torch.split(vector, [t.numel() for t in places]), strict=True):
            place.copy_(piece.view_as(place))
