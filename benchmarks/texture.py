"""`python -m benchmarks.texture`: seams of canvases, networks that train on windows of them, and what they store."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

import ddsdk as dd
from benchmarks.kit import Benchmark, Cell, Group, Plot, mean_of, percent_of, value_of
from ddsdk.foundation import derive, require_count
from ddsdk.students import MakeStudent
from ddsdk.training import probabilities, train
from ddsdk_integrations.texture import distil_canvases, seam_scores, windows_of


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Values that all cells share.

    Attributes:
        factor: Sides of a canvas over those of an image.
        steps: Steps of distribution matching.
        width: Width of the ConvNets that distil, judge and classify windows.
        networks: Networks that train on each set.
        epochs: Epochs of their training.
        windows: Windows of each canvas, to train on and to classify.
    """

    factor: int = 2
    steps: int = 300
    width: int = 16
    networks: int = 2
    epochs: int = 100
    windows: int = 16

    def __post_init__(self) -> None:
        for known in fields(self):
            require_count(known.name, getattr(self, known.name))

    def students(self, real: dd.RealData, **options: Any) -> MakeStudent:  # noqa: ANN401
        """Return the factory of the ConvNets."""
        options = {"width": self.width, "depth": 2, **options}
        return dd.network_factory("convnet", real.image_shape, real.num_classes, **options)

    def evaluation(self) -> dd.Evaluation:
        """Return the protocol of the networks that train on a set."""
        return dd.Evaluation(
            protocol="quick",
            network_options={"width": self.width, "depth": 2},
            networks=self.networks,
            epochs=self.epochs,
            lr=0.03,
        )


Make = Callable[[Setting, dd.RealData, torch.Generator], dd.Distilled]


def _canvas(wrap: bool) -> Make:
    def made(setting: Setting, real: dd.RealData, rng: torch.Generator) -> dd.Distilled:
        recipe = dd.DM(ipc=1, steps=setting.steps, start="noise", augmentation="")
        make = setting.students(real)
        return distil_canvases(recipe, real, make_student=make, seed=rng, wrap=wrap, factor=setting.factor, windows=4)

    return made


def _rolled(setting: Setting, real: dd.RealData, rng: torch.Generator) -> dd.Distilled:
    make = setting.students(real, edges="circular")
    return distil_canvases(_matched(setting), real, make_student=make, seed=rng, wrap=True, factor=1)


def _matched(setting: Setting) -> dd.DM:
    return dd.DM(ipc=setting.factor**2, steps=setting.steps, start="noise", augmentation="")


def _images(make: Callable[[Setting], Any]) -> Make:
    def made(setting: Setting, real: dd.RealData, rng: torch.Generator) -> dd.Distilled:
        return dd.distill(make(setting), real, make_student=setting.students(real), seed=rng)

    return made


METHODS: Mapping[str, Make] = {
    "canvas with wrapping windows": _canvas(True),
    "canvas with windows inside": _canvas(False),
    "rolled images with circular padding": _rolled,
    "images": _images(_matched),
    "random real images": _images(lambda s: dd.BASELINES["random"](ipc=s.factor**2)),
}
"""Sets that store as many floats: a canvas of each class, or factor² images."""


def measure(cell: Cell, setting: Setting, train_data: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return seams, accuracy, mean probability of the class, floats and seconds of a set."""
    rng = dd.generator("texture", cell.seed)
    began = time.perf_counter()
    made = METHODS[cell.method](setting, train_data, derive(rng, "set"))
    seconds = time.perf_counter() - began
    cut = "canvas" in made.provenance
    seen = windows_of(made, setting.windows, derive(rng, "windows")) if cut else made
    protocol = setting.evaluation()
    score = dd.evaluate((seen.images, seen.labels), test, protocol, seed=derive(rng, "judge"))
    rows, columns = seam_scores(made.images).mean(0).tolist()
    return {
        "rows": rows,
        "columns": columns,
        "accuracy": score.mean,
        "looks like": _probability(seen, train_data, protocol, derive(rng, "classifier")),
        "floats": made.stored_floats,
        "seconds": seconds,
    }


def _probability(seen: dd.Distilled, real: dd.RealData, protocol: dd.Evaluation, rng: torch.Generator) -> float:
    """Return the mean probability of their class that a network trained on real images gives to a set's images."""
    make = dd.network_factory("convnet", real.image_shape, real.num_classes, **protocol.network_options)
    network = make(derive(rng, "init"))
    lessons = dd.Evaluation(protocol="classifier", epochs=20, lr=0.02)
    for _ in train(network, real.batch(torch.arange(len(real))), lessons, derive(rng, "train")):
        pass
    found = probabilities(network.eval(), seen.images)
    return float(found.gather(1, seen.owner[:, None]).mean())


def _points(group: Group) -> list[tuple[float | None, float]]:
    return [(max(abs(r["rows"] - 1), abs(r["columns"] - 1)), 100 * r["accuracy"]) for r in group.results]


BENCHMARK = Benchmark(
    prog="python -m benchmarks.texture",
    text="Distil canvases and images that store as many floats; measure seams, and networks that train on windows.",
    setting=Setting,
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
