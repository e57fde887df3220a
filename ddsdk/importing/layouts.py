"""Layouts of released sets: how a code base saves images, labels and the learned rate, and how it uses them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from ddsdk.artefact import Distilled
from ddsdk.data import load
from ddsdk.foundation import note, require
from ddsdk.importing.decoders import decoded_tiles, hallucinated_images
from ddsdk.importing.restricted import read_trees, refuse

LabelKind = Literal["ids", "probabilities", "logits", "scores"]


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Choices of the user that a layout may need.

    Attributes:
        experiment: Number of the set in a file with several sets, from 0; None for the last one.
        factor: Tiles along each side of a stored image; None for the number in the name of the folder.
        class_names: Names of the classes of the data set.
    """

    class_names: tuple[str, ...]
    experiment: int | None = None
    factor: int | None = None


@dataclass(frozen=True, kw_only=True)
class ReleasedSet:
    """Content of a released set, in the value space of its code base.

    Attributes:
        images: Images, (M, C, H, W) float32.
        labels: Class ids (M,) int64 or label rows (M, K) float32; None for a layout without labels.
        kind: Kind of the labels.
        method: Name of the recipe whose protocol the authors use.
        files: Files that were read.
        learned_lr: Learned learning rate of the training; None if there is none in the files.
        stored_floats: Number of floats from which the images are decoded; 0 for one float for each pixel.
        facts: Further facts for the provenance, such as the experiment and the factor.
    """

    images: Tensor
    labels: Tensor | None
    kind: LabelKind
    method: str
    files: tuple[Path, ...]
    learned_lr: float | None = None
    stored_floats: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """One way in which code of the field saves a set.

    Attributes:
        text: Files and their origin in one line.
        finds: Function from a file or folder to the main file; None for another layout.
        read: Function from the main file and the options of the user to the content, or to the whole artefact.
        spaces: Value spaces that the code base may have used for colour images, keys of `ddsdk.importing.SPACES`.
        grey_spaces: Value spaces for grey images.
        code_base: Key of the constants of the normalisation, see `ddsdk.importing.spaces.CONSTANTS`.
        loses_rate: Whether the code base learns a learning rate and does not save it with every set.
        unit: Whether the code base saves images in the unit range and normalises them in the training.
    """

    text: str
    finds: Callable[[Path], Path | None]
    read: Callable[[Path, ReadOptions], ReleasedSet | Distilled]
    spaces: tuple[str, ...]
    grey_spaces: tuple[str, ...] = ("normalised",)
    code_base: str = "dc"
    loses_rate: bool = False
    unit: bool = False


def _by_name(*patterns: str) -> Callable[[Path], Path | None]:
    """Return the search for the first pattern that exactly one file of a folder matches, or the file itself."""

    def find(path: Path) -> Path | None:
        if path.is_file():
            return path if any(re.fullmatch(pattern, path.name) for pattern in patterns) else None
        for pattern in patterns:
            found = [p for p in sorted(path.iterdir()) if p.is_file() and re.fullmatch(pattern, p.name)]
            if len(found) > 1:
                names = ", ".join(p.name for p in found[:5])
                refuse("several", f"path must name one file where there are several, got {names}")
            if found:
                return found[0]
        return None

    return find


def _tensor(value: Any, name: str, path: Path) -> Tensor:  # noqa: ANN401
    if not isinstance(value, Tensor):
        refuse("layout", f"{path.name} must hold a tensor of {name}, got {type(value).__name__}")
    return value


def _images(value: Any, path: Path, *, last: bool = False) -> Tensor:  # noqa: ANN401
    images = _tensor(value, "images", path)
    if images.ndim != 4 or not images.is_floating_point():
        got = f"{tuple(images.shape)} of {images.dtype}"
        refuse("layout", f"images of {path.name} must be (M, C, H, W) floating point, got {got}")
    if last:
        images = images.permute(0, 3, 1, 2)
    if images.shape[1] not in (1, 3):
        refuse("layout", f"images of {path.name} must have 1 or 3 channels, got {tuple(images.shape)}")
    return images.float().contiguous()


def _are_probabilities(rows: Tensor) -> bool:
    return bool((rows >= 0).all()) and bool((rows.sum(1) - 1).abs().max() < 1e-3)


def _dc(path: Path, options: ReadOptions) -> ReleasedSet:
    """Return the set of a dictionary of DC, whose ``data`` has one pair of images and labels for each experiment."""
    (tree,) = read_trees([path])
    sets = tree.get("data") if isinstance(tree, dict) else None
    if not isinstance(sets, list) or not sets:
        refuse("layout", f"{path.name} must be a dictionary with a list 'data'")
    # DataDAM saves one pair in the place of a list of pairs.
    sets = [sets] if isinstance(sets[0], Tensor) else sets
    number = len(sets) - 1 if options.experiment is None else options.experiment
    require(0 <= number < len(sets), "experiment", f"lie in 0..{len(sets) - 1}", number)
    pair = sets[number]
    if not isinstance(pair, list) or len(pair) != 2:
        refuse("layout", f"'data' of {path.name} must hold pairs of images and labels")
    found = re.match(r"(?:res_|syn_data_)?([A-Za-z]+)_", path.name)
    method = found[1].lower() if found and found[1].lower() in ("dc", "dsa", "dm", "datadam") else "dc"
    return ReleasedSet(
        images=_images(pair[0], path),
        labels=_tensor(pair[1], "labels", path).long(),
        kind="ids",
        method=method,
        files=(path,),
        facts={"experiment": number, "experiments": len(sets)},
    )


def _mtt(path: Path, options: ReadOptions) -> ReleasedSet:  # noqa: ARG001
    """Return the set of two files of trajectory matching, with the learned rate beside them if it is there."""
    suffix = path.name.removeprefix("images")
    names = ("labels", "lr", "syn_lr")
    files = {name: path.with_name(f"{name}{suffix}") for name in names if path.with_name(f"{name}{suffix}").is_file()}
    images, *others = read_trees([path, *files.values()])
    trees = dict(zip(files, others, strict=True))
    labels = _tensor(trees["labels"], "labels", files["labels"]) if files.get("labels") else None
    kind: LabelKind = "ids"
    if labels is not None and labels.ndim == 2:
        kind = "probabilities" if _are_probabilities(labels) else "logits"
    rate = None
    for name in trees.keys() - {"labels"}:
        value = _tensor(trees[name], "the learning rate", files[name])
        require(value.numel() == 1, "learned_lr", f"be one number in {files[name].name}", tuple(value.shape))
        rate = float(value.reshape(()))
    methods: dict[str, str] = {"ids": "mtt", "probabilities": "tesla", "logits": "datm"}
    return ReleasedSet(
        images=_images(images, path),
        labels=labels.long() if labels is not None and kind == "ids" else labels,
        kind=kind,
        method=methods[kind],
        files=(path, *files.values()),
        learned_lr=rate,
    )


def _idc(path: Path, options: ReadOptions) -> ReleasedSet:
    """Return the decoded set of a list of IDC, whose images in the unit range have factor^2 tiles each."""
    (tree,) = read_trees([path])
    if not isinstance(tree, list) or len(tree) != 2:
        refuse("layout", f"{path.name} must be a list of images and labels")
    packed, labels = _images(tree[0], path), _tensor(tree[1], "labels", path).long()
    named = re.search(r"factor(\d+)", str(path.parent.name))
    factor = options.factor or (int(named[1]) if named else None)
    if factor is None:
        refuse("factor", f"factor must be given: {path.name} does not say how many tiles an image has")
    parts = [labels == c for c in range(len(options.class_names))]
    decoded = [decoded_tiles(packed[part], factor) for part in parts if bool(part.any())]
    repeated = [labels[part].repeat(factor**2) for part in parts if bool(part.any())]
    method = "ncfm" if path.parent.name == "distilled_data" else "idc"
    return ReleasedSet(
        images=torch.cat(decoded),
        labels=torch.cat(repeated),
        kind="ids",
        method=method,
        files=(path,),
        stored_floats=packed.numel(),
        facts={"factor": factor},
    )


def _haba(path: Path, options: ReadOptions) -> ReleasedSet:
    """Return the decoded set of HaBa: each of the bases, which are stored class by class, in each of the styles."""
    bases_tree, styles_tree = read_trees([path, _styles_beside(path)])
    bases = _images(bases_tree, path)
    classes = len(options.class_names)
    require(len(bases) % classes == 0, "images", f"be equally many for each of {classes} classes", len(bases))
    state = styles_tree if isinstance(styles_tree, dict) else {}
    images, styles = hallucinated_images(bases, state)
    return ReleasedSet(
        images=images,
        labels=torch.arange(classes).repeat_interleave(len(bases) // classes).repeat(styles),
        kind="ids",
        method="haba",
        files=(path, _styles_beside(path)),
        stored_floats=bases.numel() + sum(value.numel() for value in state.values()),
        facts={"styles": styles},
    )


def _styles_beside(path: Path) -> Path:
    suffix = path.name.removeprefix("images")
    return path.with_name("weights_best.pt" if suffix == "_best.pt" else f"styles{suffix}")


def _haba_images(path: Path) -> Path | None:
    found = _by_name(r"images_best\.pt", r"images_\d+\.pt")(path)
    return found if found is not None and _styles_beside(found).is_file() else None


def _npz(keys: set[str]) -> Callable[[Path], Path | None]:
    """Return the search for a numpy file that has these arrays."""
    find = _by_name(r".*\.npz")

    def found(path: Path) -> Path | None:
        file = find(path)
        return file if file is not None and keys <= set(_npz_names(file)) else None

    return found


def _npz_names(path: Path) -> list[str]:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return []


def _regression(images: str, labels: str, method: str, *, last: bool) -> Callable[[Path, ReadOptions], ReleasedSet]:
    def read(path: Path, options: ReadOptions) -> ReleasedSet:  # noqa: ARG001
        (tree,) = read_trees([path])
        if not isinstance(tree, dict) or not {images, labels} <= set(tree):
            refuse("layout", f"{path.name} must hold {images!r} and {labels!r}")
        rows = _tensor(tree[labels], "labels", path).float()
        return ReleasedSet(
            images=_images(tree[images], path, last=last), labels=rows, kind="scores", method=method, files=(path,)
        )

    return read


def _flax(path: Path, options: ReadOptions) -> ReleasedSet:  # noqa: ARG001
    """Return the set of a checkpoint of FRePo, or the moving average in one of RCIG."""
    (tree,) = read_trees([path])
    average = isinstance(tree, dict) and isinstance(tree.get("ema_average"), dict)
    part = tree.get("ema_average" if average else "params") if isinstance(tree, dict) else None
    if not isinstance(part, dict) or not {"x_proto", "y_proto"} <= set(part):
        refuse("layout", f"{path.name} must hold x_proto and y_proto under params or ema_average")
    return ReleasedSet(
        images=_images(part["x_proto"], path, last=True),
        labels=_tensor(part["y_proto"], "labels", path).float(),
        kind="scores",
        method="rcig" if average else "frepo",
        files=(path,),
        facts={"average": average},
    )


def _tensors(path: Path, options: ReadOptions) -> ReleasedSet:  # noqa: ARG001
    """Return the set of a file of tensors under usual names, or of a single tensor of images."""
    (tree,) = read_trees([path])
    parts = tree if isinstance(tree, dict) else {"images": tree}
    images = next((parts[n] for n in ("images", "image", "x", "data") if n in parts), None)
    labels = next((parts[n] for n in ("labels", "label", "y", "targets") if n in parts), None)
    if labels is not None:
        labels = _tensor(labels, "labels", path)
    kind: LabelKind = "ids"
    if labels is not None and labels.ndim == 2:
        kind = "probabilities" if _are_probabilities(labels) else "scores"
    return ReleasedSet(
        images=_images(images, path),
        labels=labels.long() if labels is not None and kind == "ids" else labels,
        kind=kind,
        method="dsa",
        files=(path,),
    )


def _pictures_in(path: Path) -> Path | None:
    """Return a parquet file, or a folder whose subfolders are classes; None for another file or folder."""
    if path.is_file():
        return path if path.suffix == ".parquet" else None
    folders = [p for p in path.iterdir() if p.is_dir()]
    files = [p for p in path.iterdir() if p.is_file()]
    return path if len(folders) > 1 and not files else None


def _pictures(path: Path, options: ReadOptions) -> ReleasedSet:
    """Return the set of pictures of 8 bits in class folders or in a parquet file."""
    real = load(path)
    require(
        real.num_classes == len(options.class_names),
        "path",
        f"have {len(options.class_names)} classes",
        real.num_classes,
    )
    # Names such as 0_cat, new003 or 00003 give the number of the class.
    stems = [re.sub(r"^\d+_", "", name) for name in real.class_names]
    by_name = set(stems) == set(options.class_names)
    order = [options.class_names.index(stem) if by_name else c for c, stem in enumerate(stems)]
    if not by_name:
        note(f"class names differ from those of the data, so classes are taken in the order {', '.join(stems[:5])} ...")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return ReleasedSet(
        images=real.unit_images().cpu().float(),
        labels=torch.tensor(order)[real.labels.cpu()],
        kind="ids",
        method="dsa",
        files=tuple(files),
        facts={"class_order": "names" if by_name else "order of the folders"},
    )


_TRAJECTORIES = ("normalised", "zca")


def _export(path: Path, options: ReadOptions) -> Distilled:  # noqa: ARG001
    (tree,) = read_trees([path])
    arrays = {key: value.numpy() for key, value in tree.items() if isinstance(value, Tensor)}
    return Distilled.from_arrays(arrays, str(tree["metadata"]))


LAYOUTS: Mapping[str, Layout] = {
    "ddsdk": Layout("set.npz of ddsdk export --to npz", _npz({"images", "labels", "metadata"}), _export, ()),
    "dc": Layout(
        "res_METHOD_DATA_NETWORK_1ipc.pt of DC, DSA, DM, CAFE, DCC and DataDAM: several experiments in one file",
        _by_name(r"res_.*\.pt", r"syn_data_.*\.pt"),
        _dc,
        ("normalised",),
    ),
    "haba": Layout(
        "images_best.pt and weights_best.pt, or images_N.pt and styles_N.pt, of HaBa: bases and styles",
        _haba_images,
        _haba,
        _TRAJECTORIES,
        code_base="mtt",
        loses_rate=True,
    ),
    "mtt": Layout(
        "images_best.pt, labels_best.pt and lr_best.pt of MTT, FTD, TESLA, DATM, FreD, and of DD-Ranking",
        _by_name(r"images_best\.pt", r"images\.pt", r"images_\d+\.pt"),
        _mtt,
        _TRAJECTORIES,
        code_base="mtt",
        loses_rate=True,
    ),
    "idc": Layout(
        "data.pt, data_best.pt of IDC, DREAM and NCFM: images of several tiles in the unit range",
        _by_name(r"data_best\.pt", r"data\.pt", r"data_\d+\.pt"),
        _idc,
        ("unit",),
        ("unit",),
        code_base="mtt",
        unit=True,
    ),
    "pictures": Layout(
        "pictures in class folders of SRe2L, CDA, RDED, D4M and Minimax, a parquet file, or those of ddsdk export",
        _pictures_in,
        _pictures,
        ("unit",),
        ("unit",),
        unit=True,
    ),
    "rfad": Layout(
        "best.npz of RFAD: images, centred labels and the scale k",
        _npz({"images", "labels", "k"}),
        _regression("images", "labels", "rfad", last=False),
        ("zca-uncentred",),
    ),
    "frepo-npz": Layout(
        "step500000.npz of FRePo: image and label",
        _npz({"image", "label"}),
        _regression("image", "label", "frepo", last=True),
        ("zca-standardised",),
        code_base="frepo",
    ),
    "frepo": Layout(
        "checkpoint_N of FRePo and RCIG: a flax checkpoint with x_proto and y_proto",
        _by_name(r"checkpoint_\d+", r"(cifar|tiny_imagenet|mnist|fashion).*_\d+"),
        _flax,
        ("zca-standardised",),
        code_base="frepo",
    ),
    "tensors": Layout(
        "a .pt, .npz or .safetensors file with images and labels of any origin: its value space must be named",
        _by_name(r".*\.(pt|pth|npz|safetensors)"),
        _tensors,
        (),
        (),
    ),
}
"""Layouts by name, in the order in which they are tried."""


def detected_layout(path: Path) -> str:
    """Return the name of the first layout that has a file or folder; none is an `ArtifactError`.

    Args:
        path: File or folder of a set.
    """
    if not path.exists():
        refuse("missing", f"path must be a file or folder that exists, got {str(path)!r}")
    found = next((name for name, layout in LAYOUTS.items() if layout.finds(path) is not None), None)
    if found is None:
        _refuse_unknown(path)
    return found


def _refuse_unknown(path: Path) -> NoReturn:
    hint = (
        "; a raw pickle runs code when it is opened: save its tensors with torch.save" if path.suffix == ".pkl" else ""
    )
    known = "; ".join(layout.text for layout in LAYOUTS.values())
    refuse("layout", f"path must have one of these layouts: {known}; got {str(path)!r}{hint}")


def stored_per_class(released: ReleasedSet, num_classes: int) -> int:
    """Return the number of stored images of each class, rounded up, by which the authors' settings are chosen."""
    floats = released.stored_floats or released.images.numel()
    return max(1, math.ceil(floats / released.images[0].numel() / num_classes))
