"""Do canvases tile, what do nets learn from windows of them, and what do they store?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import ddsdk as dd
from ddsdk.experiments import by_method, empty_figure, markdown_table
from ddsdk.foundation import derive, require_count
from ddsdk.students import MakeStudent
from ddsdk.training import probabilities
from ddsdk.training import train as train_network
from ddsdk_integrations.texture.canvases import distil_canvases, windows_of
from ddsdk_integrations.texture.seam import seam_scores

__all__ = ["ROWS", "Cell", "Setting", "markdown", "measure", "plot"]

Found = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all cells of a table share.

    Attributes:
        factor: Sides of a canvas over those of an image.
        steps: Of distribution matching.
        width: Of the ConvNets that distil, judge and look at windows.
        networks: That train on each set.
        epochs: Of their training.
        windows: Of each canvas, to train on and to look at.
    """

    factor: int = 2
    steps: int = 300
    width: int = 16
    networks: int = 2
    epochs: int = 100
    windows: int = 16

    def __post_init__(self) -> None:
        for name in ("factor", "steps", "width", "networks", "epochs", "windows"):
            require_count(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A kind of set and a seed."""

    method: str
    seed: int


def _canvas(wrap: bool, *, whole: bool = False) -> Callable[..., dd.Distilled]:
    def made(setting: Setting, real: dd.RealData, rng: torch.Generator) -> dd.Distilled:
        recipe = dd.DM(
            ipc=setting.factor**2 if whole else 1, steps=setting.steps, start="noise", augmentation=""
        )
        options = {"edges": "circular"} if whole else {}
        how: dict[str, Any] = {"factor": 1} if whole else {"factor": setting.factor, "windows": 4}
        make = _students(setting, real, **options)
        return distil_canvases(recipe, real, make_student=make, seed=rng, wrap=wrap, **how)

    return made


def _images(make: Callable[[Setting], Any]) -> Callable[..., dd.Distilled]:
    def made(setting: Setting, real: dd.RealData, rng: torch.Generator) -> dd.Distilled:
        found: dd.Distilled = dd.distill(make(setting), real, make_student=_students(setting, real), seed=rng)
        return found

    return made


ROWS: Mapping[str, Callable[..., dd.Distilled]] = {
    "canvas, windows wrap": _canvas(True),
    "canvas, windows stay inside": _canvas(False),
    "rolled images, circular padding": _canvas(True, whole=True),
    "images": _images(lambda s: dd.DM(ipc=s.factor**2, steps=s.steps, start="noise", augmentation="")),
    "random real images": _images(lambda s: dd.BASELINES["random"](ipc=s.factor**2)),
}
"""All store as many floats: a canvas of each class, or factor^2 images."""


def _students(setting: Setting, real: dd.RealData, **options: Any) -> MakeStudent:  # noqa: ANN401
    how = {"width": setting.width, "depth": 2, **options}
    return dd.network_factory("convnet", real.image_shape, real.num_classes, **how)


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Run one cell and return what the table needs, JSON values.

    Args:
        cell: The row.
        setting: What all share.
        train: To distil, and for the classifier that looks at windows.
        test: Read once, in the end.
    """
    rng = dd.generator("texture", cell.seed)
    began = time.perf_counter()
    made = ROWS[cell.method](setting, train, derive(rng, "set"))
    seconds = time.perf_counter() - began
    lie = "canvas" in made.provenance
    seen = windows_of(made, setting.windows, derive(rng, "windows")) if lie else made
    how = dd.Evaluation(
        protocol="quick",
        network_options={"width": setting.width, "depth": 2},
        networks=setting.networks,
        epochs=setting.epochs,
        lr=0.03,
    )
    score = dd.evaluate((seen.images, seen.labels), test, how, rng=derive(rng, "judge"))
    scores = seam_scores(made.images)
    return {
        "cell": asdict(cell),
        "rows": float(scores[:, 0].mean()),
        "columns": float(scores[:, 1].mean()),
        "accuracy": score.mean,
        "looks like": _probability(seen, train, how, derive(rng, "classifier")),
        "floats": made.stored_floats,
        "seconds": seconds,
    }


def _probability(seen: dd.Distilled, real: dd.RealData, how: dd.Evaluation, rng: torch.Generator) -> float:
    """Return the mean probability of their class that a network trained on real images gives to a set's images."""
    make = dd.network_factory("convnet", real.image_shape, real.num_classes, **how.network_options)
    network = make(derive(rng, "init"))
    lessons = dd.Evaluation(protocol="classifier", epochs=20, lr=0.02)
    for _ in train_network(network, real.batch(torch.arange(len(real))), lessons, derive(rng, "train")):
        pass
    found = probabilities(network.eval(), seen.images)
    return float(found.gather(1, seen.owner[:, None]).mean())


_HEADS = (
    "set",
    "seam of rows (1: none)",
    "seam of columns",
    "accuracy of nets, %",
    "probability of the class, %",
    "floats",
    "seconds",
)


def markdown(cells: Sequence[Found]) -> str:
    """Return the table: the mean over runs.

    Args:
        cells: What `measure` returned.
    """
    rows = []
    for name, group in by_method(cells).items():
        rows_seam, columns_seam, seconds = (_mean(group, key) for key in ("rows", "columns", "seconds"))
        shares = [f"{100 * _mean(group, key):.1f}" for key in ("accuracy", "looks like")]
        rows.append(
            [
                name,
                f"{rows_seam:.2f}",
                f"{columns_seam:.2f}",
                *shares,
                str(group[0]["floats"]),
                f"{seconds:.0f}",
            ]
        )
    return markdown_table(_HEADS, rows)


def _mean(group: Sequence[Found], key: str) -> float:
    return statistics.fmean(cell[key] for cell in group)


def plot(cells: Sequence[Found], path: Path) -> None:
    """Draw accuracy against the distance of the seam score from 1.

    Args:
        cells: What `measure` returned.
        path: The picture.
    """
    figure = empty_figure(7, 3.4)
    axes = figure.subplots()
    for i, name in enumerate(by_method(cells)):
        group = [cell for cell in cells if cell["cell"]["method"] == name]
        x, y = (
            [max(abs(c["rows"] - 1), abs(c["columns"] - 1)) for c in group],
            [100 * c["accuracy"] for c in group],
        )
        axes.plot(x, y, "os^Dv"[i % 5], label=name)
    axes.set_xlabel("larger distance of the two seam scores from 1 (0 tiles)")
    axes.set_ylabel("accuracy of nets, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)
