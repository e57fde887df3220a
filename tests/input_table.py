"""Table of the forms of data that are read or refused: `python tests/input_table.py` prints it as Markdown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from picture_files import LABELS, PIXELS, encoded, write_folder, write_parquet
from PIL import Image

from ddsdk.data import Resize

RGB = (3, 6, 5)
GREY = (1, 6, 5)
ZOO = ("cat", "dog", "eel")
NUMBERED = ("0", "1", "2")
BY_CLASS = [0] * 4 + [1] * 4 + [2] * 4
IN_TURN = [0, 1, 2] * 4
UNIT = (PIXELS / 255).astype(np.float32)
NAMES = [ZOO[c] for c in LABELS]


@dataclass(frozen=True)
class Input:
    """A form of data and what happens: its images and classes with a note, or a refusal."""

    group: str
    form: str
    make: Callable[[Path], Any]
    options: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = RGB
    classes: tuple[str, ...] = NUMBERED
    labels: list[int] = field(default_factory=lambda: IN_TURN)
    note: str = ""
    refusal: str = ""

    @property
    def result(self) -> str:
        """What happens, in a few words."""
        if self.refusal:
            return f"refused: “… {self.refusal} …”"
        shape, classes = "x".join(map(str, self.shape)), ", ".join(self.classes)
        return f"images {shape}, classes {classes}" + (f"; note: “… {self.note} …”" if self.note else "")


class Items:
    """A map-style dataset with nothing but its items."""

    def __init__(self, items: list[Any], classes: list[str] | None = None) -> None:
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


class Flipped(Items):
    """A dataset with a random transform: every other reading is mirrored."""

    readings = 0

    def __getitem__(self, i: int) -> Any:
        self.readings += 1
        image, label = self.items[i]
        return (image[:, ::-1] if self.readings % 2 else image), label


def pil_items(classes: list[str] | None = None) -> Items:
    return Items([(Image.fromarray(p), int(c)) for p, c in zip(PIXELS, LABELS, strict=True)], classes)


def folder(home: Path) -> Path:
    return write_folder(home / "zoo")


def folder_with(name: str, content: bytes | str) -> Callable[[Path], Path]:
    def make(home: Path) -> Path:
        file = write_folder(home / "zoo") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return home / "zoo"

    return make


def sizes(home: Path) -> Path:
    return folder_with("eel/99.png", encoded(np.full((6, 9, 3), 77, np.uint8)))(home)


def sixteen_bits(home: Path) -> Path:
    for i, c in enumerate(NAMES):
        (home / c).mkdir(exist_ok=True)
        Image.fromarray(PIXELS[i, ..., 0].astype(np.uint16) * 257).save(home / c / f"{i:02d}.png")
    return home


def npz(**arrays: Any) -> Callable[[Path], Path]:
    def make(home: Path) -> Path:
        np.savez(home / "set.npz", **arrays)
        return home / "set.npz"

    return make


def npy(**arrays: Any) -> Callable[[Path], Path]:
    def make(home: Path) -> Path:
        for name, array in arrays.items():
            np.save(home / f"{name}.npy", array)
        return home / f"{next(iter(arrays))}.npy"

    return make


def parquet(**options: Any) -> Callable[[Path], Path]:
    return lambda home: write_parquet(home / "set.parquet", **options)


def dictionary_column(home: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = write_parquet(home / "set.parquet")
    table = pq.read_table(file)
    pq.write_table(table.set_column(1, "label", pa.array(NAMES).dictionary_encode()), file)
    return file


def hub_folder(*configurations: str) -> Callable[[Path], Path]:
    def make(home: Path) -> Path:
        for configuration in configurations:
            write_parquet(home / configuration / "train" / "0000.parquet", names=list(ZOO))
        return home

    return make


def hub_dataset(_: Path) -> Any:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(ZOO))})
    columns = {"image": [{"bytes": encoded(p), "path": None} for p in PIXELS], "label": LABELS.tolist()}
    return datasets.Dataset.from_dict(columns, features=features)


def hub_splits(home: Path) -> Any:
    import datasets

    return datasets.DatasetDict({"train": hub_dataset(home), "validation": hub_dataset(home)})


def distilled(home: Path) -> Path:
    import ddsdk

    real = ddsdk.load((PIXELS, NAMES))
    ddsdk.to_npz(ddsdk.distill(ddsdk.BASELINES["random"](ipc=4), real), home / "set.npz")
    return home / "set.npz"


def reviews(home: Path) -> Path:
    words = ("good fine great", "bad awful poor")
    lines = [
        f"{words[i % 2].split()[i % 3]} film number {'abcdef'[i % 6] * 3},{('pos', 'neg')[i % 2]},{i}"
        for i in range(12)
    ]
    (home / "reviews.csv").write_text("\n".join(["review,mood,place", *lines]))
    return home / "reviews.csv"


def loader(sampler: Any = None) -> Callable[[Path], Any]:
    from torch.utils.data import DataLoader

    return lambda _: DataLoader(pil_items(list(ZOO)), batch_size=5, sampler=sampler)  # type: ignore[arg-type]


def subset(_: Path) -> Any:
    from torch.utils.data import Subset

    return Subset(Subset(pil_items(list(ZOO)), range(2, 12)), [0, 1, 2, 3])  # type: ignore[arg-type]


def pair(images: Any, labels: Any = LABELS) -> Callable[[Path], Any]:
    return lambda _: (images, labels)


TENSOR = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)
FOLDER = {"classes": ZOO, "labels": BY_CLASS}
HUB = {"classes": ZOO}
DEEP = np.random.default_rng(1).integers(0, 256, (12, 6, 5, 7), dtype=np.uint8)
COCO = json.dumps({"images": [], "annotations": [], "categories": []})
INPUTS = [
    Input("folders", "one subfolder for each class", folder, **FOLDER),
    Input("folders", "hidden files and `__MACOSX` beside them", folder_with("__MACOSX/eel/1.png", b""), **FOLDER),
    Input(
        *("folders", "a text file among the pictures", folder_with("eel/notes.txt", "holiday")),
        note="1 files in class folders are no pictures by their suffix, and are left out: .txt (1)",
        **FOLDER,
    ),
    Input(
        *("folders", "a picture beside the class folders", folder_with("loose.png", b"")),
        note="are in no class folder, and are left out",
        **FOLDER,
    ),
    Input(
        *("folders", "pictures in a folder below a class folder", folder_with("eel/more/99.png", encoded(PIXELS[11]))),
        *({}, RGB, ZOO, [*BY_CLASS, 2], "1 pictures in folders below class folder 'eel' belong to this class"),
    ),
    Input(
        "folders",
        "HEIC without a plug-in",
        folder_with("eel/99.heic", b"ftypheic"),
        refusal="content in none of the formats PNG, JPEG",
    ),
    Input(
        "folders", "pictures of several sizes", sizes, refusal="pass resize=32 or resize=(height, width), or --resize"
    ),
    Input(
        *(
            "folders",
            "the same with `resize=Resize(4, 4, 'crop')`",
            sizes,
            {"resize": Resize(4, 4, "crop")},
            (3, 4, 4),
            ZOO,
        ),
        [*BY_CLASS, 2],
    ),
    Input(
        "folders", "a damaged picture", folder_with("eel/99.png", b"torn"), refusal="got 1 of 13 unreadable: image file"
    ),
    Input(
        *("folders", "the same with `skip_unreadable=True`", folder_with("eel/99.png", b"torn")),
        *({"skip_unreadable": True}, RGB, ZOO, BY_CLASS, "1 of 13 pictures of train are unreadable and left out"),
    ),
    Input("folders", "grey pictures of 16 bits", sixteen_bits, {}, GREY, ZOO, BY_CLASS, "65535 becomes 255"),
    Input("folders", "`classes='eel,cat'`", folder, {"classes": "eel,cat"}, RGB, ("eel", "cat"), [1] * 4 + [0] * 4),
    Input(
        *("folders", "`classes='land=cat,dog;sea=eel'`", folder, {"classes": "land=cat,dog;sea=eel"}),
        *(RGB, ("land", "sea"), [0] * 8 + [1] * 4),
    ),
    Input("folders", "`classes='cat,dgo'`", folder, {"classes": "cat,dgo"}, refusal="(did you mean 'dog'?)"),
    Input("folders", "VOC: `Annotations/*.xml`", folder_with("Annotations/1.xml", ""), refusal="VOC annotations"),
    Input(
        "folders", "COCO: a JSON file with annotations", folder_with("instances.json", COCO), refusal="(COCO) are not"
    ),
    Input(
        "folders", "YOLO: text files beside the pictures", folder_with("cat/00.txt", "0 .5 .5 .2 .2"), refusal="(YOLO)"
    ),
    Input(
        "folders", "segmentation: a folder `masks`", folder_with("masks/1.png", b""), refusal="segmentation with masks"
    ),
    Input("folders", "videos in class folders", folder_with("cat/film.mp4", b""), refusal="video (film.mp4) is not"),
    Input("parquet", "columns `img` and `label`", parquet(names=list(ZOO)), **HUB),
    Input(
        "parquet", "class names in `label`", parquet(labels=NAMES), **HUB, note="in alphabetical order: cat, dog, eel"
    ),
    Input("parquet", "dictionary-encoded names in `label`", dictionary_column, **HUB, note="names of 3 classes"),
    Input(
        *("parquet", "booleans in `label`", parquet(labels=(LABELS > 0).tolist()), {}, RGB, ("False", "True")),
        *([0, 1, 1] * 4, "False and True are the classes 0 and 1"),
    ),
    Input(
        *("parquet", "paths in `image`, bytes in another column", parquet(image="raw", more={"image": NAMES})),
        refusal="paths and texts are not read, pass the folder of the pictures",
    ),
    Input("parquet", "numbers in `image`", parquet(image="raw", more={"image": [[1, 2]] * 12}), refusal="as arrays"),
    Input("parquet", "bytes in `label`", parquet(labels=[b"a"] * 12), refusal="must hold class ids or class names"),
    Input(
        *("parquet", "two columns of numbers, none called `label`", parquet(label="a", more={"b": [0] * 12})),
        refusal="label_column must be given",
    ),
    Input("hub", "snapshot with `plain_text/train/0000.parquet`", hub_folder("plain_text"), **HUB),
    Input("hub", "snapshot with two configurations", hub_folder("one", "two"), refusal="configuration must be given"),
    Input("hub", "the same with `configuration='two'`", hub_folder("one", "two"), {"configuration": "two"}, **HUB),
    Input("hub", "`datasets.Dataset` with Image and ClassLabel", hub_dataset, **HUB),
    Input("hub", "`datasets.DatasetDict`", hub_splits, **HUB),
    Input("numpy", "`images`, `labels` in a .npz file", npz(images=PIXELS, labels=LABELS)),
    Input(
        *("numpy", "MedMNIST: `train_images`, `train_labels` (N, 1) …"),
        npz(train_images=PIXELS, train_labels=LABELS[:, None], val_images=PIXELS, val_labels=LABELS[:, None]),
        note="of shape (12, 1) are read as 12 class ids",
    ),
    Input("numpy", "Keras: `x_train`, `y_train`, `x_test` …", npz(x_train=PIXELS, y_train=LABELS, x_test=PIXELS)),
    Input("numpy", "a file of `ddsdk export --to npz`", distilled, note="is a distilled set", **FOLDER),
    Input("numpy", "`x_train.npy` with `y_train.npy` beside it", npy(x_train=PIXELS, y_train=LABELS)),
    Input(
        "numpy", "`images.npy` alone", npy(images=PIXELS), refusal="images and labels beside it, each in a .npy file"
    ),
    Input(
        "numpy", "pickled objects", npz(images=PIXELS, labels=np.array([[1], "b"], object)), refusal="without pickle"
    ),
    Input("arrays", "(N, H, W, C) with 1 or 3 channels", pair(PIXELS)),
    Input(
        "arrays", "(N, H, W, 7)", pair(DEEP), refusal="have 1 or 3 channels on exactly one of the second and the last"
    ),
    Input("arrays", "the same with `channels='last'`", pair(DEEP), {"channels": "last"}, (7, 6, 5)),
    Input("arrays", "tensor (N, H, W, C)", pair(torch.from_numpy(PIXELS)), refusal="pass channels='last' or permute"),
    Input("arrays", "uint16", pair(PIXELS.astype(np.uint16) * 257), note="type uint16 are divided by 65535"),
    Input("arrays", "int64 in 0..255", pair(PIXELS.astype(np.int64)), note="lie in 0..255, and are read as uint8"),
    Input(
        "arrays", "floats in 0..255", pair(PIXELS.astype(np.float32)), note="floats in 0..255 (maximum 255), and are"
    ),
    Input("arrays", "floats in 0..16", pair(UNIT * 16), refusal="divide them by their largest possible value"),
    Input("arrays", "normalised floats", pair((UNIT - 0.5) / 0.25), refusal="leave out Normalize"),
    Input("arrays", "big-endian uint16", pair((PIXELS * 257.0).astype(">u2")), note="type uint16 are divided by 65535"),
    Input("arrays", "masked pixels", pair(np.ma.masked_less(PIXELS, 9)), refusal="have no masked values"),
    Input("arrays", "a sparse tensor", pair((TENSOR / 255).to_sparse()), refusal="be a dense tensor; pass to_dense()"),
    Input(
        "labels", "class names", pair(PIXELS, NAMES), classes=ZOO, note="are names of 3 classes, in alphabetical order"
    ),
    Input("labels", "1..K", pair(PIXELS, LABELS + 1), classes=("1", "2", "3"), note="labels 1, 2, 3 are not 0..2"),
    Input(
        "labels", "with gaps", pair(PIXELS, LABELS * 5), classes=("0", "5", "10"), note="are read as 3 classes of these"
    ),
    Input("labels", "masked values", pair(PIXELS, np.ma.masked_equal(LABELS, 2)), refusal="leave the items out"),
    Input("labels", "floats with whole values", pair(PIXELS, LABELS * 1.0), note="are read as integers"),
    Input("labels", "one-hot rows", pair(PIXELS, np.eye(3)[LABELS]), note="are one-hot rows of 3 classes"),
    Input("labels", "a list", pair(PIXELS, LABELS.tolist())),
    Input("labels", "booleans", pair(PIXELS, LABELS > 0), {}, RGB, ("False", "True"), [0, 1, 1] * 4, "are the classes"),
    Input("labels", "soft rows", pair(PIXELS, np.eye(3)[LABELS] * 0.7 + 0.1), refusal="pass labels.argmax(1)"),
    Input(
        "labels", "several classes of one item", pair(PIXELS, np.eye(3)[LABELS] + [1, 0, 0] > 0), refusal="multi-label"
    ),
    Input("labels", "a negative id", pair(PIXELS, np.where(LABELS, LABELS, -1)), refusal="items without a label"),
    Input(
        "labels",
        "numbers with fractions",
        pair(PIXELS, LABELS + 0.5),
        refusal="(regression) and missing values are not",
    ),
    Input("datasets", "items (PIL image, class id)", lambda _: pil_items()),
    Input("datasets", "`torch.utils.data.Subset`, nested", subset, classes=ZOO, labels=[2, 0, 1, 2]),
    Input("datasets", "a DataLoader", loader(), classes=ZOO, note="its batches and its shuffling are not used"),
    Input("datasets", "a DataLoader with a sampler", loader(range(3)), refusal="have no sampler that chooses items"),
    Input(
        *("datasets", "dictionaries with usual keys"),
        lambda _: Items([{"image": p, "label": ZOO[c]} for p, c in zip(PIXELS, LABELS, strict=True)]),
        **HUB,
        note="are names of 3 classes",
    ),
    Input(
        *("datasets", "normalised tensors"),
        lambda _: Items([(x.float() / 128 - 1, int(c)) for x, c in zip(TENSOR, LABELS, strict=True)]),
        refusal="leave out Normalize",
    ),
    Input("datasets", "random transforms", lambda _: Flipped([(p, 0) for p in PIXELS]), refusal="leave out random"),
    Input(
        "datasets", "boxes", lambda _: Items([(PIXELS[0], {"boxes": []})]), refusal="object detection is not supported"
    ),
    Input(
        *("text", "a CSV file, with `text_column` and `label_column`", reviews),
        *({"text_column": "review", "label_column": "mood"}, (1, 32, 13), ("neg", "pos"), [1, 0] * 6),
        "texts are their first 32 words of a vocabulary",
    ),
    Input("text", "the same without the options", reviews, refusal="label_column must be given"),
]


def markdown() -> str:
    """Return the table of all inputs as Markdown."""
    rows = ["| form of the data | | what happens |", "| --- | --- | --- |"]
    rows += [f"| {entry.group} | {entry.form} | {entry.result.replace('|', chr(92) + '|')} |" for entry in INPUTS]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
