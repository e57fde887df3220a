"""Reports of rounds, and the saved state of the server after each round, from which an interrupted run resumes."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from flwr.app import ArrayRecord

from ddsdk.foundation import ArtifactError, ResumeError, lock, make_folder
from ddsdk.running import has_checkpoint, read_checkpoint, read_config, write_checkpoint
from ddsdk_integrations.federated.checks import Refusal
from ddsdk_integrations.federated.payload import Contribution

_FORMAT = 2
_STATE, _OLD_STATE = "federation.safetensors", "federation.json"
_FIELDS = ("images", "labels", "classes", "node", "examples", "counts", "rate", "meta")

log = logging.getLogger("ddsdk.federated")
"""Logger of the federation: refusals and alarms at level WARNING, summaries of rounds at level INFO."""


@final
@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """Report of one round.

    Attributes:
        round_number: Number of the round, from 1.
        taken: Number of sets that were used, in whole or in part.
        silent: Node ids without a reply before the timeout.
        excluded: Node ids that got no request, because they stayed silent in the rounds before.
        failed: Node id and reason of each reply that was an error.
        refused: Refusals by the checks.
        withdrawn: Number of images of earlier rounds that were withdrawn, because their client was refused.
        missing: Names of classes that some client holds and no used set contains.
        share: Largest share of one client in the weight of a class.
        influence: Largest share that one client could have had, with the other sets fixed; 1 if one client alone holds
            a class. For weight updates, the largest distance by which one client could have moved their mean, in
            lengths of that mean; infinity if there was one update.
        codec_error: Largest root mean square error of pixels from packing, in the unit range, stated by the client of
            a used set; None without used sets.
        down: Bytes from the server to clients.
        up: Bytes from clients to the server.
        seconds: Duration of the whole round in seconds.
    """

    round_number: int
    asked: int
    """Number of nodes that got a request."""
    taken: int
    silent: tuple[int, ...] = ()
    excluded: tuple[int, ...] = ()
    failed: tuple[tuple[int, str], ...] = ()
    refused: tuple[Refusal, ...] = ()
    withdrawn: int = 0
    missing: tuple[str, ...] = ()
    share: float = 0.0
    influence: float = 0.0
    codec_error: float | None = None
    down: int = 0
    up: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; an infinite influence becomes None, because JSON has no infinity."""
        plain = dataclasses.asdict(self) | {"refused": [refusal._asdict() for refusal in self.refused]}
        return plain | {"influence": self.influence if math.isfinite(self.influence) else None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RoundReport:
        """Return the report of the values from `to_json`."""
        plain = values | {name: tuple(values.get(name, ())) for name in ("silent", "excluded", "missing")}
        plain["refused"] = tuple(Refusal(**refusal) for refusal in values["refused"])
        plain["failed"] = tuple((int(node), str(reason)) for node, reason in values["failed"])
        plain["influence"] = math.inf if values["influence"] is None else values["influence"]
        return cls(**plain)

    def write(self) -> None:
        """Log a summary at level INFO, and a warning for each refusal, error, silent node and missing class."""
        for refusal in self.refused:
            log.warning("round %d: node %d refused by check %d (%s): %s", self.round_number, *refusal[:4])
        for node, reason in self.failed:
            log.warning("round %d: node %d failed: %s", self.round_number, node, reason)
        if self.silent:
            nodes = ", ".join(map(str, self.silent))
            log.warning("round %d: nodes %s did not answer in time", self.round_number, nodes)
        if self.excluded:
            nodes = ", ".join(map(str, self.excluded))
            log.warning("round %d: nodes %s got no request, because they stayed silent", self.round_number, nodes)
        if self.withdrawn:
            log.warning("round %d: %d images of earlier rounds withdrawn", self.round_number, self.withdrawn)
        if self.missing:
            names = ", ".join(self.missing)
            log.warning("round %d: no images of the classes %s, which clients hold", self.round_number, names)
        log.info(
            "round %d: %d of %d sets taken, %d bytes down, %d up, %.1f s; influence of one client: %.2f at most, "
            "%.2f possible",
            *(self.round_number, self.taken, self.asked, self.down, self.up, self.seconds),
            *(self.share, self.influence),
        )


@final
@dataclass(frozen=True)
class SavedRound:
    """State on which the next round depends.

    Attributes:
        round_number: Number of the last completed round.
        arrays: Weights of the server after that round.
        reports: Reports of all completed rounds.
        evaluated: Metrics of `evaluate_fn` by round.
        traffic: Bytes down, bytes up and number of messages.
        kept: Sets of each remembered round.
    """

    round_number: int
    arrays: ArrayRecord
    reports: list[RoundReport]
    evaluated: dict[int, dict[str, Any]]
    traffic: tuple[int, int, int]
    kept: list[list[Contribution]]


@final
class RoundStore:
    """Folder with the state after the last round, in a checkpoint file with a checksum; see `write_checkpoint`.

    The state of the round before is kept, and is read in the place of a damaged one.

    Args:
        folder: Folder of the state, created if it does not exist.
        about: Settings on which the result depends, as text by name; a state with other settings is refused.
    """

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        self._folder = folder
        self._path = folder / _STATE
        self._about = dict(about)

    def save(self, saved: SavedRound) -> None:
        """Replace the saved state; at every moment the old or the new one is complete."""
        state = {
            "round": saved.round_number,
            "weights": dict(saved.arrays.to_torch_state_dict()),
            "reports": [report.to_json() for report in saved.reports],
            "evaluated": saved.evaluated,
            "traffic": saved.traffic,
            "kept": [[{name: getattr(kept, name) for name in _FIELDS} for kept in sets] for sets in saved.kept],
        }
        make_folder(self._folder)
        with lock(self._folder):
            write_checkpoint(self._path, {"format": _FORMAT, "about": self._about}, state)

    def load(self) -> SavedRound | None:
        """Return the saved state; None if no round has been saved. A damaged file gives a `ResumeError` as well.

        Raises:
            ArtifactError: If the state has another format (``"format"``) or lacks an entry (``"damaged"``).
            ResumeError: If the state belongs to other settings; the message names them.
        """
        if not has_checkpoint(self._path):
            if (self._folder / _OLD_STATE).exists():
                raise ArtifactError(
                    "format", f"{str(self._folder)!r} has a state of an older version; name a new folder"
                )
            return None
        config = read_config(self._path)
        if config.get("format") != _FORMAT:
            raise ArtifactError("format", f"format must be {_FORMAT}, got {config.get('format')!r}")
        stated = config.get("about")
        about = stated if isinstance(stated, dict) else {}
        differing = [name for name in self._about if about.get(name) != self._about[name]]
        if differing:
            raise ResumeError(f"{str(self._folder)!r} has another {' and '.join(differing)}; name a new folder")
        state = read_checkpoint(self._path, config)
        try:
            return SavedRound(
                round_number=state["round"],
                arrays=ArrayRecord(state["weights"]),
                reports=[RoundReport.from_json(report) for report in state["reports"]],
                evaluated=state["evaluated"],
                traffic=state["traffic"],
                kept=[[Contribution(**kept) for kept in sets] for sets in state["kept"]],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ArtifactError("damaged", f"the state in {str(self._folder)!r} is damaged: {reason}") from None
