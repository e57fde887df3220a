"""Students that never change: networks that were trained before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, final

import torch

from ddsdk.data import Source
from ddsdk.foundation import generator, require_count
from ddsdk.networks import NetworkFactory, has_batch_norm, network_factory
from ddsdk.students.fresh import MakeStudent
from ddsdk.synthetic import SyntheticSet

S = TypeVar("S")


@final
class FixedTeachers(Generic[S]):
    """A supply of fixed teachers: each step has one of them, drawn at random if there are several.

    Args:
        teacher: Gives teacher i, such as ``runs.network`` of `TrainedRuns`. Called once for each, at first use.
        count: Number of teachers.
    """

    def __init__(self, teacher: Callable[[int], S], count: int = 1) -> None:
        require_count("count", count)
        self._teacher = teacher
        self._count = count
        self._known: dict[int, S] = {}

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> S:  # noqa: ARG002
        """Return the teacher of a step."""
        return self.draw(rng)

    def draw(self, rng: torch.Generator) -> S:
        """Return one of the teachers, at random if there are several."""
        i = int(torch.randint(self._count, (), generator=rng))
        if i not in self._known:
            self._known[i] = self._teacher(i)
        return self._known[i]

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no memory from one step to the next."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


def batch_norm_student(make_student: MakeStudent) -> MakeStudent:
    """Return `make_student` if its networks have BatchNorm, else the same network of the catalogue with it.

    Args:
        make_student: Builds a network from a generator.

    Raises:
        ValueError: If the network has no BatchNorm and the catalogue has none like it that has.
    """
    if has_batch_norm(make_student(generator("template"))):
        return make_student
    if isinstance(make_student, NetworkFactory) and "norm" in make_student.options:
        name, shape, classes = make_student.name, make_student.image_shape, make_student.num_classes
        return network_factory(name, shape, classes, **{**make_student.options, "norm": "batch"})
    found = make_student.name if isinstance(make_student, NetworkFactory) else repr(make_student)
    raise ValueError(
        f"student must have BatchNorm layers, or be a network of the catalogue with an option norm, got {found}"
    )
