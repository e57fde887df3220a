"""The artefact: a distilled set with everything that is needed to use it and to judge it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from ddsdk.artefact.card import card_markdown
from ddsdk.artefact.certificate import NO_PRIVACY, Certificate
from ddsdk.artefact.faults import edge_fault, label_fault, pace_fault
from ddsdk.artefact.folder import pack_artifact, read_artifact, unpack_artifact, write_artifact
from ddsdk.artefact.manifest import Manifest, build_manifest
from ddsdk.artefact.sheet import sheet_png
from ddsdk.data import Preprocess
from ddsdk.foundation import ArtifactError, clean, clean_json, require
from ddsdk.synthetic import LabelReading, read_labels

_OPTIONAL = ("classes", "edge_index", "edge_weight")


@dataclass(frozen=True, eq=False)
class Distilled:
    """Synthetic images and labels, and how to train on them.

    Two sets are the same when their `content_id` is the same.

    Attributes:
        images: Images (M, C, H, W) float32, in the value space of `preprocess`.
        labels: Label rows (M, K) float32 in the label space.
        class_names: Names of the K classes. Control characters are stripped and names are cut at 200 characters.
        preprocess: Map from the unit range to the value space, and back.
        evaluation: Protocol of training on the set, JSON values.
        label_space: ``"probabilities"``: rows are non-negative and sum to 1; or ``"scores"``: any finite numbers, for
            the loss that the evaluation names.
        learned_lr: Learning rate of networks that train on the set, learned with it, positive, rounded to
            float32; or one for each of their steps, in the stored order; or None.
        learned_momentum: Momentum in 0 <= value < 1, or one for each step, or None.
        classes: Class slots (M,) int64 that the images were made for, or None.
        edge_index: Edges (2, E) int64 between the M H rows of the images, where the set is a graph, or graphs, or None.
            Row r of image m has number m H + r.
        edge_weight: Weights (E,) float32, or None.
        stored_floats: Floats from which the images are made, labels and edges not counted; 0 stands for one per pixel.
        provenance: Recipe and parameters, data fingerprint, seeds, versions, device, threads, seconds, as
            JSON values.
        certificate: Certificate of a private release. Whatever reads more of the real data than it counts must drop it.

    Raises:
        TypeError: If a tensor has the wrong dtype, or a mapping holds something that JSON does not know.
        ValueError: If a shape, a number or a label row is wrong; the message names it.
    """

    images: Tensor
    labels: Tensor
    _: KW_ONLY
    class_names: tuple[str, ...]
    preprocess: Preprocess
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    label_space: str = "probabilities"
    learned_lr: float | tuple[float, ...] | None = None
    learned_momentum: float | tuple[float, ...] | None = None
    classes: Tensor | None = None
    edge_index: Tensor | None = None
    edge_weight: Tensor | None = None
    stored_floats: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    certificate: Certificate | None = None

    def __post_init__(self) -> None:
        for name in ("images", "labels", *_OPTIONAL):
            tensor = getattr(self, name)
            if tensor is not None:
                self._set(name, tensor.detach().contiguous())
        self._check_images()
        self._check_labels()
        self._check_edges()
        self._set("class_names", tuple(clean(str(name)) for name in self.class_names))
        self._set("evaluation", clean_json(dict(self.evaluation)))
        self._set("provenance", clean_json(dict(self.provenance)))
        self._set("stored_floats", int(self.stored_floats) or self.images.numel())
        if self.certificate is not None and not isinstance(self.certificate, Certificate):
            raise TypeError(f"certificate must be a Certificate or None, got {type(self.certificate).__name__}")
        require(self.stored_floats > 0, "stored_floats", "be positive", self.stored_floats)
        self._check_pace()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_images(self) -> None:
        images = self.images
        if images.dtype != torch.float32:
            raise TypeError(f"images must be float32, got {images.dtype}")
        shape = tuple(images.shape)
        require(images.ndim == 4 and images.numel() > 0, "images", "have shape (M, C, H, W), not empty", shape)
        channels = self.preprocess.channels
        require(shape[1] == channels, "images", f"have the {channels} channels of preprocess", shape)
        bad = ~torch.isfinite(images).flatten(1).all(1)
        if bool(bad.any()):
            raise ValueError(f"images must be finite, got NaN or infinity in image {int(bad.nonzero()[0])}")

    def _check_labels(self) -> None:
        labels, m = self.labels, len(self.images)
        if labels.dtype != torch.float32:
            raise TypeError(f"labels must be float32, got {labels.dtype}")
        shape, wanted = tuple(labels.shape), (m, len(self.class_names))
        require(len(self.class_names) > 0, "class_names", "hold at least one name", self.class_names)
        require(shape == wanted, "labels", f"have shape {wanted}, one column for each class name", shape)
        _refuse(label_fault(labels.cpu().numpy(), self.label_space))
        if self.classes is not None:
            if self.classes.dtype != torch.int64:
                raise TypeError(f"classes must be int64, got {self.classes.dtype}")
            require(tuple(self.classes.shape) == (m,), "classes", f"have shape ({m},)", tuple(self.classes.shape))
            low, high = int(self.classes.min()), int(self.classes.max())
            require(low >= 0 and high < self.num_classes, "classes", f"lie below {self.num_classes}", (low, high))

    def _check_edges(self) -> None:
        given = {"edge_index": torch.int64, "edge_weight": torch.float32}
        for name, dtype in given.items():
            tensor = getattr(self, name)
            if tensor is not None and tensor.dtype != dtype:
                raise TypeError(f"{name} must be {dtype}, got {tensor.dtype}")
        index, weight = (None if t is None else t.cpu().numpy() for t in (self.edge_index, self.edge_weight))
        _refuse(edge_fault(index, weight, len(self.images) * self.images.shape[2]))

    def _check_pace(self) -> None:
        rounded = {}
        for name in ("learned_lr", "learned_momentum"):
            given = getattr(self, name)
            if given is None:
                continue
            with np.errstate(over="ignore"):
                values = np.asarray(given, dtype=np.float32)
            require(values.ndim < 2 and values.size > 0, name, "be a number or one for each step", given)
            rounded[name] = values
            self._set(name, tuple(values.tolist()) if values.ndim else float(values))
        _refuse(pace_fault(rounded.get("learned_lr"), rounded.get("learned_momentum")))

    def __repr__(self) -> str:
        recipe = clean(str(self.provenance.get("recipe", "unknown")), 40)
        shape = tuple(self.images.shape)
        return f"Distilled(recipe={recipe!r}, images={shape}, classes={self.num_classes}, ipc={self.ipc})"

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def owner(self) -> Tensor:
        """Class of each image, (M,) int64: its slot where known, the largest label otherwise."""
        return self.labels.argmax(1) if self.classes is None else self.classes

    @property
    def ipc(self) -> int:
        """Images of the class that has most."""
        return int(torch.bincount(self.owner).max())

    @property
    def stored_ipc(self) -> int:
        """Real images per class that take as many floats as the set stores, rounded up: at most `ipc`."""
        if self.stored_floats == self.images.numel():
            return self.ipc
        return math.ceil(self.stored_floats / (self.num_classes * self.images[0].numel()))

    @property
    def privacy(self) -> str:
        """Privacy statement: that of the certificate, or that there is no guarantee."""
        return NO_PRIVACY if self.certificate is None else self.certificate.statement

    @property
    def content_id(self) -> str:
        """SHA-256 over tensors, value space, labels, class names, evaluation and certificate; not provenance."""
        return self.manifest.id

    @cached_property
    def manifest(self) -> Manifest:
        """Content of `manifest.json`."""
        return build_manifest(
            self.arrays(),
            class_names=self.class_names,
            preprocess=self.preprocess.to_state()[0],
            label_space=self.label_space,
            evaluation=self.evaluation,
            image_floats=self.stored_floats,
            provenance=self.provenance,
            certificate=self.certificate,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the tensors of the file by name."""
        tensors = {"images": self.images, "labels": self.labels, **self.preprocess.to_state()[1]}
        for name in ("learned_lr", "learned_momentum"):
            if getattr(self, name) is not None:
                tensors[name] = torch.tensor(getattr(self, name), dtype=torch.float32)
        tensors.update((name, getattr(self, name)) for name in _OPTIONAL if getattr(self, name) is not None)
        return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}

    def unit_images(self) -> Tensor:
        """Return the images in the unit range, clamped to [0, 1], as one would look at them."""
        return self.preprocess.inverse(self.images).clamp(0, 1)

    def as_dataset(self, labels: LabelReading = "stored") -> TensorDataset:
        """Return (image, label row) pairs for an ordinary data loader.

        Scores are for the loss that the evaluation names. Another loss wants probabilities, whose cost depends on the
        set: ``ddsdk evaluate SET --data DATA --labels stored,probabilities,hard`` measures it.

        Args:
            labels: ``"stored"``: rows as they are. ``"probabilities"``: the nearest distribution of each row of scores,
                see `ddsdk.synthetic.nearest_distributions`. ``"hard"``: one-hot rows of the largest class.
        """
        same = labels == "probabilities" == self.label_space
        return TensorDataset(self.images, self.labels if same else read_labels(self.labels, labels))

    def save(self, folder: str | os.PathLike[str]) -> str:
        """Write the set into `folder`, new or holding an older set, and return the content id.

        At every moment, also after a crash, the folder opens as the old set or as the new one.

        Raises:
            FolderBusyError: If another process is writing there.
            StorageError: If a write fails; the folder then still opens as what it was.
        """
        card = card_markdown(self.manifest)
        return write_artifact(folder, self.manifest, self.arrays(), card=card, sheet=sheet_png(self))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Distilled:
        """Open a saved set after every check of `ddsdk.artefact.folder.read_artifact`.

        Raises:
            ArtifactError: If the folder is not a sound set; its ``reason`` is a short code.
        """
        return cls._of(*read_artifact(folder))

    def to_bytes(self) -> bytes:
        """Return the set as one string of bytes, without card and contact sheet."""
        return pack_artifact(self.manifest, self.arrays())

    @classmethod
    def from_bytes(cls, data: bytes) -> Distilled:
        """Return the set in what `to_bytes` gave, after every check of `load`."""
        return cls._of(*unpack_artifact(data))

    @classmethod
    def _of(cls, manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> Distilled:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        try:
            return cls(
                tensors["images"],
                tensors["labels"],
                class_names=manifest.class_names,
                preprocess=Preprocess.from_state(manifest.preprocess, tensors),
                evaluation=manifest.evaluation,
                label_space=manifest.label_space,
                learned_lr=_numbers(tensors.get("learned_lr")),
                learned_momentum=_numbers(tensors.get("learned_momentum")),
                **{name: tensors.get(name) for name in _OPTIONAL},
                stored_floats=manifest.storage.image_floats,
                provenance=manifest.provenance,
                certificate=manifest.certificate or None,
            )
        except (ValueError, TypeError, OverflowError) as error:
            raise ArtifactError("preprocess", f"the set cannot be rebuilt: {clean(str(error))}") from None

    def concat(self, *others: Distilled) -> Distilled:
        """Return the union of this set and `others`, with this set's evaluation.

        The guarantee of a union is not that of its parts, so it has none. A learned learning rate or momentum stays if
        all sets agree on it, and if it is one for all steps.

        Raises:
            ValueError: If shapes, class names, value space or label space differ, or a set has edges.
        """
        if not others:
            return self
        sets = (self, *others)
        edged = [s for s in sets if s.edge_index is not None]
        require(not edged, "sets", "have no edges to be joined", f"{len(edged)} that have")
        for other in others:
            for name in ("class_names", "label_space", "preprocess"):
                mine, theirs = getattr(self, name), getattr(other, name)
                require(mine == theirs, name, "be the same in all sets", theirs)
            mine, theirs = tuple(self.images.shape[1:]), tuple(other.images.shape[1:])
            require(mine == theirs, "images", f"have shape (M, {mine})", theirs)
        slots = [s.classes for s in sets if s.classes is not None]
        return Distilled(
            torch.cat([s.images for s in sets]),
            torch.cat([s.labels for s in sets]),
            class_names=self.class_names,
            preprocess=self.preprocess,
            evaluation=self.evaluation,
            label_space=self.label_space,
            learned_lr=_agreed([s.learned_lr for s in sets]),
            learned_momentum=_agreed([s.learned_momentum for s in sets]),
            classes=torch.cat(slots) if len(slots) == len(sets) else None,
            stored_floats=sum(s.stored_floats for s in sets),
            provenance={"recipe": "concat", "parents": [s.content_id for s in sets]},
        )


def _refuse(fault: str | None) -> None:
    if fault:
        raise ValueError(fault)


def _numbers(tensor: Tensor | None) -> float | tuple[float, ...] | None:
    if tensor is None:
        return None
    return tuple(tensor.tolist()) if tensor.ndim else float(tensor)


def _agreed(values: list[float | tuple[float, ...] | None]) -> float | None:
    first = values[0]
    return None if isinstance(first, tuple) or any(v != first for v in values) else first
