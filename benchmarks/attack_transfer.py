"""`python -m benchmarks.attack_transfer`: attacks on networks of `benchmarks.robustness`, tried on each other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ddsdk as dd
from benchmarks import robustness
from benchmarks.kit import Axis, Benchmark, Cell, Column, Group, known_words, percent_of
from ddsdk.foundation import derive
from ddsdk_integrations.robustness import transfer


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Values that all cells share.

    Attributes:
        rows: Rows of `benchmarks.robustness`, separated by commas: their first networks are attacked and tested.
        radius: Radius of all attacks, linf in the unit range.
        attacked: Test images under attack.
        width: Width of all ConvNets.
        teacher_images: Real images of each class for rows of real images.
        teacher_epochs: Epochs on these.
    """

    rows: str = "random images,dm,dm + adversarial training,kip (kernel),real images,real images + adversarial training"
    radius: float = 0.05
    attacked: int = 100
    width: int = 16
    teacher_images: int = 500
    teacher_epochs: int = 10

    def __post_init__(self) -> None:
        known_words("rows", self.rows, robustness.METHODS)
        _ = self.training

    @property
    def training(self) -> robustness.Setting:
        """The setting of the networks."""
        return robustness.Setting(
            radii=(self.radius,),
            train_radius=self.radius,
            attacked=self.attacked,
            width=self.width,
            networks=1,
            teacher_images=self.teacher_images,
            teacher_epochs=self.teacher_epochs,
        )

    def cells(self, cell: Cell) -> list[Cell]:
        """Return the cells of the rows; those of real images have 0 images per class."""
        names = known_words("rows", self.rows, robustness.METHODS)
        made = robustness.METHODS
        return [Cell(name, cell.seed, {"ipc": cell["ipc"] if made[name].make else 0}) for name in names]


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return the accuracies of all networks on clean images, and on those attacked on each network."""
    rng, training = dd.generator("robustness", cell.seed), setting.training
    models = {
        row.method: robustness.row_networks(row, training, training.judge, train, rng).models[0]
        for row in setting.cells(cell)
    }
    x, labels = training.judge.test_images(test)
    found = transfer(models, x, labels, training.threat, seed=derive(rng, "transfer"))
    return {"names": found.names, "accuracy": [found.clean, *found.accuracy]}


def _about(cell: Cell, setting: Setting) -> dict[str, Any]:
    return {"rows": [robustness.about(row, setting.training) for row in setting.cells(cell)]}


def _rows(groups: Sequence[Group]) -> list[Group]:
    """Return a row for each attacked network, behind that of clean images."""
    return [
        Group(name, group.at, [dict(zip(r["names"], r["accuracy"][i], strict=True)) for r in group.results])
        for group in groups
        for i, name in enumerate(["none", *group.results[0]["names"]])
    ]


def _columns(rows: Sequence[Group]) -> list[Column]:
    return [percent_of(name, name) for name in rows[0].results[0]]


BENCHMARK = Benchmark(
    prog="python -m benchmarks.attack_transfer",
    text="Attack the networks of some rows, each with PGD-50, and test all of them on the attacked images.",
    setting=Setting,
    methods=("PGD-50",),
    axes={"ipc": Axis("10", "Images per class, separated by commas.")},
    about=_about,
    measure=measure,
    rows=_rows,
    columns=_columns,
    line=lambda r: f"{len(r['names'])} networks",
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
