"""A distilled set on the wire: three records of Flower, typed, versioned and with a digest.

Nothing is pickled: arrays travel in numpy's own format with pickling off, everything else as numbers and text.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, final

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import Half, LowRank, RowCodec, Uint8, codec_state
from ddsdk.foundation import canonical_json, require
from ddsdk_integrations.federated.task import LocalData

FORMAT = 1
# These codecs keep each image by itself, which quotas and the screen count on.
CODEC_NAMES = (Uint8.name, Half.name, LowRank.name)
ARRAYS, META, METRICS = "syn", "meta", "metrics"


@final
@dataclass(frozen=True, kw_only=True)
class Packing:
    """Form in which a set is sent.

    Attributes:
        codec: Codec of the images, such as `ddsdk.artefact.Uint8` or `ddsdk.artefact.LowRank`.
        soft: Whether label rows, as half floats, are sent beside the class ids.
    """

    codec: RowCodec = field(default_factory=Uint8)
    soft: bool = False


@final
@dataclass(frozen=True, kw_only=True)
class Contribution:
    """A set of one client as the server sees it.

    Attributes:
        node: Id of the sender.
        images: Images, (M, C, H, W) float32 in the unit range, or a little beyond where the codec keeps that.
        labels: Probabilities over all classes, (M, K).
        classes: Class that each image was made for, (M,) int64.
        examples: Number of real images that the client claims, those of classes too small to be distilled included.
        counts: Number of real images of each class.
        rate: Learning rates learned with the set: none, one, or one for each step.
        meta: Other statements of the client: `manifest`, privacy, codec and its error.
    """

    node: int
    images: Tensor
    labels: Tensor
    classes: Tensor
    examples: int
    counts: tuple[int, ...]
    rate: tuple[float, ...]
    meta: dict[str, Any]

    def after(self, older: Contribution) -> Contribution:
        """Return this set with the images of an older one of the same client behind its own."""
        pairs = ((self.images, older.images), (self.labels, older.labels), (self.classes, older.classes))
        images, labels, classes = map(torch.cat, pairs)
        return dataclasses.replace(self, images=images, labels=labels, classes=classes)

    def of_classes(self, kept: Tensor) -> Contribution:
        """Return the part whose images are `kept`, (M,) bool."""
        images, labels, classes = (t[kept] for t in (self.images, self.labels, self.classes))
        return dataclasses.replace(self, images=images, labels=labels, classes=classes)


def pack(
    made: dd.Distilled, data: LocalData, packing: Packing, *, round_number: int, seconds: float = 0.0, **found: float
) -> RecordDict:
    """Return the records of a set.

    The manifest is JSON without fingerprint of the data and name of the machine.

    Args:
        made: Set over the classes of `data`.
        data: Data of the client.
        packing: Codec and label form.
        round_number: Number of the round.
        seconds: Time of the distillation.
        **found: Numbers of the run for the manifest.
    """
    codec, rate = packing.codec, made.learned_lr
    known = f"be one of {', '.join(CODEC_NAMES)}, which keep each image by itself"
    require(codec.name in CODEC_NAMES, "codec", known, codec)
    # Not clamped: what a codec cuts off is part of its error.
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
        # The codec stands beside it.
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
    """Return the SHA-256, in hex, of all arrays and of `meta` but for the digest itself.

    It shows damage on the way. Proof of the sender is the transport's part.
    """
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        found.update(canonical_json([name, array.dtype, list(array.shape), len(array.data)]))
        found.update(array.data)
    found.update(canonical_json({name: meta[name] for name in sorted(meta) if name != "digest"}))
    return found.hexdigest()
