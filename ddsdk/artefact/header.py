"""A strict reader and a reproducible writer of the safetensors layout.

The layout is the length of the header in 8 little-endian bytes, a JSON header, and the raw tensors without gaps. The
reader accepts less than the format allows, and makes all checks before it allocates memory. The bytes of the writer do
not depend on the order of the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from ddsdk.foundation import ArtifactError, canonical_json, strict_json

DTYPES: Mapping[str, int] = {"F32": 4, "I64": 8, "U8": 1}
HEADER_CAP = 8 << 20
_MAX_RANK, _MAX_DIM, _MAX_TENSORS = 4, 1 << 31, 16


class TensorSpec(NamedTuple):
    """Type, shape and position of one tensor in the file.

    Attributes:
        dtype: Name of the dtype, a key of `DTYPES`.
        shape: Lengths of the axes; empty for a scalar.
        begin: Position of the first byte, counted from the end of the header.
        end: Position after the last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """Tensors in the order of their bytes, and the metadata."""

    tensors: dict[str, TensorSpec]
    metadata: dict[str, str]


def build_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """Return the length and the header of a tensor file.

    Args:
        tensors: Pairs (dtype, shape) by tensor name.
        metadata: Metadata with at most one entry, because the order of several entries is not reproducible.

    Raises:
        ValueError: If `metadata` has several entries.
    """
    if len(metadata) > 1:
        raise ValueError(f"metadata must have at most one key, got {sorted(metadata)!r}")
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    # Wide dtypes come first, so that each tensor starts at a multiple of its item size.
    for name in sorted(tensors, key=lambda n: (-DTYPES[tensors[n][0]], n)):
        dtype, shape = tensors[name]
        end = begin + DTYPES[dtype] * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = canonical_json(entries)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def header_length(prefix: bytes, file_size: int) -> int:
    """Return the length of the JSON header, in bytes.

    Args:
        prefix: First 8 bytes of the file.
        file_size: Size of the file in bytes.

    Raises:
        ArtifactError: ``"truncated"`` for a file that ends before its header, ``"header"`` for a header above 8 MiB.
    """
    if len(prefix) < 8:
        raise ArtifactError("truncated", f"tensor file has {file_size} bytes, a header needs at least 8")
    length = int.from_bytes(prefix[:8], "little")
    if length > HEADER_CAP:
        raise ArtifactError("header", f"tensor file declares a header of {length} bytes, cap is {HEADER_CAP}")
    if 8 + length > file_size:
        raise ArtifactError("truncated", f"tensor file ends inside its header ({file_size} bytes)")
    return length


def parse_header(text: bytes, data_size: int) -> Header:
    """Return the parsed JSON header of a safetensors file.

    Args:
        text: Header without its length, JSON bytes.
        data_size: Number of bytes after the header.

    Raises:
        ArtifactError: ``"header"`` for a malformed header and for tensors that overlap or leave gaps; ``"truncated"``
            for tensors that do not cover the file exactly.
    """
    try:
        raw = strict_json(text)
    except ValueError as error:
        raise ArtifactError("header", f"tensor header is not strict JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ArtifactError("header", "tensor header is not a JSON object")
    metadata = _metadata(raw.pop("__metadata__", {}))
    if not 1 <= len(raw) <= _MAX_TENSORS:
        raise ArtifactError("header", f"tensor header names {len(raw)} tensors, 1 to {_MAX_TENSORS} allowed")
    specs = {name: _spec(name, entry) for name, entry in raw.items()}
    specs = dict(sorted(specs.items(), key=lambda item: item[1].begin))
    position = 0
    for name, spec in specs.items():
        if spec.begin != position:
            raise ArtifactError("header", f"tensor {name!r} leaves a gap or overlaps at byte {spec.begin}")
        position = spec.end
    if position != data_size:
        raise ArtifactError("truncated", f"tensors need {position} bytes, the file holds {data_size}")
    return Header(specs, metadata)


def _metadata(raw: object) -> dict[str, str]:
    if not isinstance(raw, dict) or len(raw) > 1 or not all(isinstance(v, str) for v in raw.values()):
        raise ArtifactError("header", "metadata of the tensor file is not a map of at most one string")
    return raw


def _spec(name: str, entry: object) -> TensorSpec:
    if not (1 <= len(name) <= 64 and name.isascii() and name.replace(".", "_").isidentifier()):
        raise ArtifactError("header", f"tensor header holds a name that is not plain: {name[:64]!r}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ArtifactError("header", f"tensor {name!r} is not described by dtype, shape and data_offsets")
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ArtifactError("dtype", f"tensor {name!r} has dtype {str(dtype)[:32]!r}, not one of {sorted(DTYPES)}")
    shape = _integers(name, entry["shape"], 0, _MAX_RANK)
    begin, end = _integers(name, entry["data_offsets"], 2, 2)
    if not all(1 <= d <= _MAX_DIM for d in shape):
        raise ArtifactError("header", f"tensor {name!r} has an axis outside 1..{_MAX_DIM}")
    if end - begin != DTYPES[dtype] * math.prod(shape):
        raise ArtifactError("header", f"tensor {name!r} has {end - begin} bytes, its shape {shape} needs others")
    return TensorSpec(dtype, shape, begin, end)


def _integers(name: str, raw: object, least: int, most: int) -> tuple[int, ...]:
    if not isinstance(raw, list) or not least <= len(raw) <= most:
        raise ArtifactError("header", f"tensor {name!r} has a list of the wrong length in its header")
    if not all(type(v) is int and 0 <= v < 1 << 62 for v in raw):
        raise ArtifactError("header", f"tensor {name!r} has a header entry that is not a small whole number")
    return tuple(raw)
