"""Reading and writing of the folder of a distilled set, without torch and without pickle.

A folder holds `set.safetensors`, `manifest.json`, `README.md` and `sheet.png`. The manifest is written last: a folder
without a manifest is not a set. A set that replaces another is written in three steps. Its tensors are written beside
the old ones, under a name that contains the new id. The new manifest replaces the old one atomically. The new tensor
file is renamed to `set.safetensors`. A reader therefore finds either the old or the new set, each complete.
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

from ddsdk.artefact.faults import edge_fault, label_fault, per_step_fault
from ddsdk.artefact.header import HEADER_CAP, build_header, header_length, parse_header
from ddsdk.artefact.manifest import Manifest, are_hard, decode_manifest, encode_manifest, tensor_bytes
from ddsdk.foundation import (
    ArtifactError,
    StorageError,
    canonical_json,
    lock,
    make_folder,
    memory_limit,
    open_unblocked,
    remove_stale_files,
    strict_json,
    write_atomic,
)

_HOLES = 16
"""Bytes of a file for each byte on the disk, above which it counts as one of holes."""
_SMALL_BYTES = 16 << 20
CARD_MARK = "<!-- written by ddsdk -->"
_SET, _MANIFEST, _CARD, _SHEET = "set.safetensors", "manifest.json", "README.md", "sheet.png"
MAX_MANIFEST_BYTES = 16 << 20
_ATTEMPTS = 5
_DTYPES: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8"), "U8": np.dtype("u1")}


class Artifact(NamedTuple):
    """A set that has passed all checks: its manifest, and writable arrays by name."""

    manifest: Manifest
    tensors: dict[str, NDArray[Any]]


def read_manifest_summary(folder: str | os.PathLike[str]) -> Manifest:
    """Return the manifest of a folder after checks of `manifest.json` alone, without reading the tensors.

    Args:
        folder: Folder of the set.

    Raises:
        ArtifactError: If the manifest is missing, larger than 16 MiB, or invalid; the error's ``reason`` is a short
            code.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.artefact import read_manifest_summary
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), ddsdk.load("digits"))
        >>> content_id = distilled.save("random-digits")
        >>> read_manifest_summary("random-digits").image_shape
        (10, 1, 8, 8)
    """
    with _open_regular(Path(folder) / _MANIFEST) as (handle, size):
        if size > MAX_MANIFEST_BYTES:
            raise ArtifactError("size", f"manifest.json has {size} bytes, cap is {MAX_MANIFEST_BYTES}")
        return decode_manifest(handle.read(size))


def read_artifact(folder: str | os.PathLike[str], *, max_bytes: int | None = None) -> Artifact:
    """Return the manifest and the tensors of a distilled set that passes all checks.

    Size, header, schema and hashes are checked first, then finiteness, value range and labels. Nothing is unpickled,
    and no memory is allocated before the sizes agree. A set that is replaced during the read is read again.

    Args:
        folder: Folder of the set.
        max_bytes: Largest accepted size of the tensor file, in bytes. None for half of the machine's memory, and no
            file above 16 MiB of which less than a sixteenth is on the disk.

    Raises:
        ArtifactError: If a check fails. Its ``reason`` is ``"missing"``, ``"type"``, ``"size"``, ``"manifest"``,
            ``"format"``, ``"schema"``, ``"text"``, ``"seal"``, ``"privacy"``, ``"truncated"``, ``"header"``,
            ``"dtype"``, ``"mixed"``, ``"hash"``, ``"finite"``, ``"range"``, ``"labels"``, ``"rate"``, ``"edges"``,
            ``"classes"``, ``"packing"`` or ``"storage"``.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.artefact import read_artifact
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), ddsdk.load("digits"))
        >>> content_id = distilled.save("means-digits")
        >>> sorted(read_artifact("means-digits").tensors)
        ['classes', 'images', 'labels']
    """
    manifest = read_manifest_summary(folder)
    for _ in range(_ATTEMPTS):
        try:
            return Artifact(manifest, _read_tensors(Path(folder), manifest, max_bytes))
        except ArtifactError:
            current = read_manifest_summary(folder)
            if current.seal == manifest.seal:
                raise
            manifest = current
    raise ArtifactError("mixed", f"{str(folder)!r} was replaced {_ATTEMPTS} times while it was read")


@contextlib.contextmanager
def _open_regular(path: Path) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file; a pipe or a device in an untrusted folder could block or never end.

    Yields:
        The open file, and its size in bytes.

    Raises:
        ArtifactError: If the file is missing, cannot be opened, or is not a regular file.
    """
    try:
        handle = open(path, "rb", opener=open_unblocked)  # noqa: SIM115 - closed below
    except FileNotFoundError:
        # `Path` makes "hf:/owner/name" of an address on the hub.
        rule = "; download a set of the hub with `ddsdk pull ADDRESS --out FOLDER`" if path.parts[0] == "hf:" else ""
        raise ArtifactError("missing", f"{str(path)!r} does not exist{rule}") from None
    except OSError as error:
        raise ArtifactError("type", f"{str(path)!r} cannot be opened: {error.strerror}") from None
    with handle:
        status = os.fstat(handle.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError("type", f"{str(path)!r} is not a regular file")
        yield handle, status.st_size


def _pending(manifest: Manifest) -> str:
    return f"set-{manifest.id[:16]}.safetensors"


def _read_tensors(folder: Path, manifest: Manifest, max_bytes: int | None) -> dict[str, NDArray[Any]]:
    with contextlib.ExitStack() as stack:
        try:
            handle, size = stack.enter_context(_open_regular(folder / _pending(manifest)))
        except ArtifactError as error:
            if error.reason != "missing":
                raise
            handle, size = stack.enter_context(_open_regular(folder / _SET))
        _check_size(size, manifest, max_bytes)
        on_disk = 512 * getattr(os.fstat(handle.fileno()), "st_blocks", size)
        if max_bytes is None and size > max(_SMALL_BYTES, _HOLES * on_disk):
            rule = "pass max_bytes if its file system compresses so well"
            raise ArtifactError("size", f"tensor file has {size} bytes, of which {on_disk} are on the disk; {rule}")
        tensors = _load(handle, size, manifest)
    _check_tensors(manifest, tensors)
    return tensors


def _check_size(size: int, manifest: Manifest, max_bytes: int | None) -> None:
    cap = memory_limit() if max_bytes is None else max_bytes
    if size > cap:
        rule = "pass a larger max_bytes to read it all the same"
        raise ArtifactError("size", f"tensor file has {size} bytes, cap is {cap}; {rule}")
    declared = manifest.storage.tensor_bytes
    if size > 8 + HEADER_CAP + declared:
        raise ArtifactError("size", f"tensor file has {size} bytes, and its manifest describes {declared}")


def _load(handle: BufferedIOBase, size: int, manifest: Manifest) -> dict[str, NDArray[Any]]:
    length = header_length(handle.read(8), size)
    header = parse_header(handle.read(length), size - 8 - length)
    in_file = {name: (spec.dtype, spec.shape) for name, spec in header.tensors.items()}
    in_manifest = {name: (entry.dtype, entry.shape) for name, entry in manifest.tensors.items()}
    if in_file != in_manifest or not _same_metadata(header.metadata, manifest):
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
    """Return the metadata of the tensor file, by which a file without its manifest can be interpreted.

    The metadata has a single key, because writers of safetensors do not order several keys reproducibly.
    """
    description = {
        "id": manifest.id,
        "preprocess": manifest.preprocess,
        "label_space": manifest.label_space,
        "class_names": list(manifest.class_names),
    }
    return {"ddsdk": canonical_json(description).decode()}


def _same_metadata(metadata: Mapping[str, str], manifest: Manifest) -> bool:
    try:
        description = strict_json(metadata.get("ddsdk", "").encode())
    except ValueError:
        return False
    return bool(description == strict_json(_metadata(manifest)["ddsdk"].encode()))


def _check_tensors(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Check the numbers of a set: correct hashes do not imply valid numbers.

    Raises:
        ArtifactError: If a number is not finite, or images, labels, rates, edges or classes are outside their ranges.
    """
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise ArtifactError("finite", f"tensor {name} holds NaN or infinity")
    if not manifest.packing:
        _check_floats(manifest, tensors["images"], tensors["labels"])
    m, _, height, _ = manifest.image_shape
    faults = {
        "rate": per_step_fault(tensors.get("learned_lr"), tensors.get("learned_momentum")),
        "edges": edge_fault(tensors.get("edge_index"), tensors.get("edge_weight"), m * height),
    }
    for reason, fault in faults.items():
        if fault:
            raise ArtifactError(reason, fault)
    classes = tensors.get("classes")
    if classes is not None and not ((classes >= 0) & (classes < len(manifest.class_names))).all():
        raise ArtifactError("classes", f"classes must lie in 0..{len(manifest.class_names) - 1}")


def _check_floats(manifest: Manifest, images: NDArray[Any], labels: NDArray[Any]) -> None:
    # Packed images and labels are checked when they have been decoded.
    if (float(images.min()), float(images.max())) != manifest.value_range:
        raise ArtifactError("range", f"images do not span the stated range {manifest.value_range}")
    fault = label_fault(labels, manifest.label_space)
    if fault:
        raise ArtifactError("labels", fault)
    kind = "hard" if are_hard(labels) else "soft"
    if kind != manifest.storage.labels:
        raise ArtifactError("storage", f"storage must state {kind} labels, got {manifest.storage.labels}")


def write_artifact(
    folder: str | os.PathLike[str], manifest: Manifest, tensors: Mapping[str, NDArray[Any]], *, card: str, sheet: bytes
) -> str:
    """Write a set into a new folder, or in place of the set that a folder holds.

    At every moment, also after a crash, the folder opens as the old set or as the new one. A set that could not be
    opened again gives an `ArtifactError`, a folder to which another process writes a `FolderBusyError`, and a failed
    write or a folder with a file of a set's file names that ddsdk has not written a `StorageError`.

    Args:
        folder: Folder, which is made if it does not exist.
        manifest: Manifest that `build_manifest` made for these tensors.
        tensors: Arrays of the set by name.
        card: Content of `README.md`, with `CARD_MARK`.
        sheet: Content of `sheet.png`, PNG bytes.

    Returns:
        The content id of the set.
    """
    folder = Path(folder)
    blob = _serialise(manifest, tensors)
    make_folder(folder)
    with lock(folder):
        remove_stale_files(folder, older_than=0)
        old = current_manifest(folder)
        check_overwrite(folder, old)
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
    # The manifest is decoded as a reader decodes it: a set that could not be opened again is not written.
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


def artifact_files(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
    """Return the contents of `set.safetensors` and `manifest.json` by name, after the checks of `write_artifact`."""
    return {_SET: _serialise(manifest, tensors), _MANIFEST: encode_manifest(manifest)}


def pack_artifact(manifest: Manifest, tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a set as one byte string: the length of the manifest, the manifest, and the tensor file.

    The length takes 8 bytes, little-endian. Equal sets with equal provenance give equal bytes.
    """
    files = artifact_files(manifest, tensors)
    head, blob = files[_MANIFEST], files[_SET]
    return len(head).to_bytes(8, "little") + head + blob


def unpack_artifact(data: bytes, *, max_bytes: int | None = None) -> Artifact:
    """Return the set in a byte string from `pack_artifact`, after the checks of `read_artifact`.

    Args:
        data: Byte string of a packed set.
        max_bytes: Largest accepted size of the tensor file, in bytes. None for half of the machine's memory.

    Raises:
        ArtifactError: If a check fails; its ``reason`` is a short code.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 0 < length <= min(MAX_MANIFEST_BYTES, len(data) - 8):
        raise ArtifactError("size", f"packed set must begin with the length of its manifest, got {len(data)} bytes")
    return artifact_from_files(data[8 : 8 + length], memoryview(data)[8 + length :], max_bytes=max_bytes)


def artifact_from_files(manifest: bytes, blob: bytes | memoryview, *, max_bytes: int | None = None) -> Artifact:
    """Return the set in the contents of `manifest.json` and `set.safetensors`, after the checks of `read_artifact`."""
    decoded = decode_manifest(manifest)
    _check_size(len(blob), decoded, max_bytes)
    tensors = _load(io.BytesIO(blob), len(blob), decoded)
    _check_tensors(decoded, tensors)
    return Artifact(decoded, tensors)


def largest_file(manifest: Manifest, max_bytes: int | None = None) -> int:
    """Return the largest size of `set.safetensors` that the checks of `read_artifact` accept, in bytes."""
    cap = memory_limit() if max_bytes is None else max_bytes
    return min(cap, 8 + HEADER_CAP + manifest.storage.tensor_bytes)


def artifact_of(manifest: bytes, tensors: Mapping[str, NDArray[Any]]) -> Artifact:
    """Return the set of a manifest and its tensors, after the checks of `read_artifact`.

    Args:
        manifest: Content of the manifest.
        tensors: Tensors by name; those that the manifest does not list are left out.

    Raises:
        ArtifactError: If a check fails; its ``reason`` is a short code.
    """
    decoded = decode_manifest(manifest)
    missing = sorted(set(decoded.tensors) - set(tensors))
    if missing:
        raise ArtifactError(
            "tensors", f"the file must hold the tensors of its manifest, {', '.join(missing)} are missing"
        )
    listed = {name: np.ascontiguousarray(tensors[name]) for name in decoded.tensors}
    _check_tensors(decoded, listed)
    return Artifact(decoded, listed)


def current_manifest(folder: Path) -> Manifest | None:
    """Return the manifest in a folder, or None if it is missing or invalid.

    Raises:
        ArtifactError: If the manifest is of a later format or cannot be opened: such a set must not be overwritten.

    Examples:
        >>> from pathlib import Path
        >>> from ddsdk.artefact import current_manifest
        >>> current_manifest(Path("no-such-folder")) is None
        True
    """
    try:
        return read_manifest_summary(folder)
    except ArtifactError as error:
        if error.reason in ("format", "type"):
            raise
        return None


def check_overwrite(folder: Path, old: Manifest | None) -> None:
    """Check that a folder without a set holds no file of a set's file names that ddsdk has not written.

    Args:
        folder: Folder that is to be written.
        old: Manifest of the set in the folder; None for a folder without a set.

    Raises:
        StorageError: If there is such a file.
    """
    found = [name for name in (_SET, _MANIFEST, _CARD, _SHEET) if os.path.lexists(folder / name)]
    if old is not None or not found or _has_own_card(folder) or (found == [_SET] and _is_own_tensor_file(folder)):
        return
    names = " and ".join(found)
    raise StorageError(f"{str(folder)!r} holds {names} that ddsdk has not written; name a new folder")


def _has_own_card(folder: Path) -> bool:
    with contextlib.suppress(ArtifactError), _open_regular(folder / _CARD) as (handle, _):
        return CARD_MARK.encode() in handle.read(1 << 20)
    return False


def _is_own_tensor_file(folder: Path) -> bool:
    """Return whether the tensor file is that of a first write which was killed before its dataset card."""
    with contextlib.suppress(ArtifactError), _open_regular(folder / _SET) as (handle, size):
        length = header_length(handle.read(8), size)
        return "ddsdk" in parse_header(handle.read(length), size - 8 - length).metadata
    return False


def _settle(folder: Path, manifest: Manifest) -> None:
    """Rename the tensor file of the current manifest to its usual name; readers accept both names.

    Raises:
        StorageError: If the file cannot be renamed.
    """
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
        is_pending = re.fullmatch(r"set-[0-9a-f]{16}\.safetensors", entry.name)
        if is_pending and entry.name != _pending(current):
            with contextlib.suppress(OSError):
                entry.unlink()
