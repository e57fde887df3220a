"""`python -m ddsdk_integrations.robustness`: clean and robust accuracy of robust sets and their rivals."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import ddsdk as dd
from ddsdk.experiments import CellBenchmark, Question, known_words, numbers, run_command, words
from ddsdk_integrations.robustness.benchmark import (
    METHODS,
    Cell,
    Crossing,
    Setting,
    described,
    measure,
    measure_transfer,
)
from ddsdk_integrations.robustness.table import markdown, plot


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(CellBenchmark):
    """Make sets, train networks on them, attack these, and print what is left beside adversarial training.

    A cell that was measured is kept in OUT/cells, so a run that was stopped goes on where it was; two commands with
    other methods may share a folder, and one with all of them then writes the table.

    Attributes:
        ipc: Images per class, separated by commas.
        radii: Of the attacks, linf in the unit range, rising, separated by commas.
        train_radius: Of the attacks in training and distillation; one of the radii.
        attacked: Test images under attack.
        auto_attacked: Of these, those under AutoAttack at `train_radius`; 0 leaves it out.
        square_queries: Of Square.
        restarts: Of PGD-50.
        width: Of all ConvNets.
        networks: Trained on each set.
        teacher_images: Real images of each class for rows of real images and robust teachers.
        teacher_epochs: Of these.
        transfer: Rows, separated by commas, whose networks are attacked and shown each other's images, at the radius
            `train_radius` and each number of images per class.
    """

    ipc: str = "1,10,50"
    radii: str = "0.02,0.05,0.1"
    train_radius: float = 0.05
    attacked: int = 100
    auto_attacked: int = 20
    square_queries: int = 200
    restarts: int = 2
    width: int = 16
    networks: int = 3
    teacher_images: int = 500
    teacher_epochs: int = 10
    transfer: str = ""

    def questions(self, train: dd.RealData) -> list[Question]:  # noqa: ARG002
        """Return the cells."""
        setting = Setting(
            radii=tuple(float(word) for word in words(self.radii)),
            train_radius=self.train_radius,
            images=self.attacked,
            auto_images=self.auto_attacked,
            square_queries=self.square_queries,
            restarts=self.restarts,
            width=self.width,
            networks=self.networks,
            teacher_images=self.teacher_images,
            teacher_epochs=self.teacher_epochs,
        )
        sizes = (0, *numbers("ipc", self.ipc, 1))
        cells = [
            Cell(method=name, ipc=ipc, seed=seed)
            for name in known_words("methods", self.methods, METHODS)
            for ipc in METHODS[name].sizes
            if ipc in sizes
            for seed in numbers("seeds", self.seeds, 0)
        ]
        crossed = tuple(known_words("transfer", self.transfer, METHODS)) if self.transfer else ()
        crossings = [
            Crossing(methods=crossed, ipc=ipc, seed=seed)
            for ipc in numbers("ipc", self.ipc, 1)
            for seed in numbers("seeds", self.seeds, 0)
            if crossed
        ]
        return [*(_question(cell, setting) for cell in cells), *(_crossed(crossing, setting) for crossing in crossings)]

    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return the table."""
        return markdown(_cells(found)) + "".join(_told(one) for one in found if "crossing" in one)

    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw accuracy against the radius."""
        plot(_cells(found), self.out / "radii.png")


def _cells(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in found if "cell" in one]


def _question(cell: Cell, setting: Setting) -> Question:
    return Question(cell=cell, setting=setting, about={"method": described(cell, setting)}, measure=measure, line=_line)


def _crossed(crossing: Crossing, setting: Setting) -> Question:
    return Question(
        cell=crossing,
        setting=setting,
        about={"methods": [described(cell, setting) for cell in crossing.cells]},
        measure=measure_transfer,
        line=_told,
    )


def _told(found: dict[str, Any]) -> str:
    about = found["crossing"]
    return f"\nTransfer, {about['ipc']} images per class, seed {about['seed']}:\n\n{found['table']}"


def _line(found: dict[str, Any]) -> str:
    worst = ", ".join(f"{radius:g}: {100 * sum(left) / len(left):.1f}" for radius, left in found["worst"])
    return f"{100 * sum(found['clean']) / len(found['clean']):.1f} %, {worst}"


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.robustness")


if __name__ == "__main__":
    sys.exit(main())
