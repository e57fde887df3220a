"""Export of a distilled set for other tools: parquet in the layout of the Hugging Face hub, image folder, numpy arrays.

Parquet files and image folders hold PNG pictures. Their pixels are rounded to 8 bits and clipped to the unit range, so
that networks trained on them reach a different accuracy. `to_npz`, like `Distilled.save`, keeps the exact numbers.
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
    make_folder,
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
    """Write one parquet file that the Hugging Face hub and `datasets` read as images, class labels and label rows.

    The columns are ``image`` (PNG, rounded to 8 bits and clipped to the unit range), ``label`` (class id) and the label
    row of K exact float32 numbers, which has the name of the label space: ``probabilities`` or ``scores``. The schema
    holds the manifest under ``ddsdk``. A failed write gives a `StorageError` and leaves an older file unchanged.

    Args:
        distilled: Distilled set with 1 or 3 channels.
        path: Path of the file, such as ``data/train-00000-of-00001.parquet``.

    Examples:
        >>> import ddsdk, pyarrow.parquet
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), ddsdk.load("digits"))
        >>> ddsdk.to_parquet(distilled, "distilled.parquet")
        >>> pyarrow.parquet.read_table("distilled.parquet").column_names
        ['image', 'label', 'probabilities']
    """
    write_atomic(path, parquet_bytes(distilled))


def parquet_bytes(distilled: Distilled) -> bytes:
    """Return the content of the file of `to_parquet`.

    Raises:
        MissingExtraError: If pyarrow is not installed.
    """
    distilled = distilled.unpacked()
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
        distilled.label_space: {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}}), "ddsdk": _metadata(distilled)}
    table = pa.table(columns, names=[*features]).replace_schema_metadata(metadata)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _metadata(distilled: Distilled) -> str:
    return readable_json(msgspec.to_builtins(distilled.manifest)).decode()


def to_image_folder(distilled: Distilled, folder: str | os.PathLike[str]) -> None:
    """Write PNG files in one subfolder for each class, in the layout of `torchvision.datasets.ImageFolder`.

    Images are rounded to 8 bits and clipped to the unit range. Soft labels are lost; each image is filed under its
    class. Names of subfolders begin with the class id, which keeps the order of the classes. A folder with files, and a
    failed write, give a `StorageError` and leave no file behind.

    Args:
        distilled: Distilled set with 1 or 3 channels.
        folder: New or empty folder, so that images of two sets are not mixed.

    Examples:
        >>> import ddsdk
        >>> from pathlib import Path
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=2), ddsdk.load("digits"))
        >>> ddsdk.to_image_folder(distilled, "distilled-images")
        >>> len(list(Path("distilled-images").glob("*/*.png")))
        20
    """
    digits = len(str(distilled.num_classes - 1))
    pictures = _pictures(distilled)
    with staged_folder(folder) as staged:
        subfolders = [staged / f"{c:0{digits}d}_{file_stem(n)}" for c, n in enumerate(distilled.class_names)]
        for subfolder in subfolders:
            make_folder(subfolder)
        for i, (c, picture) in enumerate(zip(distilled.owner.tolist(), pictures, strict=True)):
            write_atomic(subfolders[c] / f"{i:06d}.png", picture)


def to_npz(distilled: Distilled, path: str | os.PathLike[str]) -> None:
    """Write the exact numbers of a set as arrays that `numpy.load` opens without pickle.

    The arrays are ``images`` (M, C, H, W) in the value space, ``labels`` (M, K), class ids ``owner`` (M,), learned
    rates and momenta, tensors of a whitening, and ``metadata``, the manifest as JSON text:
    ``json.loads(str(file["metadata"]))``. Equal sets give equal bytes. A failed write gives a `StorageError` and leaves
    an older file unchanged.

    Args:
        distilled: Distilled set to export.
        path: Path of the file, such as ``set.npz``.

    Examples:
        >>> import ddsdk, numpy
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), ddsdk.load("digits"))
        >>> ddsdk.to_npz(distilled, "set.npz")
        >>> numpy.load("set.npz")["images"].shape
        (10, 1, 8, 8)
    """
    distilled = distilled.unpacked()
    arrays: dict[str, NDArray[Any]] = {
        **{name: array for name, array in distilled.arrays().items() if name not in _NOT_IN_NPZ},
        "owner": distilled.owner.cpu().numpy(),
        "metadata": np.array(_metadata(distilled)),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            # `numpy.savez` would store the time of day, so that equal sets would give different bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    write_atomic(Path(path), buffer.getvalue())


def ranking_arguments(distilled: Distilled) -> dict[str, Any]:
    """Return the arguments of `compute_metrics` in DD-Ranking (`ddranking` 0.2) for tensors in memory.

    The arguments are ``image_tensor``, the images in the value space, class by class; ``soft_labels``, unless labels
    are hard; and ``syn_lr``, the learned rate or None. Hard labels are left out, because the package fails on explicit
    class labels and assumes images class by class.

    Args:
        distilled: Distilled set in the normalised value space of the package, with at most one learned rate. Sets with
            hard labels need equally many images in each class. Whitened sets are refused, because the whitening of the
            package differs.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.artefact import ranking_arguments
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), ddsdk.load("digits"))
        >>> sorted(ranking_arguments(distilled))
        ['image_tensor', 'syn_lr']
    """
    space = distilled.manifest.space
    require(space == "normalised", "space", "be 'normalised'", space)
    rate = distilled.learned_lr
    require(not isinstance(rate, tuple), "learned_lr", "be one number", rate)
    order = distilled.owner.argsort(stable=True)
    arguments: dict[str, Any] = {"image_tensor": distilled.images[order], "syn_lr": rate}
    if distilled.manifest.storage.labels != "hard":
        return {**arguments, "soft_labels": distilled.labels[order]}
    sizes = distilled.owner.bincount(minlength=distilled.num_classes).tolist()
    require(len(set(sizes)) == 1, "classes", "have equally many images each", sizes)
    return arguments
