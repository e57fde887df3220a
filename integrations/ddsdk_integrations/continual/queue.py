"""A bounded queue of the real images of a stream, for a memory that is made while the stream runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, final

import torch

import ddsdk as dd
from ddsdk.foundation import require, require_count
from ddsdk_integrations.continual.stream import Arrivals


@final
@dataclass(frozen=True)
class Streaming:
    """When to distil a stream that comes in small pieces, with or without known boundaries.

    Attributes:
        every: Pieces after which what waits is distilled. Where the stream tells that a new experience begins,
            what waits of the one before is distilled first.
        room: Real images that may wait; beyond it chance decides which stay, each as likely as the others.

    Raises:
        ValueError: If a number is below 1.
    """

    _: KW_ONLY
    every: int = 20
    room: int = 1000

    def __post_init__(self) -> None:
        require_count("every", self.every)
        require_count("room", self.room)


@final
class Queue:
    """Images that wait: a reservoir of those that came since it was emptied.

    Args:
        room: Images at most.
        seed: Of the choice among more.
    """

    def __init__(self, room: int, seed: int) -> None:
        self._room = room
        self._seed = seed
        self._came = 0
        self._emptied = 0
        self.pieces = 0
        self._waiting: Arrivals | None = None

    def __len__(self) -> int:
        """Return how many images wait."""
        return 0 if self._waiting is None else len(self._waiting.keys)

    def add(self, piece: Arrivals) -> None:
        """Let a piece of the stream wait."""
        self.pieces += 1
        old = self._waiting
        images = piece.images if old is None else torch.cat([old.images, piece.images])
        keys = list(piece.keys) if old is None else [*old.keys, *piece.keys]
        places: list[int] = list(range(min(len(keys) - len(piece.keys), self._room)))
        for i in range(len(keys) - len(piece.keys), len(keys)):
            self._came += 1
            if len(places) < self._room:
                places.append(i)
                continue
            rng = dd.generator("queue", self._seed, self._emptied, self._came)
            at = int(torch.randint(self._came, (), generator=rng))
            if at < self._room:
                places[at] = i
        self._waiting = Arrivals(images[places].clone(), tuple(keys[i] for i in places))

    def empty(self) -> Arrivals | None:
        """Return what waited, and forget it; None if nothing did."""
        waiting, self._waiting = self._waiting, None
        self._came = self.pieces = 0
        self._emptied += 1
        return waiting

    def to_state(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        waiting = None if self._waiting is None else tuple(self._waiting)
        return {"came": self._came, "emptied": self._emptied, "pieces": self.pieces, "waiting": waiting}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from where `to_state` was taken.

        Raises:
            ValueError: If more wait than there is room for.
        """
        self._came, self._emptied, self.pieces = state["came"], state["emptied"], state["pieces"]
        waiting = state["waiting"]
        self._waiting = None if waiting is None else Arrivals(*waiting)
        require(len(self) <= self._room, "room", f"hold the {len(self)} images that wait", self._room)
