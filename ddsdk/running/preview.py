"""Time, memory and disk of a distillation, measured on its first steps, and the length that fits into a time."""

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
class Estimate:
    """Cost of a run.

    Attributes:
        steps: Outer steps.
        seconds: Steps times the mean time of a trial step, the first one left out.
        memory: Peak bytes of the process on a CPU, of the allocator on a GPU.
        disk: Bytes of a checkpoint and the finished set together.
    """

    steps: int
    seconds: float
    memory: int
    disk: int


def peak_memory(device: torch.device) -> int:
    """Return the peak bytes of this process so far on a device."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if _STATUS.exists():
        return _status("VmHWM")
    # Windows has no such module.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def restart_peak_memory() -> int:
    """Let `peak_memory` of the CPU count from now on; return the bytes that are resident now. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def estimate(distillation: Distillation[Any]) -> Estimate:
    """Take the first steps of a distillation, as many as its plan says, and put it back where it was.

    The first one is not timed where there are others: it pays for what is made once. Nothing is validated.
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
    stored = sum(t.nbytes for t in tensors.values())
    decoded = sum(t.nbytes for t in plan.syn.state_dict().values())
    return Estimate(
        steps=plan.steps,
        seconds=plan.steps * fmean(times[1:] or times or [0.0]),
        memory=peak_memory(plan.syn.device),
        disk=2 * stored + 2 * decoded,
    )


class BudgetFit(NamedTuple):
    """Length of a run under a budget.

    Attributes:
        estimate: Estimate of the steps that will be taken.
        planned: Outer steps that the method had before.
        fits: Outer steps that there is time for; fewer than 1 where the budget is too short.
        spent: Seconds before the first step.
    """

    estimate: Estimate
    planned: int
    fits: int
    spent: float


def with_length(method: M, value: int) -> M:
    """Return a method of another length, see `IterativeMethod.length`."""
    changes: dict[str, Any] = {method.length: value}
    return dataclasses.replace(method, **changes)  # type: ignore[type-var]  # methods are dataclasses


def shortened(method: M, planned: int, fits: int) -> tuple[M, int]:
    """Return a method of `planned` outer steps with at most `fits`, one at least, and the number that it then has.

    A method whose length counts students keeps whole ones.
    """
    if fits >= planned:
        return method, planned
    each = 1 if method.length == "steps" else max(1, planned // getattr(method, method.length))
    number = max(1, fits // each)
    return with_length(method, number), number * each
