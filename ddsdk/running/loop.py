"""The one loop: step a synthetic set against real data under a supply of students."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, final

import torch
from torch import Tensor

from ddsdk.data import Source
from ddsdk.foundation import Checked, DivergedError, PositiveFloat, PositiveInt, derive, require, require_rng
from ddsdk.objectives import Objective
from ddsdk.students import Students
from ddsdk.synthetic import Leaves, SyntheticSet

_USUAL = 0.9
"""Decay of the moving average of gradient norms."""

_SKIPS = 100
"""Steps in a row that may be left out before the run counts as diverged."""

S = TypeVar("S")


@dataclass(frozen=True)
class Schedule(Generic[S]):
    """An objective that changes in the course of a run.

    Attributes:
        at: Step, counted from 0, to the objective of that step.
    """

    at: Callable[[int], Objective[S]]


@dataclass(frozen=True, kw_only=True)
class Plan(Checked, Generic[S]):
    """The parts of one distillation. Swap one with `dataclasses.replace`.

    Attributes:
        syn: Set at its start.
        objective: Function that is minimised.
        students: Supply of the student networks.
        make_optimizer: Function that builds the optimizer of the set's parameters.
        steps: Number of outer steps.
        average: Decay, in (0, 1), of an exponential moving average of everything the set stores; the average is then
            the result. None for the set of the last step.
        skip_above: Loss above which a step changes nothing and is counted; None for no such bound.
        clip_norm: Norm to which the gradient of a step is scaled down; None for no such bound.
        clip_ratio: Multiple, at least 1, of the usual norm to which the gradient of a step is scaled down. The usual
            norm is an exponential moving average, with decay 0.9, of the norms so far, each as it was cut. None for no
            such bound.
        penalty: Further term of what the set stores, without data, such as on the edges of a graph.
        reduce: Function of the parameters, whose gradients it may change, and of the loss after the terms of a step;
            it returns the loss that counts. `ddsdk.running.ProcessSum` sums both over processes.
        rate_at: Function from the step, counted from 0, to the factor on the optimizer's learning rates. None for 1.
        finish: Function `(syn, rng) -> syn` that makes the result of the set at the end, such as with soft labels.
        validate: Score of a set, such as the accuracy of a network trained on it. The best of the scored sets is then
            the result. None for the set of the last step.
        validate_every: Steps between two scores; the last step always has one.
        knobs: Parameters to change where the run diverges, for its error message.
        trial: Steps of a trial that measures time: as far as the first lesson of students that have some.
    """

    syn: SyntheticSet
    objective: Objective[S] | Schedule[S]
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
    knobs: str = "image_lr"
    trial: PositiveInt = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.average is not None:
            require(0 < self.average < 1, "average", "lie strictly between 0 and 1", self.average)
        if self.clip_ratio is not None:
            require(1 <= self.clip_ratio < math.inf, "clip_ratio", "be at least 1 and finite", self.clip_ratio)

    def objective_at(self, step: int) -> Objective[S]:
        """Return the objective of a step, counted from 0."""
        return self.objective.at(step) if isinstance(self.objective, Schedule) else self.objective


class Step(NamedTuple):
    """One finished step.

    Attributes:
        number: Counts from 1.
        loss: Sum of the objective's terms, before the update.
        syn: The set after the update; the same object at every step.
    """

    number: int
    loss: float
    syn: SyntheticSet


@final
class Distillation(Generic[S], Iterator[Step]):
    """Iterator over the steps of a plan.

    Each step derives its random numbers from (seed, step), so a run that is resumed from `state_dict` goes on
    bit for bit like one that was never stopped (on a CPU, with the same versions and number of threads).

    A step whose loss or result is not finite is undone together with the step before it, which made the set
    that it met; both are tried again with a learning rate `shrink` times as large, at most `retries` times in
    a run. A step that an exception breaks off, Ctrl-C included, is undone: the loop can go on afterwards.

    Args:
        plan: Parts of the loop. Its set is changed in place.
        real: Real data.
        rng: Root of every random number; it is not advanced.
        retries: Number of times that the learning rate may shrink.
        shrink: Factor of the learning rate, in (0, 1).

    Attributes:
        validations: Pairs (step, value) of the scores of the plan's `validate`.

    Raises:
        DivergedError: From `next`, when values are not finite and no retries are left. The set is then the last
            finite one; the error carries it as `syn`.
    """

    def __init__(
        self, plan: Plan[S], real: Source, *, rng: torch.Generator, retries: int = 5, shrink: float = 0.5
    ) -> None:
        require_rng(rng)
        require(retries >= 0, "retries", "be at least 0", retries)
        require(0 < shrink < 1, "shrink", "lie strictly between 0 and 1", shrink)
        self.plan = plan
        self.real = real
        self.index = 0
        self.shrunk = 0
        self.skipped = 0
        self.diverged = False
        self._rng = derive(rng)
        self._retries = retries
        self._shrink = shrink
        self._optimizer = plan.make_optimizer(plan.syn)
        self._in_a_row = 0
        self._usual_norm: float | None = None
        self._average = None if plan.average is None else copy.deepcopy(plan.syn.state_dict())
        self._best: dict[str, Any] | None = None
        self.validations: tuple[tuple[int, float], ...] = ()
        self._good = self._snapshot()

    def __iter__(self) -> Distillation[S]:
        """Return self: a distillation is its own iterator."""
        return self

    def __next__(self) -> Step:
        """Take one step."""
        while self.index < self.plan.steps:
            before = self._snapshot()
            try:
                loss = self._gradient()
                if math.isfinite(loss):
                    self._update(loss)
                    # Where this fails the gradient was at fault and not what came before: undo this step alone.
                    self._good = before
                    if self.plan.syn.is_finite():
                        self._follow()
                        self.index += 1
                        self._validate()
                        return Step(self.index, loss, self.plan.syn)
            except BaseException:
                self._restore(before)
                raise
            self._back_off(loss)
        raise StopIteration

    @property
    def result(self) -> SyntheticSet:
        """Finished set: the best one of a plan that validates, the moving average, or the set of the last step."""
        return self._result(self._average if self._best is None else self._best["syn"])

    def record(self) -> dict[str, float]:
        """Return the course of the run, for the provenance of its set."""
        return {
            "steps_done": self.index,
            "steps_skipped": self.skipped,
            "rate_reductions": self.shrunk,
            "diverged": self.diverged,
            **({} if self._best is None else {"best_step": self._best["step"], "best_value": self._best["value"]}),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, beside plan and data."""
        return {**self._snapshot(), "shrunk": self.shrunk, "good": self._good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self._restore(state)
        self.shrunk = state["shrunk"]
        self._good = copy.deepcopy(state["good"])

    def _result(self, state: dict[str, Any] | None) -> SyntheticSet:
        """Return the finished set with what `state` stores; None for what the plan's own set stores now."""
        syn = self.plan.syn
        if state is not None:
            syn = copy.deepcopy(syn)
            syn.load_state_dict(state)
        return syn if self.plan.finish is None else self.plan.finish(syn, derive(self._rng, "finish"))

    def _validate(self) -> None:
        plan = self.plan
        if plan.validate is None or (self.index % plan.validate_every and self.index < plan.steps):
            return
        value = float(plan.validate(self._result(self._average)))
        self.validations += ((self.index, value),)
        if self._best is None or value > self._best["value"]:
            state = plan.syn.state_dict() if self._average is None else self._average
            self._best = {"step": self.index, "value": value, "syn": copy.deepcopy(dict(state))}

    def _gradient(self) -> float:
        """Leave the gradient of this step in the parameters; return the loss."""
        syn, key = self.plan.syn, derive(self._rng, "step", self.index)
        student = self.plan.students.next(self.real, syn, derive(key, "students"))
        self._optimizer.zero_grad(set_to_none=True)
        leaves, total = Leaves(syn), 0.0
        objective = self.plan.objective_at(self.index)
        for term in objective(student, self.real, leaves, derive(key, "objective")):
            # Only the leaves get a gradient: a student's own parameters would cost a pass that nobody reads.
            torch.autograd.backward(term, inputs=leaves.inputs)
            leaves.pull_back()
            total += float(term.detach())
        leaves.finish()
        if self.plan.penalty is not None:
            penalty = self.plan.penalty(syn)
            torch.autograd.backward(penalty)
            total += float(penalty.detach())
        if self.plan.reduce is None:
            return total
        return self.plan.reduce([p for p in syn.parameters() if p.requires_grad], total)

    def _update(self, loss: float) -> None:
        plan = self.plan
        if plan.skip_above is not None and loss > plan.skip_above:
            self.skipped += 1
            self._in_a_row += 1
            if self._in_a_row == _SKIPS:
                self.diverged = True
                raise DivergedError(
                    f"the loss exceeded skip_above={plan.skip_above} in {_SKIPS} steps in a row, last {loss:.4g} in "
                    f"step {self.index + 1}. Raise skip_above, or lower {plan.knobs}.",
                    plan.syn,
                )
            return
        self._in_a_row = 0
        self._clip()
        groups = self._optimizer.param_groups
        rates = [group["lr"] for group in groups]
        factor = 1.0 if plan.rate_at is None else plan.rate_at(self.index)
        # The state of the optimizer holds the full rates: a step does not depend on those before it.
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * factor
        self._optimizer.step()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        plan.syn.project_()

    def _clip(self) -> None:
        plan, parameters = self.plan, list(self.plan.syn.parameters())
        if plan.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, plan.clip_norm)
        if plan.clip_ratio is None:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        # A first gradient of zero says nothing about what is usual.
        usual = self._usual_norm or norm
        bound = plan.clip_ratio * usual
        if norm > bound:
            for gradient in gradients:
                gradient.mul_(bound / norm)
        # One gradient of a thousand times the usual norm must not let the next ones pass.
        self._usual_norm = _USUAL * usual + (1 - _USUAL) * min(norm, bound)

    def _follow(self) -> None:
        """Move the average one step towards the set; it stays where the step was left out."""
        if self._average is None or self.plan.average is None or self._in_a_row:
            return
        for name, value in self.plan.syn.state_dict().items():
            if value.is_floating_point():
                self._average[name].lerp_(value, 1 - self.plan.average)

    def _back_off(self, loss: float) -> None:
        rates = [group["lr"] for group in self._optimizer.param_groups]
        failed = self.index
        self._restore(self._good)
        if self.shrunk == self._retries:
            self.diverged = True
            raise DivergedError(
                f"step {failed + 1} was not finite (loss {loss}) after {self.shrunk} reductions of the learning rate "
                f"to {rates}; the set is that of step {self.index}. Lower {self.plan.knobs}, or set clip_norm.",
                self.plan.syn,
            )
        self.shrunk += 1
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * self._shrink
        # A second failure at the same place must find the smaller rate too.
        self._good = self._snapshot()

    def _snapshot(self) -> dict[str, Any]:
        return copy.deepcopy(
            {
                "index": self.index,
                "syn": dict(self.plan.syn.state_dict()),
                "optimizer": self._optimizer.state_dict(),
                "students": self.plan.students.state_dict(),
                "skipped": (self.skipped, self._in_a_row),
                "usual_norm": self._usual_norm,
                "average": None if self._average is None else dict(self._average),
                "best": self._best,
                "validations": self.validations,
            }
        )

    def _restore(self, snapshot: dict[str, Any]) -> None:
        # load_state_dict of an optimizer keeps the tensors it is given.
        state = copy.deepcopy(snapshot)
        self.index = state["index"]
        self.plan.syn.load_state_dict(state["syn"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.plan.students.load_state_dict(state["students"])
        self.skipped, self._in_a_row = state["skipped"]
        # Runs that were kept before there was one have none.
        self._usual_norm = state.get("usual_norm")
        self._average = state["average"]
        self._best = state["best"]
        self.validations = state["validations"]
