"""How fast the recipes run on this machine, as shares of its own matrix-product rate.

Everything that is compared is timed in turn in one run, and the median counts: machines are shared and noisy, so a
time alone means little and a ratio means something.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ddsdk.bench.plain import ClassLoss, plain_dc_loss, plain_dm_loss, plain_gradient, plain_network
from ddsdk.data.preprocess import Preprocess
from ddsdk.data.sources import RealData
from ddsdk.distill import Distillation
from ddsdk.errors import require, require_count
from ddsdk.networks.catalog import network_factory
from ddsdk.objectives.byproducts import Byproduct, in_pieces, mean_embedding, weight_gradients
from ddsdk.objectives.distances import Distance, filter_cosine, squared
from ddsdk.objectives.match import ClassMatch
from ddsdk.preview import peak_memory, restart_peak_memory
from ddsdk.recipes import RECIPES
from ddsdk.recipes.parts import pixel_set
from ddsdk.rng import derive, generator
from ddsdk.synthetic.set import Leaves

__all__ = ["SHAPE", "SpeedTable", "conv_flops", "machine_of", "random_pixels", "speed_table", "step_memory"]

SHAPE = (1, 28, 28)
# What each framework matches, and the plain version of its step.
_STEPS: dict[str, tuple[Byproduct, Distance, ClassLoss]] = {
    "dm": (mean_embedding, squared, plain_dm_loss),
    "dc": (weight_gradients, filter_cosine, plain_dc_loss),
}
Row = dict[str, Any]


@dataclass(frozen=True)
class SpeedTable:
    """Rows of two tables: real side and whole step, and recipes with their memory."""

    machine: Row
    steps: list[Row]
    recipes: list[Row]

    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Return (title, columns, rows) of text."""
        head = ", ".join(f"{k} {v}" for k, v in self.machine.items())
        named = (("matching steps", self.steps), ("recipes", self.recipes))
        return [
            (f"{title} ({head})", list(rows[0]), [[str(v) for v in row.values()] for row in rows])
            for title, rows in named
            if rows
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def speed_table(
    *, recipes: Sequence[str], widths: Sequence[int], real_batch: int, ipc: int, repeats: int, device: str
) -> SpeedTable:
    """Measure the steps of DM and DC at FashionMNIST shapes, and each recipe's whole outer step with its memory.

    Memory is what two outer steps hold at their peak above what was resident before, in a process of its own with
    as many threads as this one: at 10 classes, at 100 classes, and at 10 with four times the real batch.

    Args:
        recipes: Keys of `RECIPES`; if empty, all whose steps look at real images and need no trained networks.
        widths: Widths of a ConvNet-3.
        real_batch: Real images of each class.
        ipc: Images per class.
        repeats: Timed repeats; the median counts.
        device: Where to run. Memory is measured on a CPU only.

    Raises:
        ValueError: If a recipe is unknown or a number is below 1.
    """
    timed = [name for name, kind in RECIPES.items() if _has_a_step_of_its_own(kind)]
    chosen = list(recipes) or timed
    for name in chosen:
        require(name in timed, "recipes", f"be among {', '.join(timed)}", name)
    for count, value in (("real_batch", real_batch), ("ipc", ipc), ("repeats", repeats)):
        require_count(count, value)
    require(bool(widths), "widths", "name at least one width", list(widths))
    for width in widths:
        require_count("widths", width)
    data = random_pixels(10, max(real_batch, ipc)).to(device)
    return SpeedTable(
        machine=machine_of(device, repeats),
        steps=[_step_row(kind, w, data, real_batch, ipc, repeats) for kind in _STEPS for w in widths],
        recipes=[_recipe_row(name, w, data, real_batch, ipc, repeats) for name in chosen for w in widths],
    )


def machine_of(device: str, repeats: int) -> Row:
    """Return what a reader of times wants to know about the machine."""
    threads = torch.get_num_threads()
    return {"torch": torch.__version__, "device": device, "threads": threads, "repeats": repeats}


def _has_a_step_of_its_own(kind: type[Any]) -> bool:
    return "real_batch" in kind.__dataclass_fields__ and not hasattr(kind, "runs")


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


def _median_times(
    functions: Sequence[Callable[[], object]], repeats: int, device: torch.device
) -> list[float]:
    """Time the functions in turn, `repeats` times after one warm-up round; return the medians in seconds."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for i, function in enumerate(functions):
            began = time.perf_counter()
            function()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                times[i].append(time.perf_counter() - began)
    return [statistics.median(t) for t in times]


def random_pixels(num_classes: int, per_class: int) -> RealData:
    """Return random images of FashionMNIST's shape, as many of each class."""
    images = torch.randint(
        0, 256, (num_classes * per_class, *SHAPE), generator=generator("speed"), dtype=torch.uint8
    )
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    names = [str(c) for c in range(num_classes)]
    preprocess = Preprocess.normalise((0.2861,), (0.3530,))
    return RealData(images, labels, class_names=names, preprocess=preprocess, name="random pixels")


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
    matrix = torch.rand(2048, 2048, generator=generator("matrix")).to(data.device)

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

    product, real, ours, theirs = _median_times(
        (lambda: matrix @ matrix, real_side, fast, plain), repeats, data.device
    )
    forward, first = conv_flops(network, SHAPE)
    # Backward: once for the weights and once for the inputs, which the first layer does not need.
    flops = len(batch.x) * (forward if kind == "dm" else 3 * forward - first)
    peak = 2 * 2048**3 / product
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


def _recipe_row(name: str, width: int, data: RealData, real_batch: int, ipc: int, repeats: int) -> Row:
    make: Any = RECIPES[name]
    recipe = make(ipc=ipc, real_batch=real_batch)
    student = network_factory("convnet", SHAPE, data.num_classes, width=width)
    distillation = recipe.distillation(data, make_student=student, rng=generator("recipe"))
    (seconds,) = _median_times((lambda: next(distillation),), repeats, data.device)
    row = {"recipe": name, "width": width, "outer steps/s": f"{1 / seconds:.3f}", "s": round(seconds, 3)}
    return row if data.device.type != "cpu" else row | _memory(name, real_batch, ipc, width)


def _memory(name: str, real_batch: int, ipc: int, width: int) -> Row:
    cases = {
        "10 classes": (10, real_batch),
        "100 classes": (100, real_batch),
        f"10 classes, {4 * real_batch} real": (10, 4 * real_batch),
    }
    return {
        f"{case}, MiB": round(step_memory(name, classes, real, ipc, width) / 2**20)
        for case, (classes, real) in cases.items()
    }


def step_memory(name: str, classes: int, real_batch: int, ipc: int, width: int) -> int:
    """Return how many bytes two outer steps of a recipe hold at their peak, measured in a process of their own.

    Args:
        name: A key of `ddsdk.RECIPES`.
        classes: Number of classes of the data.
        real_batch: Real images of each class in one step.
        ipc: Images per class.
        width: Width of the ConvNet that is the student.

    Raises:
        FileNotFoundError: On anything but Linux, which alone tells the peak of a process from a point on.
    """
    context = multiprocessing.get_context("spawn")
    # A child would take every core, also where this process was told to leave some to others.
    threads = (torch.get_num_threads(),)
    with ProcessPoolExecutor(1, context, torch.set_num_threads, threads) as pool:
        return pool.submit(_peak_above_start, name, classes, real_batch, ipc, width).result()


def _peak_above_start(name: str, classes: int, real_batch: int, ipc: int, width: int) -> int:
    student = network_factory("convnet", SHAPE, classes, width=width)
    make: Any = RECIPES[name]
    # Lessons of one epoch: their number costs time and no memory.
    short = {"student_epochs": 1} if "student_epochs" in make.__dataclass_fields__ else {}

    def start(images: int, real: int) -> Distillation[Any]:
        data = random_pixels(classes, max(images, real))
        recipe = make(ipc=images, real_batch=real, **short)
        distillation: Distillation[Any] = recipe.distillation(
            data, make_student=student, rng=generator("memory")
        )
        return distillation

    # A first small pass pays for what the libraries allocate once.
    next(start(1, 1))
    distillation = start(ipc, real_batch)
    before = restart_peak_memory()
    for _ in range(2):
        next(distillation)
    return peak_memory(torch.device("cpu")) - before
