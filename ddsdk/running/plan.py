"""The plan of a distillation: its exchangeable parts, and a finished step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ddsdk.foundation import CheckedDataclass, PositiveFloat, PositiveInt, require
from ddsdk.objectives import Objective
from ddsdk.students import Students
from ddsdk.synthetic import SyntheticSet

S = TypeVar("S")


@dataclass(frozen=True)
class ObjectiveSchedule(Generic[S]):
    """An objective that depends on the outer step.

    Attributes:
        at: Function from the step, counted from 0, to the objective of that step.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.running import ObjectiveSchedule
        >>> real = ddsdk.load("digits")
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> plan = ddsdk.DM(ipc=1, steps=4).plan(real, make_student=make_student, rng=ddsdk.generator(0))
        >>> small, large = (dataclasses.replace(plan.objective, real_batch=n) for n in (16, 64))
        >>> plan = dataclasses.replace(plan, objective=ObjectiveSchedule(lambda step: small if step < 2 else large))
        >>> [plan.objective_at(step).real_batch for step in range(4)]
        [16, 16, 64, 64]
    """

    at: Callable[[int], Objective[S]]


@dataclass(frozen=True, kw_only=True)
class Plan(CheckedDataclass, Generic[S]):
    """The interchangeable parts of one distillation. `dataclasses.replace` exchanges a part.

    Attributes:
        syn: Synthetic set at its start, which the loop updates in place.
        objective: Loss of the synthetic set, or a schedule of losses.
        students: Supply of the student networks, one student for each step.
        make_optimizer: Function from the set to the optimizer of its parameters.
        steps: Number of outer steps.
        average: Decay, in (0, 1), of an exponential moving average of images and labels; the average is then the
            result, with the last learned learning rates. None for no average.
        skip_above: Loss above which a step is skipped: it changes nothing and is counted. None for no such bound.
        clip_norm: Largest norm of the gradient of a step; a larger gradient is scaled down to it. None for no such
            bound.
        clip_ratio: Largest norm of the gradient, as a multiple (at least 1) of an exponential moving average of the
            clipped norms so far, with decay 0.9. None for no such bound.
        penalty: Regulariser of the set, a loss term without real data, such as on the edges of a graph. None for no
            regulariser.
        reduce: Function `(parameters, loss) -> loss` that is called after the backward pass and may change the
            gradients of the parameters in place. `ddsdk.running.ProcessSum` sums both over processes. None for no
            reduction.
        rate_at: Learning-rate schedule: function from the step, counted from 0, to a factor on the optimizer's
            learning rates. None for constant rates.
        finish: Function `(syn, rng) -> syn` that is applied to the final set, such as for soft labels of a teacher.
            None for the set itself.
        validate: Function from a set to its validation score, larger is better, such as the accuracy of a network
            trained on it. The best of the scored sets is then the result, and the start is scored first. None for the
            set of the last step.
        validate_every: Steps between two validations; the last step is always validated.
        divergence_hint: Names of the hyperparameters that the error message of a diverged run advises to lower.
        trial: Number of steps on which `ddsdk.running.estimate` measures the cost; enough of them to include an update
            of the students, for supplies that train students between steps.

    Examples:
        >>> import dataclasses, ddsdk
        >>> real = ddsdk.load("digits")
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> plan = ddsdk.DM(ipc=1).plan(real, make_student=make_student, rng=ddsdk.generator(0))
        >>> plan = dataclasses.replace(plan, steps=2, clip_norm=1.0, average=0.9)
        >>> plan.steps, plan.clip_norm
        (2, 1.0)
    """

    syn: SyntheticSet
    objective: Objective[S] | ObjectiveSchedule[S]
    students: Students[S]
    make_optimizer: Callable[[SyntheticSet], torch.optim.Optimizer]
    steps: PositiveInt
    average: float | None = None
    skip_above: PositiveFloat | None = None
    clip_norm: PositiveFloat | None = None
    clip_ratio: float | None = None
    penalty: Callable[[SyntheticSet], Tensor] | None = None
    reduce: Callable[[Sequence[Tensor], float], float] | None = None
    rate_at: Callable[[int], float] | None = None
    finish: Callable[[SyntheticSet, torch.Generator], SyntheticSet] | None = None
    validate: Callable[[SyntheticSet], float] | None = None
    validate_every: PositiveInt = 100
    divergence_hint: str = "image_lr"
    trial: PositiveInt = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.average is not None:
            require(0 < self.average < 1, "average", "lie strictly between 0 and 1", self.average)
        if self.clip_ratio is not None:
            require(1 <= self.clip_ratio < math.inf, "clip_ratio", "be at least 1 and finite", self.clip_ratio)

    def objective_at(self, step: int) -> Objective[S]:
        """Return the objective of a step, counted from 0."""
        return self.objective.at(step) if isinstance(self.objective, ObjectiveSchedule) else self.objective


class Step(NamedTuple):
    """One finished outer step.

    Attributes:
        number: Number of the step, counted from 1.
        loss: Sum of the objective's terms and the regulariser, before the update.
        syn: Synthetic set after the update; the same object at every step.
    """

    number: int
    loss: float
    syn: SyntheticSet
