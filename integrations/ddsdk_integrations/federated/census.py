"""Registered nodes and the classes that each holds, asked once, before its first round."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from ddsdk_integrations.federated.store import log
from ddsdk_integrations.federated.task import Task
from ddsdk_integrations.federated.traffic import content_bytes, error_text, exchange

_QUESTION = "query.stats"
_ATTEMPTS = 3
_MOST_BYTES = 1 << 16


class Census:
    """Registered nodes, with the numbers of images of each class that they claim.

    Args:
        task: Task that all sides agree on.
        action: Action of the rounds: a recipe may need more images of a class than an update.
    """

    def __init__(self, task: Task, action: str) -> None:
        self._task = task
        self._action = action
        self._counts: dict[int, tuple[int, ...]] = {}
        self._partitions: dict[int, int] = {}
        self._asked: Counter[int] = Counter()
        self._open: set[int] = set()

    def open(self, grid: Grid, least: int, timeout: float) -> None:
        """Wait for `least` nodes and for their first answers, unless some are registered already."""
        if self._counts:
            return
        until = time.monotonic() + timeout
        while (there := len(list(grid.get_node_ids()))) < least and time.monotonic() < until:
            time.sleep(min(1.0, timeout))
        if there < least:
            log.warning("%d nodes are there, and not %d, after %.0f s", there, least, timeout)
        asked = self.questions(grid)
        self.answers(exchange(grid, asked, timeout))
        for node in sorted({m.metadata.dst_node_id for m in asked} - set(self._counts)):
            log.warning("node %d did not say what it holds, and is not asked in this round", node)

    def questions(self, grid: Grid) -> list[Message]:
        """Return the messages to nodes that are not registered; one that never answers is asked three times."""
        new = sorted(set(grid.get_node_ids()) - set(self._counts))
        new = [node for node in new if self._asked[node] < _ATTEMPTS]
        self._asked.update(new)
        self._open = set(new)
        content = RecordDict({"config": ConfigRecord({"action": self._action})})
        return [Message(content, node, _QUESTION) for node in new]

    def answers(self, replies: Iterable[Message]) -> list[Message]:
        """Register the nodes that answer, and return the replies to other messages."""
        others = []
        for reply in replies:
            # The sender writes the type: a node that was not asked cannot register anew.
            if reply.metadata.message_type == _QUESTION and reply.metadata.src_node_id in self._open:
                self._register(reply)
            else:
                others.append(reply)
        return others

    def _register(self, reply: Message) -> None:
        node = reply.metadata.src_node_id
        if reply.has_error():
            log.warning("node %d cannot say what it holds: %s", node, error_text(reply))
            return
        size = content_bytes(reply.content)
        if size > _MOST_BYTES:
            log.warning("node %d must say what it holds in %d bytes, got %d", node, _MOST_BYTES, size)
            return
        stats: dict[str, Any] = dict(reply.content.metric_records.get("stats", {}))
        counts: Any = stats.get("class-counts")
        partition: Any = stats.get("partition-id")
        whole = isinstance(counts, list) and all(isinstance(n, int) and n >= 0 for n in (*counts, partition))
        if not (whole and len(counts) == self._task.num_classes):
            log.warning("node %d must state its partition and the images of each class, got %.200r", node, counts)
            return
        self._counts[node] = tuple(counts)
        self._partitions[node] = partition

    def choose(self, grid: Grid, fraction: float, rng: torch.Generator) -> list[int]:
        """Return a share of the registered nodes that are there, at least one, in the order of their partitions.

        Node ids are random, so partitions decide: the same clients are asked in every run.
        """
        there = set(grid.get_node_ids())
        known = sorted((n for n in self._counts if n in there), key=lambda n: (self._partitions[n], n))
        wanted = max(1, round(fraction * len(known)))
        picked = torch.randperm(len(known), generator=rng)[:wanted].sort().values
        return [known[int(i)] for i in picked]

    def classes_of(self, node: int) -> frozenset[int]:
        """Return the classes that a node holds."""
        return frozenset(c for c, n in enumerate(self._counts[node]) if n)

    def held(self) -> set[int]:
        """Return the classes that some registered node holds."""
        return set().union(*(self.classes_of(node) for node in self._counts))
