"""Lossless entropy coding of byte strings with the coders of the standard library."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable
from typing import Any

from ddsdk.foundation import ArtifactError

# Literals are coded without the bits of their neighbours or of their position: the strings are short, and these
# contexts have to be learned from them.
_FILTERS: list[dict[str, Any]] = [{"id": lzma.FILTER_LZMA1, "lc": 0, "lp": 0, "pb": 0, "dict_size": 1 << 20}]


def _deflate(raw: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return coder.compress(raw) + coder.flush()


def _inflate(data: bytes, limit: int) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit)


def _lzma(raw: bytes) -> bytes:
    return lzma.compress(raw, lzma.FORMAT_RAW, filters=_FILTERS)


def _unlzma(data: bytes, limit: int) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS).decompress(data, limit)


_CODERS: tuple[tuple[Callable[[bytes], bytes], Callable[[bytes, int], bytes]], ...] = (
    (lambda raw: raw, lambda data, limit: data[:limit]),
    (_deflate, _inflate),
    (_lzma, _unlzma),
)
"""Pairs (coder, decoder) by the first byte of a coded string: none, deflate and LZMA."""


def entropy_coded(raw: bytes) -> bytes:
    """Return the shortest coding of a byte string among none, deflate and LZMA; the first byte is the coder's number.

    Examples:
        >>> from ddsdk.artefact.entropy import entropy_coded
        >>> len(entropy_coded(bytes(1000))) < 20
        True
    """
    return min((bytes([i]) + code(raw) for i, (code, _) in enumerate(_CODERS)), key=len)


def entropy_decoded(data: bytes, size: int) -> bytes:
    """Return the byte string of a coding from `entropy_coded`; no more than `size` + 1 bytes are ever in memory.

    Args:
        data: Byte string with the coder's number first.
        size: Number of bytes of the decoded string.

    Raises:
        ArtifactError: ``"packing"`` if the string is damaged or has another size.
    """
    if not data or data[0] >= len(_CODERS):
        raise ArtifactError("packing", f"coded string must begin with a number below {len(_CODERS)}, got {data[:1]!r}")
    try:
        raw = _CODERS[data[0]][1](data[1:], size + 1)
    except (zlib.error, lzma.LZMAError) as error:
        raise ArtifactError("packing", f"coded string is damaged: {error}") from None
    if len(raw) != size:
        raise ArtifactError("packing", f"coded string must hold {size} bytes, got {min(len(raw), size + 1)}")
    return raw
