"""The state of a federation after each round, so that a server that was killed goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from flwr.app import ArrayRecord
from safetensors import SafetensorError
from safetensors.torch import load, save

from ddsdk.foundation import ArtifactError, ResumeError, lock, readable_json, strict_json, write_atomic
from ddsdk_integrations.federated.payload import Contribution
from ddsdk_integrations.federated.report import RoundReport

_FORMAT = 1
_STATE = "federation.json"
_TENSORS = ("images", "labels", "classes")
_PLAIN = ("node", "examples", "counts", "rate", "meta")


@final
@dataclass(frozen=True)
class Saved:
    """Everything that the next round needs.

    Attributes:
        round_number: The last round that is done.
        arrays: Weights after it.
        reports: Of all rounds.
        evaluated: Round to what `evaluate_fn` said.
        traffic: Bytes down, bytes up and messages.
        kept: The sets of the rounds that are remembered.
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
        folder: Made if it does not exist.
        about: What the result depends on, as text by name: a state of something else is refused.
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
            ResumeError: If it is of something else; the message names what differs.
        """
        path = self._folder / _STATE
        if not path.exists():
            return None
        try:
            state = strict_json(path.read_bytes())
            told = state.get("format"), state.get("about", {})
        except (ValueError, AttributeError) as error:
            raise ArtifactError("damaged", f"{str(path)!r} cannot be read: {error}") from None
        if told[0] != _FORMAT:
            raise ArtifactError("format", f"format must be {_FORMAT}, got {told[0]!r}")
        differing = [name for name in self._about if told[1].get(name) != self._about[name]]
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
        return Saved(
            round_number=state["round"],
            arrays=ArrayRecord({name: tensors[f"weights/{name}"] for name in state["weights"]}),
            reports=[RoundReport.from_json(report) for report in state["reports"]],
            evaluated={int(r): values for r, values in state["evaluated"].items()},
            traffic=(down, up, messages),
            kept=_kept(state["sets"], tensors),
        )


def _kept(sets: list[dict[str, Any]], tensors: dict[str, torch.Tensor]) -> list[list[Contribution]]:
    found: dict[int, list[Contribution]] = {}
    for i, told in enumerate(sets):
        parts: dict[str, Any] = {name: tensors[f"set-{i}/{name}"] for name in _TENSORS}
        plain: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in told.items() if n != "at"}
        found.setdefault(told["at"], []).append(Contribution(**parts, **plain))
    return [found[at] for at in sorted(found)]
