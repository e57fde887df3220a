"""What crosses the wire: a distilled set as three records of Flower, typed, versioned and with a digest.

Nothing is pickled: arrays travel in numpy's own format with pickling off, everything else as numbers and text.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
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
"""Of the records; a reader takes its own format only."""

CODEC_NAMES = (Uint8.name, Half.name, LowRank.name)
"""Of the codecs that are sent: they keep each image by itself, which quotas and the screen count on."""

ARRAYS, META, METRICS = "syn", "meta", "metrics"
"""Names of the three records."""


@final
@dataclass(frozen=True, kw_only=True)
class Packing:
    """In how few bytes a set is sent.

    Attributes:
        codec: Codec of the images, such as `ddsdk.artefact.Uint8` or `ddsdk.artefact.LowRank`.
        soft: Send label rows, as half floats, beside the class ids.
    """

    codec: RowCodec = field(default_factory=Uint8)
    soft: bool = False


@final
@dataclass(frozen=True, kw_only=True)
class Contribution:
    """A set of one client as the server sees it.

    Attributes:
        node: The id of the sender.
        images: (M, C, H, W) float32 in the unit range of pixels, or a little beyond where the codec keeps that.
        labels: (M, K) probabilities over all classes.
        classes: (M,) int64, the class that each image was made for.
        examples: Real images that the client has, as it says; classes that were too small to be distilled count too.
        counts: Number of real images of each class.
        rate: Learning rates learned with the set: none, one, or one for each step.
        meta: The other things that it says of itself, such as `manifest` and the privacy statement.
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
        joined: dict[str, Any] = {
            name: torch.cat([getattr(self, name), getattr(older, name)]) for name in ("images", "labels", "classes")
        }
        return dataclasses.replace(self, **joined)

    def of_classes(self, kept: Tensor) -> Contribution:
        """Return the part whose images are `kept`, (M,) bool."""
        images, labels, classes = (t[kept] for t in (self.images, self.labels, self.classes))
        return dataclasses.replace(self, images=images, labels=labels, classes=classes)


def pack(
    made: dd.Distilled, data: LocalData, packing: Packing, *, round_number: int, seconds: float = 0.0
) -> RecordDict:
    """Return the records of a set.

    Args:
        made: Over the classes of the client.
        data: Data of the client, with the ids of its classes in the task.
        packing: Codec and label form.
        round_number: The round that it answers.
        seconds: Time of the distillation.

    Raises:
        ValueError: If the codec does not keep each image by itself, or labels are no probabilities.
    """
    labels = made.as_dataset("probabilities").tensors[1]
    # Not clamped: what a codec cuts off is part of its error.
    images = made.preprocess.inverse(made.images)
    return pack_images(
        images,
        data.ids(made.owner),
        data.rows(labels) if packing.soft else None,
        data,
        packing.codec,
        rate=rates_of(made),
        told={
            "round": round_number,
            "manifest": manifest(str(made.provenance.get("recipe", "")), made.provenance.get("parameters", {})),
            "privacy": made.privacy,
        },
        seconds=seconds,
    )


def pack_images(
    images: Tensor,
    classes: Tensor,
    rows: Tensor | None,
    data: LocalData,
    codec: RowCodec,
    *,
    rate: tuple[float, ...] = (),
    told: dict[str, Any],
    seconds: float = 0.0,
) -> RecordDict:
    """Return the records of images, (M, C, H, W) in the unit range, and their class ids in the task."""
    known = f"be one of {', '.join(CODEC_NAMES)}, which keep each image by itself"
    require(codec.name in CODEC_NAMES, "codec", known, codec)
    packed = {name: tensor.numpy() for name, tensor in codec.pack(images).items()}
    packed["classes"] = classes.to(torch.int16).numpy()
    if rows is not None:
        packed["soft"] = rows.half().numpy()
    if rate:
        packed["rate"] = np.asarray(rate, dtype=np.float32)
    arrays = ArrayRecord({name: Array(value) for name, value in packed.items()})
    meta = ConfigRecord(
        {
            "format": FORMAT,
            "task": data.task.digest,
            "codec": canonical_json(codec_state(codec)).decode(),
            "codec-error": codec_error(codec, images),
            **told,
        }
    )
    meta["digest"] = content_digest(arrays, meta)
    metrics = MetricRecord(
        {"num-examples": sum(data.counts), "class-counts": list(data.counts), "seconds": float(seconds)}
    )
    return RecordDict({ARRAYS: arrays, META: meta, METRICS: metrics})


def manifest(recipe: str, parameters: Mapping[str, Any], **found: float) -> str:
    """Return where a set comes from, as one JSON text, without fingerprint of the data and name of the machine.

    Args:
        recipe: Name of the method.
        parameters: Parameters of the method, JSON values.
        **found: Numbers of the run that are worth telling.
    """
    versions = {"ddsdk": version("ddsdk"), "torch": str(torch.__version__)}
    told = {"recipe": recipe, "parameters": dict(parameters), "versions": versions, **found}
    return canonical_json(told).decode()


def codec_error(codec: RowCodec, images: Tensor) -> float:
    """Return how far a pixel is from what comes out of the codec: the root of the mean square, in the unit range."""
    return float((codec.unpack(codec.pack(images)) - images).square().mean().sqrt())


def content_digest(arrays: ArrayRecord, meta: ConfigRecord) -> str:
    """Return the SHA-256, in hex, of all arrays and of what `meta` says but for the digest itself.

    It tells a damaged message from a sound one. It says nothing about who sent it: that is the transport's part.
    """
    found = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        found.update(canonical_json([name, array.dtype, list(array.shape), len(array.data)]))
        found.update(array.data)
    found.update(canonical_json({name: meta[name] for name in sorted(meta) if name != "digest"}))
    return found.hexdigest()


def rates_of(made: dd.Distilled) -> tuple[float, ...]:
    """Return the learning rates that were learned with a set: none, one, or one for each step."""
    rate = made.learned_lr
    if rate is None:
        return ()
    return rate if isinstance(rate, tuple) else (rate,)
