"""Speed of the recipes on this machine, as fractions of its matrix-product rate.

Compared functions are timed in turn and medians are reported: on a shared machine a ratio is more reliable than a time.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine.machine import SHAPE, MachineTable, Row, machine_of, matrix_product, median_times, random_pixels
from ddsdk.data import RealData
from ddsdk.experiments import students_label
from ddsdk.foundation import generator, require, require_count
from ddsdk.networks import network_factory
from ddsdk.objectives import (
    Byproduct,
    ClassMatch,
    Distance,
    filter_cosine,
    in_micro_batches,
    mean_embedding,
    squared,
    weight_gradients,
)
from ddsdk.planning import METHODS, preset, read_leaderboards, times_to_accuracy
from ddsdk.recipes import IterativeRecipe, pixel_set, student_network
from ddsdk.running import Distillation, Run, peak_memory, restart_peak_memory
from ddsdk.synthetic import LeafView

# Matched quantity and distance of each method.
_STEPS: dict[str, tuple[Byproduct, Distance]] = {
    "dm": (mean_embedding, squared),
    "dc": (weight_gradients, filter_cosine),
}


def speed_table(
    *,
    recipes: Sequence[str],
    widths: Sequence[int],
    real_batch: int,
    ipc: int,
    repeats: int,
    device: str,
    reach: float = 70.0,
) -> MachineTable:
    """Return times of the matching steps of DM and DC, and time and memory of an outer step of each recipe.

    Images have the shape of FashionMNIST and recipes have their settings for a small machine. The fraction of the
    matrix rate counts convolutions, matrix products and their gradients, but no elementwise operations, pooling or
    normalisation. Memory is the peak of two outer steps above the start, measured in a new process: for 10 classes, for
    100 classes, and for 10 classes with four times the real batch. It is not measured for recipes with experts or
    teachers. Seconds to an accuracy come from the measured curves in the package, see `ddsdk winners`. An unknown
    recipe, a recipe without steps or a number out of range is a ValueError.

    Args:
        recipes: Names of iterative recipes; empty for all of them.
        widths: Widths of the student networks, such as channels of a ConvNet.
        real_batch: Real images of each class per step, or of all classes for recipes with mixed batches.
        ipc: Images per class of the synthetic set.
        repeats: Number of timed repetitions, of which the median is reported.
        device: Torch device of the run. Memory is measured only on ``"cpu"``.
        reach: Accuracy in percent for the column of seconds to an accuracy.
    """
    timed = [name for name, kind in METHODS.items() if issubclass(kind, IterativeRecipe)]
    chosen = list(recipes) or timed
    for name in chosen:
        require(name in timed, "recipes", f"be among {', '.join(timed)}", name)
    for count, value in (("real_batch", real_batch), ("ipc", ipc), ("repeats", repeats)):
        require_count(count, value)
    require(0 < reach < 100, "reach", "be a percentage between 0 and 100", reach)
    require(bool(widths), "widths", "name at least one width", list(widths))
    for width in widths:
        require_count("widths", width)
    data = random_pixels(10, max(real_batch, ipc)).to(device)
    steps = [_step_row(kind, w, data, real_batch, ipc, repeats) for kind in _STEPS for w in widths]
    rows = [
        {**_recipe_row(name, w, data, real_batch, ipc, repeats), **_seconds_to(reach, name)}
        for name in chosen
        for w in widths
    ]
    return MachineTable(machine_of(device, repeats), {"matching steps": steps, "recipes": rows})


def conv_flops(network: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return the forward floating-point operations of the convolutions for one image: all layers, and the first layer.

    A multiplication with an addition counts as two operations.
    """
    counts: list[int] = []

    def count(layer: nn.Module, _: object, out: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        counts.append(2 * layer.weight.numel() * out.shape[2] * out.shape[3])

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d)]
    device = next(network.parameters()).device
    with torch.no_grad():
        network(torch.zeros(1, *shape, device=device))
    for hook in hooks:
        hook.remove()
    return sum(counts), counts[0]


def _step_row(kind: str, width: int, data: RealData, real_batch: int, ipc: int, repeats: int) -> Row:
    byproduct, distance = _STEPS[kind]
    network = network_factory("convnet", SHAPE, data.num_classes, width=width)(generator("student"))
    network = network.to(data.device)
    network.requires_grad_(kind == "dc")
    syn = pixel_set(data, ipc, "real", generator("start"))
    match = ClassMatch(byproduct=byproduct, distance=distance, real_batch=real_batch)
    rng = generator("step")
    batch = data.of_class(0, real_batch, rng)
    multiply, operations = matrix_product(data.device)

    def step() -> None:
        leaves = LeafView(syn)
        for term in match(network, data, leaves, rng):
            torch.autograd.backward(term, inputs=leaves.inputs)
            leaves.pull_back()

    def real_side() -> None:
        in_micro_batches(byproduct, network, batch)

    product_time, real_time, step_time = median_times((multiply, real_side, step), repeats, data.device)
    forward, first = conv_flops(network, SHAPE)
    # The backward pass has two products per layer, for weights and for inputs; the first layer needs only the first.
    flops = len(batch.x) * (forward if kind == "dm" else 3 * forward - first)
    peak = operations / product_time
    return {
        "step": kind,
        "width": width,
        "matrix GFLOP/s": round(peak / 1e9),
        "real side, s": round(real_time, 3),
        "share of matrix rate": f"{flops / real_time / peak:.0%}",
        "step, s": round(step_time, 3),
    }


def _small_recipe(name: str, real_batch: int, ipc: int, **changes: int) -> IterativeRecipe:
    """Return a recipe with its settings for a small machine, and with the given parameters if it has them."""
    recipe_class = METHODS[name]
    parameters = {"ipc": ipc, "real_batch": real_batch, **changes}
    known = {key: value for key, value in parameters.items() if key in recipe_class.__dataclass_fields__}
    recipe = recipe_class(**{**preset(name, ipc), **known})
    assert isinstance(recipe, IterativeRecipe)  # checked by speed_table
    return recipe


def _recipe_row(name: str, width: int, data: RealData, real_batch: int, ipc: int, repeats: int) -> Row:
    recipe = _small_recipe(name, real_batch, ipc)
    network, options = student_network(recipe, data, "", {"width": width})
    student = network_factory(network, SHAPE, data.num_classes, **options)
    runs = Run(recipe, data, make_student=student, seed=generator("recipe")).runs
    # Experts and teachers are trained before, because a step would train missing ones and include their time.
    deque(runs.make() if runs is not None else (), maxlen=0)
    distillation = Run(recipe, data, make_student=student, seed=generator("recipe")).distillation
    multiply, operations = matrix_product(data.device)
    product_time, seconds = median_times((multiply, lambda: next(distillation)), repeats, data.device)
    with FlopCounterMode(display=False) as flop_counter:
        next(distillation)
    peak = operations / product_time
    row = {
        "recipe": name,
        "students": students_label(recipe, data, network, options),
        "outer steps/s": f"{1 / seconds:.3f}",
        "s": round(seconds, 3),
        "GFLOP": f"{flop_counter.get_total_flops() / 1e9:.3g}",
        "share of matrix rate": f"{flop_counter.get_total_flops() / seconds / peak:.0%}",
    }
    return row if data.device.type != "cpu" else row | _memory(name, real_batch, ipc, width)


def _memory(name: str, real_batch: int, ipc: int, width: int) -> Row:
    cases = {
        "10 classes": (10, real_batch),
        "100 classes": (100, real_batch),
        f"10 classes, {4 * real_batch} real": (10, 4 * real_batch),
    }
    measurable = not METHODS[name].trains_networks()
    return {
        f"{case}, MiB": round(step_memory(name, classes, real, ipc, width) / 2**20) if measurable else "–"
        for case, (classes, real) in cases.items()
    }


def _seconds_to(percent: float, name: str) -> Row:
    """Return the CPU seconds after which a recipe reached an accuracy, for each leaderboard in the package."""
    row: Row = {}
    for leaderboard in read_leaderboards():
        times = {entry.recipe: seconds for seconds, entry in times_to_accuracy(leaderboard, "soft", percent / 100)}
        title = f"CPU s to {percent:g} % ({leaderboard.data}, ipc {leaderboard.ipc})"
        row[title] = round(times[name]) if name in times else "–"
    return row


def step_memory(name: str, classes: int, real_batch: int, ipc: int, width: int) -> int:
    """Return the peak bytes of two outer steps of a recipe above the start, measured in a new process.

    Only Linux can reset the peak memory of a process; other systems raise FileNotFoundError.

    Args:
        name: Name of an iterative recipe without experts or teachers, a key of `ddsdk.RECIPES`.
        classes: Number of classes of the data.
        real_batch: Real images of each class per step.
        ipc: Images per class of the synthetic set.
        width: Width of the student networks, such as channels of a ConvNet.
    """
    context = multiprocessing.get_context("spawn")
    # A new process would use all cores, even if this process is limited to fewer threads.
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, context, torch.set_num_threads, threads) as pool:
        return pool.submit(_peak_above_start, name, classes, real_batch, ipc, width).result()


def _peak_above_start(name: str, classes: int, real_batch: int, ipc: int, width: int) -> int:
    def start(images: int, real: int) -> Distillation[Any]:
        data = random_pixels(classes, max(images, real))
        # One epoch, since the number of epochs of the students changes the time but not the memory.
        recipe = _small_recipe(name, real, images, student_epochs=1)
        network, options = student_network(recipe, data, "", {"width": width})
        student = network_factory(network, SHAPE, classes, **options)
        distillation: Distillation[Any] = Run(recipe, data, make_student=student, seed=generator("memory")).distillation
        return distillation

    # The first step allocates memory of the libraries that stays; it must not count.
    next(start(1, 1))
    distillation = start(ipc, real_batch)
    before = restart_peak_memory()
    for _ in range(2):
        next(distillation)
    return peak_memory(torch.device("cpu")) - before
