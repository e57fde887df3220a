"""Memory of reading pictures and of judging, as multiples of the data."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.machine.machine import MachineTable, Row, machine_of, random_pixels
from benchmarks.scale.disk import in_process
from ddsdk.data import load
from ddsdk.foundation import require
from ddsdk.judging import evaluate
from ddsdk.running import peak_memory
from ddsdk.training import TrainingProtocol

_CPU = torch.device("cpu")


def memory_table(*, folder: Path) -> MachineTable:
    """Return the growth of peak memory while a folder is read into memory, and while a set is judged on test data.

    Args:
        folder: Folder of pictures with one subfolder for each class.
    """
    require(folder.is_dir(), "folder", "be a folder of pictures; benchmarks.scale.files writes one", str(folder))
    rows = [in_process(_reading, folder), in_process(_judging)]
    return MachineTable(machine_of("cpu", 1), {"memory": rows})


def _reading(folder: Path) -> Row:
    before = peak_memory(_CPU)
    real = load(folder, on_disk=False)
    return _row("read pictures", len(real), real.images.numel(), before)


def _judging() -> Row:
    test = random_pixels(10, 5400)
    protocol = TrainingProtocol(network_options={"width": 8}, networks=1, epochs=1)
    small = test.subset(torch.arange(0, len(test), 100))
    # The first evaluation loads the parts of torch that the second one needs too.
    evaluate(small.batch(torch.arange(10)), small, protocol)
    before = peak_memory(_CPU)
    evaluate(small.batch(torch.arange(10)), test, protocol)
    return _row("judge on test data", len(test), test.images.numel() * test.images.element_size(), before)


def _row(name: str, images: int, size: int, before: float) -> Row:
    growth = peak_memory(_CPU) - before
    megabytes = {"data, MiB": round(size / 2**20), "growth of peak, MiB": round(growth / 2**20)}
    return {"step": name, "images": images, **megabytes, "ratio": f"{growth / size:.2f}"}
