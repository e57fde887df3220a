"""The manifest of a distilled set, `manifest.json`, and its two hashes.

The *id* identifies the set. It is the SHA-256 of names, dtypes, shapes and bytes of the tensors, and of all other
entries but the provenance, so that two runs with the same result give the same id although their times differ. The
*seal* is the SHA-256 of the whole manifest with the provenance. The hashes detect damage; they do not prove who made
the set.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ddsdk.artefact.certificate import NO_PRIVACY, Certificate
from ddsdk.foundation import NAME_LIMIT, ArtifactError, canonical_json, clean, clean_json, readable_json, strict_json

FORMAT = 5
"""The latest format number. A set is written with the lowest number whose readers can open it."""

_MAX_IMAGE_FLOATS = 1 << 40
_NUMPY: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8"), "U8": np.dtype("u1")}
_PLAIN, _PACKED = ("images", "labels"), ("packed_images", "packed_labels")
# Dtype and allowed ranks of each tensor that a set may hold. A set holds the first two tensors or the next two.
_SCHEMA: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "images": ("F32", (4,)),
    "labels": ("F32", (2,)),
    "packed_images": ("U8", (1,)),
    "packed_labels": ("U8", (1,)),
    "learned_lr": ("F32", (0, 1)),
    "learned_momentum": ("F32", (0, 1)),
    "classes": ("I64", (1,)),
    "edge_index": ("I64", (2,)),
    "edge_weight": ("F32", (1,)),
    "zca_mean": ("F32", (1,)),
    "zca_basis": ("F32", (2,)),
    "zca_eigenvalues": ("F32", (1,)),
}


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base class that refuses unknown entries."""


class TensorEntry(_Record, frozen=True, kw_only=True):
    """Description of one tensor of `set.safetensors`.

    Attributes:
        dtype: Name of the dtype, ``"F32"``, ``"I64"`` or ``"U8"``.
        shape: Lengths of the axes; empty for a scalar.
        sha256: SHA-256 of the raw little-endian bytes in C order, 64 hex digits.
    """

    dtype: Literal["F32", "I64", "U8"]
    shape: tuple[int, ...]
    sha256: str


class PackingEntry(_Record, frozen=True, kw_only=True):
    """Description of packed images and labels, see `ddsdk.artefact.PackedStorage`.

    Attributes:
        codec: Codec of the images, JSON values of `ddsdk.artefact.codec_state`.
        images: Shape (M, C, H, W) of the decoded images.
        kept_labels: Number of stored entries of each label row; 0 for class ids.
    """

    codec: dict[str, Any]
    images: tuple[int, int, int, int]
    kept_labels: int


class Storage(_Record, frozen=True, kw_only=True):
    """Storage budget of the set, counted in floats as in the papers, and in bytes of the file.

    Attributes:
        image_floats: Number of floats from which the images are decoded; below the number of pixels for codes. A packed
            set has a quarter of its packed bytes, labels included.
        label_floats: Number of floats of the labels: M K for soft labels, M for class ids, 0 for packed labels.
        other_floats: Number of learned rates and momenta, plus three for each edge (source, target and weight).
        floats: Sum of the three counts above.
        bytes: Size of these floats, 4 bytes each; of a packed set that of the packed tensors and of the other floats.
        tensor_bytes: Size of the decoded tensors in the file with those of the preprocessing, in bytes.
        labels: Kind of the labels: ``"hard"`` for class ids, ``"soft"`` for rows of K numbers.
    """

    image_floats: int
    label_floats: int
    other_floats: int
    floats: int
    bytes: int
    tensor_bytes: int
    labels: Literal["hard", "soft"]


class Manifest(_Record, frozen=True, kw_only=True):
    """Description of a distilled set: all facts but the numbers of its tensors.

    Attributes:
        format: Format number: 5 for packed sets; 4 for sets with edges; 3 with a certificate; 2 with scores as labels,
            or with rates or momenta of single steps; 1 for all others.
        kind: Constant that distinguishes this manifest from those of other programs.
        id: Content id of the set, 64 hex digits.
        seal: SHA-256 of the canonical manifest without this entry, 64 hex digits.
        tensors: Descriptions of the tensors by name.
        value_range: Minimum and maximum of the images, in the value space.
        preprocess: State of the preprocessing; ``"space"`` is the name of the value space.
        label_space: Kind of the label rows, ``"probabilities"`` or ``"scores"``.
        class_names: Printable names of the K classes.
        protocol: Protocol of training networks on the set.
        storage: Storage budget of the set.
        provenance: Recipe and hyperparameters, data fingerprint, seeds, versions, device, threads and seconds.
        privacy: Privacy statement of the certificate, or `ddsdk.artefact.NO_PRIVACY`.
        certificate: Certificate of a differentially private set; absent for other sets.
        packing: Description of packed images and labels; absent for sets that are stored as floats.
    """

    format: int
    kind: Literal["ddsdk.distilled"] = "ddsdk.distilled"
    id: str = ""
    seal: str = ""
    tensors: dict[str, TensorEntry]
    value_range: tuple[float, float]
    preprocess: dict[str, Any]
    label_space: Literal["probabilities", "scores"]
    class_names: tuple[str, ...]
    protocol: dict[str, Any] = msgspec.field(name="evaluation")
    storage: Storage
    provenance: dict[str, Any]
    privacy: str
    certificate: Certificate | msgspec.UnsetType = msgspec.UNSET
    packing: PackingEntry | msgspec.UnsetType = msgspec.UNSET

    @property
    def space(self) -> str:
        """Value space of the images: ``"unit"``, ``"normalised"`` or ``"zca"``."""
        return str(self.preprocess["space"])

    @property
    def image_shape(self) -> tuple[int, int, int, int]:
        """Shape (M, C, H, W) of all images together."""
        if self.packing:
            return self.packing.images
        m, c, h, w = self.tensors["images"].shape
        return m, c, h, w


def tensor_bytes(array: NDArray[Any]) -> bytes:
    """Return the raw bytes of an array, little-endian and in C order."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(order="C")


def build_manifest(
    tensors: Mapping[str, NDArray[Any]],
    *,
    class_names: Sequence[str],
    preprocess: Mapping[str, Any],
    label_space: str,
    protocol: Mapping[str, Any],
    image_floats: int,
    provenance: Mapping[str, Any],
    certificate: Certificate | None,
    entries: Mapping[str, TensorEntry] | None = None,
    packing: PackingEntry | None = None,
    value_range: tuple[float, float] | None = None,
) -> Manifest:
    """Return the manifest of a set, with the hashes of its tensors, its storage budget, id and seal.

    Args:
        tensors: Arrays by name: images (M, C, H, W) float32 and labels (M, K) float32, or both packed, uint8 (n,); and
            optional ones.
        class_names: Names of the K classes.
        preprocess: State of the preprocessing, with its ``"space"``.
        label_space: Kind of the label rows, ``"probabilities"`` or ``"scores"``.
        protocol: Protocol of training networks on the set, JSON values.
        image_floats: Number of floats from which the images are decoded.
        provenance: Provenance of the set, JSON values.
        certificate: Certificate of a differentially private set. None for other sets.
        entries: Descriptions of the tensors by name, whose hashes were checked. None computes them.
        packing: Description of packed images and labels. None for a set that is stored as floats.
        value_range: Minimum and maximum of the decoded images of a packed set. None computes them from the images.
    """
    if entries is None:
        entries = {name: _entry(array) for name, array in sorted(tensors.items())}
    ranks = {name: array.ndim for name, array in tensors.items()}
    if value_range is None:
        value_range = float(tensors["images"].min()), float(tensors["images"].max())
    hard = are_hard(tensors["labels"]) if packing is None else packing.kept_labels == 0
    body: dict[str, Any] = {
        "format": _format(label_space, ranks, certified=certificate is not None),
        "kind": "ddsdk.distilled",
        "tensors": msgspec.to_builtins(entries),
        "value_range": list(value_range),
        "preprocess": clean_json(dict(preprocess)),
        "label_space": label_space,
        "class_names": [clean(name) for name in class_names],
        "evaluation": clean_json(dict(protocol)),
        "storage": msgspec.to_builtins(_storage(entries, image_floats, "hard" if hard else "soft")),
        "provenance": clean_json(dict(provenance)),
        "privacy": NO_PRIVACY,
    }
    if certificate is not None:
        values = clean_json(msgspec.to_builtins(certificate))
        body |= {"privacy": certificate.statement, "certificate": values}
    if packing is not None:
        body["packing"] = clean_json(msgspec.to_builtins(packing))
    body["id"] = _content_id(body)
    body["seal"] = _seal(body)
    return decode_manifest(canonical_json(body))


def _format(label_space: str, ranks: Mapping[str, int], *, certified: bool) -> int:
    if "packed_images" in ranks:
        return 5
    if "edge_index" in ranks or "edge_weight" in ranks:
        return 4
    if certified:
        return 3
    needs_format_2 = label_space != "probabilities" or "learned_momentum" in ranks or ranks.get("learned_lr", 0) > 0
    return 2 if needs_format_2 else 1


def _entry(array: NDArray[Any]) -> TensorEntry:
    names: dict[np.dtype[Any], Any] = {dtype: name for name, dtype in _NUMPY.items()}
    dtype = names.get(array.dtype.newbyteorder("<"), str(array.dtype))
    return TensorEntry(dtype=dtype, shape=array.shape, sha256=hashlib.sha256(tensor_bytes(array)).hexdigest())


def are_hard(labels: NDArray[Any]) -> bool:
    """Return whether label rows (M, K) are one-hot."""
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=-1) == 1).all())


def _storage(entries: Mapping[str, TensorEntry], image_floats: int, labels: Literal["hard", "soft"]) -> Storage:
    """Return the storage budget: all but the floats of the images follows from the shapes and the kind of labels."""
    sizes = {name: math.prod(entry.shape) for name, entry in entries.items()}
    # The size of packed tensors is that of the file; that of others is counted as the papers count it.
    packed = sum(sizes.get(name, 0) for name in _PACKED)
    label_floats = 0 if packed else entries["labels"].shape[0] if labels == "hard" else sizes["labels"]
    other_floats = sum(size for name, size in sizes.items() if name.startswith(("learned_", "edge_")))
    floats = image_floats + label_floats + other_floats
    # The check of the manifest refuses other dtypes; they have no size here.
    item_sizes = {name: dtype.itemsize for name, dtype in _NUMPY.items()}
    return Storage(
        image_floats=image_floats,
        label_floats=label_floats,
        other_floats=other_floats,
        floats=floats,
        bytes=packed + 4 * other_floats if packed else 4 * floats,
        tensor_bytes=sum(size * item_sizes.get(entries[name].dtype, 0) for name, size in sizes.items()),
        labels=labels,
    )


def _content_id(body: Mapping[str, Any]) -> str:
    content = {key: value for key, value in body.items() if key not in ("id", "seal", "provenance")}
    return hashlib.sha256(canonical_json(content)).hexdigest()


def _seal(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json({k: v for k, v in body.items() if k != "seal"})).hexdigest()


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the content of `manifest.json`."""
    return readable_json(msgspec.to_builtins(manifest))


def decode_manifest(data: bytes) -> Manifest:
    """Return the manifest in the content of `manifest.json`, after checks of format, schema, texts, hashes and tensors.

    Raises:
        ArtifactError: If a check fails. Its ``reason`` is ``"manifest"``, ``"format"``, ``"schema"``, ``"text"``,
            ``"seal"``, ``"privacy"`` or ``"storage"``.
    """
    try:
        raw = strict_json(data)
    except ValueError as error:
        raise ArtifactError("manifest", f"manifest.json is not strict JSON: {error}") from None
    if not isinstance(raw, dict):
        raise ArtifactError("manifest", "manifest.json is not a JSON object")
    _check_format(raw.get("format"))
    try:
        manifest = msgspec.convert(raw, Manifest, strict=True)
        hashes_fit = (_content_id(raw), _seal(raw)) == (manifest.id, manifest.seal)
        is_clean = clean_json(raw) == raw
    except (msgspec.ValidationError, ValueError, TypeError, RecursionError) as error:
        raise ArtifactError("schema", f"manifest.json: {clean(str(error))}") from None
    if not is_clean or any(len(name) > NAME_LIMIT for name in manifest.class_names):
        raise ArtifactError("text", "manifest.json holds control characters or an overlong text")
    if not hashes_fit:
        raise ArtifactError("seal", "manifest.json was changed: its hashes do not fit its content")
    _check_privacy(manifest)
    _check_table(manifest)
    return manifest


def _check_format(number: object) -> None:
    if type(number) is not int or number < 1:
        raise ArtifactError("format", "manifest.json has no format number")
    if number > FORMAT:
        rule = f"this version of ddsdk reads up to {FORMAT}; upgrade ddsdk"
        raise ArtifactError("format", f"manifest.json has format {str(number)[:20]}, {rule}")


def _check_privacy(manifest: Manifest) -> None:
    certificate = manifest.certificate
    statement = NO_PRIVACY if isinstance(certificate, msgspec.UnsetType) else certificate.statement
    if manifest.privacy != statement:
        rule = "be the statement of its certificate, or state no guarantee without a certificate"
        raise ArtifactError("privacy", f"privacy in manifest.json must {rule}, got {clean(manifest.privacy)!r}")


def _check_table(manifest: Manifest) -> None:
    table = manifest.tensors
    required, others = (_PACKED, _PLAIN) if manifest.packing else (_PLAIN, _PACKED)
    known = set(required) <= set(table) <= set(_SCHEMA) - set(others)
    _expect(known, f"unexpected tensor names {sorted(table)[:8]!r}")
    for name, entry in table.items():
        dtype, ranks = _SCHEMA[name]
        _expect(entry.dtype == dtype, f"{name} must have dtype {dtype}, got {entry.dtype}")
        allowed = " or ".join(map(str, ranks))
        _expect(len(entry.shape) in ranks, f"{name} must have {allowed} axes, got shape {entry.shape}")
        _expect(all(d >= 1 for d in entry.shape), f"{name} must not be empty, got shape {entry.shape}")
        _expect(re.fullmatch("[0-9a-f]{64}", entry.sha256) is not None, f"{name} has no SHA-256")
    images, classes = manifest.image_shape, len(manifest.class_names)
    if manifest.packing:
        _check_packing(manifest, manifest.packing)
    else:
        _expect(table["labels"].shape == (images[0], classes), f"labels must have shape {(images[0], classes)}")
    if "classes" in table:
        _expect(table["classes"].shape == (images[0],), f"classes must have shape {(images[0],)}")
    _expect(isinstance(manifest.preprocess.get("space"), str), "preprocess must name its space")
    _check_storage(manifest)
    zca = {name: entry.shape for name, entry in table.items() if name.startswith("zca_")}
    d = images[1] * images[2] * images[3]
    zca_shapes = {"zca_mean": (d,), "zca_basis": (d, d), "zca_eigenvalues": (d,)}
    _expect(zca == (zca_shapes if manifest.space == "zca" else {}), f"zca tensors must fit the images, got {zca}")
    ranks_by_name = {name: len(entry.shape) for name, entry in table.items()}
    number = _format(manifest.label_space, ranks_by_name, certified=bool(manifest.certificate))
    _expect(manifest.format == number, f"format must be {number} for the content of the set, got {manifest.format}")


def _check_packing(manifest: Manifest, packing: PackingEntry) -> None:
    _expect(all(d >= 1 for d in packing.images), f"images must not be empty, got shape {packing.images}")
    classes, kept = len(manifest.class_names), packing.kept_labels
    _expect(0 <= kept <= classes, f"kept_labels must lie in 0..{classes}, got {str(kept)[:40]}")
    kind = "hard" if kept == 0 else "soft"
    _expect(manifest.storage.labels == kind, f"labels must be {kind} with {kept} stored entries")
    packed = sum(manifest.tensors[name].shape[0] for name in _PACKED)
    floats = manifest.storage.image_floats
    _expect(floats == -(-packed // 4), f"image_floats must be a quarter of {packed} bytes, got {str(floats)[:40]}")


def _check_storage(manifest: Manifest) -> None:
    stated = manifest.storage
    rule = f"image_floats must lie in 1..{_MAX_IMAGE_FLOATS}"
    _expect(1 <= stated.image_floats <= _MAX_IMAGE_FLOATS, f"{rule}, got {str(stated.image_floats)[:40]}")
    computed = _storage(manifest.tensors, stated.image_floats, stated.labels)
    for name in stated.__struct_fields__:
        value, true = getattr(stated, name), getattr(computed, name)
        if value != true:
            raise ArtifactError("storage", f"storage must state {name} {true} for these tensors, got {str(value)[:40]}")


def _expect(ok: bool, message: str) -> None:
    if not ok:
        raise ArtifactError("schema", message)
