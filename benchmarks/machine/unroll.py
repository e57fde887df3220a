"""Memory, time and gradient of one step of trajectory matching with four ways of backpropagation through training."""

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
from ddsdk.recipes import hard_label_set
from ddsdk.running import peak_memory, restart_peak_memory
from ddsdk.students import ExpertSegment
from ddsdk.synthetic import LeafView, LearnedRate, Pixels
from ddsdk.training import (
    FlatNetwork,
    StepReplay,
    Unroll,
    constant_memory,
    full_graph,
    gradient_step,
    truncated,
    weight_vector,
)

_SHAPE, _CLASSES = (1, 28, 28), 10
_WAYS: dict[str, Unroll] = {
    "constant": constant_memory,
    "replayed": StepReplay(graph_bytes=0),
    "full": full_graph,
    "truncated": truncated,
}
# Number of steps of the expert, and the learning rate of expert and student.
_EXPERT_STEPS, _RATE = 40, 0.01
_AUGMENTATION = Augmentation(DSA_STRATEGY)


class Measured(NamedTuple):
    """Cost and result of one way of backpropagation through the student's training.

    Attributes:
        memory: Peak memory in bytes above the start.
        seconds: Median seconds of one step.
        gradient: Gradient of the distance with respect to the images, flattened.
    """

    memory: int
    seconds: float
    gradient: list[float]


def unroll_table(
    *, student_steps: Sequence[int], widths: Sequence[int], ipc: int, repeats: int, device: str
) -> MachineTable:
    """Return memory, time and gradients of one step of trajectory matching, each way measured in a new process.

    The student is a ConvNet-3 that trains on random images in the shape of FashionMNIST, all of them in each step, with
    the published augmentation. The table has the cosine of each image gradient with that of constant memory. For
    replayed steps and the full graph it differs from 1 only by rounding. A number below 1 is a ValueError. Only Linux
    can reset the peak memory of a process; other systems raise FileNotFoundError.

    Args:
        student_steps: Numbers of training steps of the student.
        widths: Widths of the ConvNet, in channels per layer.
        ipc: Images of each of the 10 classes.
        repeats: Number of timed repetitions, of which the median is reported.
        device: Torch device, which must be a CPU because its memory is measured.
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
    measured = {way: measure_unroll(way, steps, width, ipc, repeats) for way in _WAYS}
    exact = measured["constant"].gradient
    return {
        "steps": steps,
        "width": width,
        **{f"{way}, MiB": round(m.memory / 2**20) for way, m in measured.items()},
        **{f"{way}, s": round(m.seconds, 2) for way, m in measured.items()},
        **{f"{way}, cosine": f"{_cosine(m.gradient, exact):.4f}" for way, m in measured.items() if way != "constant"},
    }


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return float(torch.cosine_similarity(torch.tensor(a), torch.tensor(b), dim=0))


def measure_unroll(way: str, steps: int, width: int, ipc: int, repeats: int = 1) -> Measured:
    """Return cost and gradient of one way of backpropagation through training, measured in a new process.

    Args:
        way: Way of backpropagation: ``"constant"`` (memory), ``"replayed"`` (no kept graph), ``"full"`` (graph) or
            ``"truncated"``.
        steps: Number of training steps of the student.
        width: Width of the ConvNet, in channels per layer.
        ipc: Images of each of the 10 classes.
        repeats: Number of timed repetitions.
    """
    context = multiprocessing.get_context("spawn")
    # A new process would use all cores, even if this process is limited to fewer threads.
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, context, torch.set_num_threads, threads) as pool:
        return pool.submit(_measure, way, steps, width, ipc, repeats).result()


def _measure(way: str, steps: int, width: int, ipc: int, repeats: int) -> Measured:
    data = _data(ipc)
    segment = _expert_segment(data, width)
    # The first step allocates memory of the libraries that stays; it must not count.
    _step(way, 1, data, segment, 1)
    times = []
    before = restart_peak_memory()
    for _ in range(repeats):
        began = time.perf_counter()
        gradient = _step(way, steps, data, segment, ipc)
        times.append(time.perf_counter() - began)
    memory = peak_memory(torch.device("cpu")) - before
    return Measured(memory, statistics.median(times), gradient.tolist())


def _step(way: str, steps: int, data: RealData, segment: ExpertSegment, ipc: int) -> Tensor:
    """Return the gradient of the distance with respect to the synthetic images, flattened."""
    images = torch.randn(_CLASSES * ipc, *_SHAPE, generator=generator("images"))
    syn = hard_label_set(data, ipc, Pixels(images), LearnedRate(_RATE))
    match = MatchTrajectory(steps=steps, augmentation=_AUGMENTATION, unroll=_WAYS[way])
    leaves = LeafView(syn)
    for term in match(segment, data, leaves, generator("step")):
        torch.autograd.backward(term, inputs=leaves.inputs)
        leaves.pull_back()
    pixels = syn.parametrization.get_parameter("images").grad
    assert pixels is not None
    return pixels.flatten()


def _expert_segment(data: RealData, width: int) -> ExpertSegment:
    network = network_factory("convnet", _SHAPE, _CLASSES, width=width)(generator("expert"))
    start = weight_vector(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=_RATE)
    for i in range(_EXPERT_STEPS):
        gradient_step(network, optimizer, data.mixed(256, derive(generator("expert"), i)))
    return ExpertSegment(FlatNetwork(network), start, weight_vector(network))


def _data(per_class: int) -> RealData:
    n = _CLASSES * max(per_class, 26)
    images = torch.rand(n, *_SHAPE, generator=generator("unroll"))
    labels = torch.arange(_CLASSES).repeat_interleave(n // _CLASSES)
    names = [str(c) for c in range(_CLASSES)]
    preprocess = Preprocess.normalise((0.5,), (0.29,))
    return RealData(images, labels, class_names=names, preprocess=preprocess, name="random pixels")
