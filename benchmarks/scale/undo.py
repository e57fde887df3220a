"""Time of the copy that undoes a step, with a full queue of networks."""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any, final

import torch

from benchmarks.machine.machine import MachineTable, machine_of, random_pixels
from ddsdk.data import Source
from ddsdk.foundation import generator
from ddsdk.networks import network_factory
from ddsdk.recipes import IDM
from ddsdk.running import Distillation
from ddsdk.students import QueueStudents, TrainOnReal, accuracy_on
from ddsdk.synthetic import SyntheticSet

_CLASSES = 10


def undo_table(*, width: int, queue: int, repeats: int) -> MachineTable:
    """Return the time of a step of IDM with a queue that is shared between snapshots, and with one that is copied.

    The steps of the two runs alternate. Both runs compute the same sets, which is checked.

    Args:
        width: Width of the ConvNets, in channels per layer.
        queue: Number of networks in the queue, which is full at the first step.
        repeats: Number of timed steps of each run.
    """
    real = random_pixels(_CLASSES, 300)
    make = network_factory("convnet", real.image_shape, _CLASSES, width=width)
    recipe = IDM(ipc=10, steps=repeats + 1, real_batch=64, queue=queue, student_steps=2)
    runs: dict[str, Distillation[Any]] = {}
    times: dict[str, list[float]] = {}
    for name in ("shared", "copied"):
        plan = recipe.plan(real, make_student=make, rng=generator("plan"))
        supply: Any = QueueStudents(make, TrainOnReal(steps=2), accuracy_on(256), queue=queue, first=queue)
        plan = dataclasses.replace(plan, students=supply if name == "shared" else _Copied(supply))
        runs[name], times[name] = Distillation(plan, real, rng=generator("run")), []
    for turn in range(repeats + 1):  # turn 0 is the warm-up, and fills the queue
        for name, run in runs.items():
            began = time.perf_counter()
            next(run)
            if turn:
                times[name].append(time.perf_counter() - began)
    first, second = ([*run.plan.syn.parameters()] for run in runs.values())
    assert all(map(torch.equal, first, second))
    shared, copied = (statistics.median(times[name]) for name in ("shared", "copied"))
    row = {
        "width": width,
        "queue": queue,
        "step with shared queue, s": round(shared, 3),
        "step with copied queue, s": round(copied, 3),
        "ratio of medians": f"{shared / copied:.2f}",
    }
    return MachineTable(machine_of("cpu", repeats), {"one step of IDM with a full queue": [row]})


@final
class _Copied:
    """A supply whose state is copied before every step."""

    def __init__(self, students: QueueStudents) -> None:
        self._students = students

    def next(self, real: Source, syn: SyntheticSet, rng: torch.Generator) -> Any:  # noqa: ANN401
        return self._students.next(real, syn, rng)

    def state_dict(self) -> dict[str, Any]:
        state = self._students.state_dict()
        return {**state, "vectors": list(state["vectors"])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._students.load_state_dict(state)
