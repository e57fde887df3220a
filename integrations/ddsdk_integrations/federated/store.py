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
from safetensors import SafetensorError
from safetensors.torch import load, save

from ddsdk.foundation import ArtifactError, ResumeError, lock, readable_json, strict_json, write_atomic
from ddsdk_integrations.federated.checks import Refusal
from ddsdk_integrations.federated.payload import Contribution

_FORMAT = 1
_STATE = "federation.json"
_TENSORS = ("images", "labels", "classes")
_PLAIN = ("node", "examples", "counts", "rate", "meta")

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
        failed: Node id and reason of each reply that was an error.
        refused: Refusals by the checks.
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
    failed: tuple[tuple[int, str], ...] = ()
    refused: tuple[Refusal, ...] = ()
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
        plain = values | {name: tuple(values[name]) for name in ("silent", "missing")}
        plain["refused"] = tuple(Refusal(**refusal) for refusal in values["refused"])
        plain["failed"] = tuple((int(node), str(reason)) for node, reason in values["failed"])
        plain["influence"] = math.inf if values["influence"] is None else values["influence"]
        return cls(**plain)

    def write(self) -> None:
        """Log a summary at level INFO, and a warning for each refusal, error, silent node and missing class."""
        for refusal in self.refused:
            log.warning("round %d: node %d refused by check %d (%s): %s", self.round_number, *refusal)
        for node, reason in self.failed:
            log.warning("round %d: node %d failed: %s", self.round_number, node, reason)
        if self.silent:
            nodes = ", ".join(map(str, self.silent))
            log.warning("round %d: nodes %s did not answer in time", self.round_number, nodes)
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
    """Folder with the state after the last round: a file of tensors, and a JSON file that names it.

    The JSON file is written last, so that an interruption leaves the previous state complete.

    Args:
        folder: Folder of the state, created if it does not exist.
        about: Settings on which the result depends, as text by name; a state with other settings is refused.
    """

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        self._folder = folder
        self._about = dict(about)

    def save(self, saved: SavedRound) -> None:
        """Replace the saved state; at every moment the old or the new one is complete."""
        tensors = {f"weights/{name}": t for name, t in saved.arrays.to_torch_state_dict().items()}
        sets = [(place, contribution) for place, round_sets in enumerate(saved.kept) for contribution in round_sets]
        for i, (_, contribution) in enumerate(sets):
            tensors |= {f"set-{i}/{name}": getattr(contribution, name) for name in _TENSORS}
        name = f"round-{saved.round_number}.safetensors"
        state = {
            "format": _FORMAT,
            "about": self._about,
            "round": saved.round_number,
            "tensors": name,
            "weights": list(saved.arrays),
            "reports": [report.to_json() for report in saved.reports],
            "evaluated": {str(r): values for r, values in saved.evaluated.items()},
            "traffic": list(saved.traffic),
            "sets": [
                {"at": place, **{name: getattr(contribution, name) for name in _PLAIN}} for place, contribution in sets
            ],
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        with lock(self._folder):
            write_atomic(self._folder / name, save({n: t.contiguous() for n, t in tensors.items()}))
            write_atomic(self._folder / _STATE, readable_json(state))
            for old in self._folder.glob("round-*.safetensors"):
                if old.name != name:
                    old.unlink(missing_ok=True)

    def load(self) -> SavedRound | None:
        """Return the saved state; None if no round has been saved.

        Raises:
            ArtifactError: If the files cannot be read (code ``"damaged"``) or have another format (``"format"``).
            ResumeError: If the state belongs to other settings; the message names them.
        """
        path = self._folder / _STATE
        if not path.exists():
            return None
        try:
            state = strict_json(path.read_bytes())
            version, about = state.get("format"), state.get("about", {})
        except (ValueError, AttributeError) as error:
            raise ArtifactError("damaged", f"{str(path)!r} cannot be read: {error}") from None
        if version != _FORMAT:
            raise ArtifactError("format", f"format must be {_FORMAT}, got {version!r}")
        differing = [name for name in self._about if about.get(name) != self._about[name]]
        if differing:
            raise ResumeError(f"{str(self._folder)!r} has another {' and '.join(differing)}; name a new folder")
        try:
            return self._read(state)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ArtifactError("damaged", f"the state in {str(self._folder)!r} is damaged: {reason}") from None

    def _read(self, state: dict[str, Any]) -> SavedRound:
        tensors = load((self._folder / Path(state["tensors"]).name).read_bytes())
        down, up, messages = state["traffic"]
        sets: dict[int, list[Contribution]] = {}
        for i, plain in enumerate(state["sets"]):
            parts: dict[str, Any] = {name: tensors[f"set-{i}/{name}"] for name in _TENSORS}
            parts |= {n: tuple(v) if isinstance(v, list) else v for n, v in plain.items() if n != "at"}
            sets.setdefault(plain["at"], []).append(Contribution(**parts))
        return SavedRound(
            round_number=state["round"],
            arrays=ArrayRecord({name: tensors[f"weights/{name}"] for name in state["weights"]}),
            reports=[RoundReport.from_json(report) for report in state["reports"]],
            evaluated={int(r): values for r, values in state["evaluated"].items()},
            traffic=(down, up, messages),
            kept=[sets[place] for place in sorted(sets)],
        )
