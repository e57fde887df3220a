"""All codecs by name, and their JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ddsdk.artefact.codecs import Codec, Components, Half, LowRank, Tiles, Uint8
from ddsdk.artefact.cosine import Cosine
from ddsdk.artefact.palette import Palette
from ddsdk.foundation import require

CODECS: dict[str, type[Codec]] = {
    kind.name: kind for kind in (Uint8, Half, LowRank, Tiles, Components, Palette, Cosine)
}
"""Codecs by their names in files."""


def codec_state(codec: Codec) -> dict[str, Any]:
    """Return a codec as JSON values.

    Examples:
        >>> from ddsdk.artefact import LowRank, codec_from, codec_state
        >>> codec_state(LowRank(rank=2))
        {'name': 'low-rank', 'rank': 2}
        >>> codec_from({"name": "low-rank", "rank": 2})
        LowRank(rank=2)
    """
    return {"name": codec.name, **dataclasses.asdict(codec)}  # type: ignore[call-overload]


def codec_from(state: Mapping[str, Any]) -> Codec:
    """Return the codec of JSON values from `codec_state`; an unknown name or field gives a ValueError."""
    values = dict(state)
    name = values.pop("name", None)
    require(name in CODECS, "codec", f"be one of {', '.join(CODECS)}", name)
    kind: Any = CODECS[str(name)]
    fields = {f.name for f in dataclasses.fields(kind)}
    require(set(values) == fields, "codec", f"have the values {sorted(fields)}", sorted(values))
    codec: Codec = kind(**values)
    return codec
