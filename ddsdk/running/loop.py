"""The outer loop of a distillation: each step updates a synthetic set against real data through student networks."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, Generic, TypeVar, final

import torch
from torch import Tensor

from ddsdk.data import Source
from ddsdk.foundation import DivergedError, derive, plain_torch, require, require_rng, seeded_layers
from ddsdk.networks import differentiable_attention
from ddsdk.running.plan import Plan, Step
from ddsdk.synthetic import LeafView, SyntheticSet
from ddsdk.training import MemoryFallback

_NORM_DECAY = 0.9
"""Decay of the moving average of gradient norms."""

_MAX_SKIPS = 100
"""Consecutive skipped steps after which a run counts as diverged."""

S = TypeVar("S")


@final
class Distillation(Generic[S], Iterator[Step]):
    """Iterator over the outer steps of a plan.

    Each step derives its random numbers from (seed, step). A run that is resumed from `state_dict` therefore continues
    bit for bit like an uninterrupted run, on a CPU with the same versions and number of threads.

    A step with a non-finite loss or result is undone together with the step before it, whose update may have caused
    it. Both are repeated with `shrink` times the learning rate, at most `retries` times in a run. A step that an
    exception interrupts, Ctrl-C included, is undone, and the loop can continue afterwards. A step that runs out of
    memory is repeated in micro-batches of half the size, which then hold for the rest of the run.

    Args:
        plan: Parts of the loop. Its set is changed in place.
        real: Real data that the students and the objective sample.
        rng: Root of all random numbers of the loop; it is not advanced.
        retries: Largest number of reductions of the learning rate; 0 for no repetition of a step, whatever the reason.
        shrink: Factor on the learning rate at each reduction, in (0, 1).

    Attributes:
        validations: Pairs (step, score) of the validations so far.

    Raises:
        MemoryError: From `next`, when memory runs out and no micro-batch can become smaller.
        DivergedError: From `next`, when values are not finite and no retries are left, or when 100 consecutive steps
            exceeded `skip_above`. The set is then the last finite one; the error carries it as `syn`.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> recipe = ddsdk.DM(ipc=1, steps=2, real_batch=16)
        >>> plan = recipe.plan(real, make_student=make_student, rng=ddsdk.generator(0))
        >>> loop = ddsdk.Distillation(plan, real, rng=ddsdk.generator(1))
        >>> [step.number for step in loop], len(loop.result)
        ([1, 2], 10)
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
        self.rate_reductions = 0
        self.skipped = 0
        self.diverged = False
        self._rng = derive(rng)
        self._retries = retries
        self._shrink = shrink
        self._optimizer = plan.make_optimizer(plan.syn)
        self._consecutive_skips = 0
        self._mean_norm: float | None = None
        self._average = None if plan.average is None else copy.deepcopy(dict(plan.syn.state_dict()))
        self._best: dict[str, Any] | None = None
        self.validations: tuple[tuple[int, float], ...] = ()
        self._memory = MemoryFallback()
        self._whole = True
        self._undo_state = self._snapshot()

    def __iter__(self) -> Distillation[S]:
        """Return self: a distillation is its own iterator."""
        return self

    @plain_torch()
    def __next__(self) -> Step:
        """Take one step.

        Returns:
            The finished step.

        Raises:
            StopIteration: After the last step.
        """
        self.score_start()
        while self.index < self.plan.steps:
            # Private methods have no retries, because each of their steps is a release. A step whose gradients were
            # summed over processes cannot be repeated by one of them alone.
            repeatable = self._retries and self.plan.reduce is None
            step, loss = self._memory(self._attempt) if repeatable else self._attempt()
            if step is not None:
                return step
            self._back_off(loss)
        raise StopIteration

    def score_start(self, known: float | None = None) -> None:
        """Validate the set before the first step, if the plan validates and the start has no score yet.

        Args:
            known: Score of the same start, such as that of a run of another length. None to compute it.
        """
        if self.plan.validate is None or self.index or self.validations:
            return
        score = self.plan.validate(self._result(self._average)) if known is None else known
        self._note_score(float(score))

    @property
    def result(self) -> SyntheticSet:
        """Final set: the best validated one, else the moving average, else the set of the last step."""
        return self._result(self._average if self._best is None else self._best["syn"])

    def record(self) -> dict[str, float]:
        """Return counts and the best validation of the run, for the provenance of its set."""
        return {
            "steps_done": self.index,
            "steps_skipped": self.skipped,
            "rate_reductions": self.rate_reductions,
            "diverged": self.diverged,
            **({} if self._memory.size is None else {"micro_batch": self._memory.size}),
            **({} if self._best is None else {"best_step": self._best["step"], "best_value": self._best["value"]}),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state that, with plan and data, determines all further steps."""
        self._require_whole()
        memory = {"micro_batch": self._memory.size, "keep_graphs": self._memory.keep_graphs}
        own = {"shrunk": self.rate_reductions, **memory}
        return {**self._snapshot(), **own, "good": self._undo_state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self._restore(state)
        self.rate_reductions = state["shrunk"]
        # Earlier checkpoints lack entries that were added later.
        self._memory.size = state.get("micro_batch")
        self._memory.keep_graphs = state.get("keep_graphs", True)
        self._undo_state = copy.deepcopy(state["good"])

    def _result(self, state: dict[str, Any] | None) -> SyntheticSet:
        """Return the final set with the parameters of `state`; None for the current ones."""
        syn = self.plan.syn
        if state is not None:
            syn = copy.deepcopy(syn)
            syn.load_state_dict(state)
        return syn if self.plan.finish is None else self.plan.finish(syn, derive(self._rng, "finish"))

    def _attempt(self) -> tuple[Step | None, float]:
        """Return the next step, None if it is not finite, and its loss; a step with an exception is undone."""
        self._require_whole()
        before, undo_state = self._snapshot(), self._undo_state
        try:
            with seeded_layers(derive(self._rng, "layers", self.index)), differentiable_attention():
                loss = self._gradient()
            if not math.isfinite(loss):
                return None, loss
            self._update(loss)
            # The loss was finite, so a non-finite set is the fault of this gradient: undo this step alone.
            self._undo_state = before
            if not self.plan.syn.is_finite():
                return None, loss
            self._update_average()
            self.index += 1
            self._validate()
            return Step(self.index, loss, self.plan.syn), loss
        except BaseException:
            self._undo_state = undo_state
            # Without a copy, for which there may be no memory: nothing else refers to this snapshot any more.
            self._adopt(before)
            raise

    def _require_whole(self) -> None:
        if not self._whole:
            step = self.index + 1
            raise RuntimeError(f"step {step} was interrupted while it was undone; go on from the last checkpoint")

    def _validate(self) -> None:
        plan = self.plan
        if plan.validate is None or (self.index % plan.validate_every and self.index < plan.steps):
            return
        self._note_score(float(plan.validate(self._result(self._average))))

    def _note_score(self, score: float) -> None:
        plan = self.plan
        self.validations += ((self.index, score),)
        if self._best is None or score > self._best["value"]:
            state = plan.syn.state_dict() if self._average is None else self._average
            self._best = {"step": self.index, "value": score, "syn": copy.deepcopy(dict(state))}

    def _gradient(self) -> float:
        """Return the loss of this step, after its gradient is accumulated in the parameters of the set."""
        syn, rng = self.plan.syn, derive(self._rng, "step", self.index)
        student = self.plan.students.next(self.real, syn, derive(rng, "students"))
        self._optimizer.zero_grad(set_to_none=True)
        leaves, loss = LeafView(syn), 0.0
        objective = self.plan.objective_at(self.index)
        for term in objective(student, self.real, leaves, derive(rng, "objective")):
            # Gradients of the student's own parameters are never used, so only those of the leaves are computed.
            torch.autograd.backward(term, inputs=leaves.inputs)
            leaves.pull_back()
            loss += float(term.detach())
        leaves.finish()
        if self.plan.penalty is not None:
            penalty = self.plan.penalty(syn)
            torch.autograd.backward(penalty)
            loss += float(penalty.detach())
        if self.plan.reduce is None:
            return loss
        return self.plan.reduce([p for p in syn.parameters() if p.requires_grad], loss)

    def _update(self, loss: float) -> None:
        plan = self.plan
        if plan.skip_above is not None and loss > plan.skip_above:
            self.skipped += 1
            self._consecutive_skips += 1
            if self._consecutive_skips == _MAX_SKIPS:
                self.diverged = True
                raise DivergedError(
                    f"the loss exceeded skip_above={plan.skip_above} in {_MAX_SKIPS} steps in a row, last {loss:.4g} "
                    f"in step {self.index + 1}. Raise skip_above, or lower {plan.divergence_hint}.",
                    plan.syn,
                )
            return
        self._consecutive_skips = 0
        self._clip()
        groups = self._optimizer.param_groups
        rates = [group["lr"] for group in groups]
        factor = 1.0 if plan.rate_at is None else plan.rate_at(self.index)
        # The factor is applied for this step alone: the optimizer's state keeps the unscheduled rates, so that factors
        # of different steps do not multiply.
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
        # A mean of 0, from a first gradient of zero, counts as unset: it would bound all later gradients by 0.
        mean_norm = self._mean_norm or norm
        bound = plan.clip_ratio * mean_norm
        if norm > bound:
            for gradient in gradients:
                gradient.mul_(bound / norm)
        # The clipped norm is averaged: a single very large gradient must not raise the bound of the next steps.
        self._mean_norm = _NORM_DECAY * mean_norm + (1 - _NORM_DECAY) * min(norm, bound)

    def _update_average(self) -> None:
        """Move the average one step towards the set, unless the step was skipped."""
        if self._average is None or self.plan.average is None or self._consecutive_skips:
            return
        weight = 1 - self.plan.average
        self._average = {
            name: self._average[name].lerp(value, weight) if _is_averaged(name, value) else value.clone()
            for name, value in self.plan.syn.state_dict().items()
        }

    def _back_off(self, loss: float) -> None:
        rates = [group["lr"] for group in self._optimizer.param_groups]
        failed_index = self.index
        self._restore(self._undo_state)
        if self.rate_reductions == self._retries:
            self.diverged = True
            raise DivergedError(
                f"step {failed_index + 1} was not finite (loss {loss}) after {self.rate_reductions} reductions of the "
                f"learning rate to {rates}; the set is that of step {self.index}. "
                f"Lower {self.plan.divergence_hint}, or set clip_norm.",
                self.plan.syn,
            )
        self.rate_reductions += 1
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * self._shrink
        # The state to return to gets the reduced rate, so that a second failure at this step reduces it further.
        self._undo_state = self._snapshot()

    def _snapshot(self) -> dict[str, Any]:
        changing = {
            "syn": dict(self.plan.syn.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "students": self.plan.students.state_dict(),
        }
        return {
            "index": self.index,
            **copy.deepcopy(changing),
            "skipped": (self.skipped, self._consecutive_skips),
            "usual_norm": self._mean_norm,
            # The average and the best set are replaced and never changed in place, so they need no copy.
            "average": self._average,
            "best": self._best,
            "validations": self.validations,
        }

    def _restore(self, snapshot: dict[str, Any]) -> None:
        self._adopt(copy.deepcopy(snapshot))

    def _adopt(self, state: dict[str, Any]) -> None:
        """Set the state of a snapshot, to whose tensors an optimizer then refers.

        An interrupted call leaves the loop unusable, until a whole state is loaded.
        """
        self._whole = False
        self.index = state["index"]
        self.plan.syn.load_state_dict(state["syn"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.plan.students.load_state_dict(state["students"])
        self.skipped, self._consecutive_skips = state["skipped"]
        # Checkpoints from before clip_ratio existed have no such entry.
        self._mean_norm = state.get("usual_norm")
        average, device = state["average"], self.plan.syn.device
        # A state that was read from a file is on the CPU.
        self._average = None if average is None else {name: value.to(device) for name, value in average.items()}
        self._best = state["best"]
        self.validations = state["validations"]
        self._whole = True


def _is_averaged(name: str, value: Tensor) -> bool:
    # A learned rate belongs to the last images: papers that average images train with the last rate.
    return value.is_floating_point() and not name.startswith("rate.")
