"""Execution of a distillation by the command line: networks, steps and set, with progress and signals to stop."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ddsdk import foundation
from ddsdk.cli.console import err, out, progress, readable_seconds
from ddsdk.foundation import DivergedError

if TYPE_CHECKING:
    from ddsdk.artefact import Distilled
    from ddsdk.data import RealData
    from ddsdk.running import CostEstimate, Job, Run
    from ddsdk.students import TrainedRuns

_STOP = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")


def finish_job(
    job: Job,
    run: Run[RealData],
    *,
    estimate: CostEstimate | None = None,
    counts: Sequence[int] | None = None,
    start: object = None,
    resume: bool = False,
) -> int:
    """Take the remaining steps and save the distilled set.

    A diverged run saves its last finite set and raises `DivergedError`.

    Args:
        job: Job of the run.
        run: Run with its trained networks.
        estimate: Estimated cost of the run; None to measure it.
        counts: Images of each class to save. None for all images of the set.
        start: Folder of the set whose images initialised the run, for a message. None for the start of the recipe.
        resume: Whether the command line has --resume, for the hint after a stop.

    Returns:
        Exit code: 0 for a saved set, 75 for a stopped run.
    """
    if not run.iterative:
        job.finish(_result(run, counts))
        return 0
    loop, diverged = run.distillation, None
    with collected_signals() as signals, progress("distilling", loop.plan.steps) as update:
        try:
            if job.steps_taken < loop.plan.steps:
                estimate = run.estimate() if estimate is None else estimate
                announce(estimate, job.steps_taken)
                foundation.require_free_disk(job.folder, estimate.disk, "the checkpoints and the set")
            for step in job.steps(run):
                if loop.validations and step.number == 1:
                    out(f"start: validation accuracy {loop.validations[0][1]:.2%}")
                reduced = f", learning rate reduced {loop.rate_reductions} times" if loop.rate_reductions else ""
                update(step.number, f"loss {step.loss:.4g}{reduced}")
                if loop.validations and loop.validations[-1][0] == step.number:
                    accuracies = [accuracy for _, accuracy in loop.validations]
                    out(f"step {step.number}: validation accuracy {accuracies[-1]:.2%}, best {max(accuracies):.2%}")
                if signals:
                    break
        except DivergedError as error:
            diverged = error
    if signals and loop.index < loop.plan.steps:
        err(f"stopped after step {loop.index}; {resume_hint(resume)}")
        return 75
    distilled = _result(run, counts)
    if run.distillation.validations:
        _announce_best(run.distillation.validations)
    if "start" in distilled.provenance:
        used = distilled.provenance["start"]
        out(f"started from {used['images']} images of {start}; {used['left_out']} were not used")
    job.finish(distilled)
    if loop.rate_reductions:
        err(f"the learning rate was reduced {loop.rate_reductions} times because values were not finite")
    if diverged:
        err(f"the last finite set was saved in {job.folder}")
        raise diverged
    return 0


def _announce_best(validations: Sequence[tuple[int, float]]) -> None:
    # Of equal scores the loop keeps the first one.
    step, score = max(validations, key=lambda validation: validation[1])
    which = f"step {step}" if step else "the start, which no later set exceeded"
    out(f"the set is that of {which}: validation accuracy {score:.2%}")


def _result(run: Run[RealData], counts: Sequence[int] | None) -> Distilled:
    distilled = run.distilled()
    return distilled if counts is None else distilled.first_of_classes(counts)


def resume_hint(resume: bool) -> str:
    """Return the sentence with the command that continues a stopped run, which may have had --resume itself."""
    # `ddsdk demo` always resumes and has no option --resume.
    command = shlex.join([*sys.argv[1:], *([] if resume else ["--resume"])])
    return f"continue with: ddsdk {command}"


def train_networks(run: Run[RealData]) -> bool:
    """Train the experts or teachers of a run that are not in the cache.

    Returns:
        Whether all of them are trained. False after a signal to stop.
    """
    runs = run.runs
    if runs is None or not runs.missing:
        return True
    missing, epochs = len(runs.missing), runs.training.epochs
    announce_runs(runs, missing)
    with collected_signals() as signals, progress("training networks", missing * epochs) as update:
        for done, _ in run.prepare():
            update(done, f"network {-(-done // epochs)} of {missing}")
            if signals:
                return False
    return True


def announce_runs(runs: TrainedRuns, missing: int) -> None:
    """Print the number of experts or teachers to train and their size on disk, which must be free."""
    size = runs.nbytes * missing / len(runs) / 2**20
    out(
        f"{missing} of {len(runs)} networks are not trained yet: {runs.training.epochs} epochs each, "
        f"{size:.1f} MiB in {runs.folder}. They are cached for later runs"
    )
    foundation.require_free_disk(runs.folder, runs.nbytes * missing // len(runs), "the trained networks")


def announce(estimate: CostEstimate, taken: int = 0) -> None:
    """Print the estimated time, peak memory and disk space of a run.

    Args:
        estimate: Estimate of the whole run.
        taken: Number of finished steps of a resumed run; the printed time is that of the remaining ones.
    """
    remaining = estimate.steps - taken
    seconds = estimate.seconds * remaining / estimate.steps
    time = readable_seconds(seconds)
    steps = f"{remaining} of {estimate.steps} steps left" if taken else f"{estimate.steps} steps"
    out(f"{steps}, about {time}, peak memory {estimate.memory / 2**20:.0f} MiB, disk {estimate.disk / 2**20:.1f} MiB")


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collect the signals to stop, so that a loop can end after a whole step. A second signal interrupts it at once.

    A process that ignores SIGHUP, as under ``nohup``, goes on ignoring it.

    Yields:
        Numbers of the received signals.
    """
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    # SIGHUP: a closed terminal. SIGQUIT: Ctrl and backslash. Windows has neither.
    numbers = [getattr(signal, name) for name in _STOP if hasattr(signal, name)]
    caught = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, receive) for number in caught}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
