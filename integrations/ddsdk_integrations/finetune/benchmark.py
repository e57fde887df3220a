"""Sets for a backbone that was pretrained on other classes: linear probe, fine-tuning, and a network from scratch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ddsdk as dd
from ddsdk.experiments import by_method, empty_figure, markdown_table, percent
from ddsdk.foundation import derive, require_count
from ddsdk.training import accuracy, embeddings
from ddsdk.training import train as train_network
from ddsdk_integrations.finetune.backbone import FrozenBackbone
from ddsdk_integrations.finetune.matching import LinearGradientMatching
from ddsdk_integrations.finetune.probe import fine_tuned, probe_accuracy

Found = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all cells of a table share.

    Attributes:
        ipc: Images per class.
        steps: Of distilling.
        width: Of the ConvNets.
        pretraining: Epochs of the backbone, on the first half of the classes.
        epochs: Of fine-tuning, and of the networks from scratch.
        networks: From scratch.
    """

    ipc: int = 1
    steps: int = 300
    width: int = 32
    pretraining: int = 30
    epochs: int = 60
    networks: int = 2

    def __post_init__(self) -> None:
        for name in ("ipc", "steps", "width", "pretraining", "epochs", "networks"):
            require_count(name, getattr(self, name))

    @property
    def options(self) -> dict[str, int]:
        """Of the ConvNets."""
        return {"width": self.width, "depth": 2}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A kind of set and a seed."""

    method: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """How a set is made.

    Attributes:
        make: From the setting to a recipe or baseline; None takes all real images.
        backbone: Whether its students are the backbone under random heads.
    """

    make: Callable[[Setting], Any] | None
    backbone: bool = False


ROWS: Mapping[str, Row] = {
    "linear gradient matching": Row(
        make=lambda s: LinearGradientMatching(ipc=s.ipc, steps=s.steps, start="real"), backbone=True
    ),
    "DM on the backbone": Row(make=lambda s: dd.DM(ipc=s.ipc, steps=s.steps), backbone=True),
    "DM on random networks": Row(make=lambda s: dd.DM(ipc=s.ipc, steps=s.steps)),
    "class means": Row(make=lambda s: dd.BASELINES["means"](ipc=s.ipc)),
    "random real images": Row(make=lambda s: dd.BASELINES["random"](ipc=s.ipc)),
    "all real images": Row(make=None),
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
    """Return a ConvNet that was trained on real images, in eval mode."""
    make = dd.network_factory("convnet", real.image_shape, real.num_classes, **setting.options)
    network = make(derive(rng, "init"))
    lessons = dd.Evaluation(protocol="pretraining", epochs=setting.pretraining, lr=0.02)
    for _ in train_network(network, real.batch(torch.arange(len(real))), lessons, derive(rng, "train")):
        pass
    return network.eval()


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Run one cell and return what the table needs, JSON values.

    Args:
        cell: The row.
        setting: What all share.
        train: The first half of its classes trains the backbone, the other is distilled.
        test: Of the other half; read once.
    """
    rng, half = dd.generator("finetune", cell.seed), train.num_classes // 2
    backbone = pretrained(some_classes(train, range(half)), setting, derive(rng, "backbone"))
    rest = range(half, train.num_classes)
    real, held = some_classes(train, rest), some_classes(test, rest)
    began = time.perf_counter()
    made = _made(ROWS[cell.method], setting, real, backbone, derive(rng, "set"))
    seconds = time.perf_counter() - began
    tuning = dd.Evaluation(
        protocol="tuning", network_options=setting.options, networks=setting.networks, epochs=setting.epochs, lr=0.005
    )
    tuned = fine_tuned(backbone, made, tuning, seed=derive(rng, "tuning"))
    scratch = dd.Evaluation(
        protocol="scratch",
        network_options=setting.options,
        networks=setting.networks,
        epochs=setting.epochs * 2,
        lr=0.03,
    )
    score = dd.evaluate((made.images, made.labels), held, scratch, rng=derive(rng, "scratch"))
    return {
        "cell": asdict(cell),
        "probe": probe_accuracy(backbone, made, held),
        "tuned": accuracy(tuned, held.batch(torch.arange(len(held))).x, held.labels),
        "scratch": score.mean,
        "floats": made.stored_floats,
        "seconds": seconds,
    }


def _made(row: Row, setting: Setting, real: dd.RealData, backbone: nn.Module, rng: torch.Generator) -> dd.Distilled:
    if row.make is None:
        everything = real.batch(torch.arange(len(real)))
        names = {"class_names": real.class_names, "preprocess": real.preprocess}
        return dd.Distilled(everything.x, everything.y, **names)  # type: ignore[arg-type]
    features = embeddings(backbone, real.batch(torch.arange(1)).x).shape[1]
    frozen = FrozenBackbone(backbone, features=features, num_classes=real.num_classes)
    fresh = dd.network_factory("convnet", real.image_shape, real.num_classes, **setting.options)
    found: dd.Distilled = dd.distill(row.make(setting), real, make_student=frozen if row.backbone else fresh, seed=rng)
    return found


_HEADS = ("set", "linear probe, %", "fine-tuned, %", "from scratch, %", "floats", "seconds", "runs")


def markdown(cells: Sequence[Found]) -> str:
    """Return the table: the mean over runs.

    Args:
        cells: What `measure` returned.
    """
    rows = []
    for name, group in by_method(cells).items():
        shares = [percent([cell[key] for cell in group]) for key in ("probe", "tuned", "scratch")]
        seconds = statistics.fmean(cell["seconds"] for cell in group)
        rows.append([name, *shares, str(group[0]["floats"]), f"{seconds:.0f}", str(len(group))])
    return markdown_table(_HEADS, rows)


def plot(cells: Sequence[Found], path: Path) -> None:
    """Draw the three accuracies of each kind of set.

    Args:
        cells: What `measure` returned.
        path: The picture.
    """
    figure = empty_figure(7.5, 3.6)
    axes, names = figure.subplots(), list(by_method(cells))
    for k, (key, label) in enumerate((("probe", "linear probe"), ("tuned", "fine-tuned"), ("scratch", "from scratch"))):
        means = [100 * statistics.fmean(c[key] for c in cells if c["cell"]["method"] == n) for n in names]
        axes.barh([i + 0.27 * (1 - k) for i in range(len(names))], means, height=0.25, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy on test images, %")
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)
