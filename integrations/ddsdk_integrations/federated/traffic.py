"""Exchange of messages that tolerates faulty clients, and counts of their bytes at the server and at the clients."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid

from ddsdk.foundation import Fraction, PositiveInt, check_numbers, clean, require

_STATE = "ddsdk-traffic"
_POLL_SECONDS = 1.0
_UNREADABLE = 2
_TEXT = 200


@final
@dataclass(frozen=True, kw_only=True)
class Quorum:
    """Rule for the end of a round, and for nodes that stay silent.

    A round ends when all nodes have answered, or a grace period after the quorum has.

    Attributes:
        share: Share of the nodes that make a quorum, in (0, 1]. A small share lets fast clients shut out slow ones.
        grace: Longest wait after the quorum, in units of the timeout of the round, in [0, 1].
        patience: Number of rounds in a row after which a silent node is excluded, at least 1. It takes part again as
            soon as it states its class counts; three requests for them are sent beside the next rounds.

    Examples:
        >>> from ddsdk_integrations.federated import Quorum
        >>> Quorum().needed(7)
        5
    """

    share: float = 2 / 3
    grace: Fraction = 0.25
    patience: PositiveInt = 2

    def __post_init__(self) -> None:
        check_numbers(self)
        require(0 < self.share <= 1, "share", "lie in 0 < value <= 1", self.share)

    def needed(self, nodes: int) -> int:
        """Return the smallest number of answers that make a quorum of `nodes` nodes."""
        # Without the margin, 2/3 of 9 could round up to 7.
        return math.ceil(self.share * nodes - 1e-9)


def exchange(
    grid: Grid,
    messages: Iterable[Message],
    timeout: float,
    quorum: Quorum | None = None,
    *,
    beside: Iterable[Message] = (),
) -> list[Message]:
    """Send messages and return the replies that arrive in time, at most one for each message.

    Flower's ``send_and_receive`` pulls all replies together, so that one unreadable reply ends the run and loses the
    others. Here each reply is pulled by itself, and an unreadable one becomes an error of its sender.

    Args:
        grid: Flower grid with the connected nodes.
        messages: Messages to be sent to clients.
        timeout: Longest wait in seconds.
        quorum: Rule for an earlier end; None waits for all replies until the timeout.
        beside: Further messages, which do not count for the quorum.

    Returns:
        The replies in the order of their arrival, by the clock of the server. Replies that arrive between two polls
        have the order of the node ids, which clients do not choose.
    """
    awaited, further = list(messages), list(beside)
    needed = len(awaited) if quorum is None else quorum.needed(len(awaited))
    until = time.monotonic() + timeout
    sent = zip(grid.push_messages([*awaited, *further]), [*awaited, *further], strict=False)
    unanswered = {i: m for i, m in sent if i}
    counted = {id(message) for message in awaited}
    replies: list[Message] = []
    answers, met = 0, False
    while unanswered and time.monotonic() < until:
        number, arrived = len(unanswered), []
        for i, message in list(unanswered.items()):
            reply = _pulled(grid, i, message)
            if time.monotonic() >= until:
                break
            if reply is not None:
                arrived.append((message.metadata.dst_node_id, reply))
                answers += id(message) in counted
                del unanswered[i]
        replies += [reply for _, reply in sorted(arrived, key=lambda pair: pair[0])]
        if quorum is not None and not met and answers >= needed:
            met, until = True, min(until, time.monotonic() + quorum.grace * timeout)
        if len(unanswered) == number:
            time.sleep(max(0.0, min(_POLL_SECONDS, until - time.monotonic())))
    return replies


def error_text(message: Message) -> str:
    """Return the reason of an error reply as one printable line of at most 200 characters."""
    return clean(str(message.error.reason), _TEXT)


def _pulled(grid: Grid, message_id: str, message: Message) -> Message | None:
    try:
        replies = list(grid.pull_messages([message_id]))
    except Exception as error:
        reason = f"the reply cannot be read: {type(error).__name__}: {error}"
        return Message(Error(_UNREADABLE, reason), reply_to=message)
    if not replies:
        return None
    if replies[0].has_error():
        # Flower sends its own errors, such as that of a disconnected node, with the server as source.
        return Message(replies[0].error, reply_to=message)
    return replies[0]


def content_bytes(content: RecordDict) -> int:
    """Return the size in bytes of arrays, numbers, texts and their names: 8 for a number, 1 for a Boolean.

    Flower's own records count in the same way, but fail for empty texts and lists.

    Examples:
        >>> from flwr.app import ConfigRecord, RecordDict
        >>> from ddsdk_integrations.federated import content_bytes
        >>> content_bytes(RecordDict({"config": ConfigRecord({"seed": 3, "name": "digits"})}))
        22
    """
    size = 0
    for record in content.values():
        if isinstance(record, ArrayRecord):
            size += record.count_bytes()
        else:
            size += sum(len(name) + _value_bytes(value) for name, value in record.items())
    return size


def _value_bytes(value: Any) -> int:  # noqa: ANN401 - any value of a record
    if isinstance(value, list):
        return sum(map(_value_bytes, value))
    if isinstance(value, str | bytes):
        return len(value.encode() if isinstance(value, str) else value)
    return 1 if isinstance(value, bool) else 8


@final
@dataclass
class Traffic:
    """Count of sent bytes and messages.

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
        """Bytes in both directions."""
        return self.down + self.up


class ForwardingGrid(Grid):
    """Flower grid that hands every call on to another one; the base of grids that change a few calls.

    Args:
        grid: Grid that transports the messages.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def set_run(self, run: Any) -> None:  # noqa: ANN401 - a type of Flower that is not public
        """Set the run of the underlying grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:  # noqa: ANN401
        """Run of the underlying grid."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:  # noqa: ANN401
        """Return a new message."""
        return self._grid.create_message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the connected nodes."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Return the ids of the messages after sending them."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Return the replies to messages."""
        return self._grid.send_and_receive(messages, timeout=timeout)


@final
class CountingGrid(ForwardingGrid):
    """Flower grid that counts the bytes of all messages, for use with any strategy.

    Args:
        grid: Grid that transports the messages.
        traffic: Count to be continued; None for a new one.

    Attributes:
        traffic: Count of bytes and messages.

    Examples:
        >>> from flwr.clientapp import ClientApp
        >>> from ddsdk_integrations.federated import CountingGrid, InProcessGrid
        >>> grid = CountingGrid(InProcessGrid(ClientApp(), 3))
        >>> len(list(grid.get_node_ids())), grid.traffic.total
        (3, 0)
    """

    def __init__(self, grid: Grid, traffic: Traffic | None = None) -> None:
        super().__init__(grid)
        self.traffic = Traffic() if traffic is None else traffic

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Return the ids of the messages after sending and counting them."""
        return super().push_messages(self._counted(messages, up=False))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that have arrived, and count them."""
        return self._counted(super().pull_messages(message_ids), up=True)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Return the replies to messages, and count both."""
        sent = self._counted(messages, up=False)
        return self._counted(super().send_and_receive(sent, timeout=timeout), up=True)

    def _counted(self, messages: Iterable[Message], *, up: bool) -> list[Message]:
        listed = list(messages)
        size = sum(content_bytes(m.content) for m in listed if m.has_content())
        self.traffic.messages += len(listed)
        if up:
            self.traffic.up += size
        else:
            self.traffic.down += size
        return listed


def count_traffic(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Return a client's reply and add the sizes of message and reply to its state: a mod for Flower's ``ClientApp``."""
    reply = call_next(message, context)
    down, up = counted(context)
    down += content_bytes(message.content) if message.has_content() else 0
    up += content_bytes(reply.content) if reply.has_content() else 0
    context.state[_STATE] = ConfigRecord({"down": down, "up": up})
    return reply


def counted(context: Context) -> tuple[int, int]:
    """Return the bytes that a client has received and sent, as counted by `count_traffic`."""
    counts: dict[str, Any] = dict(context.state.config_records.get(_STATE, {}))
    down, up = (count if type(count) is int else 0 for count in (counts.get("down"), counts.get("up")))
    return down, up


def client_traffic(grid: Grid, timeout: float = 60.0) -> Traffic:
    """Return the sum of the clients' own byte counts, from all clients of `Participant` that answer in time.

    Args:
        grid: Flower grid with the connected nodes.
        timeout: Longest wait in seconds.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import FederatedTask, InProcessGrid, Participant, client_traffic
        >>> real = ddsdk.load("digits")
        >>> load = lambda context: (real.images, real.labels)
        >>> app = Participant(task=FederatedTask.of(real, width=4, depth=2), load=load, distil=ddsdk.DM()).app()
        >>> client_traffic(InProcessGrid(app, 3)).total
        0
    """
    messages = [Message(RecordDict(), node, "query.traffic") for node in grid.get_node_ids()]
    total = Traffic()
    for reply in exchange(grid, messages, timeout):
        if not reply.has_error():
            counts: dict[str, Any] = dict(reply.content.metric_records.get("traffic", {}))
            total.down += counts.get("down", 0)
            total.up += counts.get("up", 0)
    return total
