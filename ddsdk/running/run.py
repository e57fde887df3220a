"""One distillation run: random generators, trained networks, the loop, the timing and the artefact."""

from __future__ import annotations

import dataclasses
import inspect
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, NoReturn, Protocol, TypeVar, final

import torch
from torch import nn

from ddsdk.artefact import Distilled, assemble
from ddsdk.data import RealData
from ddsdk.foundation import (
    ResumeError,
    as_generator,
    derive,
    generator,
    plain_torch,
    require,
    seeded_layers,
    steps_in_plain_torch,
)
from ddsdk.networks import (
    NetworkFactory,
    NetworkSpec,
    check_needs,
    network_factory,
    network_name,
    require_repeatable,
    takes_generator,
)
from ddsdk.running.loop import Distillation
from ddsdk.running.method import DirectMethod, IterativeMethod, Method
from ddsdk.running.plan import Plan, Step
from ddsdk.running.preview import BudgetFit, CostEstimate, estimate, shortened_method
from ddsdk.running.warm_start import WarmStart, warm_start_
from ddsdk.students import BackboneStudents, MakeStudent, RunProgress
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import TrainingProtocol, probe_protocol

R = TypeVar("R")

VALIDATION_SHARE, _MOST_LOOKS = 0.2, 5
"""Share of a time budget for validations, and their largest number, without that of the start."""


class Validator(Protocol):
    """Interface of a validation score on held-out data, such as `ddsdk.Validation`."""

    @property
    def every(self) -> int:
        """Steps between two validations."""
        ...

    def under(self, protocol: TrainingProtocol, *, rng: torch.Generator) -> Callable[[SyntheticSet], float]:
        """Return the function from a set to its score under a protocol; larger is better."""
        ...


@final
class Run(Generic[R], Iterator[Step]):
    """One distillation, from a method and real data to the artefact: an iterator over the remaining outer steps.

    `distill` is the short form, with the same arguments. This class is for callers that act between steps, such as for
    progress bars, checkpoints or pauses.

    Attributes:
        method: Method of the run, shortened by `fit`.
        make_student: Factory of the student networks; None for a method without networks.
        runs: Training runs of the networks that the method needs first; None for none.
        seconds: Wall-clock time of the run so far in seconds, without the training of these networks.
        cpu_seconds: Processor time of the run so far in seconds, without the training of these networks.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.running import Run
        >>> run = Run(ddsdk.DM(ipc=1, steps=2, real_batch=16), ddsdk.load("digits"), seed=0)
        >>> [step.number for step in run]
        [1, 2]
        >>> run.distilled()
        Distilled(recipe='dm', images=(10, 1, 8, 8), classes=10, ipc=1)
    """

    @plain_torch()
    def __init__(
        self,
        method: Method[R],
        real: R,
        *,
        make_student: NetworkSpec | None = None,
        seed: int | torch.Generator = 0,
        start: WarmStart | None = None,
        validation: Validator | None = None,
        transform: Callable[[Plan[Any]], Plan[Any]] | None = None,
    ) -> None:
        method.refuse(real, start=start, validation=validation, transform=transform)
        self.method = method
        self.real = real
        allowed = make_student is None or method.uses_networks()
        require(allowed, "make_student", f"be left out for {method.name}, which has no networks", make_student)
        # Parts of a changed plan have needs of their own.
        needs = () if transform else method.needs
        self.make_student = (
            method.student(real) if make_student is None else _student_factory(make_student, real, needs, method.name)
        )
        self._networks = partial(_refuse_network, method.name) if self.make_student is None else self.make_student
        self.seconds = self.cpu_seconds = 0.0
        self._rng = as_generator(seed)
        self._token = secrets.token_hex(8)
        self._start, self._validation, self._transform = start, validation, transform
        self._validate_every: int | None = None
        self._record: dict[str, Any] = {}
        self._distillation: Distillation[Any] | None = None
        with self._clock():
            # The same key as that of the plan: the seeds of experts, pools and teachers derive from it.
            self.runs = method.runs(real, make_student=self._networks, rng=derive(self._rng, "plan"))

    @property
    def iterative(self) -> bool:
        """Whether the method has outer steps."""
        return isinstance(self.method, IterativeMethod)

    @property
    @plain_torch()
    def distillation(self) -> Distillation[Any]:
        """Loop of the run, built at first use; ValueError for a method without steps."""
        if self._distillation is None:
            with self._clock():
                self._distillation = self._built()
        return self._distillation

    def __iter__(self) -> Run[R]:
        """Return self: a run is its own iterator."""
        return self

    @plain_torch()
    def __next__(self) -> Step:
        """Take one step.

        Returns:
            The finished step.

        Raises:
            StopIteration: After the last step, and at once for a method without steps.
        """
        if not self.iterative:
            raise StopIteration
        distillation = self.distillation  # timed where it is built, so outside the clock below
        with self._clock():
            return next(distillation)

    @property
    def _taken_once(self) -> bool:
        return isinstance(self.method, IterativeMethod) and not self.method.repeatable

    def prepare(self) -> Iterator[RunProgress]:
        """Yield the progress of each epoch while the networks that the method needs are trained; cached ones are kept.

        A method without such networks yields nothing.
        """
        if self.runs is not None:
            yield from steps_in_plain_torch(self.runs.make())

    @plain_torch()
    def estimate(self) -> CostEstimate:
        """Return the estimated time, memory and disk space of the whole run, from trial steps that are undone.

        Methods whose steps must not be repeated, such as private ones, give a ValueError.
        """
        require(
            not self._taken_once, "budget", f"be left out for {self.method.name}, whose steps are taken once", "a trial"
        )
        return estimate(self.distillation)

    def fit(self, budget: float) -> BudgetFit:
        """Shorten the method to the number of steps that fits into a time budget.

        The budget also covers the time so far, the training of networks, the trial steps that measure the cost, and the
        validations. These are spread over the run so that they take about a fifth of the budget at most, and number
        two at least: of the start and of the last step.

        Args:
            budget: Time of the whole run in seconds, > 0.

        Returns:
            The number of steps, with its estimated cost.
        """
        began, before = time.perf_counter(), self.seconds
        full = self.estimate()
        building = self.seconds - before
        validating, scores = self._score_start()
        looks = max(1, min(_MOST_LOOKS, int(VALIDATION_SHARE * budget / validating))) if scores else 0
        training = 0.0 if self.runs is None else self.runs.seconds
        # The time to build the plan counts twice, because a shortened run builds its plan anew.
        spent = before + training + time.perf_counter() - began + building + looks * validating
        fits = int((budget - spent) / (full.seconds / full.steps))
        assert isinstance(self.method, IterativeMethod)  # `estimate` refuses methods without steps
        self.method, steps = shortened_method(self.method, full.steps, fits)
        if steps < full.steps:
            self._distillation = None
        if scores:
            self._validate_every = -(-steps // looks)
            self._distillation = None
            self.distillation.score_start(scores[0][1])
        shortened = dataclasses.replace(full, steps=steps, seconds=full.seconds * steps / full.steps)
        return BudgetFit(shortened, planned=full.steps, fits=fits, spent=spent)

    def shorten(self, steps: int) -> int:
        """Reduce the number of steps of a run that may have begun, whose state is kept.

        The learning rates follow the schedule of the shorter run from then on.

        Args:
            steps: Largest number of steps of the whole run; a method whose students serve several steps has a multiple
                of these. A number below the steps already taken ends the run.

        Returns:
            The number of steps of the whole run.
        """
        planned = self.distillation.plan.steps
        assert isinstance(self.method, IterativeMethod)  # the line above refuses methods without steps
        method, fitted = shortened_method(self.method, planned, max(steps, self.distillation.index))
        if fitted < planned:
            state, every = self.state_dict(), self._validate_every
            if every is not None:
                state["validate_every"] = max(1, round(every * fitted / planned))
            self.method, self._distillation = method, None
            self.load_state_dict(state)
        return fitted

    def _score_start(self) -> tuple[float, tuple[tuple[int, float], ...]]:
        """Return the seconds of the validation of the start, and its step and score; empty without validation."""
        began = time.perf_counter()
        with self._clock(), plain_torch():
            self.distillation.score_start()
        return max(time.perf_counter() - began, 1e-6), self.distillation.validations[:1]

    def complete(self, stop: Callable[[], bool] | None = None) -> Distilled:
        """Train the missing networks and take the remaining steps.

        Args:
            stop: Function that is called before each step and ends the run early by returning true; None for all steps.

        Returns:
            The artefact of the final set.
        """
        for _ in self.prepare():
            pass
        while (stop is None or not stop()) and next(self, None) is not None:
            pass
        return self.distilled()

    @plain_torch()
    def distilled(self) -> Distilled:
        """Return the artefact of the current set."""
        loop = None if isinstance(self.method, DirectMethod) else self.distillation
        with self._clock():
            if isinstance(self.method, DirectMethod):
                with seeded_layers(derive(self._rng, "layers")):
                    syn = self.method.make(self.real, make_student=self._networks, rng=self._rng)
            else:
                assert loop is not None  # built above
                syn = loop.result
            stored, fields = self.method.stored(syn, self.real)
        record = {**({} if loop is None else loop.record()), **self._record}
        if self.runs is not None:
            record["runs"] = {"count": len(self.runs), "seconds": round(self.runs.seconds, 3)}
        distilled = assemble(
            self.method,
            stored,
            self.method.described(self.real),
            protocol=self._protocol(),
            rng=self._rng,
            # Cached networks count with the time of their training, so that costs do not depend on the cache.
            seconds=self.seconds + (0.0 if self.runs is None else self.runs.seconds),
            make_student=self.make_student,
            run=record,
            certificate=self.method.certificate(self.real),
        )
        provenance = self.method.published({**distilled.provenance, **fields.get("provenance", {})})
        return dataclasses.replace(distilled, **{**fields, "provenance": provenance})

    def state_dict(self) -> dict[str, Any]:
        """Return the state that, with method, data and seed, determines all further steps."""
        own = {"run": self._token} if self._taken_once else {}
        looks = {} if self._validate_every is None else {"validate_every": self._validate_every}
        return {"distillation": self.distillation.state_dict(), "seconds": self.seconds, **looks, **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`.

        Raises:
            ResumeError: If the steps of the method are taken once, as those of a private one, and the state is of
                another run: its releases are spent, and a new run would pay for further ones.
        """
        if self._taken_once and (self._distillation is None or state.get("run") != self._token):
            raise ResumeError(
                f"state must be of this run of {self.method.name}, whose steps are taken once, got that of another "
                "run: go on with the run that made the state, or start a new one, which pays for its own releases"
            )
        loop, every = self.distillation, state.get("validate_every")
        if every is not None:
            # The budget that spread the validations is not fitted again.
            self._validate_every, loop.plan = every, dataclasses.replace(loop.plan, validate_every=every)
        loop.load_state_dict(state["distillation"])
        self.seconds = state["seconds"]

    def _protocol(self) -> TrainingProtocol:
        """Return the protocol of the method, or that of a probe for students on a frozen backbone."""
        students, real = self.make_student, self.real
        if isinstance(students, BackboneStudents) and isinstance(real, RealData):
            return probe_protocol(students.backbone, real)
        return self.method.protocol(real)

    def _built(self) -> Distillation[Any]:
        method, rng = self.method, self._rng
        if not isinstance(method, IterativeMethod):
            raise ValueError(f"method must have steps, got {method.name}")
        options: dict[str, Any] = {"make_student": self._networks, "rng": derive(rng, "plan")}
        if self._transform is not None:
            method.rehearse(self.real, transform=self._transform, **options)
        plan = method.plan(self.real, **options)
        if self._transform is not None:
            plan = self._transform(plan)
        if self._start is not None:
            # Before the loop is built, because the loop copies the set for its moving average and for undoing steps.
            description = method.described(self.real)
            self._record["start"] = warm_start_(plan.syn, self._start, description, derive(rng, "start"))
        if self._validation is not None:
            validate = self._validation.under(self._protocol(), rng=derive(rng, "validation"))
            every = self._validate_every or self._validation.every
            plan = dataclasses.replace(plan, validate=validate, validate_every=every)
        method.admit(plan)
        return Distillation(plan, method.source(self.real), rng=derive(rng, "steps"), retries=method.retries)

    @contextmanager
    def _clock(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu


def _student_factory(network: object, real: object, needs: Sequence[str], method: str) -> MakeStudent:
    """Return the factory of a run's students, after the checks of a network that is none of the catalogue."""
    shape, classes = (getattr(real, name, None) for name in ("image_shape", "num_classes"))
    factory: Any = network
    made = isinstance(network, str | NetworkFactory | nn.Module) or inspect.isclass(network)
    if shape is None or classes is None or (not made and takes_generator(factory, shape, classes)):
        # A function of a generator stays what it is, also in the provenance. Its students may have other classes than
        # these data, such as those of a federation, and those of graphs take no images.
        name = network_name(network)
        student = None if isinstance(network, NetworkFactory) else require_repeatable(factory, name)
        if shape is not None and student is not None:
            check_needs(student, shape, needs, method, name)
        return factory  # type: ignore[no-any-return]
    if not isinstance(network, NetworkFactory):
        factory = network_factory(network, shape, classes)  # type: ignore[arg-type]
    if needs:
        norm = "norm" in factory.options
        check_needs(factory(generator("needs")), factory.image_shape, needs, method, factory.name, norm)
    return factory  # type: ignore[no-any-return]


def _refuse_network(method: str, rng: torch.Generator) -> NoReturn:  # noqa: ARG001
    """Stand in for the factory of a method without networks.

    Raises:
        TypeError: Always, because a changed plan needs a network.
    """
    raise TypeError(f"make_student must be a factory of networks for this plan of {method}, got None")


def distill(
    method: Method[R],
    real: R,
    *,
    make_student: NetworkSpec | None = None,
    seed: int | torch.Generator = 0,
    start: WarmStart | None = None,
    validation: Validator | None = None,
    budget: float | None = None,
    stop: Callable[[], bool] | None = None,
    transform: Callable[[Plan[Any]], Plan[Any]] | None = None,
) -> Distilled:
    """Distil real data into a small synthetic set.

    A hyperparameter that does not fit the data, and an option that does not fit a method without steps or without
    networks, give a ValueError. A loss that stays non-finite after several reductions of the learning rate gives a
    `DivergedError`, with the last finite set as its `syn`.

    Args:
        method: Recipe such as ``ddsdk.DM(ipc=10)``, baseline, or another method.
        real: Real data. All computations run on its device.
        make_student: Student network: a factory of `ddsdk.network_factory`, or what that function accepts: a name, a
            class, a function with or without a generator, or a module, whose weights are drawn anew. None for the
            default of the method, which for a recipe is the network of its protocol.
        seed: Root of all random numbers: an integer, or a generator, which is not advanced.
        start: Warm start: an earlier set, such as an artefact, with whose images the run starts, see
            `ddsdk.running.WarmStart`. None for the method's own start.
        validation: Held-out images that select the best set of the run, see `ddsdk.Validation`. None for the set of the
            last step.
        budget: Time budget of the whole run in seconds. The method is shortened to the steps that fit. None for all
            steps of the method.
        stop: Function that is called before each step and ends the run early by returning true. None for all steps.
        transform: Function from the plan of the method to the plan that is run. None for no change.

    Returns:
        The artefact: images, labels, protocol and provenance.

    Examples:
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
