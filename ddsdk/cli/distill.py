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
from ddsdk.cli.console import err, out, progress
from ddsdk.cli.options import DataOptions, make_student, network_options
from ddsdk.errors import DivergedError
from ddsdk.recipes import RECIPES
from ddsdk.recipes.base import IterativeRecipe

__all__ = ["DistillOptions", "distill_verb", "run_recipe"]

METHODS: dict[str, Any] = {**RECIPES, **BASELINES}


@dataclass(frozen=True, kw_only=True)
class DistillOptions(DataOptions):
    """Distil a data set and save the result as an artefact.

    Attributes:
        out: Folder of the artefact. It holds the checkpoint while the run lasts.
        recipe: Method; `ddsdk recipes` lists them. Its parameters are further options.
        resume: Go on with the run in `out` from its last checkpoint, bit for bit.
        seed: Root of every random number.
        network: Network of the students.
        width: Width of a ConvNet student.
        depth: Depth of a ConvNet student.
        checkpoint_seconds: Seconds between checkpoints.
    """

    out: Path
    recipe: str = "dm"
    resume: bool = False
    seed: int = 0
    network: str = "convnet"
    width: int | None = None
    depth: int | None = None
    checkpoint_seconds: float = 30.0

    def run(self) -> int:
        """Distil."""
        method = self.method  # type: ignore[attr-defined]
        return run_recipe(method, self.train(), self)


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
        **network_options(options.network, options.width, options.depth),
        "seed": options.seed,
        "data": train.fingerprint,
        "zca": options.zca,
        "device": train.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def run_recipe(method: Any, train: dd.RealData, options: DistillOptions) -> int:  # noqa: ANN401
    """Run a recipe or baseline in its folder; return the exit code."""
    rng = dd.generator(options.seed)
    student_options = network_options(options.network, options.width, options.depth)
    student = make_student(train, options.network, student_options)
    config = configuration(method, train, options)
    with dd.Job(options.out, config, resume=options.resume, every=options.checkpoint_seconds) as job:
        if job.finished:
            out(f"{options.out} is finished already")
            return 0
        if not isinstance(method, IterativeRecipe):
            job.finish(method(train, make_student=student, rng=rng))
        else:
            code = _iterate(job, method, train, student, rng)
            if code:
                return code
    out(f"saved {options.out}")
    out(f"open it: python -c \"import ddsdk; print(ddsdk.Distilled.load('{options.out}'))\"")
    return 0


def _iterate(
    job: dd.Job,
    method: IterativeRecipe,
    train: dd.RealData,
    student: Any,  # noqa: ANN401
    rng: Any,  # noqa: ANN401
) -> int:
    def make() -> dd.Distillation[Any]:
        return method.distillation(train, make_student=student, rng=rng)

    distillation = make()
    diverged: DivergedError | None = None
    with _graceful() as stopped, progress("distilling", distillation.plan.steps) as update:
        try:
            announce(dd.estimate(make))
            for step in job.steps(distillation):
                update(step.number, f"loss {step.loss:.4g}")
                if stopped:
                    break
        except DivergedError as error:
            diverged = error
    if stopped and distillation.index < distillation.plan.steps:
        again = shlex.join(word for word in sys.argv[1:] if word != "--resume")
        err(f"stopped after step {distillation.index}; go on with: ddsdk {again} --resume")
        return 75
    syn, evaluation = distillation.plan.syn, method.evaluation()
    finished = dd.assemble(method, syn, train, evaluation=evaluation, rng=rng, seconds=job.seconds)
    job.finish(finished)
    if diverged:
        err(f"the last finite set was saved in {job.folder}")
        raise diverged
    return 0


def announce(estimate: dd.Estimate) -> None:
    """Say what a run will take."""
    slow = estimate.seconds >= 120
    time = f"{estimate.seconds / 60:.0f} minutes" if slow else f"{estimate.seconds:.0f} seconds"
    out(
        f"{estimate.steps} steps, about {time}, peak memory {estimate.memory / 2**20:.0f} MiB, "
        f"disk {estimate.disk / 2**20:.1f} MiB"
    )


@contextmanager
def _graceful() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM so that the loop can end after a whole step."""
    seen: list[int] = []
    before = {s: signal.signal(s, lambda s, _: seen.append(s)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
