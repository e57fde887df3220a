"""The run: the one owner of keys, trained networks, the loop, the clock and the artefact."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, NoReturn, Protocol, TypeVar, final

import torch

from ddsdk.artefact import Distilled, assemble
from ddsdk.foundation import derive, require, root
from ddsdk.running.loop import Distillation, Plan, Step
from ddsdk.running.method import DirectMethod, IterativeMethod, Method
from ddsdk.running.preview import BudgetFit, Estimate, estimate, shortened
from ddsdk.running.warm_start import WarmStart, warm_start_
from ddsdk.students import MakeStudent, RunProgress
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import Evaluation

R = TypeVar("R")


class Validator(Protocol):
    """A score of sets on held-out data, such as `ddsdk.Validation`."""

    @property
    def every(self) -> int:
        """Steps between two scores."""
        ...

    def under(self, evaluation: Evaluation, *, rng: torch.Generator) -> Callable[[SyntheticSet], float]:
        """Return the score of a set under a protocol; larger is better."""
        ...


@final
class Run(Generic[R], Iterator[Step]):
    """One distillation, from a method and real data to the artefact; an iterator of the steps that are left.

    `distill` is the short form, with the same arguments. This class is for callers that act between steps: progress,
    checkpoints, pauses.

    Attributes:
        method: Method, shortened by `fit`.
        make_student: Factory of the student networks; None for a method without networks.
        runs: Networks that must be trained first; None for none.
        seconds: Wall-clock time of the run so far, without the time of trained networks.
        cpu_seconds: Processor time of the same.
    """

    def __init__(
        self,
        method: Method[R],
        real: R,
        *,
        make_student: MakeStudent | None = None,
        seed: int | torch.Generator = 0,
        start: WarmStart | None = None,
        validation: Validator | None = None,
        transform: Callable[[Plan[Any]], Plan[Any]] | None = None,
    ) -> None:
        method.refuse(real, start=start, validation=validation, transform=transform)
        self.method = method
        self.real = real
        takes = make_student is None or method.uses_networks()
        require(takes, "make_student", f"be left out for {method.name}, which has no networks", make_student)
        self.make_student = method.student(real) if make_student is None else make_student
        self._networks = partial(_refuse, method.name) if self.make_student is None else self.make_student
        self.seconds = self.cpu_seconds = 0.0
        self._rng = root(seed)
        self._start, self._validation, self._transform = start, validation, transform
        self._record: dict[str, Any] = {}
        self._distillation: Distillation[Any] | None = None
        with self._clock():
            self.runs = method.runs(real, make_student=self._networks, rng=derive(self._rng, "plan"))

    @property
    def iterative(self) -> bool:
        """Whether the method has steps."""
        return isinstance(self.method, IterativeMethod)

    @property
    def distillation(self) -> Distillation[Any]:
        """Loop of the run, built at first use; ValueError for a method without steps."""
        if self._distillation is None:
            with self._clock():
                self._distillation = self._built()
        return self._distillation

    def __iter__(self) -> Run[R]:
        """Return self: a run is its own iterator."""
        return self

    def __next__(self) -> Step:
        """Take one step."""
        if not self.iterative:
            raise StopIteration
        distillation = self.distillation  # before the clock starts: its building is timed already
        with self._clock():
            return next(distillation)

    def prepare(self) -> Iterator[RunProgress]:
        """Train the networks that the method needs and that are not in the cache; give the progress of each epoch."""
        if self.runs is not None:
            yield from self.runs.make()

    def estimate(self) -> Estimate:
        """Measure a few steps and return time, memory and disk of the whole run; the run itself stays where it is."""
        once = isinstance(self.method, IterativeMethod) and not self.method.repeatable
        require(not once, "budget", f"be left out for {self.method.name}, whose steps are taken once", "a trial")
        return estimate(self.distillation)

    def fit(self, budget: float) -> BudgetFit:
        """Shorten the method to as many steps as fit into a time.

        Time that the run has taken so far counts, trained networks included, and so does the trial that measures a
        step.

        Args:
            budget: Seconds of the whole run, > 0.
        """
        began, before = time.perf_counter(), self.seconds
        whole = self.estimate()
        built = self.seconds - before
        trained = 0.0 if self.runs is None else self.runs.seconds
        # The plan of a shorter run is built once more.
        spent = before + trained + time.perf_counter() - began + built
        fits = int((budget - spent) / (whole.seconds / whole.steps))
        assert isinstance(self.method, IterativeMethod)  # the estimate has asked for steps
        self.method, steps = shortened(self.method, whole.steps, fits)
        if steps < whole.steps:
            self._distillation = None
        left = dataclasses.replace(whole, steps=steps, seconds=whole.seconds * steps / whole.steps)
        return BudgetFit(left, planned=whole.steps, fits=fits, spent=spent)

    def complete(self, stop: Callable[[], bool] | None = None) -> Distilled:
        """Train the missing networks, take the steps that are left until `stop` returns true, and return the set."""
        for _ in self.prepare():
            pass
        while (stop is None or not stop()) and next(self, None) is not None:
            pass
        return self.distilled()

    def distilled(self) -> Distilled:
        """Return the set so far as an artefact."""
        loop = None if isinstance(self.method, DirectMethod) else self.distillation
        with self._clock():
            if isinstance(self.method, DirectMethod):
                syn = self.method.make(self.real, make_student=self._networks, rng=self._rng)
            else:
                assert loop is not None  # built just above
                syn = loop.result
            stored, fields = self.method.stored(syn, self.real)
        record = {**({} if loop is None else loop.record()), **self._record}
        if self.runs is not None:
            record["runs"] = {"count": len(self.runs), "seconds": round(self.runs.seconds, 3)}
        made = assemble(
            self.method,
            stored,
            self.method.described(self.real),
            evaluation=self.method.evaluation(self.real),
            rng=self._rng,
            # Networks that an earlier run has left in the cache count as if they had been trained now.
            seconds=self.seconds + (0.0 if self.runs is None else self.runs.seconds),
            make_student=self.make_student,
            run=record,
            certificate=self.method.certificate(self.real),
        )
        if "provenance" in fields:
            fields = {**fields, "provenance": {**made.provenance, **fields["provenance"]}}
        return dataclasses.replace(made, **fields) if fields else made

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on, beside method, data and seed."""
        return {"distillation": self.distillation.state_dict(), "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.distillation.load_state_dict(state["distillation"])
        self.seconds = state["seconds"]

    def _built(self) -> Distillation[Any]:
        method, key = self.method, self._rng
        if not isinstance(method, IterativeMethod):
            raise ValueError(f"method must have steps, got {method.name}")
        plan = method.plan(self.real, make_student=self._networks, rng=derive(key, "plan"))
        if self._transform is not None:
            plan = self._transform(plan)
        if self._start is not None:
            # Before the loop, which copies the set for its moving average and for its undo.
            described = method.described(self.real)
            self._record["start"] = warm_start_(plan.syn, self._start, described, derive(key, "start"))
        if self._validation is not None:
            validate = self._validation.under(method.evaluation(self.real), rng=derive(key, "validation"))
            plan = dataclasses.replace(plan, validate=validate, validate_every=self._validation.every)
        method.admit(plan)
        return Distillation(plan, method.source(self.real), rng=derive(key, "steps"), retries=method.retries)

    @contextmanager
    def _clock(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu


def _refuse(method: str, rng: torch.Generator) -> NoReturn:  # noqa: ARG001
    """Take the place of the factory of a method without networks."""
    raise TypeError(f"make_student must be a factory of networks for this plan of {method}, got None")


def distill(
    method: Method[R],
    real: R,
    *,
    make_student: MakeStudent | None = None,
    seed: int | torch.Generator = 0,
    start: WarmStart | None = None,
    validation: Validator | None = None,
    budget: float | None = None,
    stop: Callable[[], bool] | None = None,
    transform: Callable[[Plan[Any]], Plan[Any]] | None = None,
) -> Distilled:
    """Distil real data and return the artefact.

    Args:
        method: Recipe such as ``ddsdk.DM(ipc=10)``, baseline, or another method.
        real: Real data; its device is the device of everything.
        make_student: Factory of the student networks, see `ddsdk.network_factory`; None takes the method's own, for a
            recipe the network of its protocol.
        seed: Root of every random number: an integer, or a generator, which is not advanced.
        start: Earlier set whose images the run starts from, such as an artefact, see `ddsdk.running.WarmStart`; None
            for the method's own start.
        validation: Held-out images that choose the best set of the run, see `ddsdk.Validation`; None takes the set of
            the last step.
        budget: Seconds of the whole run, of which the steps take what a trial leaves; None for all steps of the method.
        stop: Function that is called before each step and ends the run early where it returns true; None for all steps.
        transform: Function that changes the plan before the loop is built; None for the plan as it is.

    Raises:
        ValueError: If a parameter does not fit the data, or an option does not fit a method without steps or without
            networks.
        DivergedError: If the loss stays non-finite; the last finite set is the error's `syn`.

    Example:
        >>> import ddsdk
        >>> train, _ = ddsdk.load_pair("digits")
        >>> distilled = ddsdk.distill(ddsdk.DM(ipc=1, steps=2), train, seed=0)
        >>> len(distilled)
        10
    """
    run = Run(
        method, real, make_student=make_student, seed=seed, start=start, validation=validation, transform=transform
    )
    for option, value in (("budget", budget), ("stop", stop)):
        require(value is None or run.iterative, option, f"be left out for {method.name}, which has no steps", value)
    if budget is not None:
        for _ in run.prepare():
            pass
        run.fit(budget)
    return run.complete(stop)
