"""`python -m benchmarks.finetune`: distilled sets for linear probing and fine-tuning of a pretrained backbone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import nn

import ddsdk as dd
from benchmarks.kit import Benchmark, Plot, RunConfig, RunGroup, mean_of, percent_of, value_of
from ddsdk.foundation import derive, require_count
from ddsdk.judging import top1_accuracy
from ddsdk.running import Method
from ddsdk.students import MakeStudent
from ddsdk.training import embeddings, train
from ddsdk_integrations.finetune import FrozenBackbone, LinearGradientMatching, fine_tune, probe_accuracy


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        ipc: Images per class of the distilled sets.
        steps: Number of steps of each recipe.
        width: Width of the ConvNets, backbone included.
        pretraining: Number of epochs of the backbone on the first half of the classes.
        epochs: Number of epochs of fine-tuning. Networks from scratch have twice as many.
        networks: Number of networks trained from scratch.
    """

    ipc: int = 1
    steps: int = 300
    width: int = 32
    pretraining: int = 30
    epochs: int = 60
    networks: int = 2

    def __post_init__(self) -> None:
        for setting in fields(self):
            require_count(setting.name, getattr(self, setting.name))

    def students(self, real: dd.RealData) -> MakeStudent:
        """Return the factory of ConvNets of depth 2."""
        return dd.network_factory("convnet", real.image_shape, real.num_classes, width=self.width, depth=2)

    def protocol(self, epochs: int, lr: float) -> dd.TrainingProtocol:
        """Return the training protocol for a distilled set."""
        options = {"width": self.width, "depth": 2}
        return dd.TrainingProtocol(name="quick", network_options=options, networks=self.networks, epochs=epochs, lr=lr)


class Row(NamedTuple):
    """Kind of training set.

    Attributes:
        make: Function from the settings to the recipe or baseline; None for all real images.
        backbone: Whether the student network is the frozen backbone with random heads.
    """

    make: Callable[[ExperimentConfig], Method[dd.RealData]] | None
    backbone: bool = False


METHODS: Mapping[str, Row] = {
    "linear gradient matching": Row(lambda s: LinearGradientMatching(ipc=s.ipc, steps=s.steps, start="real"), True),
    "DM on the backbone": Row(lambda s: dd.DM(ipc=s.ipc, steps=s.steps), True),
    "DM on random networks": Row(lambda s: dd.DM(ipc=s.ipc, steps=s.steps)),
    "class means": Row(lambda s: dd.BASELINES["means"](ipc=s.ipc)),
    "random real images": Row(lambda s: dd.BASELINES["random"](ipc=s.ipc)),
    "all real images": Row(None),
}
"""Training sets; all but the last have an equal storage budget in floats."""


def some_classes(real: dd.RealData, classes: range) -> dd.RealData:
    """Return the images of a range of classes, renumbered from 0."""
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


def pretrained(real: dd.RealData, config: ExperimentConfig, rng: torch.Generator) -> nn.Module:
    """Return a ConvNet trained on real images, in eval mode."""
    network = config.students(real)(derive(rng, "init"))
    training = dd.TrainingProtocol(name="pretraining", epochs=config.pretraining, lr=0.02)
    for _ in train(network, real.batch(torch.arange(len(real))), training, derive(rng, "train")):
        pass
    return network.eval()


def measure(run: RunConfig, config: ExperimentConfig, train_data: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return the accuracies of probing, fine-tuning and training from scratch on the second half of the classes."""
    rng, half = dd.generator("finetune", run.seed), train_data.num_classes // 2
    backbone = pretrained(some_classes(train_data, range(half)), config, derive(rng, "backbone"))
    second_half = range(half, train_data.num_classes)
    real, held_out = some_classes(train_data, second_half), some_classes(test, second_half)
    began = time.perf_counter()
    distilled = _training_set(METHODS[run.method], config, real, backbone, derive(rng, "set"))
    seconds = time.perf_counter() - began
    tuned = fine_tune(backbone, distilled, config.protocol(config.epochs, 0.005), seed=derive(rng, "tuning"))
    scratch, batch = config.protocol(2 * config.epochs, 0.03), (distilled.images, distilled.labels)
    return {
        "probe": probe_accuracy(backbone, distilled, held_out),
        "tuned": top1_accuracy(tuned, held_out),
        "scratch": dd.evaluate(batch, held_out, scratch, seed=derive(rng, "scratch")).mean,
        "floats": distilled.stored_floats,
        "seconds": seconds,
    }


def _training_set(
    row: Row, config: ExperimentConfig, real: dd.RealData, backbone: nn.Module, rng: torch.Generator
) -> dd.Distilled:
    if row.make is None:
        all_images = real.batch(torch.arange(len(real)))
        return dd.Distilled(all_images.x, all_images.y, class_names=real.class_names, preprocess=real.preprocess)
    features = embeddings(backbone, real.batch(torch.arange(1)).x).shape[1]
    frozen = FrozenBackbone(backbone, features=features, num_classes=real.num_classes)
    return dd.distill(row.make(config), real, make_student=frozen if row.backbone else config.students(real), seed=rng)


def _points(group: RunGroup) -> list[tuple[float | None, float]]:
    return [(100 * r["scratch"], 100 * r["probe"]) for r in group.results]


BENCHMARK = Benchmark(
    prog="python -m benchmarks.finetune",
    text="Pretrain a backbone on half of the classes, distil the others; compare probing, tuning and new networks.",
    config=ExperimentConfig,
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
