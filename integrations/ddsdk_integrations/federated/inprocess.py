"""Federation inside one process, without ports, worker processes or Ray, for tests and notebooks.

It depends on internals of Flower without a stability guarantee: the identity in messages, and their serialization.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from inspect import signature
from typing import Any, final

import torch
from flwr.app import Context, Error, Message, Metadata, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

import ddsdk as dd
from ddsdk.foundation import derive, require

_SERVER = 1
_FAILED = 2


@final
class InProcessGrid(Grid):
    """Flower grid that calls the client apps in the same process, one after the other.

    Each client has a persistent context. Content is serialized and parsed as in a real federation, so that server and
    clients share no memory. A client runs when its reply is pulled; a reply after the deadline is lost.

    Args:
        app: Client app of all clients, or one app for each.
        partitions: Number of clients, at least 1; their ``partition-id`` counts from 0.
        run_config: Run configuration of the clients; None for an empty one.
        silent: Partition ids of clients that never reply.
        seed: Seed of the node ids and of the order of the replies.

    Attributes:
        contexts: Context of each client by node id.

    Examples:
        >>> from flwr.clientapp import ClientApp
        >>> from ddsdk_integrations.federated import InProcessGrid
        >>> grid = InProcessGrid(ClientApp(), 4)
        >>> len(list(grid.get_node_ids()))
        4
    """

    def __init__(
        self,
        app: ClientApp | Sequence[ClientApp],
        partitions: int,
        *,
        run_config: Mapping[str, Any] | None = None,
        silent: Iterable[int] = (),
        seed: int = 0,
    ) -> None:
        apps = [app] * partitions if isinstance(app, ClientApp) else list(app)
        require(len(apps) == partitions > 0, "app", f"be one, or one for each of {partitions}", len(apps))
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, _SERVER, 1
        rng = dd.generator("nodes", seed)
        ids = torch.randint(2, 2**62, (partitions,), generator=rng).tolist()
        self._apps = dict(zip(ids, apps, strict=True))
        self.contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config={"partition-id": i, "num-partitions": partitions},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for i, node in enumerate(ids)
        }
        self._silent = {ids[i] for i in silent}
        self._rng = derive(rng, "order")
        self._pending: dict[str, Message] = {}
        self._sent = 0

    def set_run(self, run: Any) -> None:  # noqa: ANN401
        """Do nothing, because there is a single run."""

    @property
    def run(self) -> Any:  # noqa: ANN401
        """Record of the run, which does not exist here.

        Raises:
            RuntimeError: In every case.
        """
        raise RuntimeError("a federation inside one process has no record of its run")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message to a client."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all clients in arbitrary order."""
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Return an id for each message, after storing it for its client."""
        ids = []
        for message in messages:
            self._sent += 1
            ids.append(str(self._sent))
            self._pending[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages, each once, by calling their clients one after the other."""
        replies = []
        for message_id in message_ids:
            message = self._pending.get(message_id)
            node = None if message is None else message.metadata.dst_node_id
            if message is not None and node in self._apps and node not in self._silent:
                del self._pending[message_id]
                replies.append(self._reply(message, message_id))
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Return the replies before the timeout, in random order."""
        until = None if timeout is None else time.monotonic() + timeout
        ids = list(self.push_messages(messages))
        replies: list[Message] = []
        for i in torch.randperm(len(ids), generator=self._rng).tolist():
            pulled = self.pull_messages([ids[i]])
            if until is not None and time.monotonic() > until:
                break
            replies += pulled
        return replies

    def _reply(self, message: Message, message_id: str) -> Message:
        node = message.metadata.dst_node_id
        request = _transmitted(message, message_id)
        try:
            reply = self._apps[node](request, self.contexts[node])
        except Exception as error:
            return Message(Error(_FAILED, f"{type(error).__name__}: {error}"), reply_to=request)
        return _transmitted(reply, f"reply-{message_id}")


def _transmitted(message: Message, message_id: str) -> Message:
    """Return a copy of a message after serialization and parsing, with an id."""
    fields: dict[str, Any] = {name: getattr(message.metadata, name) for name in signature(Metadata).parameters}
    metadata = Metadata(**(fields | {"message_id": message_id}))
    # The annotated signature of Message lacks the argument `metadata`.
    new_message: Any = Message
    if message.has_error():
        transmitted: Message = new_message(metadata=metadata, error=message.error)
    else:
        content = recorddict_from_proto(recorddict_to_proto(message.content))
        transmitted = new_message(metadata=metadata, content=content)
    return transmitted
