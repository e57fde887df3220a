"""Messages: sent and collected whatever a client does, and their bytes, counted at both ends in the same way."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid

from ddsdk.foundation import clean

_STATE = "ddsdk-traffic"
_POLL_SECONDS = 1.0
_UNREADABLE = 2
_TEXT = 200


def exchange(grid: Grid, messages: Iterable[Message], timeout: float) -> list[Message]:
    """Return the replies that arrive within `timeout` seconds, at most one for each message.

    Flower's ``send_and_receive`` pulls all replies together: one whose content cannot be read ends the run, and
    takes the others with it. Here each is pulled by itself, and one that cannot be read is an error of its sender.
    """
    asked = list(messages)
    until = time.monotonic() + timeout
    waiting = {i: m for i, m in zip(grid.push_messages(asked), asked, strict=False) if i}
    found: list[Message] = []
    while waiting and time.monotonic() < until:
        before = len(waiting)
        for i, message in list(waiting.items()):
            reply = _pulled(grid, i, message)
            if time.monotonic() >= until:
                break
            if reply is not None:
                found.append(reply)
                del waiting[i]
        if len(waiting) == before:
            time.sleep(max(0.0, min(_POLL_SECONDS, until - time.monotonic())))
    return found


def error_text(message: Message) -> str:
    """Return the reason of a reply that is an error, as one short printable line."""
    return clean(str(message.error.reason), _TEXT)


def _pulled(grid: Grid, message_id: str, asked: Message) -> Message | None:
    try:
        replies = list(grid.pull_messages([message_id]))
    except Exception as error:
        reason = f"the reply cannot be read: {type(error).__name__}: {error}"
        return Message(Error(_UNREADABLE, reason), reply_to=asked)
    if not replies:
        return None
    if replies[0].has_error():
        # Flower signs errors of its own, such as that of a node that went away, as the server.
        return Message(replies[0].error, reply_to=asked)
    return replies[0]


def content_bytes(content: RecordDict) -> int:
    """Return the bytes of arrays, numbers, texts and their names: 8 for a number, 1 for a truth value.

    Flower's own records count the same, and fail for empty texts and lists.
    """
    size = 0
    for record in content.values():
        if isinstance(record, ArrayRecord):
            size += record.count_bytes()
        else:
            size += sum(len(name) + _value_bytes(value) for name, value in record.items())
    return size


def _value_bytes(value: Any) -> int:  # noqa: ANN401 - whatever a record holds
    if isinstance(value, list):
        return sum(map(_value_bytes, value))
    if isinstance(value, str | bytes):
        return len(value.encode() if isinstance(value, str) else value)
    return 1 if isinstance(value, bool) else 8


@final
@dataclass
class Traffic:
    """Count of all that was sent.

    Attributes:
        down: Bytes from the server to clients.
        up: Bytes from clients to the server.
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
    """A grid that counts the bytes that pass; any strategy of Flower takes it in place of the grid itself.

    Args:
        grid: Grid that sends.
        traffic: Count to go on with; None for a new one.
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
    found: dict[str, Any] = dict(context.state.config_records.get(_STATE, {}))
    return found.get("down", 0), found.get("up", 0)


def client_traffic(grid: Grid, timeout: float = 60.0) -> Traffic:
    """Return the sum of the counts of all clients of `Participant` that answer within `timeout` seconds."""
    messages = [Message(RecordDict(), node, "query.traffic") for node in grid.get_node_ids()]
    total = Traffic()
    for reply in exchange(grid, messages, timeout):
        if not reply.has_error():
            counts: dict[str, Any] = dict(reply.content.metric_records.get("traffic", {}))
            total.down += counts.get("down", 0)
            total.up += counts.get("up", 0)
    return total
