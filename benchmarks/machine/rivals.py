"""Image steps of six methods beside plain ones, with and without freed memory that the process keeps."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.machine.machine import SHAPE, MachineTable, Row, machine_of, random_pixels
from benchmarks.machine.reference import (
    ClassLoss,
    plain_dc_loss,
    plain_dm_loss,
    plain_gradient,
    plain_idc_loss,
    plain_network,
    plain_ridge_loss,
    plain_tiles,
    plain_trajectory_loss,
)
from ddsdk.data import Batch, RealData
from ddsdk.foundation import derive, generator, keep_freed_memory, require, require_count
from ddsdk.foundation.heap import MMAP_THRESHOLD, TRIM_THRESHOLD
from ddsdk.networks import network_factory
from ddsdk.objectives import ClassMatch, Objective
from ddsdk.recipes import DC, DM, DSA, IDC, MTT, FRePo
from ddsdk.running import Plan
from ddsdk.students import ExpertSegment, plain_student
from ddsdk.synthetic import LeafView, SyntheticSet
from ddsdk.training import FlatNetwork, weight_vector

_STUDENT_STEPS = 10
_LARGEST_DYNAMIC = 32 * 2**20
"""Threshold of glibc's dynamic rule after large tensors were freed, in bytes; the trim threshold is twice as large."""

Step = Callable[[], tuple[float, list[Tensor]]]
"""A step without arguments, which returns its loss and the gradients of the set."""


@dataclass(frozen=True)
class Pair:
    """A step of ddsdk and the plain step with the same inputs.

    Attributes:
        ours: Step of ddsdk, from the objective to the gradients of the stored tensors.
        plain: Plain step of `benchmarks.machine.reference`.
    """

    ours: Step
    plain: Step


def dm(data: RealData, width: int, real_batch: int, ipc: int) -> Pair:
    """Return a step of DM for all classes, with its augmentation."""
    return _classwise(DM(ipc=ipc, real_batch=real_batch), plain_dm_loss, data, width, trained=False)


def dc(data: RealData, width: int, real_batch: int, ipc: int) -> Pair:
    """Return a step of DC for all classes."""
    return _classwise(DC(ipc=ipc, real_batch=real_batch, start="real"), plain_dc_loss, data, width)


def dsa(data: RealData, width: int, real_batch: int, ipc: int) -> Pair:
    """Return a step of DSA for all classes, with its augmentation."""
    return _classwise(DSA(ipc=ipc, real_batch=real_batch), plain_dc_loss, data, width)


def idc(data: RealData, width: int, real_batch: int, ipc: int) -> Pair:
    """Return a step of IDC for one class of canvases of four tiles, with its augmentation."""
    return _classwise(IDC(ipc=ipc, real_batch=real_batch, factor=2), plain_idc_loss, data, width, tiles=2)


def mtt(data: RealData, width: int, real_batch: int, ipc: int) -> Pair:  # noqa: ARG001
    """Return a step of MTT with 10 training steps of the student on all images, without augmentation."""
    make_student = network_factory("convnet", SHAPE, data.num_classes, width=width)
    network = make_student(generator("student"))
    start = weight_vector(network)
    target = start + 0.01 * torch.randn(len(start), generator=generator("target"))
    recipe = MTT(ipc=ipc, student_steps=_STUDENT_STEPS, augmentation="", experts=1)
    plan = recipe.plan(data, make_student=make_student, rng=generator("plan"))
    segment = ExpertSegment(FlatNetwork(network), start, target)
    reference = plain_network(network)

    def plain() -> tuple[float, list[Tensor]]:
        images, labels, rate = *_stored(plan.syn), plan.syn.rate
        assert rate is not None  # MTT learns it
        leaves = [images, rate().detach().requires_grad_()]
        loss = plain_trajectory_loss(reference, start, target, Batch(images, labels), leaves[1], _STUDENT_STEPS)
        return float(loss.detach()), list(torch.autograd.grad(loss, leaves))

    return Pair(_step(plan, segment, data), plain)


def frepo(data: RealData, width: int, real_batch: int, ipc: int) -> Pair:
    """Return a step of FRePo under one network of its pool."""
    make_student = network_factory("convnet", SHAPE, data.num_classes, width=width)
    recipe = FRePo(ipc=ipc, real_batch=real_batch)
    plan = recipe.plan(data, make_student=make_student, rng=generator("plan"))
    network = plain_student(make_student)(generator("student")).requires_grad_(False)
    reference, rng = plain_network(network), generator("step")

    def plain() -> tuple[float, list[Tensor]]:
        images, labels = _stored(plan.syn)
        real = data.mixed(real_batch, derive(rng, "real"))
        leaves = [images, labels.requires_grad_()]
        loss = plain_ridge_loss(reference, real, Batch(*leaves), recipe.ridge)
        return float(loss.detach()), list(torch.autograd.grad(loss, leaves))

    return Pair(_step(plan, network, data), plain)


PAIRS: dict[str, Callable[[RealData, int, int, int], Pair]] = {
    "dm": dm,
    "dc": dc,
    "dsa": dsa,
    "mtt": mtt,
    "idc": idc,
    "frepo": frepo,
}
"""Steps by method, as functions of data, width, real images of each class (FRePo: of all) and images per class."""


def rivals_table(
    *, recipes: Sequence[str], widths: Sequence[int], real_batch: int, ipc: int, repeats: int
) -> MachineTable:
    """Return times of image steps of ddsdk and of plain steps with the same inputs.

    Images have the shape of FashionMNIST. A step of ddsdk runs with the memory setting of `keep_freed_memory`; the
    plain step runs once with glibc's defaults and once with that setting. The three are timed in turn, each after a run
    without timing, which fills the memory that the process keeps. Times are CPU seconds of all threads. The students'
    own training and the update of the images are not part of a step. An unknown method, a number out of range, or a
    memory setting of the user's is a ValueError.

    Args:
        recipes: Names of methods, keys of `PAIRS`; empty for all of them.
        widths: Widths of the ConvNet.
        real_batch: Real images of each class in one step, for FRePo of all classes together.
        ipc: Images per class of the synthetic set.
        repeats: Number of timed repetitions, of which the median is reported.
    """
    for name in recipes:
        require(name in PAIRS, "recipes", f"be among {', '.join(PAIRS)} for the table rivals", name)
    for count, value in (("real_batch", real_batch), ("ipc", ipc), ("repeats", repeats)):
        require_count(count, value)
    _kept()
    data = random_pixels(10, max(real_batch, ipc))
    rows = [
        {"step": name, "width": width, **_row(PAIRS[name](data, width, real_batch, ipc), repeats)}
        for width in widths
        for name in recipes or PAIRS
    ]
    return MachineTable(machine_of("cpu", repeats), {"image steps, CPU s": rows})


def _row(pair: Pair, repeats: int) -> Row:
    runs = ((_kept, pair.ours), (_defaults, pair.plain), (_kept, pair.plain))
    times: list[list[tuple[float, float]]] = [[] for _ in runs]
    for _ in range(repeats):
        for (set_memory, step), measured in zip(runs, times, strict=True):
            set_memory()
            step()
            measured.append(_seconds(step))
    _kept()
    (ours, ours_wall), (plain, plain_wall), (kept, kept_wall) = (
        [statistics.median(values) for values in zip(*measured, strict=True)] for measured in times
    )
    return {
        "ours": f"{ours:.3f}",
        "plain": f"{plain:.3f}",
        "plain, memory kept": f"{kept:.3f}",
        "plain / ours": f"{plain / ours:.2f}",
        "plain, memory kept / ours": f"{kept / ours:.2f}",
        "plain / ours, wall": f"{plain_wall / ours_wall:.2f}",
        "plain, memory kept / ours, wall": f"{kept_wall / ours_wall:.2f}",
    }


def _seconds(step: Step) -> tuple[float, float]:
    """Return the CPU seconds and the wall-clock seconds of a step."""
    cpu, wall = time.process_time(), time.perf_counter()
    step()
    return time.process_time() - cpu, time.perf_counter() - wall


def _kept() -> None:
    # The function changes the setting once in a process; here it must change it again.
    kept = keep_freed_memory.__wrapped__()
    require(kept, "memory", "be that of glibc without MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_", kept)


def _defaults() -> None:
    """Set the thresholds that glibc's dynamic rule reaches, and return all freed memory to the operating system."""
    library = ctypes.CDLL("libc.so.6")
    library.mallopt(MMAP_THRESHOLD, _LARGEST_DYNAMIC)
    library.mallopt(TRIM_THRESHOLD, 2 * _LARGEST_DYNAMIC)
    library.malloc_trim(0)


def _step(plan: Plan[Any], student: object, data: RealData) -> Step:
    """Return the gradient of a plan's first step under a given student, as the loop of a distillation computes it."""
    objective: Objective[Any] = plan.objective_at(0)
    syn, rng = plan.syn, generator("step")

    def step() -> tuple[float, list[Tensor]]:
        syn.zero_grad()
        leaves, loss = LeafView(syn), 0.0
        for term in objective(student, data, leaves, rng):
            torch.autograd.backward(term, inputs=leaves.inputs)
            leaves.pull_back()
            loss += float(term.detach())
        leaves.finish()
        return loss, [p.grad for p in syn.parameters() if p.grad is not None]

    return step


def _stored(syn: SyntheticSet) -> tuple[Tensor, Tensor]:
    """Return the stored images as a leaf, and the label rows of all slots."""
    (images,) = syn.parametrization.parameters()
    return images.detach().requires_grad_(), syn.labels.rows(torch.arange(len(syn))).detach()


def _classwise(
    recipe: DM | DC | DSA | IDC, loss: ClassLoss, data: RealData, width: int, *, trained: bool = True, tiles: int = 1
) -> Pair:
    """Return the steps of a method that matches each class on its own.

    Args:
        recipe: Recipe whose objective is that of ddsdk's step.
        loss: Plain loss of one class.
        data: Real data of the step.
        width: Width of the ConvNet.
        trained: Whether the parameters of the student require gradients.
        tiles: Tiles along each side of a canvas.
    """
    make_student = network_factory("convnet", SHAPE, data.num_classes, width=width)
    network: nn.Module = make_student(generator("student")).requires_grad_(trained)
    plan = recipe.plan(data, make_student=make_student, rng=generator("plan"))
    match, reference, rng = plan.objective_at(0), plain_network(network), generator("step")
    assert isinstance(match, ClassMatch)

    def plain() -> tuple[float, list[Tensor]]:
        stored, labels = _stored(plan.syn)
        classes = range(data.num_classes) if match.classes is None else match.classes
        real, syn = [], []
        for c in classes:
            key, slots = derive(rng, "class", c), plan.syn.slots_of_class(c)
            draw = match.augmentation.siamese(derive(key, "augmentation"))
            batch = data.of_class(c, match.real_batch, derive(key, "real"))
            images = stored[slots] if tiles == 1 else plain_tiles(stored[slots], tiles)
            real.append(Batch(draw(batch.x), batch.y))
            syn.append(Batch(draw(images), labels[slots].repeat_interleave(tiles**2, 0)))
        return plain_gradient(loss, reference, real, syn, [stored])

    return Pair(_step(plan, network, data), plain)
