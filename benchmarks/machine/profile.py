"""Where the time of an outer step goes: to the arithmetic of networks and kernels, or beside it.

An operator counts for what it works for: a copy inside the gradient of a convolution belongs to the convolution. What
the profiler itself takes lies outside the operators, so the share of arithmetic is a lower bound.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.machine.machine import SHAPE, MachineTable, machine_of, random_pixels
from ddsdk.data import RealData
from ddsdk.experiments import students_label
from ddsdk.foundation import generator, require, require_count
from ddsdk.networks import network_factory
from ddsdk.planning import METHODS, small
from ddsdk.recipes import IterativeRecipe, student_network
from ddsdk.running import Run

_KINDS: Mapping[str, re.Pattern[str]] = {
    "convolution": re.compile(r"conv", re.IGNORECASE),
    "matrix product": re.compile(
        r"(?:^|::|_|^autograd.*: )(?:add|b|m|ba?dd)?mm(?:Backward\d*|$)|matmul|linear|MmBackward|einsum|linalg|cholesky"
        r"|triangular|::dot|::mv|::addmv",
        re.IGNORECASE,
    ),
    "normalisation": re.compile(r"group_?norm|batch_?norm|layer_?norm", re.IGNORECASE),
    "pooling, ReLU": re.compile(r"pool|relu|threshold|clamp_min|softplus", re.IGNORECASE),
}
_ARITHMETIC = ("convolution", "matrix product", "normalisation")
_REST, _OUTSIDE = "other operators", "outside operators"


def profile_table(*, recipes: Sequence[str], width: int, ipc: int, repeats: int, device: str) -> MachineTable:
    """Profile an outer step of each recipe at FashionMNIST shapes, with its settings for a small machine.

    Args:
        recipes: Keys of `RECIPES`; if empty, all that have steps and need no trained networks.
        width: Of the students, where they have one.
        ipc: Images per class.
        repeats: Profiled steps; the medians of the shares count.
        device: Where to run; operators are timed on the CPU's side.

    Raises:
        ValueError: If a recipe is unknown or has no such step, or a number is below 1.
    """
    timed = [name for name, kind in METHODS.items() if issubclass(kind, IterativeRecipe) and not kind.trains_networks()]
    for name in recipes:
        require(name in timed, "recipes", f"be among {', '.join(timed)}", name)
    for name, value in (("width", width), ("ipc", ipc), ("repeats", repeats)):
        require_count(name, value)
    data = random_pixels(10, max(256, ipc)).to(device)
    rows = [_row(name, data, width, ipc, repeats) for name in recipes or timed]
    return MachineTable(machine_of(device, repeats), {"time of an outer step": rows})


def _row(name: str, data: RealData, width: int, ipc: int, repeats: int) -> dict[str, Any]:
    method = METHODS[name](**{"ipc": ipc, **small(name, ipc)})
    network, options = student_network(method, data, "", {"width": width})
    make = network_factory(network, SHAPE, data.num_classes, **options)
    run = Run(method, data, make_student=make, seed=generator("profile")).distillation
    next(run)
    times, found = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        next(run)
        times.append(time.perf_counter() - began)
        found.append(_profiled(run))
    told = {kind: statistics.median(share[kind] for share in found) for kind in found[0]}
    sure = statistics.median(sum(share[kind] for kind in _ARITHMETIC) for share in found)
    percent = {kind: f"{value:.0%}" for kind, value in told.items()}
    return {
        "recipe": name,
        "student": students_label(method, data, network, options),
        "step, s": f"{statistics.median(times):.3f}",
        **{kind: percent[kind] for kind in _ARITHMETIC},
        "these three": f"{sure:.0%}",
        **{kind: value for kind, value in percent.items() if kind not in _ARITHMETIC},
    }


def _profiled(run: Any) -> dict[str, float]:  # noqa: ANN401
    # Read when the profiler starts first: it tells of every start, and of every GPU that is not there.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        began = time.perf_counter()
        next(run)
        seconds = time.perf_counter() - began
    return shares(seen.events() or (), seconds)


def shares(events: Sequence[Any], seconds: float) -> dict[str, float]:
    """Return which part of a time went to each kind of work, by the events of a profile.

    Args:
        events: With a name, a parent or None, and the microseconds of their own.
        seconds: Of the whole.
    """
    spent = dict.fromkeys((*_KINDS, _REST), 0.0)
    for event in events:
        spent[_kind(event)] += event.self_cpu_time_total / 1e6
    whole = max(seconds, sum(spent.values()))
    found = {kind: value / whole for kind, value in spent.items()}
    return {**found, _OUTSIDE: 1 - sum(found.values())}


def _kind(event: Any) -> str:  # noqa: ANN401
    """Return the kind of an event: that of its name, or of the nearest event around it that has one."""
    while event is not None:
        for kind, names in _KINDS.items():
            if names.search(event.name):
                return kind
        event = event.cpu_parent
    return _REST
