"""Serialization of a distilled set as three Flower records, with types, a format version and a digest.

Nothing is pickled: arrays are in numpy's own format with pickling off, everything else is numbers and text.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, final

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import Half, LowRank, RowCodec, Uint8, codec_state
from ddsdk.foundation import canonical_json, require
from ddsdk_integrations.federated.task import LocalData

FORMAT = 1
# Codecs of independent images: quotas and the comparison of clients count images one by one.
CODEC_NAMES = (Uint8.name, Half.name, LowRank.name)
ARRAYS, META, METRICS = "syn", "meta", "metrics"
_HEADER_CAP = 4096


class MessageError(ValueError):
    """Violation of a rule by a message of the other side."""


def insist(ok: bool, reason: str) -> None:
    """Raise a `MessageError` unless a condition holds.

    Args:
        ok: Condition that must hold.
        reason: Broken rule in words, with the value.

    Raises:
        MessageError: If the condition does not hold.
    """
    if not ok:
        raise MessageError(reason)


@final
@dataclass(frozen=True, kw_only=True)
class Packing:
    """Codec and label form of a set in a message.

    Attributes:
        codec: Codec of the images, such as `ddsdk.artefact.Uint8` or `ddsdk.artefact.LowRank`.
        soft: Whether soft labels, as rows of float16, are sent in addition to the class ids.

    Examples:
        >>> from ddsdk.artefact import Half
        >>> from ddsdk_integrations.federated import Packing
        >>> Packing(codec=Half(), soft=True)
        Packing(codec=Half(), soft=True)
    """

    codec: RowCodec = field(default_factory=Uint8)
    soft: bool = False


@final
@dataclass(frozen=True, kw_only=True)
class Contribution:
    """Set of one client after it passed the checks of the server.

    Attributes:
        node: Node id of the client.
        images: Images, (M, C, H, W) float32 in the unit range; codecs without clamping may exceed it slightly.
        labels: Label rows over all classes, (M, K) probabilities.
        classes: Class id that each image was distilled for, (M,) int64.
        examples: Number of real images that the client claims, including classes that are too small to be distilled.
        counts: Number of real images that the client claims for each of the K classes.
        rate: Learning rates distilled with the set: none, one for all steps, or one for each step.
        meta: Further statements of the client: `manifest`, privacy statement, codec and codec error.
        arrival: Position of the reply in the order of arrival at the server.
    """

    node: int
    images: Tensor
    labels: Tensor
    classes: Tensor
    examples: int
    counts: tuple[int, ...]
    rate: tuple[float, ...]
    meta: dict[str, Any]
    arrival: int = 0

    def after(self, older: Contribution) -> Contribution:
        """Return this set, followed by the images of an older set of the same client."""
        pairs = ((self.images, older.images), (self.labels, older.labels), (self.classes, older.classes))
        images, labels, classes = map(torch.cat, pairs)
        return dataclasses.replace(self, images=images, labels=labels, classes=classes)

    def of_classes(self, kept: Tensor) -> Contribution:
        """Return the set of the images selected by `kept`, (M,) bool."""
        images, labels, classes = (t[kept] for t in (self.images, self.labels, self.classes))
        return dataclasses.replace(self, images=images, labels=labels, classes=classes)


def pack(
    made: dd.Distilled, data: LocalData, packing: Packing, *, round_number: int, seconds: float = 0.0, **found: float
) -> RecordDict:
    """Return the Flower records of a set.

    The manifest contains neither a fingerprint of the data nor the name of the machine. A codec that does not store
    each image independently raises a ValueError.

    Args:
        made: Distilled set over the classes of `data`.
        data: Local data of the client.
        packing: Codec and label form.
        round_number: Number of the round.
        seconds: Duration of the distillation in seconds.
        **found: Further numbers of the run for the manifest.
    """
    codec, rate = packing.codec, made.learned_lr
    rule = f"be one of {', '.join(CODEC_NAMES)}, which store each image independently"
    require(codec.name in CODEC_NAMES, "codec", rule, codec)
    # Not clamped: values that a codec cuts off are part of its reported error.
    images = made.preprocess.inverse(made.images)
    coded = codec.pack(images)
    packed = {name: tensor.numpy() for name, tensor in coded.items()}
    packed["classes"] = data.ids(made.owner).to(torch.int16).numpy()
    if packing.soft:
        packed["soft"] = data.rows(made.as_dataset("probabilities").tensors[1]).half().numpy()
    if rate is not None:
        packed["rate"] = np.atleast_1d(np.asarray(rate, dtype=np.float32))
    arrays = ArrayRecord({name: Array(value) for name, value in packed.items()})
    parameters = made.provenance.get("parameters", {})
    manifest = {
        "recipe": str(made.provenance.get("recipe", "")),
        # The codec has its own entry in the meta record.
        "parameters": {name: value for name, value in parameters.items() if name != "codec"},
        "versions": {"ddsdk": version("ddsdk"), "torch": str(torch.__version__)},
        **found,
    }
    meta = ConfigRecord(
        {
            "format": FORMAT,
            "task": data.task.digest,
            "codec": canonical_json(codec_state(codec)).decode(),
            "codec-error": float((codec.unpack(coded) - images).square().mean().sqrt()),
            "round": round_number,
            "manifest": canonical_json(manifest).decode(),
            "privacy": made.privacy,
        }
    )
    meta["digest"] = content_digest(arrays, meta)
    metrics = MetricRecord(
        {"num-examples": sum(data.counts), "class-counts": list(data.counts), "seconds": float(seconds)}
    )
    return RecordDict({ARRAYS: arrays, META: meta, METRICS: metrics})


def content_digest(arrays: ArrayRecord, meta: ConfigRecord) -> str:
    """Return the SHA-256 in hex of all arrays and of `meta` without its digest.

    The digest reveals damage in transit; authentication of the sender is the task of the transport.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(canonical_json([name, array.dtype, list(array.shape), len(array.data)]))
        digest.update(array.data)
    digest.update(canonical_json({name: meta[name] for name in sorted(meta) if name != "digest"}))
    return digest.hexdigest()


def decoded_array(name: str, array: Array) -> NDArray[Any]:
    """Return the values of an array as a read-only view of its bytes.

    Nothing is allocated before header, declaration and number of bytes agree; otherwise a `MessageError` is raised.

    Args:
        name: Name of the array, for the error.
        array: Array of a message, in numpy's own format.
    """
    insist(array.stype == "numpy.ndarray", f"{name} must be a numpy array, got {array.stype!r:.60}")
    stream = io.BytesIO(array.data)
    insist(np.lib.format.read_magic(stream) == (1, 0), f"{name} must have numpy's format 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_HEADER_CAP)
    declared = (tuple(array.shape), array.dtype)
    insist((shape, str(dtype)) == declared, f"{name} must be as declared, {declared}, got {shape}")
    size, stored = dtype.itemsize * math.prod(shape), len(array.data) - stream.tell()
    insist(size == stored, f"{name} must have {size} bytes, got {stored}")
    return np.frombuffer(array.data, dtype=dtype, offset=stream.tell()).reshape(shape, order="F" if fortran else "C")
