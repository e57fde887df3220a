"""What became of a round: who answered, what was refused, which classes went missing, and what it cost."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from ddsdk_integrations.federated.checks import Refusal

log = logging.getLogger("ddsdk.federated")
"""Refusals and alarms are warnings of this logger, summaries of rounds its information."""


@final
@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """One round.

    Attributes:
        round_number: From 1.
        asked: Nodes that were asked.
        taken: Sets that were used, whole or in part.
        silent: Nodes that did not answer in time.
        failed: Nodes whose answer was an error, with its reason.
        refused: What the checks refused.
        missing: Names of classes that some client holds and nobody's set had.
        share: Largest share of the weight of a class that one client had.
        influence: Largest share that one client could have had: 1 where it alone holds a class. For updates, how far it
            could have moved their mean, in lengths of that mean; infinity where it alone had sent one.
        codec_error: Largest loss by packing among the sets that were used, as their clients say; None without any. See
            `ddsdk_integrations.federated.payload.codec_error`.
        down: Bytes from the server to clients.
        up: Bytes from clients to the server.
        seconds: Of the whole round.
    """

    round_number: int
    asked: int
    taken: int
    silent: tuple[int, ...] = ()
    failed: tuple[tuple[int, str], ...] = ()
    refused: tuple[Refusal, ...] = ()
    missing: tuple[str, ...] = ()
    share: float = 0.0
    influence: float = 0.0
    codec_error: float | None = None
    down: int = 0
    up: int = 0
    seconds: float = 0.0

    @property
    def refusals(self) -> dict[str, int]:
        """Number of refusals by the name of the check."""
        return dict(Counter(one.name for one in self.refused))

    def to_json(self) -> dict[str, Any]:
        """Return plain values; an influence without bound is None, for JSON has no infinity."""
        plain = dataclasses.asdict(self) | {"refused": [one._asdict() for one in self.refused]}
        return plain | {"influence": self.influence if math.isfinite(self.influence) else None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RoundReport:
        """Return what `to_json` wrote."""
        plain = dict(values)
        plain["refused"] = tuple(Refusal(**one) for one in values["refused"])
        plain["failed"] = tuple((int(node), str(reason)) for node, reason in values["failed"])
        plain |= {name: tuple(values[name]) for name in ("silent", "missing")}
        plain["influence"] = math.inf if values["influence"] is None else values["influence"]
        return cls(**plain)

    def write(self) -> None:
        """Log the round: a line of information, and a warning for each thing that went wrong."""
        for one in self.refused:
            log.warning("round %d: node %d refused by check %d (%s): %s", self.round_number, *one)
        for node, reason in self.failed:
            log.warning("round %d: node %d failed: %s", self.round_number, node, reason)
        _warn(self.silent, "round %d: nodes %s did not answer in time", self.round_number)
        _warn(self.missing, "round %d: no images of the classes %s, which clients hold", self.round_number)
        log.info(
            "round %d: %d of %d sets taken, %d bytes down, %d up, %.1f s; influence of one client: %.2f at most, "
            "%.2f possible",
            *(self.round_number, self.taken, self.asked, self.down, self.up, self.seconds),
            *(self.share, self.influence),
        )


def _warn(found: Sequence[object], message: str, round_number: int) -> None:
    if found:
        log.warning(message, round_number, ", ".join(map(str, found)))
