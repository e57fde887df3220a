"""A federation inside one process: the same apps without ports, processes or Ray, for tests and notebooks.

It uses names that Flower does not promise to keep: the identity that messages read, and their form on the wire.
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
    """Calls a client app for each message, one after the other, with a context for each client that lasts.

    Content is written to bytes and read again, as on a wire, so the sides share no memory. A client answers when its
    reply is pulled; one whose answer would come after the deadline is silent, as in a real federation.

    Args:
        app: App of all clients; or one app for each.
        partitions: Number of clients; their ``partition-id`` counts from 0.
        run_config: Configuration of the run, as clients see it.
        silent: Partitions that never answer.
        seed: Root of node ids and of the order of replies.
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
        self._waiting: dict[str, Message] = {}
        self._sent = 0

    def set_run(self, run: Any) -> None:  # noqa: ANN401
        """Do nothing: there is one run."""

    @property
    def run(self) -> Any:  # noqa: ANN401
        """Raise RuntimeError: there is no record of a run."""
        raise RuntimeError("a federation inside one process has no record of its run")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all clients, in no order."""
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep messages for their clients; return their ids."""
        ids = []
        for message in messages:
            self._sent += 1
            ids.append(str(self._sent))
            self._waiting[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let the clients of these messages answer, one after the other, and return the answers, each once."""
        found = []
        for message_id in message_ids:
            message = self._waiting.get(message_id)
            node = None if message is None else message.metadata.dst_node_id
            if message is not None and node in self._apps and node not in self._silent:
                del self._waiting[message_id]
                found.append(self._answer(message, message_id))
        return found

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Return the answers that came in time, in no order."""
        until = None if timeout is None else time.monotonic() + timeout
        ids = list(self.push_messages(messages))
        found: list[Message] = []
        for i in torch.randperm(len(ids), generator=self._rng).tolist():
            answers = self.pull_messages([ids[i]])
            if until is not None and time.monotonic() > until:
                break
            found += answers
        return found

    def _answer(self, message: Message, message_id: str) -> Message:
        node = message.metadata.dst_node_id
        arrived = _delivered(message, message_id)
        try:
            reply = self._apps[node](arrived, self.contexts[node])
        except Exception as error:
            return Message(Error(_FAILED, f"{type(error).__name__}: {error}"), reply_to=arrived)
        return _delivered(reply, f"reply-{message_id}")


def _delivered(message: Message, message_id: str) -> Message:
    """Return a message as it comes out of the wire, with an id."""
    sent: dict[str, Any] = {name: getattr(message.metadata, name) for name in signature(Metadata).parameters}
    metadata = Metadata(**(sent | {"message_id": message_id}))
    # The type does not show the argument `metadata`.
    make: Any = Message
    if message.has_error():
        found: Message = make(metadata=metadata, error=message.error)
    else:
        found = make(metadata=metadata, content=recorddict_from_proto(recorddict_to_proto(message.content)))
    return found
