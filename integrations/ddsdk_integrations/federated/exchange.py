"""Send messages and collect the replies that come in time, whatever one of them does."""

from __future__ import annotations

import time
from collections.abc import Iterable

from flwr.app import Error, Message
from flwr.serverapp import Grid

from ddsdk.foundation import clean

_POLL_SECONDS = 1.0
_UNREADABLE = 2
_TEXT = 200


def exchange(grid: Grid, messages: Iterable[Message], timeout: float) -> list[Message]:
    """Return the replies that arrive within `timeout` seconds, at most one for each message.

    Flower's ``send_and_receive`` pulls all replies together: one whose content cannot be read ends the run, and
    takes the others with it. Here each is pulled by itself, and one that cannot be read is an error of its sender.

    Args:
        grid: Sends and receives.
        messages: To send.
        timeout: Seconds to wait.
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
    """Return why a reply is an error, as one short printable line."""
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
