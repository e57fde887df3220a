"""Time of a step of distribution matching on data with many classes."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from benchmarks.machine.machine import MachineTable, machine_of
from ddsdk.data import Preprocess, RealData
from ddsdk.foundation import generator
from ddsdk.networks import network_factory
from ddsdk.recipes import DM
from ddsdk.running import Distillation

_SHAPE = (3, 32, 32)


def classes_table(*, width: int, classes: int, per_step: int, ipc: int, real_batch: int, repeats: int) -> MachineTable:
    """Return the times of a step of DM on random images: of few classes, of many, and of groups of many.

    The steps of the three runs alternate.

    Args:
        width: Width of the ConvNets, in channels per layer.
        classes: Number of classes of the larger data.
        per_step: Number of classes in one step, and of the smaller data.
        ipc: Images per class of the synthetic sets.
        real_batch: Real images of each class in one step.
        repeats: Number of timed steps of each run.
    """
    few, many = _random_images(per_step, real_batch), _random_images(classes, real_batch)
    runs = {
        f"{per_step} classes": _run(few, width, ipc, real_batch, repeats, None),
        f"{per_step} of {classes} classes": _run(many, width, ipc, real_batch, repeats, per_step),
        f"{classes} classes": _run(many, width, ipc, real_batch, repeats, None),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):  # turn 0 is the warm-up
        for name, run in runs.items():
            began = time.perf_counter()
            next(run)
            if turn:
                times[name].append(time.perf_counter() - began)
    first = statistics.median(times[f"{per_step} classes"])
    rows = [
        {
            "classes": name,
            "ipc": ipc,
            "width": width,
            "step, s": round(statistics.median(seconds), 3),
            "ratio of medians": f"{statistics.median(seconds) / first:.2f}",
        }
        for name, seconds in times.items()
    ]
    return MachineTable(machine_of("cpu", repeats), {"one step of DM on 32x32 colour images": rows})


def _run(real: RealData, width: int, ipc: int, real_batch: int, steps: int, per_step: int | None) -> Distillation[Any]:
    make = network_factory("convnet", _SHAPE, real.num_classes, width=width)
    recipe = DM(ipc=ipc, steps=steps + 1, real_batch=real_batch, classes_per_step=per_step)
    plan = recipe.plan(real, make_student=make, rng=generator("plan"))
    return Distillation(plan, real, rng=generator("run"))


def _random_images(classes: int, per_class: int) -> RealData:
    n = classes * per_class
    images = torch.randint(0, 256, (n, *_SHAPE), generator=generator("classes"), dtype=torch.uint8)
    labels = torch.arange(classes).repeat_interleave(per_class)
    names = [str(c) for c in range(classes)]
    return RealData(images, labels, class_names=names, preprocess=Preprocess.normalise([0.5] * 3, [0.29] * 3))
