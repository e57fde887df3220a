"""Take a distilled set to other tools: parquet in the hub's layout, an image folder, or numpy arrays.

PNG holds 8 bits within the unit range: parquet and the image folder round and clip the images, and training
on them scores differently. Only `to_npz`, like the set's own folder, keeps the exact numbers.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddsdk.artefact.sheet import png_bytes, to_pixels
from ddsdk.foundation import (
    MissingExtraError,
    file_stem,
    readable_json,
    require,
    staged_folder,
    unique_names,
    write_atomic,
)

if TYPE_CHECKING:
    from ddsdk.artefact.distilled import Distilled

_NOT_IN_NPZ = ("classes", "edge_index", "edge_weight")


def _pictures(distilled: Distilled) -> list[bytes]:
    channels = distilled.images.shape[1]
    require(channels in (1, 3), "images", "have 1 or 3 channels to become PNG", channels)
    return [png_bytes(Image.fromarray(p)) for p in to_pixels(distilled.unit_images())]


def to_parquet(distilled: Distilled, path: str | os.PathLike[str]) -> None:
    """Write one parquet file that the hub and `datasets` read as images, class labels and soft labels.

    Columns: ``image`` (PNG, rounded to 8 bits and clipped to the unit range), ``label`` (the class of the
    image), ``soft_label`` (K exact float32, scores too). Metadata of the set is in the schema under ``ddsdk``.

    Args:
        distilled: The set, with 1 or 3 channels.
        path: The file, such as ``data/train-00000-of-00001.parquet``.

    Raises:
        MissingExtraError: If pyarrow is not installed.
        StorageError: If the file cannot be written; an older one stands.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("to_parquet", "pyarrow", "parquet") from None
    pictures = [{"bytes": p, "path": f"{i:06d}.png"} for i, p in enumerate(_pictures(distilled))]
    labels = distilled.labels.cpu().numpy()
    columns = [
        pa.array(pictures, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.array(distilled.owner.cpu().numpy(), pa.int64()),
        pa.array(list(labels), pa.list_(pa.float32())),
    ]
    features = {
        "image": {"_type": "Image"},
        "label": {"names": unique_names(distilled.class_names), "_type": "ClassLabel"},
        "soft_label": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"},
    }
    about = {"huggingface": json.dumps({"info": {"features": features}}), "ddsdk": _metadata(distilled)}
    table = pa.table(columns, names=["image", "label", "soft_label"]).replace_schema_metadata(about)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomic(path, buffer.getvalue())


def _metadata(distilled: Distilled) -> str:
    return readable_json(msgspec.to_builtins(distilled.manifest)).decode()


def to_image_folder(distilled: Distilled, folder: str | os.PathLike[str]) -> None:
    """Write PNG files in one subfolder for each class, as `torchvision.datasets.ImageFolder` reads them.

    Images are rounded to 8 bits and clipped to the unit range, and soft labels are lost: an image stands
    under its class. Subfolders begin with the class id, so that their order is the order of the classes.

    Args:
        distilled: The set, with 1 or 3 channels.
        folder: A new or empty folder; images of two sets must not mix.

    Raises:
        StorageError: If the folder holds something or cannot be written. Nothing is left behind.
    """
    digits = len(str(distilled.num_classes - 1))
    pictures = _pictures(distilled)
    with staged_folder(folder) as staged:
        places = [staged / f"{c:0{digits}d}_{file_stem(n)}" for c, n in enumerate(distilled.class_names)]
        for place in places:
            place.mkdir()
        for i, (c, picture) in enumerate(zip(distilled.owner.tolist(), pictures, strict=True)):
            write_atomic(places[c] / f"{i:06d}.png", picture)


def to_npz(distilled: Distilled, path: str | os.PathLike[str]) -> None:
    """Write the exact numbers as arrays that `numpy.load` opens without pickle.

    Arrays: ``images`` (M, C, H, W) in the value space, ``labels`` (M, K), ``owner`` (M,), ``learned_lr``
    and ``learned_momentum`` where there are such, the tensors of a whitening, and ``metadata``, a JSON text:
    ``json.loads(str(file["metadata"]))``. The same set gives the same bytes.

    Args:
        distilled: The set.
        path: The file.

    Raises:
        StorageError: If the file cannot be written; an older one stands.
    """
    arrays: dict[str, NDArray[Any]] = {
        **{name: array for name, array in distilled.arrays().items() if name not in _NOT_IN_NPZ},
        "owner": distilled.owner.cpu().numpy(),
        "metadata": np.array(_metadata(distilled)),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            # numpy's own writer stamps the time of day into the archive.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    write_atomic(Path(path), buffer.getvalue())


def ranking_arguments(distilled: Distilled) -> dict[str, Any]:
    """Return the arguments of `compute_metrics` in DD-Ranking (`ddranking` 0.2), which takes tensors from memory.

    ``image_tensor`` in the value space, class by class; ``soft_labels`` where labels are no classes; ``syn_lr``, the
    learned rate. Class labels are left out: the package fails on those that it is given, and assumes this order.

    Args:
        distilled: The set, normalised as that package normalises its data, with one rate at most, and with as many
            images of each class where labels are hard. (The whitening of that package is another.)
    """
    space = distilled.manifest.space
    require(space == "normalised", "space", "be 'normalised'", space)
    rate = distilled.learned_lr
    require(not isinstance(rate, tuple), "learned_lr", "be one number", rate)
    order = distilled.owner.argsort(stable=True)
    found: dict[str, Any] = {"image_tensor": distilled.images[order], "syn_lr": rate}
    if distilled.manifest.storage.labels != "hard":
        return {**found, "soft_labels": distilled.labels[order]}
    sizes = distilled.owner.bincount(minlength=distilled.num_classes).tolist()
    require(len(set(sizes)) == 1, "classes", "have as many images each", sizes)
    return found
