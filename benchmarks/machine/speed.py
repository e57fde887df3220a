"""How fast the recipes run on this machine, as shares of its own matrix-product rate.

Everything that is compared is timed in turn in one run, and the median counts: machines are shared and noisy, so a
time alone means little and a ratio means something.
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
from benchmarks.machine.plain import ClassLoss, plain_dc_loss, plain_dm_loss, plain_gradient, plain_network
from ddsdk.data import RealData
from ddsdk.experiments import students_label
from ddsdk.foundation import derive, generator, require, require_count
from ddsdk.networks import network_factory
from ddsdk.objectives import (
    Byproduct,
    ClassMatch,
    Distance,
    filter_cosine,
    in_pieces,
    mean_embedding,
    squared,
    weight_gradients,
)
from ddsdk.planning import METHODS, reached, read_boards, small
from ddsdk.recipes import IterativeRecipe, pixel_set, student_network
from ddsdk.running import Distillation, Run, peak_memory, restart_peak_memory
from ddsdk.synthetic import Leaves

# What each framework matches, and the plain version of its step.
_STEPS: dict[str, tuple[Byproduct, Distance, ClassLoss]] = {
    "dm": (mean_embedding, squared, plain_dm_loss),
    "dc": (weight_gradients, filter_cosine, plain_dc_loss),
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
    """Measure the steps of DM and DC at FashionMNIST shapes, and each recipe's whole outer step with its memory.

    A recipe has its settings for a small machine. Its share of the matrix rate counts the convolutions and matrix
    products of a step, their gradients too; norms, pooling and all that is element by element count as nothing.
    Memory is what two outer steps hold at their peak above what was resident before, in a process of its own with
    as many threads as this one: at 10 classes, at 100 classes, and at 10 with four times the real batch. It is left
    out where networks have to be trained first. Seconds to an accuracy are those of the curves that ship with the
    package, see `ddsdk winners`.

    Args:
        recipes: Keys of `RECIPES`; if empty, all that have an outer step.
        widths: Widths of the students, where they have one.
        real_batch: Real images of each class, or of each step where a recipe does not go class by class.
        ipc: Images per class.
        repeats: Timed repeats; the median counts.
        device: Where to run. Memory is measured on a CPU only.
        reach: Accuracy in percent, for the seconds to it.

    Raises:
        ValueError: If a recipe is unknown or has no outer step, or a number is out of range.
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
    """Return the floating-point operations of the convolutions for one image: forward, and first layer's share.

    A multiplication and an addition count as two.
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
    byproduct, distance, plain_loss = _STEPS[kind]
    network = network_factory("convnet", SHAPE, data.num_classes, width=width)(generator("student"))
    network = network.to(data.device)
    network.requires_grad_(kind == "dc")
    ordinary = plain_network(network)
    syn = pixel_set(data, ipc, "real", generator("start"))
    match = ClassMatch(byproduct=byproduct, distance=distance, real_batch=real_batch)
    rng = generator("step")
    batch = data.of_class(0, real_batch, rng)
    multiply, operations = matrix_product(data.device)

    def fast() -> None:
        leaves = Leaves(syn)
        for term in match(network, data, leaves, rng):
            torch.autograd.backward(term, inputs=leaves.inputs)
            leaves.pull_back()

    def plain() -> None:
        classes = range(data.num_classes)
        reals = [data.of_class(c, real_batch, derive(rng, c)) for c in classes]
        sets = [syn.of_class(c, ipc, rng) for c in classes]
        plain_gradient(plain_loss, ordinary, reals, sets)

    def real_side() -> None:
        in_pieces(byproduct, network, batch)

    product, real, ours, theirs = median_times((multiply, real_side, fast, plain), repeats, data.device)
    forward, first = conv_flops(network, SHAPE)
    # Backward: once for the weights and once for the inputs, which the first layer does not need.
    flops = len(batch.x) * (forward if kind == "dm" else 3 * forward - first)
    peak = operations / product
    return {
        "step": kind,
        "width": width,
        "matrix GFLOP/s": round(peak / 1e9),
        "real side, s": round(real, 3),
        "share of matrix rate": f"{flops / real / peak:.0%}",
        "step, s": round(ours, 3),
        "plain step, s": round(theirs, 3),
        "of plain": f"{ours / theirs:.0%}",
    }


def _made(name: str, real_batch: int, ipc: int, **changes: int) -> IterativeRecipe:
    """Return a recipe with its settings for a small machine, and so many real images where it says how many."""
    kind = METHODS[name]
    asked = {"ipc": ipc, "real_batch": real_batch, **changes}
    known = {key: value for key, value in asked.items() if key in kind.__dataclass_fields__}
    recipe = kind(**{**small(name, ipc), **known})
    assert isinstance(recipe, IterativeRecipe)  # the table has asked for steps
    return recipe


def _recipe_row(name: str, width: int, data: RealData, real_batch: int, ipc: int, repeats: int) -> Row:
    recipe = _made(name, real_batch, ipc)
    network, options = student_network(recipe, data, "", {"width": width})
    student = network_factory(network, SHAPE, data.num_classes, **options)
    runs = Run(recipe, data, make_student=student, seed=generator("recipe")).runs
    # Networks that would be trained when a step first asks for them would be timed with it.
    deque(runs.make() if runs is not None else (), maxlen=0)
    distillation = Run(recipe, data, make_student=student, seed=generator("recipe")).distillation
    multiply, operations = matrix_product(data.device)
    product, seconds = median_times((multiply, lambda: next(distillation)), repeats, data.device)
    with FlopCounterMode(display=False) as counted:
        next(distillation)
    peak = operations / product
    row = {
        "recipe": name,
        "students": students_label(recipe, data, network, options),
        "outer steps/s": f"{1 / seconds:.3f}",
        "s": round(seconds, 3),
        "GFLOP": f"{counted.get_total_flops() / 1e9:.3g}",
        "share of matrix rate": f"{counted.get_total_flops() / seconds / peak:.0%}",
    }
    return row if data.device.type != "cpu" else row | _memory(name, real_batch, ipc, width)


def _memory(name: str, real_batch: int, ipc: int, width: int) -> Row:
    cases = {
        "10 classes": (10, real_batch),
        "100 classes": (100, real_batch),
        f"10 classes, {4 * real_batch} real": (10, 4 * real_batch),
    }
    held = not METHODS[name].trains_networks()
    return {
        f"{case}, MiB": round(step_memory(name, classes, real, ipc, width) / 2**20) if held else "–"
        for case, (classes, real) in cases.items()
    }


def _seconds_to(percent: float, name: str) -> Row:
    """Return the CPU seconds of the first measured mark at which a recipe was so good, for each measured data set."""
    found: Row = {}
    for board in read_boards():
        times = {entry.recipe: seconds for seconds, entry in reached(board, "soft", percent / 100)}
        title = f"CPU s to {percent:g} % ({board.data}, ipc {board.ipc})"
        found[title] = round(times[name]) if name in times else "–"
    return found


def step_memory(name: str, classes: int, real_batch: int, ipc: int, width: int) -> int:
    """Return how many bytes two outer steps of a recipe hold at their peak, measured in a process of their own.

    Args:
        name: A key of `ddsdk.RECIPES` of a recipe that needs no trained networks.
        classes: Number of classes of the data.
        real_batch: Real images of each class in one step.
        ipc: Images per class.
        width: Width of the students, where they have one.

    Raises:
        FileNotFoundError: On anything but Linux, which alone tells the peak of a process from a point on.
    """
    context = multiprocessing.get_context("spawn")
    # A child would take every core, also where this process was told to leave some to others.
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, context, torch.set_num_threads, threads) as pool:
        return pool.submit(_peak_above_start, name, classes, real_batch, ipc, width).result()


def _peak_above_start(name: str, classes: int, real_batch: int, ipc: int, width: int) -> int:
    def start(images: int, real: int) -> Distillation[Any]:
        data = random_pixels(classes, max(images, real))
        # Lessons of one epoch: their number costs time and no memory.
        recipe = _made(name, real, images, student_epochs=1)
        network, options = student_network(recipe, data, "", {"width": width})
        student = network_factory(network, SHAPE, classes, **options)
        distillation: Distillation[Any] = Run(recipe, data, make_student=student, seed=generator("memory")).distillation
        return distillation

    # A first small pass pays for what the libraries allocate once.
    next(start(1, 1))
    distillation = start(ipc, real_batch)
    before = restart_peak_memory()
    for _ in range(2):
        next(distillation)
    return peak_memory(torch.device("cpu")) - before
