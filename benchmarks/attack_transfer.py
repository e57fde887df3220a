"""`python -m benchmarks.attack_transfer`: adversarial examples of one network, tested on the others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ddsdk as dd
from benchmarks import robustness
from benchmarks.kit import Axis, Benchmark, Column, RunConfig, RunGroup, known_words, percent_of
from ddsdk.foundation import derive
from ddsdk_integrations.robustness import transfer


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        rows: Methods of `benchmarks.robustness`, separated by commas. The first network of each is attacked and tested.
        radius: Radius of all attacks in the linf norm, for pixels in 0..1.
        attacked: Number of attacked test images.
        width: Width of all ConvNets.
        teacher_images: Number of real images of each class for methods that train on real images.
        teacher_epochs: Number of epochs of training on real images.
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
    def training(self) -> robustness.ExperimentConfig:
        """Settings of the networks' distillation and training."""
        return robustness.ExperimentConfig(
            radii=(self.radius,),
            train_radius=self.radius,
            attacked=self.attacked,
            width=self.width,
            networks=1,
            teacher_images=self.teacher_images,
            teacher_epochs=self.teacher_epochs,
        )

    def cells(self, run: RunConfig) -> list[RunConfig]:
        """Return the runs of `benchmarks.robustness` that train the networks; 0 images per class for real images."""
        names = known_words("rows", self.rows, robustness.METHODS)
        methods = robustness.METHODS
        return [RunConfig(name, run.seed, {"ipc": run["ipc"] if methods[name].make else 0}) for name in names]


def measure(run: RunConfig, config: ExperimentConfig, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return the accuracies of all networks on clean images and on the adversarial examples of each network."""
    rng, training = dd.generator("robustness", run.seed), config.training
    models = {
        row.method: robustness.row_networks(row, training, training.judge, train, rng).models[0]
        for row in config.cells(run)
    }
    x, labels = training.judge.test_images(test)
    accuracies = transfer(models, x, labels, training.threat, seed=derive(rng, "transfer"))
    return {"names": accuracies.names, "accuracy": [accuracies.clean, *accuracies.accuracy]}


def _about(run: RunConfig, config: ExperimentConfig) -> dict[str, Any]:
    return {"rows": [robustness.about(row, config.training) for row in config.cells(run)]}


def _rows(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Return a row for clean images and a row for the adversarial examples of each network."""
    return [
        RunGroup(name, group.at, [dict(zip(r["names"], r["accuracy"][i], strict=True)) for r in group.results])
        for group in groups
        for i, name in enumerate(["none", *group.results[0]["names"]])
    ]


def _columns(rows: Sequence[RunGroup]) -> list[Column]:
    return [percent_of(name, name) for name in rows[0].results[0]]


BENCHMARK = Benchmark(
    prog="python -m benchmarks.attack_transfer",
    text="Attack networks with PGD-50 and test every network on the adversarial examples of the others.",
    config=ExperimentConfig,
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
