"""Who takes part, and which classes each client holds: asked once, before a client's first round."""

from __future__ import annotations

import time

import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from ddsdk_integrations.federated.report import log
from ddsdk_integrations.federated.task import Task

__all__ = ["Census"]


class Census:
    """Registered nodes, with the images of each class that they say they have.

    Args:
        task: What is agreed on.
        timeout: Seconds to wait for nodes, and for the answers of new ones.
    """

    def __init__(self, task: Task, timeout: float) -> None:
        self._task = task
        self._timeout = timeout
        self._counts: dict[int, tuple[int, ...]] = {}
        self._partitions: dict[int, int] = {}

    def update(self, grid: Grid, least: int) -> None:
        """Wait for `least` nodes, and ask those that are new."""
        until = time.monotonic() + self._timeout
        while len(nodes := set(grid.get_node_ids())) < least and time.monotonic() < until:
            time.sleep(min(1.0, self._timeout))
        new = sorted(nodes - set(self._counts))
        if len(nodes) < least:
            log.warning("%d nodes are there, and not %d, after %.0f s", len(nodes), least, self._timeout)
        if not new:
            return
        messages = [Message(RecordDict(), node, "query.stats") for node in new]
        for reply in grid.send_and_receive(messages, timeout=self._timeout):
            self._register(reply)
        for node in sorted(set(new) - set(self._counts)):
            log.warning("node %d did not say what it holds, and is not asked in this round", node)

    def _register(self, reply: Message) -> None:
        node = reply.metadata.src_node_id
        if reply.has_error():
            log.warning("node %d cannot say what it holds: %s", node, str(reply.error.reason)[:200])
            return
        stats = reply.content.get("stats")
        counts = stats.get("class-counts") if isinstance(stats, MetricRecord) else None
        partition = stats.get("partition-id") if isinstance(stats, MetricRecord) else None
        sound = isinstance(counts, list) and len(counts) == self._task.num_classes
        if not (sound and isinstance(partition, int)):
            log.warning("node %d must say how many images of each class it has, got %r", node, counts)
            return
        assert isinstance(counts, list)
        if not all(isinstance(n, int) and n >= 0 for n in counts):
            log.warning("node %d must count images by whole numbers from 0, got %r", node, counts)
            return
        self._counts[node] = tuple(int(n) for n in counts)
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
