"""`ddsdk distill --recipe auto`: trials of several methods on the user's data, and the run of the best one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddsdk import foundation, judging, planning, running
from ddsdk.cli.console import err, out
from ddsdk.cli.distill import (
    DistillOptions,
    Task,
    announce_set,
    configuration,
    prepared,
    run_recipe,
    with_training_within,
)
from ddsdk.cli.execution import finish_job, resume_hint, train_networks
from ddsdk.recipes import IterativeRecipe, augmentation_for

if TYPE_CHECKING:
    from ddsdk.artefact import Distilled
    from ddsdk.cli.method_choice import MethodChoice
    from ddsdk.data import RealData
    from ddsdk.running import Trial

_SHARE = 0.1
"""Share of the time budget for the steps of one trial, and largest share for the networks that a method needs."""
_ALL_TRIALS = 0.5
"""Share of the time budget after which no further trial begins, such as on a busy machine."""
_NETWORKS = 2
"""Evaluation networks for the score of a trial."""


@dataclass(frozen=True, kw_only=True)
class AutoDistillOptions(DistillOptions):
    """Options of `ddsdk distill --recipe auto`."""

    def run(self) -> int:
        """Return the exit code after the trials and the run of the best method."""
        assert self.chosen is not None  # with the candidates
        out(self.chosen.summary())
        return run_auto(self, self.train(), self.chosen)


def run_auto(options: DistillOptions, train: RealData, chosen: MethodChoice) -> int:
    """Try each candidate for a tenth of the time budget, continue the best one, and save its set.

    Args:
        options: Options of the command.
        train: Training data to distil.
        chosen: Candidates with the time budget.

    Returns:
        Exit code: 0 for a saved set, 75 for a stopped run that can be resumed.
    """
    stored = running.stored_config(options.out) if options.resume else None
    if stored is not None:
        method = _stored_method(stored, options.out)
        options = dataclasses.replace(options, recipe=method.name)
        return run_recipe(method, train, options, told_to_resume=True, trials=stored["trials"])
    assert chosen.budget is not None  # each choice of candidates has one
    options, task = prepared(chosen.method.ipc, train, options)
    foundation.require(
        task.validation is not None,
        "recipe",
        "be named for data without held-out images, by which auto compares recipes (--validation, --small-classes)",
        "auto",
    )
    began = time.perf_counter()
    with running.Job(options.out, {"recipe": "auto"}, every=options.checkpoint_seconds) as job:
        best, records = _best_trial(options, task, chosen, began)
        if best is None:
            err(f"stopped while networks were trained; {resume_hint(options.resume)}")
            return 75
        estimate = best.within(chosen.budget - (time.perf_counter() - began))
        options = dataclasses.replace(options, recipe=best.run.method.name)
        job.settle(configuration(best.run.method, task, options, records))  # type: ignore[arg-type]
        code = finish_job(
            job, best.run, estimate=estimate, counts=task.counts, start=options.start_from, resume=options.resume
        )
        if code:
            return code
    announce_set(options.out)
    return 0


def _best_trial(
    options: DistillOptions, task: Task, chosen: MethodChoice, began: float
) -> tuple[Trial | None, list[dict[str, Any]]]:
    """Return the trial with the largest score, None after a signal to stop, and the records of all trials."""
    budget = chosen.budget or 0.0
    names = ", ".join(method.name for method in chosen.candidates)
    out(f"trying {names} for {_SHARE * budget:.3g} s each; the best one on held-out images goes on")
    named = [dataclasses.replace(options, recipe=method.name) for method in chosen.candidates]
    methods = [
        with_training_within(_SHARE * budget, method, task, own)
        for method, own in zip(chosen.candidates, named, strict=True)
    ]
    runs = [task.run(method, own) for method, own in zip(methods, named, strict=True)]
    # The run that goes on pays for the trials of the others and for the training of their networks.
    costs = [_SHARE * budget + (0.0 if run.runs is None else run.runs.estimate()) for run in runs]
    trials: list[Trial] = []
    for run, cost in zip(runs, costs, strict=True):
        elapsed = time.perf_counter() - began
        if trials and elapsed > _ALL_TRIALS * budget:
            out(f"{run.method.name} is not tried: the trials have taken {elapsed:.0f} s")
            continue
        if not train_networks(run):
            return None, []
        rest = budget - (sum(costs) - cost)
        trial = running.take_trial(
            run, budget=rest, seconds=_SHARE * budget, score=lambda distilled: _score(distilled, options, task)
        )
        trials.append(trial)
        steps = f"{run.distillation.index} of {trial.fit.estimate.steps} steps"
        out(f"trial of {run.method.name}: {trial.score:.2%} on held-out images after {steps}, {trial.seconds:.0f} s")
    best = max(trials, key=lambda trial: trial.score)
    out(f"continuing {best.run.method.name}")
    return best, [trial.record() for trial in trials]


def _score(distilled: Distilled, options: DistillOptions, task: Task) -> float:
    """Return the accuracy on held-out images, under the published protocol for hard labels or the set's own one."""
    assert task.validation is not None  # required above
    protocol = judging.stored_protocol(distilled)
    if options.label_kind == "hard":
        protocol = judging.published_protocol(distilled, augmentation_for(task.train, None))
    look = task.validation
    protocol = judging.reduced_protocol(protocol, networks=_NETWORKS, epochs=look.epochs, width=look.width)
    return judging.evaluate(distilled, look.held, protocol, seed=0).mean


def _stored_method(stored: Mapping[str, Any], folder: Path) -> IterativeRecipe:
    """Return the method that the trials of an earlier call have chosen."""
    name = str(stored.get("recipe"))
    rule = f"be a run of --recipe auto to be resumed as one; go on with --recipe {name}"
    foundation.require("trials" in stored and name in planning.METHODS, "out", rule, str(folder))
    fields = {f.name for f in dataclasses.fields(planning.METHODS[name])}
    method = planning.method_from_parameters(name, {key: value for key, value in stored.items() if key in fields})
    assert isinstance(method, IterativeRecipe)  # candidates have steps
    return method
