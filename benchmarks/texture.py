"""`python -m benchmarks.texture`: seams of distilled canvases and accuracy of networks trained on their windows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

import ddsdk as dd
from benchmarks.kit import Benchmark, Plot, RunConfig, RunGroup, mean_of, percent_of, value_of
from ddsdk.foundation import derive, require_count
from ddsdk.students import MakeStudent
from ddsdk.training import probabilities, train
from ddsdk_integrations.texture import distil_canvases, seam_scores, windows_of


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        factor: Ratio of the side of a canvas to the side of an image.
        steps: Number of steps of distribution matching.
        width: Width of all ConvNets.
        networks: Number of networks trained on each set.
        epochs: Number of training epochs of these networks.
        windows: Number of windows of each canvas for training and classification.
    """

    factor: int = 2
    steps: int = 300
    width: int = 16
    networks: int = 2
    epochs: int = 100
    windows: int = 16

    def __post_init__(self) -> None:
        for setting in fields(self):
            require_count(setting.name, getattr(self, setting.name))

    def students(self, real: dd.RealData, **options: Any) -> MakeStudent:  # noqa: ANN401
        """Return the factory of ConvNets of depth 2."""
        options = {"width": self.width, "depth": 2, **options}
        return dd.network_factory("convnet", real.image_shape, real.num_classes, **options)

    def protocol(self) -> dd.TrainingProtocol:
        """Return the training protocol for a distilled set."""
        return dd.TrainingProtocol(
            name="quick",
            network_options={"width": self.width, "depth": 2},
            networks=self.networks,
            epochs=self.epochs,
            lr=0.03,
        )


Make = Callable[[ExperimentConfig, dd.RealData, torch.Generator], dd.Distilled]


def _canvas(wrap: bool) -> Make:
    def distil(config: ExperimentConfig, real: dd.RealData, rng: torch.Generator) -> dd.Distilled:
        recipe = dd.DM(ipc=1, steps=config.steps, start="noise", augmentation="")
        make = config.students(real)
        return distil_canvases(recipe, real, make_student=make, seed=rng, wrap=wrap, factor=config.factor, windows=4)

    return distil


def _circular(config: ExperimentConfig, real: dd.RealData, rng: torch.Generator) -> dd.Distilled:
    make = config.students(real, edges="circular")
    return distil_canvases(_distribution_matching(config), real, make_student=make, seed=rng, wrap=True, factor=1)


def _distribution_matching(config: ExperimentConfig) -> dd.DM:
    return dd.DM(ipc=config.factor**2, steps=config.steps, start="noise", augmentation="")


def _images(make: Callable[[ExperimentConfig], Any]) -> Make:
    def distil(config: ExperimentConfig, real: dd.RealData, rng: torch.Generator) -> dd.Distilled:
        return dd.distill(make(config), real, make_student=config.students(real), seed=rng)

    return distil


METHODS: Mapping[str, Make] = {
    "canvas with wrapping windows": _canvas(True),
    "canvas with windows inside": _canvas(False),
    "rolled images with circular padding": _circular,
    "images": _images(_distribution_matching),
    "random real images": _images(lambda s: dd.BASELINES["random"](ipc=s.factor**2)),
}
"""Sets with an equal storage budget: a canvas of each class, or factor² images of each class."""


def measure(run: RunConfig, config: ExperimentConfig, train_data: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return seam scores, accuracy, mean class probability, stored floats and seconds of a set."""
    rng = dd.generator("texture", run.seed)
    began = time.perf_counter()
    distilled = METHODS[run.method](config, train_data, derive(rng, "set"))
    seconds = time.perf_counter() - began
    has_canvases = "canvas" in distilled.provenance
    training_set = windows_of(distilled, config.windows, derive(rng, "windows")) if has_canvases else distilled
    protocol = config.protocol()
    score = dd.evaluate((training_set.images, training_set.labels), test, protocol, seed=derive(rng, "judge"))
    rows, columns = seam_scores(distilled.images).mean(0).tolist()
    return {
        "rows": rows,
        "columns": columns,
        "accuracy": score.mean,
        "looks like": _class_probability(training_set, train_data, protocol, derive(rng, "classifier")),
        "floats": distilled.stored_floats,
        "seconds": seconds,
    }


def _class_probability(
    training_set: dd.Distilled, real: dd.RealData, protocol: dd.TrainingProtocol, rng: torch.Generator
) -> float:
    """Return the mean probability of the right class under a network trained on real images."""
    make = dd.network_factory("convnet", real.image_shape, real.num_classes, **protocol.network_options)
    network = make(derive(rng, "init"))
    training = dd.TrainingProtocol(name="classifier", epochs=20, lr=0.02)
    for _ in train(network, real.batch(torch.arange(len(real))), training, derive(rng, "train")):
        pass
    predicted = probabilities(network.eval(), training_set.images)
    return float(predicted.gather(1, training_set.owner[:, None]).mean())


def _points(group: RunGroup) -> list[tuple[float | None, float]]:
    return [(max(abs(r["rows"] - 1), abs(r["columns"] - 1)), 100 * r["accuracy"]) for r in group.results]


BENCHMARK = Benchmark(
    prog="python -m benchmarks.texture",
    text="Distil canvases and images of equal storage budget; measure seams and the accuracy of trained networks.",
    config=ExperimentConfig,
    methods=METHODS,
    measure=measure,
    columns=[
        mean_of("seam of rows (1: none)", "rows", digits=2),
        mean_of("seam of columns", "columns", digits=2),
        percent_of("accuracy of nets, %", "accuracy"),
        percent_of("probability of the class, %", "looks like"),
        value_of("floats", "floats"),
        mean_of("seconds", "seconds", digits=0),
    ],
    line=lambda r: f"seam {r['rows']:.2f} {r['columns']:.2f}, {100 * r['accuracy']:.1f} %",
    plot=Plot(
        "texture.png",
        _points,
        "larger distance of the two seam scores from 1 (0 tiles)",
        "accuracy of nets, %",
        joined=False,
    ),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
