"""Packed sets: images by a codec and labels as few small numbers, both entropy-coded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddsdk.artefact.codec_table import codec_from, codec_state
from ddsdk.artefact.codecs import Codec
from ddsdk.artefact.entropy import entropy_coded, entropy_decoded
from ddsdk.artefact.manifest import PackingEntry
from ddsdk.foundation import ArtifactError, clean, memory_limit, readable_bytes

_LEVELS = 255
_TOLERANCE = 1e-3
_NUMPY = {torch.uint8: np.uint8, torch.int8: np.int8, torch.float16: np.float16, torch.float32: np.float32}


@final
@dataclass(frozen=True, eq=False)
class PackedStorage:
    """Compressed images and labels, from which those of a packed set are decoded.

    Attributes:
        codec: Codec of the images in the unit range.
        shape: Shape (M, C, H, W) of the decoded images.
        classes: Number of classes, K.
        kept_labels: Number of entries of each label row that are stored, the largest ones; the others share the mean of
            the rest. K stores whole rows, and 0 class ids alone.
        value_range: Minimum and maximum of the decoded images in the value space.
        images: Entropy-coded tensors of the codec, uint8 (n,).
        labels: Entropy-coded labels, uint8 (m,).
    """

    codec: Codec
    shape: tuple[int, int, int, int]
    classes: int
    kept_labels: int
    value_range: tuple[float, float]
    images: Tensor
    labels: Tensor

    @property
    def nbytes(self) -> int:
        """Number of bytes of images and labels."""
        return self.images.numel() + self.labels.numel()

    def entry(self) -> PackingEntry:
        """Return the entry of the manifest."""
        return PackingEntry(codec=codec_state(self.codec), images=self.shape, kept_labels=self.kept_labels)

    @classmethod
    def from_entry(
        cls, entry: PackingEntry, classes: int, value_range: tuple[float, float], arrays: Mapping[str, NDArray[Any]]
    ) -> PackedStorage:
        """Return the packing of a manifest's entry and its two arrays.

        Raises:
            ArtifactError: If the codec does not exist, or decoded images would exceed half of the machine's memory.
        """
        size = 4 * math.prod(entry.images)
        if size > memory_limit():
            raise ArtifactError("size", f"decoded images take {readable_bytes(size)}, above half of the memory")
        try:
            codec = codec_from(entry.codec)
        except (ValueError, TypeError) as error:
            raise ArtifactError("packing", f"codec is invalid: {clean(str(error))}") from None
        images, labels = (torch.from_numpy(arrays[name]) for name in ("packed_images", "packed_labels"))
        return cls(codec, entry.images, classes, entry.kept_labels, value_range, images, labels)

    @classmethod
    def of(cls, items: Tensor, labels: Tensor, codec: Codec, kept_labels: int) -> PackedStorage:
        """Return the compressed form of images (M, C, H, W) in the unit range and label rows (M, K).

        Args:
            items: Images in the unit range; values outside of it are clipped by some codecs.
            labels: Label rows, probabilities or scores.
            codec: Codec of the images, one image for each item.
            kept_labels: Number of stored entries of each label row, in 0..K; 0 for class ids.
        """
        m, c, h, w = items.shape
        k = labels.shape[1]
        images = _coded(codec.pack(items), codec.packed_shapes(m, (c, h, w)))
        rows = _coded(_label_parts(labels, kept_labels), _label_shapes(m, k, kept_labels))
        return cls(codec, (m, c, h, w), k, kept_labels, (0.0, 0.0), images, rows)

    def unit_images(self) -> Tensor:
        """Return the decoded images (M, C, H, W), float32 in the unit range.

        Raises:
            ArtifactError: ``"packing"`` if the coded images are damaged or do not fit the codec.
        """
        m, c, h, w = self.shape
        try:
            shapes = self.codec.packed_shapes(m, (c, h, w))
        except ValueError as error:
            raise ArtifactError("packing", f"images do not fit their codec: {clean(str(error))}") from None
        coded = _uncoded(self.images, shapes)
        try:
            images = self.codec.unpack(coded)
        except ValueError as error:
            raise ArtifactError("packing", f"images do not fit their codec: {clean(str(error))}") from None
        if tuple(images.shape) != self.shape:
            raise ArtifactError("packing", f"images must have shape {self.shape}, got {tuple(images.shape)}")
        return images

    def label_rows(self, label_space: str) -> Tensor:
        """Return the decoded label rows (M, K), float32.

        Args:
            label_space: Kind of the rows, ``"probabilities"`` or ``"scores"``.

        Raises:
            ArtifactError: ``"packing"`` if the coded labels are damaged, or a class id is not below K.
        """
        m, k, kept = self.shape[0], self.classes, self.kept_labels
        parts = _uncoded(self.labels, _label_shapes(m, k, kept))
        ids = parts.get("ids", torch.zeros(m, 0, dtype=torch.uint8)).long()
        if "high" in parts:
            ids += 256 * parts["high"].long()
        if ids.numel() and int(ids.max()) >= k:
            raise ArtifactError("packing", f"class ids must lie below {k}, got {int(ids.max())}")
        if not kept:
            return torch.zeros(m, k).scatter_(1, ids, 1.0)
        low, high = parts["range"].tolist()
        values = parts["levels"].float() / _LEVELS * (high - low) + low
        rows: Tensor = values if kept == k else values[:, -1:].expand(m, k).scatter(1, ids, values[:, :-1])
        # Rounding leaves the sum of probabilities near 1.
        return rows if label_space == "scores" else rows.clamp_min(0) / rows.clamp_min(0).sum(1, keepdim=True)


def check_packing(packing: PackedStorage, images: Tensor, labels: Tensor, decoded: Tensor, label_space: str) -> None:
    """Check that images and labels are those of a packing.

    Args:
        packing: PackedStorage of the set.
        images: Images of the set in the value space.
        labels: Label rows of the set.
        decoded: Images of the packing in the value space.
        label_space: Kind of the label rows.

    Raises:
        ValueError: If one of them is not.
    """
    for name, values, wanted in (("images", images, decoded), ("labels", labels, packing.label_rows(label_space))):
        same = values.shape == wanted.shape and torch.allclose(values.cpu(), wanted, rtol=_TOLERANCE, atol=_TOLERANCE)
        if not same:
            raise ValueError(f"{name} must be those of packing, got others; pass packing=None to store them as floats")


def _label_shapes(m: int, k: int, kept: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    if kept < k:
        shapes |= {name: (torch.uint8, (m, max(kept, 1))) for name in ("ids", *(["high"] if k > 256 else []))}
    if kept:
        shapes |= {"range": (torch.float32, (2,)), "levels": (torch.uint8, (m, kept + (kept < k)))}
    return shapes


def _label_parts(labels: Tensor, kept: int) -> dict[str, Tensor]:
    """Return the tensors of label rows (M, K) with the shapes of `_label_shapes`."""
    k = labels.shape[1]
    values, ids = labels.topk(max(kept, 1), dim=1)
    parts = {"ids": (ids % 256).to(torch.uint8), "high": (ids // 256).to(torch.uint8)}
    if not kept:
        return parts
    if kept == k:
        values = labels
    else:
        rest = (labels.sum(1, keepdim=True) - values.sum(1, keepdim=True)) / (k - kept)
        values = torch.cat([values, rest], 1)
    low, high = values.min(), values.max()
    levels = ((values - low) / (high - low).clamp_min(1e-12) * _LEVELS).round().to(torch.uint8)
    return {**parts, "range": torch.stack([low, high]).float(), "levels": levels}


def _coded(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> Tensor:
    """Return tensors as one coded string, after a byte with their order: 1 if the first axis varies fastest."""
    arrays = [tensors[name].contiguous().numpy() for name in shapes]
    raws = [b"".join(a.tobytes("C") for a in arrays), b"".join(a.tobytes("F") for a in arrays)]
    coded = min((bytes([i]) + entropy_coded(raw) for i, raw in enumerate(raws)), key=len)
    return torch.frombuffer(bytearray(coded), dtype=torch.uint8)


def _uncoded(coded: Tensor, shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Return the tensors of a string from `_coded`.

    Raises:
        ArtifactError: ``"packing"`` if the string is damaged or has another size.
    """
    data = coded.numpy().tobytes()
    if data[:1] not in (b"\x00", b"\x01"):
        raise ArtifactError("packing", f"coded tensors must begin with 0 or 1, got {data[:1]!r}")
    sizes = {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in shapes.items()}
    raw, begin, tensors = entropy_decoded(data[1:], sum(sizes.values())), 0, {}
    for name, (dtype, shape) in shapes.items():
        flat = np.frombuffer(raw, _NUMPY[dtype], math.prod(shape), begin)
        array = flat.reshape(shape, order="F" if data[0] else "C")
        tensors[name] = torch.from_numpy(np.array(array, order="C"))
        begin += sizes[name]
    return tensors
