"""Accuracy against measured bytes: averaging of weights, and exchange of synthetic sets, on one split of the data."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp.strategy import FedAvg, FedProx, Strategy
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import Half
from ddsdk.foundation import require, require_count, require_rate
from ddsdk_integrations.federated.averaging import FedNova, Scaffold
from ddsdk_integrations.federated.checks import Limits
from ddsdk_integrations.federated.client import Participant
from ddsdk_integrations.federated.dynafed import DynaFed, Trajectory
from ddsdk_integrations.federated.inprocess import InProcessGrid
from ddsdk_integrations.federated.knowledge import MetaKnowledge
from ddsdk_integrations.federated.local import LocalTraining, accuracy_of
from ddsdk_integrations.federated.partition import dirichlet
from ddsdk_integrations.federated.payload import Packing
from ddsdk_integrations.federated.strategies import dosfl, fed_dm, fed_mk, fed_synth, one_shot
from ddsdk_integrations.federated.strategy import SetStrategy
from ddsdk_integrations.federated.task import Task
from ddsdk_integrations.federated.traffic import CountingGrid
from ddsdk_integrations.federated.updates import Encoding


@dataclass(frozen=True, kw_only=True)
class Method:
    """What is exchanged, and how clients make it.

    Attributes:
        strategy: From task and seed to the strategy.
        rounds: That it runs.
        client: Changes of the `Participant`.
        sets: Whether synthetic sets travel, and not weights.
    """

    strategy: Callable[[Task, int], Strategy]
    rounds: int = 20
    client: Mapping[str, Any] = field(default_factory=dict)
    sets: bool = False


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all cells of a table share.

    Attributes:
        clients: How many.
        width: Of the ConvNet.
        lr: Of clients that train weights (SGD without momentum, batches of 64, one pass in a round).
    """

    clients: int = 10
    width: int = 32
    lr: float = 0.1

    def __post_init__(self) -> None:
        require_count("clients", self.clients)
        require_count("width", self.width)
        require_rate("lr", self.lr)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: a method, the concentration of the Dirichlet split, and a seed."""

    method: str
    alpha: float
    seed: int


# Flower says so in a log at each start; the server evaluates here.
_AVERAGING: dict[str, Any] = {"fraction_evaluate": 0.0, "min_available_nodes": 1, "min_train_nodes": 1}
_IPC = 20
_ENCODING = Encoding(images=20, student_steps=3, steps=60)
_EVALUATION = dd.Evaluation(
    protocol="federated",
    epochs=30,
    batch_size=64,
    lr=0.05,
    schedule="cosine",
    decay_at=(),
    decay=0.01,
    augmentation="crop_flip",
)


def _sets(make: Callable[..., SetStrategy], **how: Any) -> Callable[[Task, int], Strategy]:  # noqa: ANN401
    return lambda task, seed: make(task, seed=seed, secret=seed, limits=Limits(images=_IPC), **how)


METHODS: dict[str, Method] = {
    "fedavg": Method(strategy=lambda *_: FedAvg(**_AVERAGING)),
    "fedprox": Method(strategy=lambda *_: FedProx(**_AVERAGING, proximal_mu=0.01)),
    "scaffold": Method(strategy=lambda task, _: Scaffold(task, **_AVERAGING)),
    "fednova": Method(strategy=lambda *_: FedNova(**_AVERAGING)),
    "dynafed": Method(
        strategy=lambda task, seed: DynaFed(
            task, Trajectory(rounds=8, span=3, student_steps=10, steps=150), seed=seed, **_AVERAGING
        )
    ),
    "one-shot real images": Method(
        strategy=_sets(one_shot, evaluation=_EVALUATION),
        rounds=1,
        client={"distil": dd.BASELINES["random"](ipc=10)},
        sets=True,
    ),
    "real images remembering": Method(
        strategy=_sets(one_shot, evaluation=_EVALUATION, remember=5),
        rounds=5,
        client={"distil": dd.BASELINES["random"](ipc=_IPC)},
        sets=True,
    ),
    "one-shot dm": Method(
        strategy=_sets(one_shot, evaluation=_EVALUATION),
        rounds=1,
        client={"distil": dd.DM(ipc=10, steps=100, real_batch=128)},
        sets=True,
    ),
    "feddm": Method(
        strategy=_sets(fed_dm, evaluation=_EVALUATION),
        rounds=5,
        client={"distil": dd.DM(ipc=_IPC, steps=20, real_batch=128)},
        sets=True,
    ),
    "feddm remembering": Method(
        strategy=_sets(fed_dm, evaluation=_EVALUATION, remember=5),
        rounds=5,
        client={"distil": dd.DM(ipc=_IPC, steps=20, real_batch=128)},
        sets=True,
    ),
    "dosfl": Method(
        strategy=_sets(dosfl, passes=3),
        rounds=1,
        # DD leaves the unit range, where bytes would cut it off.
        client={"distil": dd.DD(ipc=1, passes=3, steps=60, real_batch=256), "packing": Packing(codec=Half())},
        sets=True,
    ),
    "fedmk": Method(
        strategy=_sets(fed_mk, evaluation=_EVALUATION, remember=5),
        rounds=5,
        client={"distil": MetaKnowledge(ipc=10, steps=15, student_steps=3)},
        sets=True,
    ),
    "fedsynth": Method(
        strategy=_sets(fed_synth, student_steps=_ENCODING.student_steps),
        rounds=10,
        client={"encoding": _ENCODING},
        sets=True,
    ),
}
"""Rows of the table; `docs/federated.md` says what was tuned."""


def described(cell: Cell, setting: Setting, train: dd.RealData) -> str:
    """Return everything that a method's numbers depend on, so that a kept cell is used for the same settings only."""
    method = METHODS[cell.method]
    strategy = method.strategy(Task.of(train, network="convnet", width=setting.width), cell.seed)
    parts: dict[str, Any] = {"kind": type(strategy).__name__, "rounds": method.rounds}
    if isinstance(strategy, SetStrategy):
        parts |= strategy.described()
    else:
        # Numbers of Flower's strategies, and what DynaFed distils with.
        plain = {n: v for n, v in vars(strategy).items() if isinstance(v, int | float | str | Trajectory)}
        parts |= plain
    return repr((sorted(parts.items()), sorted(method.client.items())))


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Run a federation in this process; return accuracy and bytes after each round as plain values.

    The last round is the one that counts, never the best.
    """
    require(cell.method in METHODS, "method", f"be one of {', '.join(METHODS)}", cell.method)
    method = METHODS[cell.method]
    task = Task.of(train, network="convnet", width=setting.width)
    parts = dirichlet(train.labels, setting.clients, cell.alpha, dd.generator("split", cell.seed), least=20)

    def load(context: Context) -> tuple[Tensor, Tensor]:
        mine = parts[int(context.node_config["partition-id"])]
        return train.images[mine], train.labels[mine]

    participant = Participant(
        **{
            "task": task,
            "load": load,
            "distil": dd.BASELINES["random"](ipc=_IPC),
            "training": LocalTraining(lr=setting.lr),
            **method.client,
        }
    )
    grid = CountingGrid(InProcessGrid(participant.app(), setting.clients, seed=cell.seed))
    curve: list[dict[str, float]] = []
    accuracy = accuracy_of(task, test)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        found = accuracy(server_round, arrays)
        point = {"round": server_round, "up": grid.traffic.up, "down": grid.traffic.down}
        curve.append({**point, "accuracy": float(found["accuracy"])})  # type: ignore[arg-type]
        return found

    began = time.monotonic()
    strategy = method.strategy(task, cell.seed)
    config = ConfigRecord({"seed": cell.seed})
    strategy.start(grid, task.initial_arrays(cell.seed), method.rounds, train_config=config, evaluate_fn=evaluate)
    reports = strategy.reports if isinstance(strategy, SetStrategy) else []
    return {
        "cell": asdict(cell),
        "setting": asdict(setting),
        "curve": curve,
        "seconds": time.monotonic() - began,
        "refused": [dataclasses.asdict(r)["refused"] for r in reports],
        "share": max((r.share for r in reports), default=None),
        "influence": max((r.influence for r in reports), default=None),
    }
