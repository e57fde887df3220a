"""Memory and time of methods on a folder of pictures that are decoded to disk."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.machine.machine import MachineTable, Row, machine_of
from ddsdk.baselines import KMeans
from ddsdk.data import RealData, load
from ddsdk.foundation import generator, require
from ddsdk.networks import network_factory
from ddsdk.recipes import DM, RDED, Recipe
from ddsdk.running import Distillation, distill, peak_memory
from ddsdk.training.micro import MICRO_BATCH

_STEPS = 3


def disk_table(
    *, folder: Path, width: int, ipc: int, real_batch: int, micro_batch: int, repeats: int, workers: int, in_memory: int
) -> MachineTable:
    """Return time and peak memory of each method in a process of its own, and the ratio of step times.

    The first row decodes the pictures, unless they are found in the cache folder, and fits the normalisation. The step
    times are those of DM on some images of each class, on disk and in memory; the steps of the two runs alternate.

    Args:
        folder: Folder of pictures with one subfolder for each class.
        width: Width of the ConvNets, in channels per layer.
        ipc: Images per class of the sets.
        real_batch: Real images of each class in one step of DM.
        micro_batch: Images in one forward pass of a network.
        repeats: Number of timed steps of each run.
        workers: Number of processes that decode.
        in_memory: Number of images of each class for the comparison of step times.
    """
    require(folder.is_dir(), "folder", "be a folder of pictures; benchmarks.scale.files writes one", str(folder))
    methods: dict[str, Recipe | None] = {
        "load": None,
        "load again": None,
        "dm": DM(ipc=ipc, steps=_STEPS, real_batch=real_batch),
        "rded": RDED(ipc=ipc, images=20, teacher_epochs=1, teacher_images=10),
        "k-means": KMeans(ipc=ipc),
    }
    rows = [
        {"method": name, **in_process(_measure, folder, m, width, workers, micro_batch)} for name, m in methods.items()
    ]
    compared = in_process(_compare, folder, width, ipc, real_batch, micro_batch, repeats, in_memory)
    machine = {**machine_of("cpu", repeats), "width": width, "real batch": real_batch, "micro-batch": micro_batch}
    return MachineTable(machine, {"data on disk": rows, "one step of DM": [compared]})


def in_process(function: Callable[..., Row], *arguments: object) -> Row:
    """Return the row of a function that runs in a process of its own, whose peak memory is that of the function."""
    # Larger tensors then return to the system when they are freed; glibc raises its threshold otherwise.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "1048576")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, torch.set_num_threads, (torch.get_num_threads(),)) as pool:
        row: Row = pool.submit(function, *arguments).result()
        return row


def _measure(folder: Path, method: Recipe | None, width: int, workers: int, micro_batch: int) -> Row:
    MICRO_BATCH["cpu"] = micro_batch
    # The libraries are loaded first: the first optimizer of torch imports its compiler, k-means scikit-learn.
    torch.optim.SGD([torch.zeros(1)], lr=0.1)
    if isinstance(method, KMeans):
        importlib.import_module("sklearn.cluster")
    at_start, began = peak_memory(torch.device("cpu")), time.perf_counter()
    real = load(folder, on_disk=True, workers=workers)
    loaded = time.perf_counter()
    if method is not None:
        networks = method.uses_networks() and not isinstance(method, KMeans)
        make = network_factory("convnet", real.image_shape, real.num_classes, width=width) if networks else None
        distill(method, real, make_student=make)
    return {
        "images": len(real),
        "load, s": round(loaded - began, 1),
        "method, s": round(time.perf_counter() - loaded, 1),
        "peak MiB": round(peak_memory(torch.device("cpu")) / 2**20),
        "of these libraries, MiB": round(at_start / 2**20),
    }


def _compare(
    folder: Path, width: int, ipc: int, real_batch: int, micro_batch: int, repeats: int, in_memory: int
) -> Row:
    MICRO_BATCH["cpu"] = micro_batch
    disk = load(folder, on_disk=True)
    disk = disk.subset(torch.cat([disk.index_of_class(c)[:in_memory] for c in range(disk.num_classes)]))
    memory = disk.with_items(disk.stored[torch.arange(len(disk))], disk.labels)
    runs = {name: _run(real, width, ipc, real_batch, repeats) for name, real in (("disk", disk), ("memory", memory))}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):  # turn 0 is the warm-up
        for name, run in runs.items():
            began = time.perf_counter()
            next(run)
            if turn:
                times[name].append(time.perf_counter() - began)
    on_disk, in_ram = (statistics.median(times[name]) for name in ("disk", "memory"))
    began = time.perf_counter()
    for c in range(disk.num_classes):
        disk.of_class(c, real_batch, generator(c))
    reading = time.perf_counter() - began
    return {
        "images": len(disk),
        "on disk, s": round(on_disk, 3),
        "in memory, s": round(in_ram, 3),
        "ratio of medians": f"{on_disk / in_ram:.3f}",
        "real batches of a step, s": round(reading, 3),
    }


def _run(real: RealData, width: int, ipc: int, real_batch: int, steps: int) -> Distillation:  # type: ignore[type-arg]
    make = network_factory("convnet", real.image_shape, real.num_classes, width=width)
    plan = DM(ipc=ipc, steps=steps + 1, real_batch=real_batch).plan(real, make_student=make, rng=generator("plan"))
    return Distillation(plan, real, rng=generator("run"))
