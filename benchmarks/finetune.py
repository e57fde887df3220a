"""`python -m benchmarks.finetune`: sets for a pretrained backbone, by a linear probe, by tuning, and from scratch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import nn

import ddsdk as dd
from benchmarks.kit import Benchmark, Cell, Group, Plot, mean_of, percent_of, value_of
from ddsdk.foundation import derive, require_count
from ddsdk.running import Method
from ddsdk.students import MakeStudent
from ddsdk.training import accuracy, embeddings, train
from ddsdk_integrations.finetune import FrozenBackbone, LinearGradientMatching, fine_tuned, probe_accuracy


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Values that all cells share.

    Attributes:
        ipc: Images per class.
        steps: Steps of distilling.
        width: Width of the ConvNets.
        pretraining: Epochs of the backbone, on the first half of the classes.
        epochs: Epochs of fine-tuning; networks from scratch take twice as many.
        networks: Networks from scratch.
    """

    ipc: int = 1
    steps: int = 300
    width: int = 32
    pretraining: int = 30
    epochs: int = 60
    networks: int = 2

    def __post_init__(self) -> None:
        for known in fields(self):
            require_count(known.name, getattr(self, known.name))

    def students(self, real: dd.RealData) -> MakeStudent:
        """Return the factory of the ConvNets."""
        return dd.network_factory("convnet", real.image_shape, real.num_classes, width=self.width, depth=2)

    def protocol(self, epochs: int, lr: float) -> dd.Evaluation:
        """Return the protocol of networks that train on a set."""
        options = {"width": self.width, "depth": 2}
        return dd.Evaluation(protocol="quick", network_options=options, networks=self.networks, epochs=epochs, lr=lr)


class Row(NamedTuple):
    """A kind of set.

    Attributes:
        make: Function from the setting to the method; None takes all real images.
        backbone: Whether the students are the backbone under random heads.
    """

    make: Callable[[Setting], Method[dd.RealData]] | None
    backbone: bool = False


METHODS: Mapping[str, Row] = {
    "linear gradient matching": Row(lambda s: LinearGradientMatching(ipc=s.ipc, steps=s.steps, start="real"), True),
    "DM on the backbone": Row(lambda s: dd.DM(ipc=s.ipc, steps=s.steps), True),
    "DM on random networks": Row(lambda s: dd.DM(ipc=s.ipc, steps=s.steps)),
    "class means": Row(lambda s: dd.BASELINES["means"](ipc=s.ipc)),
    "random real images": Row(lambda s: dd.BASELINES["random"](ipc=s.ipc)),
    "all real images": Row(None),
}
"""All but the last store as many floats."""


def some_classes(real: dd.RealData, classes: range) -> dd.RealData:
    """Return the images of some classes, numbered from 0."""
    index = torch.cat([real.index_of_class(c) for c in classes])
    return dd.RealData(
        real.images[index],
        real.labels[index] - classes.start,
        class_names=[real.class_names[c] for c in classes],
        preprocess=real.preprocess,
        name=real.name,
        pictures=real.pictures,
        mirror_safe=real.mirror_safe,
    )


def pretrained(real: dd.RealData, setting: Setting, rng: torch.Generator) -> nn.Module:
    """Return a ConvNet that trained on real images, in eval mode."""
    network = setting.students(real)(derive(rng, "init"))
    lessons = dd.Evaluation(protocol="pretraining", epochs=setting.pretraining, lr=0.02)
    for _ in train(network, real.batch(torch.arange(len(real))), lessons, derive(rng, "train")):
        pass
    return network.eval()


def measure(cell: Cell, setting: Setting, train_data: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return the accuracies of probe, tuning and networks from scratch on the second half of the classes."""
    rng, half = dd.generator("finetune", cell.seed), train_data.num_classes // 2
    backbone = pretrained(some_classes(train_data, range(half)), setting, derive(rng, "backbone"))
    rest = range(half, train_data.num_classes)
    real, held = some_classes(train_data, rest), some_classes(test, rest)
    began = time.perf_counter()
    made = _made(METHODS[cell.method], setting, real, backbone, derive(rng, "set"))
    seconds = time.perf_counter() - began
    tuned = fine_tuned(backbone, made, setting.protocol(setting.epochs, 0.005), seed=derive(rng, "tuning"))
    scratch = setting.protocol(2 * setting.epochs, 0.03)
    return {
        "probe": probe_accuracy(backbone, made, held),
        "tuned": accuracy(tuned, held.batch(torch.arange(len(held))).x, held.labels),
        "scratch": dd.evaluate((made.images, made.labels), held, scratch, seed=derive(rng, "scratch")).mean,
        "floats": made.stored_floats,
        "seconds": seconds,
    }


def _made(row: Row, setting: Setting, real: dd.RealData, backbone: nn.Module, rng: torch.Generator) -> dd.Distilled:
    if row.make is None:
        everything = real.batch(torch.arange(len(real)))
        return dd.Distilled(everything.x, everything.y, class_names=real.class_names, preprocess=real.preprocess)
    features = embeddings(backbone, real.batch(torch.arange(1)).x).shape[1]
    frozen = FrozenBackbone(backbone, features=features, num_classes=real.num_classes)
    return dd.distill(
        row.make(setting), real, make_student=frozen if row.backbone else setting.students(real), seed=rng
    )


def _points(group: Group) -> list[tuple[float | None, float]]:
    return [(100 * r["scratch"], 100 * r["probe"]) for r in group.results]


BENCHMARK = Benchmark(
    prog="python -m benchmarks.finetune",
    text="Pretrain a backbone on half of the classes, distil the others, and judge by probe, tuning and from scratch.",
    setting=Setting,
    methods=METHODS,
    measure=measure,
    columns=[
        percent_of("linear probe, %", "probe"),
        percent_of("fine-tuned, %", "tuned"),
        percent_of("from scratch, %", "scratch"),
        value_of("floats", "floats"),
        mean_of("seconds", "seconds", digits=0),
    ],
    line=lambda r: f"probe {100 * r['probe']:.1f} %, tuned {100 * r['tuned']:.1f} %",
    plot=Plot("finetune.png", _points, "networks from scratch, %", "linear probe on the backbone, %", joined=False),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
