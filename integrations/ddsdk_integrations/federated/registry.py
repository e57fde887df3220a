"""Registry of the nodes with their class counts, which each node states once, before its first round."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from ddsdk_integrations.federated.store import log
from ddsdk_integrations.federated.task import FederatedTask
from ddsdk_integrations.federated.traffic import Quorum, content_bytes, error_text, exchange

_QUESTION = "query.stats"
_ATTEMPTS = 3
_MOST_BYTES = 1 << 16


class NodeRegistry:
    """Registry of the nodes that have stated their number of images of each class.

    Args:
        task: Task of the federation.
        action: Action of the rounds, ``"distill"`` or ``"update"``; a recipe may need more images of a class than an
            update, so the class counts depend on it.
        quorum: Rule for silent nodes.

    Attributes:
        excluded: Node ids that were excluded because they stayed silent, and have not answered since.
        partitions: Partition that each registered node has stated, by node id.
    """

    def __init__(self, task: FederatedTask, action: str, quorum: Quorum) -> None:
        self._task = task
        self._action = action
        self._quorum = quorum
        self._silent_rounds: Counter[int] = Counter()
        self.excluded: set[int] = set()
        self._counts: dict[int, tuple[int, ...]] = {}
        self.partitions: dict[int, int] = {}
        self._attempts: Counter[int] = Counter()
        self._unanswered: set[int] = set()

    def open(self, grid: Grid, least: int, timeout: float) -> None:
        """Wait for `least` nodes and register them; return at once if nodes are registered already.

        Args:
            grid: Flower grid with the connected nodes.
            least: Smallest number of nodes.
            timeout: Longest wait in seconds, once for the nodes and once for their class counts.
        """
        if self._counts:
            return
        until = time.monotonic() + timeout
        while (available := len(list(grid.get_node_ids()))) < least and time.monotonic() < until:
            time.sleep(min(1.0, timeout))
        if available < least:
            log.warning("%d of %d nodes are available after %.0f s", available, least, timeout)
        requests = self.questions(grid)
        self.answers(exchange(grid, requests, timeout, self._quorum))
        for node in sorted({m.metadata.dst_node_id for m in requests} - set(self._counts)):
            log.warning("node %d did not state its class counts and is left out of this round", node)

    def questions(self, grid: Grid) -> list[Message]:
        """Return a request for class counts to each node that is not registered or excluded, three times at most."""
        new = sorted(set(grid.get_node_ids()) - (set(self._counts) - self.excluded))
        new = [node for node in new if self._attempts[node] < _ATTEMPTS]
        self._attempts.update(new)
        self._unanswered = set(new)
        content = RecordDict({"config": ConfigRecord({"action": self._action})})
        return [Message(content, node, _QUESTION) for node in new]

    def answers(self, replies: Iterable[Message]) -> list[Message]:
        """Register the nodes whose class counts are among the replies.

        Args:
            replies: Replies to all messages of a round.

        Returns:
            The replies to other messages.
        """
        others = []
        for reply in replies:
            # The sender chooses the message type, so only nodes with an open request may register.
            if reply.metadata.message_type == _QUESTION and reply.metadata.src_node_id in self._unanswered:
                self._register(reply)
            else:
                others.append(reply)
        return others

    def _register(self, reply: Message) -> None:
        node = reply.metadata.src_node_id
        if reply.has_error():
            log.warning("node %d could not state its class counts: %s", node, error_text(reply))
            return
        size = content_bytes(reply.content)
        if size > _MOST_BYTES:
            log.warning("node %d must state its class counts in %d bytes, got %d", node, _MOST_BYTES, size)
            return
        stats: dict[str, Any] = dict(reply.content.metric_records.get("stats", {}))
        counts: Any = stats.get("class-counts")
        partition: Any = stats.get("partition-id")
        sound = isinstance(counts, list) and all(isinstance(n, int) and n >= 0 for n in (*counts, partition))
        if not (sound and len(counts) == self._task.num_classes):
            log.warning(
                "node %d must state its partition and its number of images of each class, got %.200r", node, counts
            )
            return
        self._counts[node] = tuple(counts)
        self.partitions[node] = partition
        self.excluded.discard(node)

    def count_silence(self, requested: Iterable[int], answered: Iterable[int]) -> None:
        """Count the rounds in a row in which each node stayed silent, and exclude nodes beyond the patience.

        An excluded node gets a new request for its class counts, and takes part once it has stated them.

        Args:
            requested: Node ids with a request in this round.
            answered: Node ids with a reply in this round, an error included.
        """
        answers = set(answered)
        for node in requested:
            self._silent_rounds[node] = 0 if node in answers else self._silent_rounds[node] + 1
            if self._silent_rounds[node] >= self._quorum.patience:
                log.warning("node %d stayed silent in %d rounds and is excluded", node, self._silent_rounds[node])
                self.excluded.add(node)
                self._silent_rounds[node] = self._attempts[node] = 0

    def choose(self, grid: Grid, fraction: float, rng: torch.Generator) -> list[int]:
        """Return a random share of the registered nodes that are available, at least one, sorted by partition.

        Node ids are random in every run; the order of the partitions makes the selection reproducible.

        Args:
            grid: Flower grid with the connected nodes.
            fraction: Share of the nodes, in (0, 1].
            rng: Generator of the selection.
        """
        available = set(grid.get_node_ids()) - self.excluded
        nodes = sorted((n for n in self._counts if n in available), key=lambda n: (self.partitions[n], n))
        number = max(1, round(fraction * len(nodes)))
        picked = torch.randperm(len(nodes), generator=rng)[:number].sort().values
        return [nodes[int(i)] for i in picked]

    def classes_of(self, node: int) -> frozenset[int]:
        """Return the class ids that a node holds."""
        return frozenset(c for c, n in enumerate(self._counts[node]) if n)

    def held(self) -> set[int]:
        """Return the class ids that at least one registered node holds."""
        return set().union(*(self.classes_of(node) for node in self._counts))
