"""Small folders and parquet files of pictures that tests write."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def write_folder(home: Path, images=PIXELS, classes=("cat", "dog", "eel")) -> Path:
    for i, pixels in enumerate(images):
        where = home / classes[i % len(classes)]
        where.mkdir(parents=True, exist_ok=True)
        (where / f"{i:02d}.png").write_bytes(encoded(pixels))
    return home


def write_parquet(path: Path, *, label="label", image="img", names=None, contents=None, labels=LABELS, more=None):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    contents = [encoded(p) for p in PIXELS] if contents is None else contents
    columns = {image: [{"bytes": c, "path": None} for c in contents], label: list(labels), **(more or {})}
    table = pa.table(columns)
    if names is not None:
        hub = {"info": {"features": {label: {"_type": "ClassLabel", "names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(hub)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path
