"""Shared parts of the machine benchmarks: table, timing and random images."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ddsdk.data import Preprocess, RealData
from ddsdk.foundation import generator

SHAPE = (1, 28, 28)
_MATRIX = 2048
Row = dict[str, Any]


@dataclass(frozen=True)
class MachineTable:
    """Measured rows and the machine of the measurement.

    Attributes:
        machine: Version of torch, device, threads and repetitions, by name.
        rows: Rows of each table, by its title.
    """

    machine: Row
    rows: Mapping[str, list[Row]]

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Return title, columns and rows of each nonempty table as text."""
        head = ", ".join(f"{k} {v}" for k, v in self.machine.items())
        return [
            (f"{title} ({head})", list(rows[0]), [[str(v) for v in row.values()] for row in rows])
            for title, rows in self.rows.items()
            if rows
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return dataclasses.asdict(self)


def machine_of(device: str, repeats: int) -> Row:
    """Return version of torch, device, threads and repetitions of a measurement."""
    threads = torch.get_num_threads()
    return {"torch": torch.__version__, "device": device, "threads": threads, "repeats": repeats}


def median_times(functions: Sequence[Callable[[], object]], repeats: int, device: torch.device) -> list[float]:
    """Return the median seconds of each function. They are timed in turn, because the load of the machine varies.

    Args:
        functions: Functions without arguments to time.
        repeats: Number of timed rounds, after one warm-up round.
        device: Torch device of the computation, which is synchronised before the clock is read.
    """
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):  # turn 0 is the warm-up
        for i, function in enumerate(functions):
            began = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                times[i].append(time.perf_counter() - began)
    return [statistics.median(t) for t in times]


def matrix_product(device: torch.device) -> tuple[Callable[[], object], float]:
    """Return a matrix product, the estimate of the machine's peak rate, and its number of floating-point operations."""
    matrix = torch.rand(_MATRIX, _MATRIX, generator=generator("matrix")).to(device)
    return lambda: matrix @ matrix, 2.0 * _MATRIX**3


def random_pixels(num_classes: int, per_class: int) -> RealData:
    """Return a data set of random images in the shape of FashionMNIST, `per_class` of each class."""
    images = torch.randint(0, 256, (num_classes * per_class, *SHAPE), generator=generator("speed"), dtype=torch.uint8)
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    names = [str(c) for c in range(num_classes)]
    preprocess = Preprocess.normalise((0.2861,), (0.3530,))
    return RealData(images, labels, class_names=names, preprocess=preprocess, name="random pixels")
