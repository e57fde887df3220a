"""Units of work. The kind, configuration and key of a unit determine its result and the name of its file."""

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
_VALID_UNIT = "a description of a unit must be valid"


@final
@dataclass(frozen=True)
class Unit:
    """A unit of work, such as one training run: a complete description of a reproducible result.

    The result depends on the description only, and not on the machine or on the order of the work.

    Attributes:
        kind: Kind of the result, a word of at most 40 lower-case letters, digits and hyphens.
        config: JSON values on which the result depends, including the root of its random numbers.
        key: Integers and strings that distinguish units of one configuration; random numbers derive from them.
        needs: Ids of the units whose results are inputs of this one.

    Examples:
        >>> unit = Unit("expert", {"data": "digits", "seed": 0}, key=(3,))
        >>> len(unit.id), Unit.read(unit.description) == unit
        (32, True)
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
        """Name of the file of the result: the first 32 hex digits of the SHA-256 of the description."""
        return hashlib.sha256(self.description).hexdigest()[:32]

    @cached_property
    def description(self) -> bytes:
        """Content of the unit as canonical JSON."""
        fields = {"kind": self.kind, "config": dict(self.config), "key": self.key, "needs": self.needs}
        return canonical_json({"format": _FORMAT, **fields})

    @classmethod
    def read(cls, description: bytes) -> Unit:
        """Return the unit of a description.

        Raises:
            ArtifactError: With reason ``"unit"`` if the description is not valid, and with reason ``"format"`` if it
                has another format.
        """
        fields = read_json(description, _Description, "unit", _VALID_UNIT)
        try:
            unit = cls(fields.kind, fields.config, tuple(fields.key), tuple(fields.needs))
        except ValueError as error:
            raise ArtifactError("unit", f"{_VALID_UNIT}, got: {error}") from None
        if fields.format != _FORMAT:
            raise ArtifactError("format", f"the format of a unit must be {_FORMAT}, got {fields.format}")
        return unit


Compute = Callable[[Unit, Mapping[str, bytes]], bytes]
"""Pure function that computes the result of a unit, given the unit and the results of its inputs by id."""


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
    """Return the content of the file of a result: one line of JSON with description and hash, then the result.

    Examples:
        >>> unit = Unit("expert", {"seed": 0})
        >>> open_result(unit.id, seal_result(unit, b"weights"))[1]
        b'weights'
    """
    header = {"unit": strict_json(unit.description), "sha256": hashlib.sha256(result).hexdigest()}
    return canonical_json(header) + b"\n" + result


def open_result(unit_id: str, content: bytes) -> tuple[Unit, bytes]:
    """Return the unit and the result that `seal_result` wrote, after a check of the hash.

    Raises:
        ArtifactError: With reason ``"unit"`` if the content is damaged or belongs to another unit.
    """
    line, end, result = content.partition(b"\n")
    seal = read_json(line, _Seal, "unit", f"the file of unit {unit_id} must begin with its description and hash")
    unit = Unit.read(canonical_json(seal.unit))
    intact = bool(end) and seal.sha256 == hashlib.sha256(result).hexdigest()
    if unit.id != unit_id or not intact:
        raise ArtifactError("unit", f"the file of unit {unit_id} is damaged or belongs to another unit")
    return unit, result
