"""One step of trajectory matching: memory, time and gradient of the three ways to pass through a student's training."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.machine.machine import MachineTable, Row, machine_of
from ddsdk.data import DSA_STRATEGY, Augmentation, Preprocess, RealData
from ddsdk.foundation import derive, generator, require, require_count
from ddsdk.networks import network_factory
from ddsdk.objectives import MatchTrajectory
from ddsdk.recipes import hard_set
from ddsdk.running import peak_memory, restart_peak_memory
from ddsdk.students import ExpertSpan
from ddsdk.synthetic import LearnedRate, Leaves, Pixels
from ddsdk.training import FlatNetwork, Unroll, constant_memory, full_graph, gradient_step, truncated, weight_vector

_SHAPE, _CLASSES = (1, 28, 28), 10
_WAYS: dict[str, Unroll] = {"constant": constant_memory, "full": full_graph, "truncated": truncated}
# The expert's steps, on other random pixels; its rate is that of the student too.
_EXPERT_STEPS, _RATE = 40, 0.01
_AUGMENTATION = Augmentation(DSA_STRATEGY)


class Measured(NamedTuple):
    """What one way to pass through a student's training takes, and gives.

    Attributes:
        memory: Bytes at the peak, above what was resident before.
        seconds: Of one step: the median.
        gradient: Of the distance by the images, flattened.
    """

    memory: int
    seconds: float
    gradient: list[float]


def unroll_table(
    *, student_steps: Sequence[int], widths: Sequence[int], ipc: int, repeats: int, device: str
) -> MachineTable:
    """Measure one step of trajectory matching at FashionMNIST shapes, each way in a process of its own.

    Random pixels, `ipc` for each of 10 classes, seen whole by a ConvNet-3 in each of its steps, under the published
    augmentation. Cosines are those of image gradients with that of constant memory; for the full graph it is what
    rounding leaves of 1.

    Args:
        student_steps: Steps of the student.
        widths: Widths of the ConvNet.
        ipc: Images per class.
        repeats: Timed repeats; the median counts.
        device: Must be a CPU, whose memory a process tells.

    Raises:
        ValueError: If a number is below 1 or the device is no CPU.
        FileNotFoundError: On anything but Linux, which alone tells the peak of a process from a point on.
    """
    require(torch.device(device).type == "cpu", "device", "be cpu for this table", device)
    for name, value in (("ipc", ipc), ("repeats", repeats)):
        require_count(name, value)
    for name, values in (("student_steps", student_steps), ("widths", widths)):
        require(bool(values), name, "hold at least one number", list(values))
        for value in values:
            require_count(name, value)
    machine = {**machine_of(device, repeats), "images": _CLASSES * ipc}
    rows = [_row(steps, width, ipc, repeats) for width in widths for steps in student_steps]
    return MachineTable(machine, {"one step of trajectory matching": rows})


def _row(steps: int, width: int, ipc: int, repeats: int) -> Row:
    found = {way: measure_unroll(way, steps, width, ipc, repeats) for way in _WAYS}
    exact = found["constant"].gradient
    return {
        "steps": steps,
        "width": width,
        **{f"{way}, MiB": round(m.memory / 2**20) for way, m in found.items()},
        **{f"{way}, s": round(m.seconds, 2) for way, m in found.items()},
        **{f"{way}, cosine": f"{_cosine(found[way].gradient, exact):.4f}" for way in ("full", "truncated")},
    }


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return float(torch.cosine_similarity(torch.tensor(a), torch.tensor(b), dim=0))


def measure_unroll(way: str, steps: int, width: int, ipc: int, repeats: int = 1) -> Measured:
    """Measure one way to pass through the training of a student, in a process of its own.

    Args:
        way: "constant" (memory), "full" (graph) or "truncated".
        steps: Steps of the student.
        width: Width of the ConvNet.
        ipc: Images for each of 10 classes.
        repeats: Timed repeats.
    """
    context = multiprocessing.get_context("spawn")
    # A child would take every core, also where this process was told to leave some to others.
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, context, torch.set_num_threads, threads) as pool:
        return pool.submit(_measure, way, steps, width, ipc, repeats).result()


def _measure(way: str, steps: int, width: int, ipc: int, repeats: int) -> Measured:
    data = _data(ipc)
    span = _expert(data, width)
    # A first small pass pays for what the libraries allocate once.
    _step(way, 1, data, span, 1)
    times = []
    before = restart_peak_memory()
    for _ in range(repeats):
        began = time.perf_counter()
        gradient = _step(way, steps, data, span, ipc)
        times.append(time.perf_counter() - began)
    memory = peak_memory(torch.device("cpu")) - before
    return Measured(memory, statistics.median(times), gradient.tolist())


def _step(way: str, steps: int, data: RealData, span: ExpertSpan, ipc: int) -> Tensor:
    """Return the gradient of the distance by `ipc` images of each class."""
    images = torch.randn(_CLASSES * ipc, *_SHAPE, generator=generator("images"))
    syn = hard_set(data, ipc, Pixels(images), LearnedRate(_RATE))
    match = MatchTrajectory(steps=steps, augmentation=_AUGMENTATION, unroll=_WAYS[way])
    leaves = Leaves(syn)
    for term in match(span, data, leaves, generator("step")):
        torch.autograd.backward(term, inputs=leaves.inputs)
        leaves.pull_back()
    pixels = syn.parametrization.get_parameter("images").grad
    assert pixels is not None
    return pixels.flatten()


def _expert(data: RealData, width: int) -> ExpertSpan:
    network = network_factory("convnet", _SHAPE, _CLASSES, width=width)(generator("expert"))
    start = weight_vector(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=_RATE)
    for i in range(_EXPERT_STEPS):
        gradient_step(network, optimizer, data.mixed(256, derive(generator("expert"), i)))
    return ExpertSpan(FlatNetwork(network), start, weight_vector(network))


def _data(per_class: int) -> RealData:
    n = _CLASSES * max(per_class, 26)
    images = torch.rand(n, *_SHAPE, generator=generator("unroll"))
    labels = torch.arange(_CLASSES).repeat_interleave(n // _CLASSES)
    names = [str(c) for c in range(_CLASSES)]
    preprocess = Preprocess.normalise((0.5,), (0.29,))
    return RealData(images, labels, class_names=names, preprocess=preprocess, name="random pixels")
