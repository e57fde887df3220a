"""Steps over a part of the classes, for objectives that are sums over classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, final

import torch
from torch import Tensor

from ddsdk.data import Batch, Source
from ddsdk.foundation import derive, require_count
from ddsdk.objectives.base import Objective
from ddsdk.synthetic import SyntheticView

S = TypeVar("S")


@final
@dataclass(frozen=True)
class ClassGroup(Generic[S]):
    """The terms of an objective for some classes; the objective must be a sum over classes.

    The set seems to have no images of the other classes, for which such objectives yield no term and draw no real
    images.

    Attributes:
        objective: Objective that yields terms for each class alone, and none for a class without images.
        classes: Classes whose terms are yielded.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.objectives import ClassGroup
        >>> def swap(plan):
        ...     return dataclasses.replace(plan, objective=ClassGroup(plan.objective, frozenset({0, 3})))
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
    """

    objective: Objective[S]
    classes: frozenset[int]

    def __call__(self, student: S, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the terms of the classes of the group."""
        yield from self.objective(student, real, _GroupView(syn, self.classes), rng)


def class_groups(
    objective_at: Callable[[int], Objective[S]], num_classes: int, per_step: int, rng: torch.Generator
) -> Callable[[int], Objective[S]]:
    """Return the schedule of an objective in which each step has the terms of one group of classes.

    n = ceil(num_classes / per_step) steps are a pass over a new random partition of the classes into n groups, whose
    sizes differ by at most one. A class so has a term in exactly one step of each pass. The expected gradient of a step
    is 1/n times that of the full objective; terms are not scaled, so that a class moves as far in its step as in a step
    over all classes, and needs n times as many steps.

    Args:
        objective_at: Function from the step, counted from 0, to an objective that is a sum over classes.
        num_classes: Number of classes K.
        per_step: Largest number of classes in one step.
        rng: Root of the random partitions, which is not advanced.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.objectives import CrossEntropy, class_groups
        >>> at = class_groups(lambda step: CrossEntropy(), 10, 4, ddsdk.generator(0))
        >>> [len(at(step).classes) for step in range(3)]
        [4, 3, 3]
        >>> sorted(c for step in range(3) for c in at(step).classes) == list(range(10))
        True
    """
    require_count("per_step", per_step)
    if per_step >= num_classes:
        return objective_at
    groups = -(-num_classes // per_step)

    def at(step: int) -> Objective[S]:
        order = torch.randperm(num_classes, generator=derive(rng, "pass over the classes", step // groups))
        return ClassGroup(objective_at(step), frozenset(torch.tensor_split(order, groups)[step % groups].tolist()))

    return at


class _GroupView:
    """A view of a synthetic set in which only some classes have images."""

    def __init__(self, syn: SyntheticView, classes: frozenset[int]) -> None:
        self._syn, self._classes = syn, classes
        self.num_classes, self.device = syn.num_classes, syn.device

    @property
    def rate(self) -> Tensor:
        return self._syn.rate

    @property
    def scale(self) -> Tensor:
        return self._syn.scale

    def slots_of_class(self, c: int) -> Tensor:
        slots = self._syn.slots_of_class(c)
        return slots if c in self._classes else slots[:0]

    def of_class(self, c: int, n: int, rng: torch.Generator) -> Batch:
        if c in self._classes:
            return self._syn.of_class(c, n, rng)
        return Batch(torch.zeros(0, device=self.device), torch.zeros(0, self.num_classes, device=self.device))

    def at(self, slots: Tensor, rng: torch.Generator) -> Batch:
        return self._syn.at(slots, rng)

    def mixed(self, n: int, rng: torch.Generator) -> Batch:  # noqa: ARG002
        raise _mixes("mixed")

    def whole(self, rng: torch.Generator) -> Batch:  # noqa: ARG002
        raise _mixes("whole")


def _mixes(method: str) -> ValueError:
    return ValueError(f"objective must be a sum over classes to have steps over some of them, got a call of {method}")
