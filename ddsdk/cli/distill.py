"""`ddsdk distill`: make a set."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, make_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import tyro

import ddsdk as dd
from ddsdk.baselines import BASELINES
from ddsdk.cli.console import err, open_line, out, progress
from ddsdk.cli.options import DataOptions, NetworkOptions, make_student
from ddsdk.errors import DivergedError
from ddsdk.recipes import RECIPES
from ddsdk.recipes.base import IterativeRecipe, runs_record, trained_runs

__all__ = ["DistillOptions", "distill_verb", "run_recipe"]

METHODS: dict[str, Any] = {**RECIPES, **BASELINES}
_VALIDATION = ("validation", "validate_every", "validation_epochs", "validation_width")


@dataclass(frozen=True, kw_only=True)
class DistillOptions(NetworkOptions, DataOptions):
    """Distil a data set and save the result as an artefact.

    Attributes:
        out: Folder of the artefact. It holds the checkpoint while the run lasts.
        recipe: Method; `ddsdk recipes` lists them. Its parameters are further options.
        resume: Go on with the run in `out` from its last checkpoint, bit for bit.
        seed: Root of every random number.
        network: Network of the students.
        checkpoint_seconds: Seconds between checkpoints.
        validation: Part of the training images, such as 0.1, that is held out and chooses the best of the run's sets.
            With 0 the set of the last step is the result.
        validate_every: Steps between two looks at the held-out images.
        validation_epochs: Epochs of the network of such a look, where the recipe's protocol has more.
        validation_width: Its channels.
    """

    out: Path
    recipe: str = "dm"
    resume: bool = False
    seed: int = 0
    network: str = "convnet"
    checkpoint_seconds: float = 30.0
    validation: float = 0.0
    validate_every: int = 100
    validation_epochs: int = 300
    validation_width: int = 64

    def run(self) -> int:
        """Distil."""
        method = self.method  # type: ignore[attr-defined]
        return run_recipe(method, self.train(), self, told_to_resume=self.resume)

    def held_out(self, train: dd.RealData) -> tuple[dd.RealData, dd.Validation | None]:
        """Return what is to be distilled, and what is to be looked at where images are held out."""
        if not self.validation:
            return train, None
        # One split for all seeds: figures of several runs are of the same images.
        rest, held = train.split(self.validation, dd.generator("validation"))
        return rest, dd.Validation(
            held=held,
            every=self.validate_every,
            epochs=self.validation_epochs,
            width=self.validation_width,
        )


def distill_verb(args: Sequence[str]) -> type[Any]:
    """Return the options of `ddsdk distill` with those of the recipe that `args` name.

    Raises:
        ValueError: If the recipe is unknown; the message gives the nearest name.
    """
    chosen = "dm"
    for word, value in zip(args, [*args[1:], ""], strict=True):
        if word == "--recipe":
            chosen = value
        elif word.startswith("--recipe="):
            chosen = word.partition("=")[2]
    if chosen not in METHODS:
        near = get_close_matches(chosen.lower(), METHODS, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"recipe must be one of {', '.join(METHODS)}, got {chosen!r}{hint}")
    method = METHODS[chosen]
    flat: Any = Annotated[method, tyro.conf.arg(name="")]
    parameters = ("method", flat, dataclasses.field(default_factory=method))
    verb = make_dataclass("Distill", [parameters], bases=(DistillOptions,), frozen=True, kw_only=True)
    verb.__doc__ = DistillOptions.__doc__
    return verb


def configuration(method: Any, train: dd.RealData, options: DistillOptions) -> dict[str, Any]:  # noqa: ANN401
    """Return everything that the result depends on."""
    import torch

    return {
        "recipe": options.recipe,
        **dataclasses.asdict(method),
        "network": options.network,
        **options.network_options(),
        "seed": options.seed,
        "data": train.fingerprint,
        **({} if not options.validation else {name: getattr(options, name) for name in _VALIDATION}),
        "zca": options.zca,
        "device": train.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def run_recipe(
    method: Any,  # noqa: ANN401
    train: dd.RealData,
    options: DistillOptions,
    *,
    told_to_resume: bool = False,
) -> int:
    """Run a recipe or baseline in its folder; return the exit code.

    Args:
        method: A value of `RECIPES` or `BASELINES`.
        train: What to distil.
        options: Folder, network, seed.
        told_to_resume: Whether someone asked for it and should hear that there is nothing to resume.

    Raises:
        DivergedError: If the run diverges, or has done so before.
    """
    rng = dd.generator(options.seed)
    if options.validation and not isinstance(method, IterativeRecipe):
        raise ValueError(f"validation must be 0 for {options.recipe}, which has no steps to choose from")
    train, validation = options.held_out(train)
    student = make_student(train, options.network, options.network_options())
    config = configuration(method, train, options)
    with dd.Job(options.out, config, resume=options.resume, every=options.checkpoint_seconds) as job:
        if job.finished:
            if job.diverged:
                raise DivergedError(
                    f"the run in {options.out} diverged; the folder holds its last finite set. "
                    "Lower --image-lr and name another folder"
                )
            out(f"{options.out} is finished already")
            return 0
        if told_to_resume and not job.resumes:
            out(f"no checkpoint in {options.out}, starting at step 1")
        runs = trained_runs(method, train, make_student=student, rng=rng)
        if runs is not None and not _train(runs):
            err(f"stopped with {len(runs.missing)} networks to train; {_go_on(options)}")
            return 75
        if not isinstance(method, IterativeRecipe):
            job.finish(method(train, make_student=student, rng=rng))
        else:
            code = _iterate(job, method, train, student, rng, options, runs, validation)
            if code:
                return code
    out(f"saved {options.out}")
    out(f"open it: {open_line(options.out)}")
    return 0


def _iterate(
    job: dd.Job,
    method: IterativeRecipe,
    train: dd.RealData,
    student: Any,  # noqa: ANN401
    rng: Any,  # noqa: ANN401
    options: DistillOptions,
    runs: dd.TrainedRuns | None,
    validation: dd.Validation | None,
) -> int:
    def make() -> dd.Distillation[Any]:
        return method.distillation(train, make_student=student, rng=rng)

    distillation = method.distillation(train, make_student=student, rng=rng, validation=validation)
    diverged: DivergedError | None = None
    with _graceful() as stopped, progress("distilling", distillation.plan.steps) as update:
        try:
            if job.steps_taken < distillation.plan.steps:
                announce(dd.estimate(make), job.steps_taken)
            for step in job.steps(distillation):
                update(step.number, _note(step, distillation.shrunk))
                if distillation.validations and distillation.validations[-1][0] == step.number:
                    out(_look(distillation))
                if stopped:
                    break
        except DivergedError as error:
            diverged = error
    if stopped and distillation.index < distillation.plan.steps:
        err(f"stopped after step {distillation.index}; {_go_on(options)}")
        return 75
    finished = dd.assemble(
        method,
        distillation.result,
        train,
        evaluation=method.evaluation(train),
        rng=rng,
        seconds=job.seconds + (0.0 if runs is None else runs.seconds),
        make_student=student,
        run={**distillation.record(), **runs_record(runs)},
    )
    job.finish(finished)
    if distillation.shrunk:
        err(f"the learning rate was reduced {distillation.shrunk}x because values were not finite")
    if diverged:
        err(f"the last finite set was saved in {job.folder}")
        raise diverged
    return 0


def _go_on(options: DistillOptions) -> str:
    # A command that resumes anyway needs no option for it, and may know none.
    again = shlex.join([*sys.argv[1:], *([] if options.resume else ["--resume"])])
    return f"go on with: ddsdk {again}"


def _train(runs: dd.TrainedRuns) -> bool:
    """Train the networks that a recipe needs and that are not in the cache yet; tell whether all are there now."""
    missing = len(runs.missing)
    if not missing:
        return True
    announce_runs(runs, missing)
    epochs = runs.training.epochs
    with _graceful() as stopped, progress("training networks", missing * epochs) as update:
        for done, _ in runs.make():
            update(done, f"network {-(-done // epochs)} of {missing}")
            if stopped:
                return False
    return True


def announce_runs(runs: dd.TrainedRuns, missing: int) -> None:
    """Say how many networks must be trained before the first step, and what they take of which folder."""
    size = runs.nbytes * missing / len(runs) / 2**20
    out(
        f"{missing} of {len(runs)} networks are not trained yet: {runs.training.epochs} epochs each, "
        f"{size:.1f} MiB in {runs.folder}. Each is kept, and later runs find it there"
    )


def _look(distillation: dd.Distillation[Any]) -> str:
    """Say what the last look at the held-out images found."""
    (step, accuracy), best = distillation.validations[-1], max(v for _, v in distillation.validations)
    return f"step {step}: {accuracy:.2%} of the held-out images, best so far {best:.2%}"


def _note(step: dd.Step, reductions: int) -> str:
    note = f"loss {step.loss:.4g}"
    return f"{note}, learning rate reduced {reductions}x" if reductions else note


def announce(estimate: dd.Estimate, taken: int = 0) -> None:
    """Say what a run will take, or what is left of one that has `taken` steps behind it."""
    left = estimate.steps - taken
    seconds = estimate.seconds * left / estimate.steps
    time = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
    steps = f"{left} of {estimate.steps} steps left" if taken else f"{estimate.steps} steps"
    out(
        f"{steps}, about {time}, peak memory {estimate.memory / 2**20:.0f} MiB, "
        f"disk {estimate.disk / 2**20:.1f} MiB"
    )


@contextmanager
def _graceful() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM so that the loop can end after a whole step; the second one does not wait."""
    seen: list[int] = []

    def note(number: int, _: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
