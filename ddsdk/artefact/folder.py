"""Write and open the folder of a distilled set, without torch and without pickle.

A folder holds `set.safetensors`, `manifest.json`, `README.md` and `sheet.png`. The manifest is written last:
a folder without one is not a set. When a set replaces another, its tensors first lie beside the old ones
under a name made of the new id; the manifest then takes over in one step, and the tensor file gets its usual
name. So every moment shows one whole set, the old or the new.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from io import BufferedIOBase, BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ddsdk.artefact.faults import edge_fault, label_fault, pace_fault
from ddsdk.artefact.header import build_header, header_length, parse_header
from ddsdk.artefact.manifest import Manifest, decode_manifest, encode_manifest, tensor_bytes
from ddsdk.foundation import ArtifactError, StorageError, canonical_json, lock, strict_json, sweep, write_atomic

MAX_BYTES = 64 << 30
CARD_MARK = "<!-- written by ddsdk -->"
_SET, _MANIFEST, _CARD, _SHEET = "set.safetensors", "manifest.json", "README.md", "sheet.png"
_MANIFEST_CAP = 16 << 20
_ATTEMPTS = 5
_DTYPES: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}


class Artifact(NamedTuple):
    """A checked set: its manifest, and writable arrays by name."""

    manifest: Manifest
    tensors: dict[str, NDArray[Any]]


def read_manifest_summary(folder: str | os.PathLike[str]) -> Manifest:
    """Read and check `manifest.json` alone: quick, but says nothing about the tensors on the disk."""
    with _open_regular(Path(folder) / _MANIFEST) as (handle, size):
        if size > _MANIFEST_CAP:
            raise ArtifactError("size", f"manifest.json has {size} bytes, cap is {_MANIFEST_CAP}")
        return decode_manifest(handle.read(_MANIFEST_CAP))


def read_artifact(folder: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Artifact:
    """Open a distilled set; return it only if every check passes.

    Size, header, schema and hashes are checked first, then finiteness, value range and labels. Nothing is
    unpickled and nothing is allocated before the sizes agree. If the set is replaced meanwhile, the new one
    is read.

    Args:
        folder: Folder of the set.
        max_bytes: Size of the largest tensor file that is accepted.

    Raises:
        ArtifactError: With a ``reason``: ``"missing"``, ``"type"``, ``"size"``, ``"manifest"``, ``"format"``,
            ``"schema"``, ``"text"``, ``"seal"``, ``"truncated"``, ``"header"``, ``"dtype"``, ``"mixed"``,
            ``"hash"``, ``"finite"``, ``"range"``, ``"labels"``, ``"rate"``, ``"edges"`` or ``"classes"``.
    """
    manifest = read_manifest_summary(folder)
    for _ in range(_ATTEMPTS):
        try:
            return Artifact(manifest, _read_tensors(Path(folder), manifest, max_bytes))
        except ArtifactError:
            again = read_manifest_summary(folder)
            if again.seal == manifest.seal:
                raise
            manifest = again
    raise ArtifactError("mixed", f"{str(folder)!r} was replaced {_ATTEMPTS} times while it was read")


@contextlib.contextmanager
def _open_regular(path: Path) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file only: a pipe or device in a foreign folder could block or never end."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise ArtifactError("missing", f"{str(path)!r} does not exist") from None
    except OSError as error:
        raise ArtifactError("type", f"{str(path)!r} cannot be opened: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as handle:
        status = os.fstat(handle.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError("type", f"{str(path)!r} is not a regular file")
        yield handle, status.st_size


def _pending(manifest: Manifest) -> str:
    return f"set-{manifest.id[:16]}.safetensors"


def _read_tensors(folder: Path, manifest: Manifest, max_bytes: int) -> dict[str, NDArray[Any]]:
    with contextlib.ExitStack() as stack:
        try:
            handle, size = stack.enter_context(_open_regular(folder / _pending(manifest)))
        except ArtifactError as error:
            if error.reason != "missing":
                raise
            handle, size = stack.enter_context(_open_regular(folder / _SET))
        if size > max_bytes:
            raise ArtifactError("size", f"tensor file has {size} bytes, cap is {max_bytes}")
        tensors = _load(handle, size, manifest)
    _check_tensors(manifest, tensors)
    return tensors


def _load(handle: BufferedIOBase, size: int, manifest: Manifest) -> dict[str, NDArray[Any]]:
    length = header_length(handle.read(8), size)
    header = parse_header(handle.read(length), size - 8 - length)
    found = {name: (spec.dtype, spec.shape) for name, spec in header.tensors.items()}
    stated = {name: (entry.dtype, entry.shape) for name, entry in manifest.tensors.items()}
    if found != stated or not _same_metadata(header.metadata, manifest):
        raise ArtifactError("mixed", "tensor file and manifest.json do not describe the same set")
    tensors = {}
    for name, spec in header.tensors.items():
        flat: NDArray[Any] = np.empty(spec.end - spec.begin, dtype=np.uint8)
        if handle.readinto(flat.data) != len(flat):
            raise ArtifactError("truncated", f"tensor file ends inside {name}")
        if hashlib.sha256(flat.data).hexdigest() != manifest.tensors[name].sha256:
            raise ArtifactError("hash", f"tensor {name} does not have the SHA-256 of the manifest")
        tensors[name] = flat.view(_DTYPES[spec.dtype]).reshape(spec.shape)
    return tensors


def _metadata(manifest: Manifest) -> dict[str, str]:
    """Return what makes a lone tensor file understood; two keys would have no reproducible order."""
    told = {
        "id": manifest.id,
        "preprocess": manifest.preprocess,
        "label_space": manifest.label_space,
        "class_names": list(manifest.class_names),
    }
    return {"ddsdk": canonical_json(told).decode()}


def _same_metadata(found: Mapping[str, str], manifest: Manifest) -> bool:
    try:
        told = strict_json(found.get("ddsdk", "").encode())
    except ValueError:
        return False
    return bool(told == strict_json(_metadata(manifest)["ddsdk"].encode()))


def _check_tensors(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Refuse numbers that no distilled set can hold, even under the right hashes."""
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise ArtifactError("finite", f"tensor {name} holds NaN or infinity")
    images = tensors["images"]
    if (float(images.min()), float(images.max())) != manifest.value_range:
        raise ArtifactError("range", f"images do not span the stated range {manifest.value_range}")
    rows = len(images) * images.shape[2]
    faults = {
        "labels": label_fault(tensors["labels"], manifest.label_space),
        "rate": pace_fault(tensors.get("learned_lr"), tensors.get("learned_momentum")),
        "edges": edge_fault(tensors.get("edge_index"), tensors.get("edge_weight"), rows),
    }
    for reason, fault in faults.items():
        if fault:
            raise ArtifactError(reason, fault)
    classes = tensors.get("classes")
    if classes is not None and not ((classes >= 0) & (classes < len(manifest.class_names))).all():
        raise ArtifactError("classes", f"classes must lie in 0..{len(manifest.class_names) - 1}")


def write_artifact(
    folder: str | os.PathLike[str], manifest: Manifest, tensors: Mapping[str, NDArray[Any]], *, card: str, sheet: bytes
) -> str:
    """Write a set into a new folder, or in place of the set that a folder holds.

    At every moment, also after a crash, the folder opens as the old set or as the new one.

    Args:
        folder: Folder, made if it does not exist.
        manifest: Result of `build_manifest` for these tensors.
        tensors: Arrays by name.
        card: Content of `README.md`, with `CARD_MARK`.
        sheet: Content of `sheet.png`.

    Returns:
        The content id.

    Raises:
        ArtifactError: If what would be written could not be opened.
        FolderBusyError: If another process is writing there.
        StorageError: If a write fails, or the folder holds a README.md or manifest.json of something else.
    """
    folder = Path(folder)
    blob = _serialise(manifest, tensors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make folder {str(folder)!r}: {error.strerror}") from error
    with lock(folder):
        sweep(folder, older_than=0)
        old = current_manifest(folder)
        refuse_foreign(folder, old)
        name = _SET if old is None else _pending(manifest)
        try:
            if old is not None:
                _settle(folder, old)
            write_atomic(folder / name, blob)
            write_atomic(folder / _CARD, card.encode())
            write_atomic(folder / _SHEET, sheet)
            write_atomic(folder / _MANIFEST, encode_manifest(manifest))
            _settle(folder, manifest)
        finally:
            _drop_orphans(folder)
    return manifest.id


def _serialise(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> bytes:
    manifest = decode_manifest(encode_manifest(manifest))
    if set(tensors) != set(manifest.tensors):
        raise ArtifactError("mixed", f"tensors {sorted(tensors)} are not those of the manifest")
    for name, array in tensors.items():
        if hashlib.sha256(tensor_bytes(array)).hexdigest() != manifest.tensors[name].sha256:
            raise ArtifactError("mixed", f"tensor {name} is not the one that the manifest describes")
    _check_tensors(manifest, tensors)
    table = {name: (str(entry.dtype), entry.shape) for name, entry in manifest.tensors.items()}
    header = build_header(table, _metadata(manifest))
    order = parse_header(header[8:], sum(a.nbytes for a in tensors.values())).tensors
    return b"".join([header, *(tensor_bytes(tensors[name]) for name in order)])


def pack_artifact(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a set as one string of bytes: the length of the manifest, the manifest, and the tensor file.

    The length takes 8 bytes, little-endian. Equal sets with equal provenance give equal bytes.
    """
    blob, head = _serialise(manifest, tensors), encode_manifest(manifest)
    return len(head).to_bytes(8, "little") + head + blob


def unpack_artifact(data: bytes, *, max_bytes: int = MAX_BYTES) -> Artifact:
    """Return the set in what `pack_artifact` gave, after the checks of `read_artifact`."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 0 < length <= min(_MANIFEST_CAP, len(data) - 8):
        raise ArtifactError("size", f"a packed set must tell the length of its manifest, got {len(data)} bytes")
    manifest, blob = decode_manifest(data[8 : 8 + length]), memoryview(data)[8 + length :]
    if len(blob) > max_bytes:
        raise ArtifactError("size", f"tensor file has {len(blob)} bytes, cap is {max_bytes}")
    tensors = _load(io.BytesIO(blob), len(blob), manifest)
    _check_tensors(manifest, tensors)
    return Artifact(manifest, tensors)


def current_manifest(folder: Path) -> Manifest | None:
    """Return the manifest in `folder`, or None where there is none that can be read."""
    try:
        return read_manifest_summary(folder)
    except ArtifactError as error:
        # A set of a later format, or one that cannot be read just now, is not ours to take for garbage.
        if error.reason in ("format", "type"):
            raise
        return None


def refuse_foreign(folder: Path, old: Manifest | None) -> None:
    """Refuse to overwrite the README.md or manifest.json of something that is not ours."""
    card = folder / _CARD
    if old is not None or not (os.path.lexists(card) or os.path.lexists(folder / _MANIFEST)):
        return
    with contextlib.suppress(OSError), card.open("rb") as handle:
        if CARD_MARK.encode() in handle.read(1 << 20):
            return
    raise StorageError(f"{str(folder)!r} holds a README.md or manifest.json of something else; name a new folder")


def _settle(folder: Path, manifest: Manifest) -> None:
    """Give the tensors of the manifest in force their usual name; readers accept both names meanwhile."""
    pending = folder / _pending(manifest)
    if not pending.exists():
        return
    try:
        os.replace(pending, folder / _SET)  # noqa: PTH105 - where tests inject faults
    except OSError as error:
        message = f"cannot rename {pending.name} in {str(folder)!r}: {error.strerror}; the set opens all the same"
        raise StorageError(message) from error


def _drop_orphans(folder: Path) -> None:
    try:
        current = read_manifest_summary(folder)
    except ArtifactError:
        return
    for entry in folder.glob("set-*.safetensors"):
        ours = re.fullmatch(r"set-[0-9a-f]{16}\.safetensors", entry.name)
        if ours and entry.name != _pending(current):
            with contextlib.suppress(OSError):
                entry.unlink()
