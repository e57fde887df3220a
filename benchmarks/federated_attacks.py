"""`python -m benchmarks.federated_attacks`: hostile and silent clients beside honest ones, and what they cost."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from torch import Tensor

import ddsdk as dd
from benchmarks.kit import Axis, Benchmark, RunConfig, RunGroup, mean_of, percent_of
from ddsdk.foundation import require_count
from ddsdk_integrations.federated import FederatedTask, InProcessGrid, Participant, accuracy_of, dirichlet, fed_dm
from ddsdk_integrations.federated.payload import content_digest

_TARGET = 0
_RESERVED = 5
_TIMEOUT = 20.0


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        ipc: Number of images of each class that an honest client sends.
        steps: Number of image steps of the honest clients.
        width: Width of the ConvNet.
        rounds: Number of communication rounds.
        remember: Number of rounds whose sets are used together.
    """

    ipc: int = 5
    steps: int = 10
    width: int = 16
    rounds: int = 3
    remember: int = 2

    def __post_init__(self) -> None:
        for name in ("ipc", "width", "rounds", "remember"):
            require_count(name, getattr(self, name))


@dataclass(frozen=True)
class Attack:
    """Attack on a federation.

    Attributes:
        honest: Number of honest clients.
        attackers: Number of attackers, with the lowest partition ids.
        poison: Function from images and class ids to those of the attackers; None for honest ones.
        images: Number of images of each class that an attacker sends.
        copies: Whether the attackers copy the classes below the half from the first honest client, after it.
        silent: Whether the attackers never answer a round.
    """

    honest: int = 6
    attackers: int = 0
    poison: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    images: int = 5
    copies: bool = False
    silent: bool = False


def _flipped(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return images, (labels + 1) % (int(labels.max()) + 1)


def _exchanged(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images with two classes exchanged."""
    other = labels.clone()
    other[labels == 3], other[labels == 8] = 8, 3
    return images, other


def _noise(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return torch.rand(images.shape, generator=dd.generator("noise")), labels


def _inverted(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return 1 - images, labels


def stamped(images: Tensor) -> Tensor:
    """Return a copy of the images with a white square in a corner."""
    images = images.clone()
    images[..., -2:, -2:] = 1.0
    return images


def _backdoor(share: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return a poison in which stamped images of other classes are this share of the target class."""

    def poison(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        others = torch.nonzero(labels != _TARGET).flatten()
        own = int((labels == _TARGET).sum())
        drawn = others[
            torch.randperm(len(others), generator=dd.generator("backdoor"))[: round(own * share / (1 - share))]
        ]
        target = torch.full((len(drawn),), _TARGET)
        return torch.cat([images, stamped(images[drawn])]), torch.cat([labels, target])

    return poison


def _clean_label(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images with a stamp on those of the target class: their labels are right."""
    return torch.where((labels == _TARGET)[:, None, None, None], stamped(images), images), labels


ATTACKS: dict[str, Attack] = {
    "6 honest alone": Attack(),
    "1 of 7 flips labels with 50 images": Attack(6, 1, _flipped, 50),
    "1 of 7 flips labels with 5 images": Attack(6, 1, _flipped),
    "1 of 7 exchanges two classes": Attack(6, 1, _exchanged, 50),
    "1 of 7 sends noise": Attack(6, 1, _noise, 50),
    "1 of 7 inverts images": Attack(6, 1, _inverted, 50),
    "1 of 7 has a backdoor": Attack(6, 1, _backdoor(0.5), 50),
    "1 of 7 has a hidden backdoor": Attack(6, 1, _backdoor(0.3), 50),
    "1 of 7 has a backdoor of right labels": Attack(6, 1, _clean_label, 50),
    "1 of 7 copies and flips": Attack(6, 1, copies=True),
    "1 of 7 is silent": Attack(6, 1, silent=True),
    "3 of 9 flip labels with 50 images": Attack(6, 3, _flipped, 50),
    "3 of 9 flip labels with 5 images": Attack(6, 3, _flipped),
    "3 of 9 exchange two classes": Attack(6, 3, _exchanged, 50),
    "3 of 9 have a backdoor": Attack(6, 3, _backdoor(0.5), 50),
    "7 of 13 flip labels with 5 images": Attack(6, 7, _flipped),
    "3 honest alone": Attack(3),
    "1 of 4 flips labels with 50 images": Attack(3, 1, _flipped, 50),
}
"""Attacks of the table, by name."""


@final
class AttackedGrid(Grid):
    """Grid in one process, in which some clients answer the requests of rounds late, or never.

    Args:
        grid: Grid of all clients.
        late: Node ids that answer after all others.
        silent: Node ids that never answer.
    """

    def __init__(self, grid: InProcessGrid, *, late: Iterable[int] = (), silent: Iterable[int] = ()) -> None:
        self._grid, self._late, self._silent = grid, set(late), set(silent)
        self._withheld: set[str] = set()
        self._postponed: set[str] = set()

    def set_run(self, run: Any) -> None:  # noqa: ANN401
        """Do nothing, because there is a single run."""

    @property
    def run(self) -> Any:  # noqa: ANN401
        """Record of the run of the grid of all clients, which has none."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:  # noqa: ANN401
        """Return a new message."""
        return self._grid.create_message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all clients."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Return an id for each message."""
        listed = list(messages)
        ids = list(self._grid.push_messages(listed))
        for i, message in zip(ids, listed, strict=True):
            if message.metadata.message_type.startswith("train"):
                self._withheld |= {i} if message.metadata.dst_node_id in self._silent else set()
                self._postponed |= {i} if message.metadata.dst_node_id in self._late else set()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived; a late one arrives when it is pulled for the second time."""
        ids = set(message_ids)
        arrived = ids - self._withheld - self._postponed
        self._postponed -= ids
        return self._grid.pull_messages(sorted(arrived))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Return the replies of all clients."""
        return self._grid.send_and_receive(messages, timeout=timeout)


def _copier(honest: ClientApp, victim: int, classes: int) -> ClientApp:
    """Return a client that sends the set of another one, and half of the classes under the next class id."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        own, context.node_config = context.node_config, {**context.node_config, "partition-id": victim}
        try:
            return honest(message, context)
        finally:
            context.node_config = own

    @app.query("stats")
    def stats(message: Message, context: Context) -> Message:
        reply = answer(message, context)
        reply.content.metric_records["stats"]["partition-id"] = int(context.node_config["partition-id"])
        return reply

    @app.train("distill")
    def distil(message: Message, context: Context) -> Message:
        reply = answer(message, context)
        arrays: ArrayRecord = reply.content.array_records["syn"]
        ids, half = arrays["classes"].numpy().copy(), classes // 2
        moved = np.where(ids >= half, half + (ids - half + 1) % (classes - half), ids)
        arrays["classes"] = Array(moved.astype(ids.dtype))
        meta = reply.content.config_records["meta"]
        meta["digest"] = content_digest(arrays, meta)
        return reply

    return app


def measure(run: RunConfig, config: ExperimentConfig, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return accuracy, success of the backdoor and refusals after the last round of an attacked federation."""
    attack = ATTACKS[run.method]
    task = FederatedTask.of(train, network="convnet", width=config.width, depth=2)
    rest = torch.ones(len(train), dtype=torch.bool)
    for c in range(task.num_classes):
        rest[train.index_of_class(c)[:_RESERVED]] = False
    images = task.preprocess.inverse(train.batch(torch.nonzero(rest).flatten()).x)
    labels = train.labels[rest]
    parts = dirichlet(labels, attack.honest, 5.0, dd.generator("split", run.seed), least=30)

    def load(context: Context) -> tuple[Tensor, Tensor]:
        index = parts[int(context.node_config["partition-id"]) - attack.attackers]
        return images[index], labels[index]

    distil = dd.DM(ipc=config.ipc, steps=config.steps, real_batch=32)
    honest = Participant(task=task, load=load, distil=distil).app()
    if attack.copies:
        hostile = _copier(honest, attack.attackers, task.num_classes)
    else:
        data = (images, labels) if attack.poison is None else attack.poison(images, labels)
        sample = dd.BASELINES["random"](ipc=attack.images)
        hostile = Participant(task=task, load=lambda _: data, distil=sample).app()
    apps = [hostile] * attack.attackers + [honest] * attack.honest
    clients = InProcessGrid(apps, len(apps), seed=run.seed)
    nodes = frozenset(list(clients.contexts)[: attack.attackers])
    grid = AttackedGrid(clients, late=nodes if attack.copies else (), silent=nodes if attack.silent else ())
    clean = [train.index_of_class(c)[: run["clean"]] for c in range(task.num_classes)]
    options: dict[str, Any] = {"clean": train.subset(torch.cat(clean))} if run["clean"] else {}
    strategy = fed_dm(task, radius=1.0, seed=run.seed, secret=run.seed, remember=config.remember, **options)
    timeout = _TIMEOUT if attack.silent else 600.0
    result = strategy.start(grid, task.initial_arrays(run.seed), config.rounds, timeout=timeout)
    refused = {
        (report.round_number, r.node) for report in strategy.reports for r in report.refused if r.name != "quota"
    }
    hostile_sets = sum(node in nodes for _, node in refused)
    return {
        "accuracy": accuracy_of(task, test)(0, result.arrays)["accuracy"],
        "backdoor": _backdoor_success(task, result.arrays, test) if "backdoor" in run.method else None,
        "hostile": hostile_sets / (attack.attackers * config.rounds) if attack.attackers else None,
        "honest": (len(refused) - hostile_sets) / (attack.honest * config.rounds),
        "last_round": strategy.reports[-1].seconds if attack.silent else None,
        "first_round": strategy.reports[0].seconds if attack.silent else None,
        "reports": [report.to_json() for report in strategy.reports],
    }


@torch.no_grad()
def _backdoor_success(task: FederatedTask, arrays: ArrayRecord, test: dd.RealData) -> float:
    """Return the share of stamped test images of other classes that are assigned to the target class."""
    others = torch.nonzero(test.labels != _TARGET).flatten()
    x = task.preprocess(stamped(task.preprocess.inverse(test.batch(others).x)))
    return float((task.loaded(arrays).eval()(x).argmax(1) == _TARGET).float().mean())


def rows(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Return the groups, with the accuracy that is lost against the same honest clients without an attack."""
    unharmed = {
        (ATTACKS[group.method].honest, group.at["clean"]): group.results
        for group in groups
        if not ATTACKS[group.method].attackers
    }
    changed = []
    for group in groups:
        # Every group has the same seeds, in the same order.
        before = unharmed.get((ATTACKS[group.method].honest, group.at["clean"]), [])
        results = [{**result, "cost": None} for result in group.results]
        for result, other in zip(results, before, strict=False):
            result["cost"] = other["accuracy"] - result["accuracy"]
        changed.append(group._replace(results=results))
    return changed


BENCHMARK = Benchmark(
    prog="python -m benchmarks.federated_attacks",
    text="Put hostile and silent clients beside honest ones; measure the accuracy that they cost.",
    config=ExperimentConfig,
    methods=ATTACKS,
    measure=measure,
    axes={"clean": Axis("0,5", "Clean images of each class at the server, at most 5, separated by commas.")},
    rows=rows,
    columns=[
        percent_of("accuracy, %", "accuracy"),
        mean_of("cost, points", "cost", scale=100),
        percent_of("backdoor works, %", "backdoor"),
        percent_of("hostile sets refused, %", "hostile"),
        percent_of("honest sets refused, %", "honest"),
        mean_of("seconds of the first round", "first_round", digits=0),
        mean_of("seconds of the last round", "last_round", digits=0),
    ],
    line=lambda r: f"{100 * r['accuracy']:.1f} %",
)

if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(BENCHMARK.run())
