"""`python -m benchmarks.privacy`: accuracy of private distilled sets and of DP-SGD at equal privacy budgets."""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import ddsdk as dd
from benchmarks.kit import Axis, Benchmark, Column, Plot, RunConfig, RunGroup, mean_of, percent_of
from ddsdk.foundation import derive, require, require_count
from ddsdk.judging import top1_accuracy
from ddsdk_integrations.privacy import DPKIP, NDPDC, PSG, Budget, Ledger, PrivateData, dp_sgd


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        delta: Delta of the privacy budgets, in (0, 1).
        width: Width of the student ConvNets.
        judge_width: Width of the ConvNets that are trained on distilled sets or by DP-SGD.
        networks: Number of networks trained on each set.
    """

    delta: float = 1e-5
    width: int = 16
    judge_width: int = 32
    networks: int = 3

    def __post_init__(self) -> None:
        require(0 < self.delta < 1, "delta", "lie strictly between 0 and 1", self.delta)
        for name in ("width", "judge_width", "networks"):
            require_count(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Method:
    """Method of a row.

    Attributes:
        make: Function from images per class to the recipe or baseline, or to the options of `dp_sgd`.
        private: Whether the method is differentially private and spends a budget.
        sizes: Numbers of images per class to measure; 0 for a classifier without a distilled set.
    """

    make: Callable[[int], Any]
    private: bool = True
    sizes: tuple[int, ...] = (10, 50)


METHODS: Mapping[str, Method] = {
    # Learning rates are explicit, since they depend on the number of images per class.
    "ndpdc": Method(make=lambda ipc: NDPDC(ipc=ipc, image_lr=10.0 * ipc)),
    "ndpdc from noise": Method(
        make=lambda ipc: NDPDC(ipc=ipc, start="noise", centred=False, image_lr=10.0 * ipc), sizes=(10,)
    ),
    "psg": Method(make=lambda ipc: PSG(ipc=ipc), sizes=(10,)),
    "dp-kip": Method(make=lambda ipc: DPKIP(ipc=ipc), sizes=(10,)),
    "dp-sgd": Method(make=lambda _: {"steps": 150, "sample_rate": 0.02, "clip": 0.1, "lr": 4.0}, sizes=(0,)),
    "ndpdc without noise": Method(make=lambda ipc: NDPDC(ipc=ipc, image_lr=10.0 * ipc), private=False),
    "dm": Method(make=lambda ipc: dd.DM(ipc=ipc, steps=1000, augmentation=""), private=False, sizes=(10,)),
    "random images": Method(make=lambda ipc: dd.BASELINES["random"](ipc=ipc), private=False),
}
"""Methods by name. Settings were chosen on held-out training images, of `ndpdc` at epsilon 1 and of `psg` at 10."""

PUBLISHED: Mapping[tuple[str, float | None, int], float] = {
    ("ndpdc", 1.0, 10): 77.7,
    ("ndpdc", 1.0, 50): 78.8,
    ("psg", 1.0, 10): 68.5,
    ("dp-kip", 1.0, 10): 17.7,
    ("dm", None, 10): 84.6,
}
"""Accuracies in percent on FashionMNIST with a ConvNet of width 128 and delta 1e-5, by (method, epsilon, ipc).

Source: project page of Dosser (ICCV 2025).
"""

_NO_NOISE = 1e6


def _values(method: str, axis: str, values: Sequence[Any]) -> Sequence[Any]:
    choice = METHODS[method]
    if axis == "epsilon":
        return values if choice.private else [None]
    return [size for size in choice.sizes if size in (0, *values)]


def _about(run: RunConfig, config: ExperimentConfig) -> dict[str, Any]:  # noqa: ARG001
    recipe = METHODS[run.method].make(run["ipc"])
    return recipe if isinstance(recipe, dict) else {"class": type(recipe).__name__, **dataclasses.asdict(recipe)}


def measure(run: RunConfig, config: ExperimentConfig, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return the accuracies on the test images, the spent epsilon, the entries of the privacy ledger, and seconds."""
    method, rng = METHODS[run.method], dd.generator("privacy", run.seed)
    recipe = method.make(run["ipc"])
    budget = Budget(epsilon=_NO_NOISE if run["epsilon"] is None else run["epsilon"], delta=config.delta)
    size = len(train) / train.num_classes
    private = PrivateData(train, Ledger(budget), class_size=size, statistics="taken as public")
    width = config.width if run["ipc"] else config.judge_width
    make = dd.network_factory("convnet", train.image_shape, train.num_classes, width=width)
    began = time.perf_counter()
    if not run["ipc"]:
        network = dp_sgd(private, make_student=make, seed=rng, **recipe)
        accuracies = {"accuracy": [top1_accuracy(network, test)]}
    else:
        # NDPDC without noise also runs on private data, with a practically unlimited budget.
        needs_private_data = method.private or isinstance(recipe, NDPDC)
        distilled = dd.distill(recipe, private if needs_private_data else train, make_student=make, seed=rng)
        accuracies = _accuracies(distilled, test, config, derive(rng, "judge"))
    return {
        **accuracies,
        "spent": None if run["epsilon"] is None else private.ledger.epsilon,
        "releases": [release.line for release in private.ledger.releases],
        "seconds": time.perf_counter() - began,
    }


def _accuracies(
    distilled: dd.Distilled, test: dd.RealData, config: ExperimentConfig, rng: torch.Generator
) -> dict[str, list[float]]:
    """Return the accuracies of networks trained on a set, and for kernel methods that of kernel ridge regression."""
    own_protocol = dd.TrainingProtocol.from_dict(distilled.protocol)
    judges = {
        "accuracy": dataclasses.replace(
            dd.TrainingProtocol.published(),
            network_options={"width": config.judge_width},
            networks=config.networks,
            labels="hard",
        )
    }
    if own_protocol.learner == "kernel":
        judges["kernel"] = own_protocol
    batch = (distilled.images, distilled.labels)
    return {name: list(dd.evaluate(batch, test, judge, seed=rng).accuracies) for name, judge in judges.items()}


def _mean_percent(group: RunGroup) -> float:
    return 100 * statistics.fmean(statistics.fmean(r["accuracy"]) for r in group.results)


def _ordered(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Return the groups sorted by budget, images per class and accuracy."""
    return sorted(groups, key=lambda g: (g.at["epsilon"] is None, g.at["epsilon"] or 0, g.at["ipc"], -_mean_percent(g)))


def _published(group: RunGroup) -> str:
    return str(PUBLISHED.get((group.method, group.at["epsilon"], group.at["ipc"]), "–"))


BENCHMARK = Benchmark(
    prog="python -m benchmarks.privacy",
    text="Distil with differential privacy; compare with DP-SGD and with distillation without privacy.",
    config=ExperimentConfig,
    methods=METHODS,
    axes={
        "ipc": Axis("10,50", "Images per class, separated by commas."),
        "epsilon": Axis("1,10", "Privacy budgets epsilon, separated by commas.", float),
    },
    values=_values,
    about=_about,
    measure=measure,
    rows=_ordered,
    columns=[
        percent_of("accuracy, %", "accuracy"),
        Column("published, %", _published),
        percent_of("by its own kernel, %", "kernel"),
        mean_of("seconds", "seconds", digits=0),
        Column("runs", lambda group: str(len(group.results))),
    ],
    line=lambda r: f"{100 * statistics.fmean(r['accuracy']):.1f} %, {r['seconds']:.0f} s",
    plot=Plot(
        "epsilon.png",
        lambda group: [(group.at["epsilon"], _mean_percent(group))],
        "epsilon; a horizontal line has no privacy",
        "accuracy, %",
        log_x=True,
        name=lambda group: f"{group.method}, {group.at['ipc']} per class" if group.at["ipc"] else group.method,
    ),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
