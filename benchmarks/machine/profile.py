"""Profile of an outer step: fractions of its time in convolutions, matrix products, normalisation and other work.

The time of an operator counts for the operator that calls it: a copy inside the gradient of a convolution belongs to
the convolution. The overhead of the profiler is outside of the operators, so the fraction of arithmetic is a lower
bound.
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
from ddsdk.planning import METHODS, preset
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
    """Return the profile of an outer step of each recipe, with its settings for a small machine.

    Images have the shape of FashionMNIST. A recipe without steps or a number below 1 is a ValueError.

    Args:
        recipes: Names of recipes; empty for all iterative recipes without experts or teachers.
        width: Width of the student networks, such as channels of a ConvNet.
        ipc: Images per class of the synthetic set.
        repeats: Number of profiled steps, of which the median fractions are reported.
        device: Torch device of the run. Operators are timed on the CPU even for ``"cuda"``.
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
    method = METHODS[name](**{"ipc": ipc, **preset(name, ipc)})
    network, options = student_network(method, data, "", {"width": width})
    make = network_factory(network, SHAPE, data.num_classes, **options)
    run = Run(method, data, make_student=make, seed=generator("profile")).distillation
    next(run)
    times, profiles = [], []
    for _ in range(repeats):
        began = time.perf_counter()
        next(run)
        times.append(time.perf_counter() - began)
        profiles.append(_profiled(run))
    medians = {kind: statistics.median(profile[kind] for profile in profiles) for kind in profiles[0]}
    arithmetic = statistics.median(sum(profile[kind] for kind in _ARITHMETIC) for profile in profiles)
    percent = {kind: f"{value:.0%}" for kind, value in medians.items()}
    return {
        "recipe": name,
        "student": students_label(method, data, network, options),
        "step, s": f"{statistics.median(times):.3f}",
        **{kind: percent[kind] for kind in _ARITHMETIC},
        "these three": f"{arithmetic:.0%}",
        **{kind: value for kind, value in percent.items() if kind not in _ARITHMETIC},
    }


def _profiled(run: Any) -> dict[str, float]:  # noqa: ANN401
    # Must be set before the first profiler starts; otherwise it logs every start and every missing GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        began = time.perf_counter()
        next(run)
        seconds = time.perf_counter() - began
    return shares(profiler.events() or (), seconds)


def shares(events: Sequence[Any], seconds: float) -> dict[str, float]:
    """Return the fraction of time of each kind of operator, by its name.

    Args:
        events: Events of a profile, with name, parent (or None) and own CPU time in microseconds.
        seconds: Wall-clock seconds of the profiled code.
    """
    spent = dict.fromkeys((*_KINDS, _REST), 0.0)
    for event in events:
        spent[_kind(event)] += event.self_cpu_time_total / 1e6
    whole = max(seconds, sum(spent.values()))
    fractions = {kind: value / whole for kind, value in spent.items()}
    return {**fractions, _OUTSIDE: 1 - sum(fractions.values())}


def _kind(event: Any) -> str:  # noqa: ANN401
    """Return the kind of an event by its name, or by the name of its nearest parent with a kind."""
    while event is not None:
        for kind, names in _KINDS.items():
            if names.search(event.name):
                return kind
        event = event.cpu_parent
    return _REST
