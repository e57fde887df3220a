"""Estimates of time, memory and disk from a few trial steps, and the number of steps that fits into a time budget."""

from __future__ import annotations

import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

import torch

from ddsdk.running.checkpoint import pack
from ddsdk.running.loop import Distillation
from ddsdk.running.method import IterativeMethod

M = TypeVar("M", bound=IterativeMethod[Any])

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """Estimated cost of a run.

    Attributes:
        steps: Number of outer steps.
        seconds: Wall-clock time: the number of steps times the mean time of a trial step.
        memory: Peak memory in bytes, of the process on a CPU and of the allocator on a GPU.
        disk: Disk space in bytes, for checkpoints and the finished set.
    """

    steps: int
    seconds: float
    memory: int
    disk: int


def peak_memory(device: torch.device) -> int:
    """Return the peak memory of this process on a device so far, in bytes.

    Examples:
        >>> import torch
        >>> from ddsdk.running import peak_memory
        >>> peak_memory(torch.device("cpu")) > 0
        True
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if _STATUS.exists():
        return _status("VmHWM")
    # Imported here, because Windows has no such module.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def restart_peak_memory() -> int:
    """Reset the peak of the CPU that `peak_memory` reports, on Linux only.

    Returns:
        The bytes that are resident now.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def estimate(distillation: Distillation[Any]) -> CostEstimate:
    """Measure the trial steps of a distillation, undo them, and estimate the cost of the whole run.

    The first trial step is not timed where the plan has several, because it includes one-time costs. Validations are
    left out.

    Returns:
        The cost of all steps of the plan.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.running import Run, estimate
        >>> run = Run(ddsdk.DM(ipc=1, steps=100, real_batch=16), ddsdk.load("digits"))
        >>> cost = estimate(run.distillation)
        >>> cost.steps, cost.seconds > 0, run.distillation.index
        (100, True, 0)
    """
    plan, state = distillation.plan, distillation.state_dict()
    times = []
    distillation.plan = dataclasses.replace(plan, validate=None)
    try:
        for _ in range(min(plan.trial, plan.steps - distillation.index)):
            began = time.perf_counter()
            next(distillation)
            times.append(time.perf_counter() - began)
        _, tensors = pack(distillation.state_dict())
    finally:
        distillation.plan = plan
        distillation.load_state_dict(state)
    checkpoint_bytes = sum(t.nbytes for t in tensors.values())
    set_bytes = sum(t.nbytes for t in plan.syn.state_dict().values())
    return CostEstimate(
        steps=plan.steps,
        seconds=plan.steps * fmean(times[1:] or times or [0.0]),
        memory=peak_memory(plan.syn.device),
        # An atomic write keeps the old file until the new one is complete, and the last two checkpoints are kept.
        disk=3 * checkpoint_bytes + 2 * set_bytes,
    )


class BudgetFit(NamedTuple):
    """Length of a run under a time budget.

    Attributes:
        estimate: Estimated cost of the steps that will be taken.
        planned: Number of outer steps of the method before it was shortened.
        fits: Number of outer steps that the budget allows; below 1 for a budget that is too short.
        spent: Time before the first step, in seconds.
    """

    estimate: CostEstimate
    planned: int
    fits: int
    spent: float


def with_steps(method: M, value: int) -> M:
    """Return a copy of a method with another value of its field `IterativeMethod.length`.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.running import with_steps
        >>> with_steps(ddsdk.DM(ipc=1), 5).steps
        5
    """
    changes: dict[str, Any] = {method.length: value}
    return dataclasses.replace(method, **changes)  # type: ignore[type-var]  # methods are dataclasses


def shortened_method(method: M, planned: int, fits: int) -> tuple[M, int]:
    """Return a method with at most `fits` of its `planned` outer steps, at least 1, and its number of steps.

    A method whose length is a number of students keeps the steps of each student, so it has a multiple of these.
    """
    if fits >= planned:
        return method, planned
    steps_per_unit = 1 if method.length == "steps" else max(1, planned // getattr(method, method.length))
    units = max(1, fits // steps_per_unit)
    return with_steps(method, units), units * steps_per_unit
