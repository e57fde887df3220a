"""`python -m benchmarks.federated`: weight averaging and exchange of distilled sets, compared by traffic in bytes."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedProx, Strategy
from torch import Tensor

import ddsdk as dd
from benchmarks.averaging import FedNova, Scaffold, client_of
from benchmarks.kit import Axis, Benchmark, Column, Plot, RunConfig, RunGroup, mean_of, percent_of, value_of
from ddsdk.artefact import Half
from ddsdk.foundation import require_count, require_positive
from ddsdk_integrations.federated import (
    CountingGrid,
    DynaFed,
    FederatedTask,
    InProcessGrid,
    LocalTraining,
    MetaKnowledge,
    Packing,
    Participant,
    ReplyLimits,
    ServerTrajectory,
    SetStrategy,
    UpdateEncoding,
    accuracy_of,
    dirichlet,
    dosfl,
    fed_dm,
    fed_mk,
    fed_synth,
    one_shot,
)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        clients: Number of clients that share the data.
        width: Width of the ConvNet.
        lr: Learning rate of clients in weight averaging: SGD without momentum, batches of 64, one epoch per round.
    """

    clients: int = 10
    width: int = 32
    lr: float = 0.1

    def __post_init__(self) -> None:
        require_count("clients", self.clients)
        require_count("width", self.width)
        require_positive("lr", self.lr)


@dataclass(frozen=True)
class Method:
    """Federated method: strategy of the server and settings of the clients.

    Attributes:
        make: Function ``(task, seed, **options)`` that returns the strategy.
        options: Options of the strategy, by name.
        rounds: Number of communication rounds.
        client: Arguments of the `Participant` that differ from the default.
    """

    make: Callable[..., Strategy]
    options: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 20
    client: Mapping[str, Any] = field(default_factory=dict)


# Without client-side evaluation, because the server evaluates on the test set.
_AVERAGING: dict[str, Any] = {"fraction_evaluate": 0.0, "min_available_nodes": 1, "min_train_nodes": 1}
_IPC = 20
_ENCODING = UpdateEncoding(images=20, student_steps=3, steps=60)
_TRAJECTORY = ServerTrajectory(rounds=8, span=3, student_steps=10, steps=150)
_UNION_TRAINING = {
    "protocol": dd.TrainingProtocol(
        name="federated",
        epochs=30,
        batch_size=64,
        lr=0.05,
        schedule="cosine",
        decay_at=(),
        decay=0.01,
        augmentation="crop_flip",
    )
}
_WITH_MEMORY = {**_UNION_TRAINING, "remember": 5}


def _averaging(make: type[FedAvg]) -> Callable[..., Strategy]:
    return lambda task, seed, **options: make(**_AVERAGING, **options)  # noqa: ARG005


def _sets(make: Callable[..., SetStrategy]) -> Callable[..., Strategy]:
    return lambda task, seed, **options: make(task, seed=seed, secret=seed, limits=ReplyLimits(images=_IPC), **options)


METHODS: dict[str, Method] = {
    "fedavg": Method(_averaging(FedAvg)),
    "fedprox": Method(_averaging(FedProx), {"proximal_mu": 0.01}),
    "scaffold": Method(lambda task, seed: Scaffold(task, **_AVERAGING)),  # noqa: ARG005
    "fednova": Method(_averaging(FedNova)),
    "dynafed": Method(
        lambda task, seed, **options: DynaFed(task, seed=seed, **_AVERAGING, **options), {"trajectory": _TRAJECTORY}
    ),
    "one-shot real images": Method(_sets(one_shot), _UNION_TRAINING, 1, {"distil": dd.BASELINES["random"](ipc=10)}),
    "real images remembering": Method(_sets(one_shot), _WITH_MEMORY, 5, {"distil": dd.BASELINES["random"](ipc=_IPC)}),
    "one-shot dm": Method(_sets(one_shot), _UNION_TRAINING, 1, {"distil": dd.DM(ipc=10, steps=100, real_batch=128)}),
    "feddm": Method(_sets(fed_dm), _UNION_TRAINING, 5, {"distil": dd.DM(ipc=_IPC, steps=20, real_batch=128)}),
    "feddm remembering": Method(_sets(fed_dm), _WITH_MEMORY, 5, {"distil": dd.DM(ipc=_IPC, steps=20, real_batch=128)}),
    # DD's pixels leave the range 0..1, so they are sent as half floats and not as bytes.
    "dosfl": Method(
        _sets(dosfl),
        {"passes": 3},
        1,
        {"distil": dd.DD(ipc=1, passes=3, steps=60, real_batch=256), "packing": Packing(codec=Half())},
    ),
    "fedmk": Method(_sets(fed_mk), _WITH_MEMORY, 5, {"distil": MetaKnowledge(ipc=10, steps=15, student_steps=3)}),
    "fedsynth": Method(_sets(fed_synth), {"student_steps": _ENCODING.student_steps}, 10, {"encoding": _ENCODING}),
}
"""Methods of the table; `docs/integrations/federated.md` describes the tuning of their settings."""


def about(run: RunConfig, config: ExperimentConfig) -> dict[str, str]:  # noqa: ARG001
    """Return the settings of the method of a run as text."""
    method = METHODS[run.method]
    return {name: repr(getattr(method, name)) for name in ("options", "rounds", "client")}


def measure(run: RunConfig, config: ExperimentConfig, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return accuracy and traffic after the last round of a federation in this process, and their curves over rounds.

    The result is that of the last round, not of the best one.
    """
    method = METHODS[run.method]
    task = FederatedTask.of(train, network="convnet", width=config.width)
    parts = dirichlet(train.labels, config.clients, run["alpha"], dd.generator("split", run.seed), least=20)

    def load(context: Context) -> tuple[Tensor, Tensor]:
        index = parts[int(context.node_config["partition-id"])]
        return train.images[index], train.labels[index]

    defaults = {"distil": dd.BASELINES["random"](ipc=_IPC), "training": LocalTraining(lr=config.lr)}
    participant = Participant(task=task, load=load, **{**defaults, **method.client})
    grid = CountingGrid(InProcessGrid(client_of(participant), config.clients, seed=run.seed))
    accuracy, curve = accuracy_of(task, test), []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        metrics = accuracy(server_round, arrays)
        traffic = {"up": grid.traffic.up, "down": grid.traffic.down, "bytes": grid.traffic.total}
        curve.append({"rounds": server_round, "accuracy": metrics["accuracy"], **traffic})
        return metrics

    began = time.monotonic()
    strategy = method.make(task, run.seed, **method.options)
    train_config = ConfigRecord({"seed": run.seed})
    strategy.start(grid, task.initial_arrays(run.seed), method.rounds, train_config=train_config, evaluate_fn=evaluate)
    reports = strategy.reports if isinstance(strategy, SetStrategy) else []
    return {
        **curve[-1],
        "seconds": time.monotonic() - began,
        "curve": curve,
        "reports": [report.to_json() for report in reports],
    }


def rows(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Return the groups by concentration, each with the accuracy of FedAvg at no more traffic than the method."""
    fedavg_results = {group.at["alpha"]: group.results for group in groups if group.method == "fedavg"}
    ordered = []
    for alpha in dict.fromkeys(group.at["alpha"] for group in groups):
        for group in (group for group in groups if group.at["alpha"] == alpha):
            # Every group has the same seeds, in the same order.
            fedavg = fedavg_results.get(alpha, [{"curve": []}] * len(group.results))
            results = [
                {**result, "fedavg": _affordable(averaging["curve"], result["bytes"])}
                for result, averaging in zip(group.results, fedavg, strict=True)
            ]
            ordered.append(group._replace(results=results))
    return ordered


def _affordable(curve: Sequence[Mapping[str, float]], traffic: float) -> float | None:
    """Return the accuracy after the last round with at most this traffic in bytes; None without one."""
    return next((point["accuracy"] for point in reversed(curve) if point["bytes"] <= traffic), None)


def _largest_share(group: RunGroup) -> str:
    shares = [report["share"] for result in group.results for report in result["reports"]]
    return f"{100 * max(shares):.0f}" if shares else "–"


def _points(group: RunGroup) -> list[tuple[float | None, float]]:
    return [(point["bytes"] / 1e6, 100 * point["accuracy"]) for point in group.results[0]["curve"][1:]]


def _concentration(word: str) -> float:
    require_positive("alpha", float(word))
    return float(word)


BENCHMARK = Benchmark(
    prog="python -m benchmarks.federated",
    text="Split a data set among clients; compare weight averaging and exchange of distilled sets by their traffic.",
    config=ExperimentConfig,
    methods=METHODS,
    measure=measure,
    about=about,
    axes={"alpha": Axis("0.5,0.1,0.01", "Concentrations of the Dirichlet split, separated by commas.", _concentration)},
    rows=rows,
    columns=[
        value_of("rounds", "rounds"),
        percent_of("accuracy, %", "accuracy"),
        mean_of("MB up", "up", scale=1e-6, digits=3),
        mean_of("MB down", "down", scale=1e-6, digits=3),
        mean_of("MB in all", "bytes", scale=1e-6, digits=3),
        percent_of("fedavg's accuracy at these bytes, %", "fedavg"),
        Column("largest share of a class, %", _largest_share),
        mean_of("seconds", "seconds", digits=0),
    ],
    line=lambda r: f"{100 * r['accuracy']:.1f} %, {r['bytes'] / 1e6:.3f} MB, {r['seconds']:.0f} s",
    plot=Plot(lambda group: f"bytes-{group.at['alpha']}.png", _points, "MB, up and down", "accuracy, %", log_x=True),
)

if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.WARNING)
    sys.exit(BENCHMARK.run())
