"""Trials of several methods on the same data: each takes a part of its steps, and the best one goes on."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from ddsdk.artefact import Distilled
from ddsdk.foundation import require_positive
from ddsdk.running.preview import BudgetFit, CostEstimate
from ddsdk.running.run import VALIDATION_SHARE, Run


@final
@dataclass(frozen=True, eq=False)
class Trial:
    """First part of a run, with the score of its set.

    Attributes:
        run: Run that can go on from the last step of the trial.
        fit: Number of steps of the whole run, with its estimated cost.
        score: Score of the set after the trial; larger is better.
        seconds: Wall-clock time of the trial in seconds, its validations included.
    """

    run: Run[Any]
    fit: BudgetFit
    score: float
    seconds: float

    def within(self, seconds: float) -> CostEstimate:
        """Shorten the rest of the run to a time, and return the estimated cost of the whole run.

        Args:
            seconds: Time of the remaining steps in seconds, of which a fifth is left for validations.

        Returns:
            The cost of the whole run, with the steps that were taken.
        """
        estimate, taken = self.fit.estimate, self.run.distillation.index
        per_step = estimate.seconds / estimate.steps
        steps = self.run.shorten(taken + int((1 - VALIDATION_SHARE) * seconds / per_step))
        return dataclasses.replace(estimate, steps=steps, seconds=steps * per_step)

    def record(self) -> dict[str, Any]:
        """Return method, steps, score and seconds as JSON values, for the provenance of the set."""
        steps = self.run.distillation.index
        values = {"steps": steps, "score": round(self.score, 5), "seconds": round(self.seconds, 3)}
        return {"recipe": self.run.method.name, **values}


def take_trial(run: Run[Any], *, budget: float, seconds: float, score: Callable[[Distilled], float]) -> Trial:
    """Fit a run to a time budget, take its first steps, and score the set.

    The learning rates follow the schedule of the whole run, so that the run can go on. Each trial takes one step at
    least. The networks that the method needs must be trained, see `Run.prepare`.

    Args:
        run: Run before its first step.
        budget: Time budget of the whole run in seconds.
        seconds: Time in seconds from the beginning of the trial, after which no further step begins.
        score: Function from the artefact to its score, such as an accuracy on held-out images; larger is better.

    Returns:
        The run after these steps, with its score.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.running import Run, take_trial
        >>> train, held_out = ddsdk.load("digits").split(0.1, ddsdk.generator(0))
        >>> protocol = ddsdk.TrainingProtocol.quick().changed(epochs=5, networks=1)
        >>> def score(distilled):
        ...     return ddsdk.evaluate(distilled, held_out, protocol).mean
        >>> methods = [ddsdk.DM(ipc=1, steps=20, real_batch=8), ddsdk.DSA(ipc=1, students=20, real_batch=8)]
        >>> runs = [Run(method, train, make_student="mlp") for method in methods]
        >>> trials = [take_trial(run, budget=4, seconds=0.2, score=score) for run in runs]
        >>> best = max(trials, key=lambda trial: trial.score)
        >>> remaining = best.within(0.5)
        >>> len(best.run.complete())
        10
    """
    require_positive("seconds", seconds)
    began = time.perf_counter()
    fit = run.fit(budget)
    for _ in run:
        if time.perf_counter() - began >= seconds:
            break
    value = score(run.distilled())
    return Trial(run, fit, value, time.perf_counter() - began)
