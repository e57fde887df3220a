"""Clients, attackers and server of an attacked federation, in one process or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import require_count, require_positive
from ddsdk_integrations.federated import FederatedTask, InProcessGrid, Participant, SetStrategy, dirichlet, fed_dm
from ddsdk_integrations.federated.payload import content_digest
from ddsdk_integrations.federated.traffic import ForwardingGrid

TARGET = 0
_RESERVED = 5


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        ipc: Number of images of each class that an honest client sends.
        steps: Number of image steps of the honest clients.
        width: Width of the ConvNet.
        rounds: Number of communication rounds.
        remember: Number of rounds whose sets are used together.
        alpha: Concentration of the Dirichlet split among honest clients; smaller values make them differ more.
    """

    ipc: int = 5
    steps: int = 10
    width: int = 16
    rounds: int = 3
    remember: int = 2
    alpha: float = 5.0

    def __post_init__(self) -> None:
        for name in ("ipc", "width", "rounds", "remember"):
            require_count(name, getattr(self, name))
        require_positive("alpha", self.alpha)


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
        others = torch.nonzero(labels != TARGET).flatten()
        own = int((labels == TARGET).sum())
        drawn = others[
            torch.randperm(len(others), generator=dd.generator("backdoor"))[: round(own * share / (1 - share))]
        ]
        target = torch.full((len(drawn),), TARGET)
        return torch.cat([images, stamped(images[drawn])]), torch.cat([labels, target])

    return poison


def _clean_label(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images with a stamp on those of the target class: their labels are right."""
    return torch.where((labels == TARGET)[:, None, None, None], stamped(images), images), labels


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
class AttackedGrid(ForwardingGrid):
    """Grid in one process, in which some clients answer the requests of rounds late, or never.

    Args:
        grid: Grid of all clients.
        late: Node ids that answer after all others.
        silent: Node ids that never answer.
    """

    def __init__(self, grid: InProcessGrid, *, late: Iterable[int] = (), silent: Iterable[int] = ()) -> None:
        super().__init__(grid)
        self._late, self._silent = set(late), set(silent)
        self._withheld: set[str] = set()
        self._postponed: set[str] = set()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Return an id for each message."""
        listed = list(messages)
        ids = list(super().push_messages(listed))
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
        return super().pull_messages(sorted(arrived))


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


@final
@dataclass(frozen=True, kw_only=True)
class AttackedFederation:
    """Federation in which some clients attack: the same task, client apps and strategy wherever its processes run.

    Attributes:
        method: Name of the attack in `ATTACKS`.
        seed: Seed of all random numbers of the run.
        config: Settings of all runs.
        task: Task of the federation.
        images: Images of all clients in the unit range, without the clean images of the server, (N, C, H, W).
        labels: Class ids of `images`, (N,) int64.
    """

    method: str
    seed: int
    config: ExperimentConfig
    task: FederatedTask
    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, method: str, seed: int, config: ExperimentConfig, train: dd.RealData) -> AttackedFederation:
        """Return the federation whose clients share the training images.

        Args:
            method: Name of the attack in `ATTACKS`.
            seed: Seed of all random numbers of the run.
            config: Settings of all runs.
            train: Training images of all clients, of which the first five of each class stay with the server.
        """
        task = FederatedTask.of(train, network="convnet", width=config.width, depth=2)
        rest = torch.ones(len(train), dtype=torch.bool)
        for c in range(task.num_classes):
            rest[train.index_of_class(c)[:_RESERVED]] = False
        images = task.preprocess.inverse(train.batch(torch.nonzero(rest).flatten()).x)
        return cls(method=method, seed=seed, config=config, task=task, images=images, labels=train.labels[rest])

    @property
    def attack(self) -> Attack:
        """Attack of this federation by its name."""
        return ATTACKS[self.method]

    @property
    def clients(self) -> int:
        """Number of all clients, of which the attackers come first."""
        return self.attack.attackers + self.attack.honest

    @cached_property
    def _parts(self) -> list[Tensor]:
        return dirichlet(self.labels, self.attack.honest, self.config.alpha, dd.generator("split", self.seed), least=30)

    def _load(self, context: Context) -> tuple[Tensor, Tensor]:
        index = self._parts[int(context.node_config["partition-id"]) - self.attack.attackers]
        return self.images[index], self.labels[index]

    @cached_property
    def honest(self) -> ClientApp:
        """Client app of the honest clients."""
        distil = dd.DM(ipc=self.config.ipc, steps=self.config.steps, real_batch=32)
        return Participant(task=self.task, load=self._load, distil=distil).app()

    @cached_property
    def hostile(self) -> ClientApp:
        """Client app of the attackers, which have all images."""
        attack = self.attack
        if attack.copies:
            return _copier(self.honest, attack.attackers, self.task.num_classes)
        data = (self.images, self.labels) if attack.poison is None else attack.poison(self.images, self.labels)
        sample = dd.BASELINES["random"](ipc=attack.images)
        return Participant(task=self.task, load=lambda _: data, distil=sample).app()

    def app(self, partition: int) -> ClientApp:
        """Return the client app of a partition, of which the lowest are the attackers."""
        return self.hostile if partition < self.attack.attackers else self.honest

    def strategy(self, **options: Any) -> SetStrategy:  # noqa: ANN401
        """Return the strategy of the server, with further options of `ddsdk_integrations.federated.SetStrategy`."""
        return fed_dm(self.task, radius=1.0, seed=self.seed, secret=self.seed, remember=self.config.remember, **options)
