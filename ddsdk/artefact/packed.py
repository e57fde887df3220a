"""Packing of distilled sets."""

from __future__ import annotations

import dataclasses
import math

from ddsdk.artefact.codecs import Codec
from ddsdk.artefact.distilled import Distilled
from ddsdk.artefact.packing import PackedStorage
from ddsdk.foundation import require


def packed_set(distilled: Distilled, codec: Codec, kept_labels: int | None = None) -> Distilled:
    """Return a set with packed images and labels: the numbers that the packing decodes to, and its bytes as storage.

    PackedStorage reads no real data, so that a privacy certificate stays valid.

    Args:
        distilled: Distilled set without edges.
        codec: Codec of the images in the unit range, one image for each item.
        kept_labels: Number of stored entries of each label row, the largest ones, in 1..K. 0 stores class ids alone.
            None for 0 with hard labels and K with soft labels.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.artefact import Cosine, packed_set
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), ddsdk.load("digits"))
        >>> packed = packed_set(distilled, Cosine(height=8, width=8, kept=20, step=0.1))
        >>> packed.manifest.storage.bytes < 200
        True
    """
    k, hard = distilled.num_classes, bool(((distilled.labels == 0) | (distilled.labels == 1)).all())
    kept = kept_labels if kept_labels is not None else (0 if hard else k)
    require(0 <= kept <= k, "kept_labels", f"lie in 0..{k}", kept)
    require(distilled.edge_index is None, "distilled", "have no edges to be packed", distilled)
    require(codec.images_per_item == 1, "codec", "store one image in each item", codec.name)
    items = distilled.preprocess.inverse(distilled.images.cpu())
    packing = PackedStorage.of(items, distilled.labels.cpu(), codec, kept)
    decoded = distilled.preprocess(packing.unit_images())
    packing = dataclasses.replace(packing, value_range=(float(decoded.min()), float(decoded.max())))
    return dataclasses.replace(
        distilled,
        images=decoded,
        labels=packing.label_rows(distilled.label_space),
        classes=None,
        stored_floats=math.ceil(packing.nbytes / 4),
        provenance={**distilled.provenance, "packed_from": distilled.content_id},
        packing=packing,
    )
