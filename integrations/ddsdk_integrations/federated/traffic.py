"""Bytes that cross the wire, counted at both ends in the same way: what the records of a message hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid

from ddsdk_integrations.federated.exchange import exchange

_STATE = "ddsdk-traffic"


def content_bytes(content: RecordDict) -> int:
    """Return the bytes of arrays, numbers, texts and their names: 8 for a number, 1 for a truth value.

    It is what Flower's own records count, which fail for empty texts and lists.
    """
    return sum(
        record.count_bytes()
        if isinstance(record, ArrayRecord)
        else sum(len(name) + _value_bytes(value) for name, value in record.items())
        for record in content.values()
    )


def _value_bytes(value: Any) -> int:  # noqa: ANN401 - whatever a record holds
    if isinstance(value, list):
        return sum(map(_value_bytes, value))
    if isinstance(value, str | bytes):
        return len(value.encode() if isinstance(value, str) else value)
    return 1 if isinstance(value, bool) else 8


@final
@dataclass
class Traffic:
    """What was sent, in bytes, from the first message on.

    Attributes:
        down: From the server to clients.
        up: From clients to the server.
        messages: Messages in both directions.
    """

    down: int = 0
    up: int = 0
    messages: int = 0

    @property
    def total(self) -> int:
        """Both directions."""
        return self.down + self.up


@final
class CountingGrid(Grid):
    """A grid that counts what passes; give it to any strategy of Flower in place of the grid itself.

    Args:
        grid: What sends.
        traffic: Where to count; a new count if None.
    """

    def __init__(self, grid: Grid, traffic: Traffic | None = None) -> None:
        self._grid = grid
        self.traffic = Traffic() if traffic is None else traffic

    def set_run(self, run: Any) -> None:  # noqa: ANN401 - a type of Flower that is not public
        """Set the run of the grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:  # noqa: ANN401
        """The run of the grid."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:  # noqa: ANN401
        """Make a message."""
        return self._grid.create_message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send, and count."""
        return self._grid.push_messages(self._counted(messages, up=False))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Receive, and count."""
        return self._counted(self._grid.pull_messages(message_ids), up=True)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send and receive, and count both."""
        sent = self._counted(messages, up=False)
        return self._counted(self._grid.send_and_receive(sent, timeout=timeout), up=True)

    def _counted(self, messages: Iterable[Message], *, up: bool) -> list[Message]:
        found = list(messages)
        size = sum(content_bytes(m.content) for m in found if m.has_content())
        self.traffic.messages += len(found)
        if up:
            self.traffic.up += size
        else:
            self.traffic.down += size
        return found


def count_traffic(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Count what a client receives and sends, in its own state: a mod of Flower's ``ClientApp``."""
    reply = call_next(message, context)
    down, up = counted(context)
    down += content_bytes(message.content)
    up += content_bytes(reply.content) if reply.has_content() else 0
    context.state[_STATE] = ConfigRecord({"down": down, "up": up})
    return reply


def counted(context: Context) -> tuple[int, int]:
    """Return the bytes that `count_traffic` has counted for a client: received, sent."""
    found = context.state.get(_STATE)
    if not isinstance(found, ConfigRecord):
        return 0, 0
    return int(found["down"]), int(found["up"])  # type: ignore[arg-type]


def client_traffic(grid: Grid, timeout: float = 60.0) -> Traffic:
    """Ask all clients of `Participant` what they have counted, and return the sum: the other end's view.

    Args:
        grid: Of the same run.
        timeout: Seconds to wait; who is silent is left out.
    """
    messages = [Message(RecordDict(), node, "query.traffic") for node in grid.get_node_ids()]
    total = Traffic()
    for reply in exchange(grid, messages, timeout):
        told = None if reply.has_error() else reply.content.get("traffic")
        if isinstance(told, MetricRecord):
            total.down += int(told["down"])  # type: ignore[arg-type]
            total.up += int(told["up"])  # type: ignore[arg-type]
    return total
