"""`python -m benchmarks.federated`: averaging of weights and exchange of synthetic sets, by measured bytes."""

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
from benchmarks.kit import Axis, Benchmark, Cell, Column, Group, Plot, mean_of, percent_of, value_of
from ddsdk.artefact import Half
from ddsdk.foundation import require_count, require_rate
from ddsdk_integrations.federated import (
    CountingGrid,
    DynaFed,
    Encoding,
    InProcessGrid,
    Limits,
    LocalTraining,
    MetaKnowledge,
    Packing,
    Participant,
    SetStrategy,
    Task,
    Trajectory,
    accuracy_of,
    dirichlet,
    dosfl,
    fed_dm,
    fed_mk,
    fed_synth,
    one_shot,
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Values that all cells share.

    Attributes:
        clients: Number of clients.
        width: Width of the ConvNet.
        lr: Learning rate of clients that train weights (SGD without momentum, batches of 64, one pass in a round).
    """

    clients: int = 10
    width: int = 32
    lr: float = 0.1

    def __post_init__(self) -> None:
        require_count("clients", self.clients)
        require_count("width", self.width)
        require_rate("lr", self.lr)


@dataclass(frozen=True)
class Method:
    """What is exchanged, and how clients make it.

    Attributes:
        make: Function `(task, seed, **options)` that returns the strategy.
        options: Options of the strategy.
        rounds: Number of rounds.
        client: Changes of the `Participant`.
    """

    make: Callable[..., Strategy]
    options: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 20
    client: Mapping[str, Any] = field(default_factory=dict)


# Flower writes this into a log at each start; the server evaluates here.
_AVERAGING: dict[str, Any] = {"fraction_evaluate": 0.0, "min_available_nodes": 1, "min_train_nodes": 1}
_IPC = 20
_ENCODING = Encoding(images=20, student_steps=3, steps=60)
_TRAJECTORY = Trajectory(rounds=8, span=3, student_steps=10, steps=150)
_ON_UNION = {
    "evaluation": dd.Evaluation(
        protocol="federated",
        epochs=30,
        batch_size=64,
        lr=0.05,
        schedule="cosine",
        decay_at=(),
        decay=0.01,
        augmentation="crop_flip",
    )
}
_REMEMBERING = {**_ON_UNION, "remember": 5}


def _averaging(make: type[FedAvg]) -> Callable[..., Strategy]:
    return lambda task, seed, **options: make(**_AVERAGING, **options)  # noqa: ARG005


def _sets(make: Callable[..., SetStrategy]) -> Callable[..., Strategy]:
    return lambda task, seed, **options: make(task, seed=seed, secret=seed, limits=Limits(images=_IPC), **options)


METHODS: dict[str, Method] = {
    "fedavg": Method(_averaging(FedAvg)),
    "fedprox": Method(_averaging(FedProx), {"proximal_mu": 0.01}),
    "scaffold": Method(lambda task, seed: Scaffold(task, **_AVERAGING)),  # noqa: ARG005
    "fednova": Method(_averaging(FedNova)),
    "dynafed": Method(
        lambda task, seed, **options: DynaFed(task, seed=seed, **_AVERAGING, **options), {"trajectory": _TRAJECTORY}
    ),
    "one-shot real images": Method(_sets(one_shot), _ON_UNION, 1, {"distil": dd.BASELINES["random"](ipc=10)}),
    "real images remembering": Method(_sets(one_shot), _REMEMBERING, 5, {"distil": dd.BASELINES["random"](ipc=_IPC)}),
    "one-shot dm": Method(_sets(one_shot), _ON_UNION, 1, {"distil": dd.DM(ipc=10, steps=100, real_batch=128)}),
    "feddm": Method(_sets(fed_dm), _ON_UNION, 5, {"distil": dd.DM(ipc=_IPC, steps=20, real_batch=128)}),
    "feddm remembering": Method(_sets(fed_dm), _REMEMBERING, 5, {"distil": dd.DM(ipc=_IPC, steps=20, real_batch=128)}),
    # DD leaves the unit range, where bytes would cut it off.
    "dosfl": Method(
        _sets(dosfl),
        {"passes": 3},
        1,
        {"distil": dd.DD(ipc=1, passes=3, steps=60, real_batch=256), "packing": Packing(codec=Half())},
    ),
    "fedmk": Method(_sets(fed_mk), _REMEMBERING, 5, {"distil": MetaKnowledge(ipc=10, steps=15, student_steps=3)}),
    "fedsynth": Method(_sets(fed_synth), {"student_steps": _ENCODING.student_steps}, 10, {"encoding": _ENCODING}),
}
"""Rows of the table; `docs/federated.md` states the tuning."""


def about(cell: Cell, setting: Setting) -> dict[str, str]:  # noqa: ARG001
    """Return the parameters of a method."""
    method = METHODS[cell.method]
    return {name: repr(getattr(method, name)) for name in ("options", "rounds", "client")}


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Run a federation in this process; return accuracy and bytes after the last round and after each.

    The last round is the one that counts, never the best.
    """
    method = METHODS[cell.method]
    task = Task.of(train, network="convnet", width=setting.width)
    parts = dirichlet(train.labels, setting.clients, cell["alpha"], dd.generator("split", cell.seed), least=20)

    def load(context: Context) -> tuple[Tensor, Tensor]:
        mine = parts[int(context.node_config["partition-id"])]
        return train.images[mine], train.labels[mine]

    usual = {"distil": dd.BASELINES["random"](ipc=_IPC), "training": LocalTraining(lr=setting.lr)}
    participant = Participant(task=task, load=load, **{**usual, **method.client})
    grid = CountingGrid(InProcessGrid(client_of(participant), setting.clients, seed=cell.seed))
    accuracy, curve = accuracy_of(task, test), []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        found = accuracy(server_round, arrays)
        traffic = {"up": grid.traffic.up, "down": grid.traffic.down, "bytes": grid.traffic.total}
        curve.append({"rounds": server_round, "accuracy": found["accuracy"], **traffic})
        return found

    began = time.monotonic()
    strategy = method.make(task, cell.seed, **method.options)
    config = ConfigRecord({"seed": cell.seed})
    strategy.start(grid, task.initial_arrays(cell.seed), method.rounds, train_config=config, evaluate_fn=evaluate)
    reports = strategy.reports if isinstance(strategy, SetStrategy) else []
    return {
        **curve[-1],
        "seconds": time.monotonic() - began,
        "curve": curve,
        "reports": [report.to_json() for report in reports],
    }


def rows(groups: Sequence[Group]) -> list[Group]:
    """Return the groups by concentration, with the accuracy of FedAvg for no more bytes than the run of a method."""
    averaged = {group.at["alpha"]: group.results for group in groups if group.method == "fedavg"}
    found = []
    for alpha in dict.fromkeys(group.at["alpha"] for group in groups):
        for group in (group for group in groups if group.at["alpha"] == alpha):
            # Every group has the same seeds, in the same order.
            rivals = averaged.get(alpha, [{"curve": []}] * len(group.results))
            results = [
                {**mine, "fedavg": _affordable(rival["curve"], mine["bytes"])}
                for mine, rival in zip(group.results, rivals, strict=True)
            ]
            found.append(group._replace(results=results))
    return found


def _affordable(curve: Sequence[Mapping[str, float]], most: float) -> float | None:
    """Return the accuracy after the last round that cost no more; None without one."""
    return next((point["accuracy"] for point in reversed(curve) if point["bytes"] <= most), None)


def _largest_share(group: Group) -> str:
    shares = [report["share"] for result in group.results for report in result["reports"]]
    return f"{100 * max(shares):.0f}" if shares else "–"


def _points(group: Group) -> list[tuple[float | None, float]]:
    return [(point["bytes"] / 1e6, 100 * point["accuracy"]) for point in group.results[0]["curve"][1:]]


def _concentration(word: str) -> float:
    require_rate("alpha", float(word))
    return float(word)


BENCHMARK = Benchmark(
    prog="python -m benchmarks.federated",
    text="Split a data set among clients; measure what averaging and exchange of sets reach, by measured bytes.",
    setting=Setting,
    methods=METHODS,
    measure=measure,
    about=about,
    axes={"alpha": Axis("0.5,0.1,0.01", "Concentrations of the Dirichlet split, by commas.", _concentration)},
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
