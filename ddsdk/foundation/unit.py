"""A unit of work: a kind, a configuration and a key, which together name one file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import msgspec

from ddsdk.foundation.errors import ArtifactError, require
from ddsdk.foundation.files import canonical_json, read_json, strict_json

_FORMAT = 1
_ID = re.compile(r"[0-9a-f]{32}")
_KIND = re.compile(r"[a-z][a-z-]{0,39}")
_SOUND = "a description of a unit must be sound"


@final
@dataclass(frozen=True)
class Unit:
    """A description of a result, which follows from it alone, on any machine and in any order.

    Attributes:
        kind: Kind of the result, a short word in lower case.
        config: Everything that the result depends on, as JSON values; the root of its random numbers too.
        key: Number of the unit among several alike; random numbers derive from it.
        needs: Ids of the units whose results it reads.
    """

    kind: str
    config: Mapping[str, Any]
    key: tuple[int | str, ...] = ()
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(bool(_KIND.fullmatch(self.kind)), "kind", "be a short word in lower case", self.kind)
        for need in self.needs:
            require(bool(_ID.fullmatch(need)), "needs", "hold ids of units", need)

    @cached_property
    def id(self) -> str:
        """32 hex digits of the SHA-256 of the description: the name of the result's file."""
        return hashlib.sha256(self.description).hexdigest()[:32]

    @cached_property
    def description(self) -> bytes:
        """Unit as canonical JSON."""
        told = {"kind": self.kind, "config": dict(self.config), "key": self.key, "needs": self.needs}
        return canonical_json({"format": _FORMAT, **told})

    @classmethod
    def read(cls, description: bytes) -> Unit:
        """Return the unit of a description; ArtifactError ``"unit"`` where it is none."""
        found = read_json(description, _Description, "unit", _SOUND)
        try:
            unit = cls(found.kind, found.config, tuple(found.key), tuple(found.needs))
        except ValueError as error:
            raise ArtifactError("unit", f"{_SOUND}, got: {error}") from None
        if found.format != _FORMAT:
            raise ArtifactError("format", f"units have format {_FORMAT}, got {found.format}")
        return unit


Compute = Callable[[Unit, Mapping[str, bytes]], bytes]
"""Pure function from a unit and the results that it needs, by id, to its result."""


class _Description(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    format: int
    kind: str
    config: dict[str, Any]
    key: list[int | str]
    needs: list[str]


class _Seal(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    unit: dict[str, Any]
    sha256: str


def seal_result(unit: Unit, result: bytes) -> bytes:
    """Return the content of a unit's file: a line of JSON with description and hash, and the result."""
    told = {"unit": strict_json(unit.description), "sha256": hashlib.sha256(result).hexdigest()}
    return canonical_json(told) + b"\n" + result


def open_result(unit_id: str, content: bytes) -> tuple[Unit, bytes]:
    """Return the unit and the result in the content of a file; ArtifactError ``"unit"`` where it is damaged."""
    line, end, result = content.partition(b"\n")
    seal = read_json(line, _Seal, "unit", f"the file of unit {unit_id} must begin with its seal")
    unit = Unit.read(canonical_json(seal.unit))
    whole = bool(end) and seal.sha256 == hashlib.sha256(result).hexdigest()
    if unit.id != unit_id or not whole:
        raise ArtifactError("unit", f"the file of unit {unit_id} is damaged, or is that of another unit")
    return unit, result
