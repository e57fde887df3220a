"""Reports of rounds, and the state after each round, from which a server that was killed goes on."""

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
"""Refusals and alarms are warnings of this logger, summaries of rounds its information."""


@final
@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """Report of one round.

    Attributes:
        round_number: Number of the round, from 1.
        asked: Number of nodes that were asked.
        taken: Number of sets that were used, whole or in part.
        silent: Nodes that did not answer in time.
        failed: Nodes whose answer was an error, with its reason.
        refused: Refusals by the checks.
        missing: Names of classes that some client holds and nobody's set had.
        share: Largest share of the weight of a class that one client had.
        influence: Largest share that one client could have had: 1 where it alone holds a class. For updates, the
            distance by which it could have moved their mean, in lengths of that mean; infinity where it alone sent one.
        codec_error: Largest root mean square error of pixels by packing, in the unit range, that a client states of a
            set that was used; None without any.
        down: Bytes from the server to clients.
        up: Bytes from clients to the server.
        seconds: Time of the whole round.
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

    def to_json(self) -> dict[str, Any]:
        """Return plain values; an influence without bound is None, for JSON has no infinity."""
        plain = dataclasses.asdict(self) | {"refused": [one._asdict() for one in self.refused]}
        return plain | {"influence": self.influence if math.isfinite(self.influence) else None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RoundReport:
        """Return what `to_json` wrote."""
        plain = values | {name: tuple(values[name]) for name in ("silent", "missing")}
        plain["refused"] = tuple(Refusal(**one) for one in values["refused"])
        plain["failed"] = tuple((int(node), str(reason)) for node, reason in values["failed"])
        plain["influence"] = math.inf if values["influence"] is None else values["influence"]
        return cls(**plain)

    def write(self) -> None:
        """Log a line of information, and a warning for each thing that went wrong."""
        for one in self.refused:
            log.warning("round %d: node %d refused by check %d (%s): %s", self.round_number, *one)
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
class Saved:
    """State of which the next round depends.

    Attributes:
        round_number: Number of the last round that is done.
        arrays: Weights after it.
        reports: Reports of all rounds.
        evaluated: Round to the result of `evaluate_fn`.
        traffic: Bytes down, bytes up and messages.
        kept: Sets of the rounds that are remembered.
    """

    round_number: int
    arrays: ArrayRecord
    reports: list[RoundReport]
    evaluated: dict[int, dict[str, Any]]
    traffic: tuple[int, int, int]
    kept: list[list[Contribution]]


@final
class Store:
    """A folder with one JSON file and one file of tensors; the JSON file names the other and is written last.

    Args:
        folder: Folder, made if it does not exist.
        about: Settings of which the result depends, as text by name: a state of other settings is refused.
    """

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        self._folder = folder
        self._about = dict(about)

    def save(self, saved: Saved) -> None:
        """Write a state in place of the one before; at every moment one of the two is whole."""
        tensors = {f"weights/{name}": t for name, t in saved.arrays.to_torch_state_dict().items()}
        sets = [(at, one) for at, sets in enumerate(saved.kept) for one in sets]
        for i, (_, one) in enumerate(sets):
            tensors |= {f"set-{i}/{name}": getattr(one, name) for name in _TENSORS}
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
            "sets": [{"at": at, **{name: getattr(one, name) for name in _PLAIN}} for at, one in sets],
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        with lock(self._folder):
            write_atomic(self._folder / name, save({n: t.contiguous() for n, t in tensors.items()}))
            write_atomic(self._folder / _STATE, readable_json(state))
            for old in self._folder.glob("round-*.safetensors"):
                if old.name != name:
                    old.unlink(missing_ok=True)

    def load(self) -> Saved | None:
        """Return the state; None if there is none yet.

        Raises:
            ArtifactError: ``"format"`` or ``"damaged"``, if the files cannot be read.
            ResumeError: If it is of other settings; the message names them.
        """
        path = self._folder / _STATE
        if not path.exists():
            return None
        try:
            state = strict_json(path.read_bytes())
            kind, about = state.get("format"), state.get("about", {})
        except (ValueError, AttributeError) as error:
            raise ArtifactError("damaged", f"{str(path)!r} cannot be read: {error}") from None
        if kind != _FORMAT:
            raise ArtifactError("format", f"format must be {_FORMAT}, got {kind!r}")
        differing = [name for name in self._about if about.get(name) != self._about[name]]
        if differing:
            raise ResumeError(f"{str(self._folder)!r} has another {' and '.join(differing)}; name a new folder")
        try:
            return self._read(state)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ArtifactError("damaged", f"the state in {str(self._folder)!r} is damaged: {reason}") from None

    def _read(self, state: dict[str, Any]) -> Saved:
        tensors = load((self._folder / Path(state["tensors"]).name).read_bytes())
        down, up, messages = state["traffic"]
        kept: dict[int, list[Contribution]] = {}
        for i, plain in enumerate(state["sets"]):
            parts: dict[str, Any] = {name: tensors[f"set-{i}/{name}"] for name in _TENSORS}
            parts |= {n: tuple(v) if isinstance(v, list) else v for n, v in plain.items() if n != "at"}
            kept.setdefault(plain["at"], []).append(Contribution(**parts))
        return Saved(
            round_number=state["round"],
            arrays=ArrayRecord({name: tensors[f"weights/{name}"] for name in state["weights"]}),
            reports=[RoundReport.from_json(report) for report in state["reports"]],
            evaluated={int(r): values for r, values in state["evaluated"].items()},
            traffic=(down, up, messages),
            kept=[kept[at] for at in sorted(kept)],
        )
