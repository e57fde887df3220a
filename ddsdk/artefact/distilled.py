"""The artefact: a distilled set with the preprocessing, protocol and provenance that its use requires."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from ddsdk.artefact.card import card_markdown
from ddsdk.artefact.certificate import NO_PRIVACY, Certificate
from ddsdk.artefact.checks import check_classes, check_edges, check_images, check_labels, rounded_rates
from ddsdk.artefact.folder import artifact_of, pack_artifact, read_artifact, unpack_artifact, write_artifact
from ddsdk.artefact.items import DistilledItems
from ddsdk.artefact.manifest import Manifest, TensorEntry, build_manifest
from ddsdk.artefact.packing import PackedStorage, check_packing
from ddsdk.artefact.sheet import sheet_png
from ddsdk.data import Preprocess
from ddsdk.foundation import ArtifactError, clean, clean_json, require
from ddsdk.synthetic import LabelReading, read_labels

if TYPE_CHECKING:
    from ddsdk.data import RealData
    from ddsdk.judging import Scores
    from ddsdk.training import TrainingProtocol

_OPTIONAL = ("classes", "edge_index", "edge_weight")


@dataclass(frozen=True, eq=False)
class Distilled:
    """A distilled set: synthetic images and labels, with the protocol of training on them.

    Two sets are the same if their `content_id` is the same.

    Attributes:
        images: Images (M, C, H, W) float32, in the value space of `preprocess`.
        labels: Label rows (M, K) float32, in the label space.
        class_names: Names of the K classes. Control characters are stripped, and names are cut at 200 characters.
        preprocess: Preprocessing from the unit range to the value space, with its inverse.
        protocol: Protocol of training networks on the set, as JSON values.
        label_space: Kind of the label rows: ``"probabilities"``, non-negative with sum 1, or ``"scores"``, any finite
            numbers, which fit only the loss of the protocol.
        learned_lr: Learning rate > 0 of networks that train on the set, learned with it and rounded to float32; or one
            rate for each training step, with images in the stored order. None if none was learned.
        learned_momentum: Momentum, in [0, 1), that was learned with the set, or one for each training step. None if
            none was learned.
        classes: Class ids (M,) int64 for which the images were optimised. None if unknown.
        edge_index: Edges (2, E) int64 of one or several graphs, between the M H rows of the images: row r of image m is
            node m H + r. None for sets without graphs.
        edge_weight: Weights (E,) float32 of the edges. None for sets without graphs.
        stored_floats: Storage budget of the images: number of floats from which they are decoded, without labels and
            edges. 0 counts one float for each pixel.
        provenance: Recipe and hyperparameters, data fingerprint, seeds, versions, device, threads and seconds, as JSON
            values.
        certificate: Certificate of a differentially private set. Code that uses more of the real data than the
            certificate counts must drop it. None for no guarantee.
        packing: Compressed bytes that images and labels are decoded from, and that the file holds in their place, see
            `ddsdk.artefact.packed_set`. None for a file with floats.

    Raises:
        TypeError: If a tensor has the wrong dtype, or a mapping holds values that JSON does not have.
        ValueError: If a shape, a number or a label row is wrong; the message names it.

    Examples:
        >>> import ddsdk, torch
        >>> images, labels = torch.rand(4, 1, 8, 8), torch.eye(2).repeat(2, 1)
        >>> unit = ddsdk.Preprocess.unit(channels=1)
        >>> distilled = ddsdk.Distilled(images, labels, class_names=("cat", "dog"), preprocess=unit)
        >>> distilled.content_id == ddsdk.Distilled.from_bytes(distilled.to_bytes()).content_id
        True
        >>> distilled
        Distilled(recipe='unknown', images=(4, 1, 8, 8), classes=2, ipc=2)
    """

    images: Tensor
    labels: Tensor
    _: KW_ONLY
    class_names: tuple[str, ...]
    preprocess: Preprocess
    protocol: Mapping[str, Any] = field(default_factory=dict)
    label_space: str = "probabilities"
    learned_lr: float | tuple[float, ...] | None = None
    learned_momentum: float | tuple[float, ...] | None = None
    classes: Tensor | None = None
    edge_index: Tensor | None = None
    edge_weight: Tensor | None = None
    stored_floats: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    certificate: Certificate | None = None
    packing: PackedStorage | None = None

    def __post_init__(self) -> None:
        for name in ("images", "labels", *_OPTIONAL):
            tensor = getattr(self, name)
            if tensor is not None:
                self._set(name, tensor.detach().contiguous())
        check_images(self.images, self.preprocess.channels)
        check_labels(self.labels, self.class_names, self.label_space, len(self.images))
        if self.classes is not None:
            check_classes(self.classes, self.num_classes, len(self.images))
        check_edges(self.edge_index, self.edge_weight, len(self.images) * self.images.shape[2])
        self._set("class_names", tuple(clean(str(name)) for name in self.class_names))
        self._set("protocol", clean_json(dict(self.protocol)))
        self._set("provenance", clean_json(dict(self.provenance)))
        self._set("stored_floats", int(self.stored_floats) or self.images.numel())
        if self.certificate is not None and not isinstance(self.certificate, Certificate):
            raise TypeError(f"certificate must be a Certificate or None, got {type(self.certificate).__name__}")
        require(self.stored_floats > 0, "stored_floats", "be positive", self.stored_floats)
        rate, momentum = rounded_rates(self.learned_lr, self.learned_momentum)
        self._set("learned_lr", rate)
        self._set("learned_momentum", momentum)
        if self.packing is not None:
            decoded = self.preprocess(self.packing.unit_images())
            check_packing(self.packing, self.images, self.labels, decoded, self.label_space)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

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
        """Class of each image, (M,) int64: from `classes`, or else the largest entry of its label."""
        return self.labels.argmax(1) if self.classes is None else self.classes

    @property
    def ipc(self) -> int:
        """Images per class: the number of images of the largest class."""
        return int(torch.bincount(self.owner).max())

    @property
    def stored_ipc(self) -> int:
        """Storage budget as images per class, rounded up: real images with equally many floats, at most `ipc`.

        A packed set has the budget of real images with one byte for each channel of a pixel.
        """
        if self.packing is not None:
            return math.ceil(self.packing.nbytes / (self.num_classes * self.images[0].numel()))
        if self.stored_floats == self.images.numel():
            return self.ipc
        return math.ceil(self.stored_floats / (self.num_classes * self.images[0].numel()))

    @property
    def privacy(self) -> str:
        """Privacy statement: the statement of the certificate, or "no formal privacy guarantee"."""
        return NO_PRIVACY if self.certificate is None else self.certificate.statement

    @property
    def content_id(self) -> str:
        """SHA-256 of tensors, value space, label space, class names, protocol and certificate, without provenance."""
        return self.manifest.id

    @cached_property
    def manifest(self) -> Manifest:
        """Content of `manifest.json`."""
        return self._manifest(None)

    def _manifest(self, entries: Mapping[str, TensorEntry] | None) -> Manifest:
        return build_manifest(
            self.arrays(),
            class_names=self.class_names,
            preprocess=self.preprocess.to_state()[0],
            label_space=self.label_space,
            protocol=self.protocol,
            image_floats=self.stored_floats,
            provenance=self.provenance,
            certificate=self.certificate,
            entries=entries,
            packing=None if self.packing is None else self.packing.entry(),
            value_range=None if self.packing is None else self.packing.value_range,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all tensors of the artefact as arrays by name."""
        tensors = {"images": self.images, "labels": self.labels}
        if self.packing is not None:
            tensors = {"packed_images": self.packing.images, "packed_labels": self.packing.labels}
        tensors |= self.preprocess.to_state()[1]
        for name in ("learned_lr", "learned_momentum"):
            if getattr(self, name) is not None:
                tensors[name] = torch.tensor(getattr(self, name), dtype=torch.float32)
        tensors.update((name, getattr(self, name)) for name in _OPTIONAL if getattr(self, name) is not None)
        return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}

    def unit_images(self) -> Tensor:
        """Return the images in the unit range, clamped to [0, 1], for display."""
        return self.preprocess.inverse(self.images).clamp(0, 1)

    def as_dataset(
        self, labels: LabelReading | Literal["ids"] = "stored", transform: Callable[[Tensor], Any] | None = None
    ) -> DistilledItems:
        """Return a dataset of (image, label) pairs for a `DataLoader`.

        Scores fit only the loss of the protocol. Another loss needs probabilities. The accuracy that the conversion
        costs depends on the set: ``ddsdk evaluate SET --data DATA --labels stored,probabilities,hard`` measures it.

        Args:
            labels: Form of the labels. ``"stored"``: the stored rows. ``"probabilities"``: the nearest distribution of
                each row of scores, see `ddsdk.synthetic.nearest_distributions`. ``"hard"``: one-hot rows of the largest
                class. ``"ids"``: the largest class as a number, int64, as metrics and losses of class ids expect.
            transform: Function of one image (C, H, W), applied at each access. None for none.
        """
        if labels == "ids":
            return DistilledItems(self.images, self.labels.argmax(1), transform)
        unchanged = labels == "probabilities" == self.label_space
        return DistilledItems(self.images, self.labels if unchanged else read_labels(self.labels, labels), transform)

    def evaluate(self, test: RealData, protocol: TrainingProtocol | None = None, **options: Any) -> Scores:  # noqa: ANN401
        """Return the test accuracies of networks that are trained on the set, see `ddsdk.evaluate`.

        Args:
            test: Held-out real data with the classes of the set, in any value space.
            protocol: Protocol of training the networks. None for that of the set.
            **options: Further arguments of `ddsdk.evaluate`, such as ``networks``, ``baselines`` and ``train``.

        Examples:
            >>> import ddsdk
            >>> train, test = ddsdk.load_pair("digits")
            >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), train)
            >>> protocol = ddsdk.TrainingProtocol(epochs=2, networks=1).changed(options={"width": 4})
            >>> len(distilled.evaluate(test, protocol, baselines=["random"], train=train))
            2
        """
        from ddsdk.judging import evaluate

        return evaluate(self, test, protocol, **options)

    def save(self, folder: str | os.PathLike[str]) -> str:
        """Write the set into a folder.

        At every moment, also after a crash, the folder opens as the old set or as the new one. A failed write gives a
        `StorageError`, and a folder to which another process writes a `FolderBusyError`.

        Args:
            folder: Folder, which is made if it does not exist. A set that it holds is replaced.

        Returns:
            The content id of the set.
        """
        card = card_markdown(self.manifest)
        return write_artifact(folder, self.manifest, self.arrays(), card=card, sheet=sheet_png(self))

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, max_bytes: int | None = None) -> Distilled:
        """Return the set in a folder or on the hub, after all checks of `ddsdk.artefact.read_artifact`.

        A place without a valid set gives an `ArtifactError`, whose ``reason`` is a short code.

        Args:
            folder: Folder of the set; or its address on the Hugging Face hub, ``"hf://owner/name"`` or
                ``"hf://owner/name@revision"``, which writes no file. Private sets need a login or ``HF_TOKEN``.
            max_bytes: Largest accepted size of the tensor file, in bytes. None for half of the machine's memory.
        """
        if isinstance(folder, str) and folder.startswith("hf://"):
            from ddsdk.artefact.hub import download

            return cls._of(*download(folder, max_bytes=max_bytes))
        return cls._of(*read_artifact(folder, max_bytes=max_bytes))

    def push_to_hub(
        self, repo: str, *, token: str | None = None, private: bool | None = None, licence: str | None = None
    ) -> str:
        """Upload the set to the Hugging Face hub as a data set repository, in one commit.

        The repository is made if it does not exist; a set that it holds is replaced. Beside the files of `save` it
        holds pictures for the viewer of the hub and for `datasets`, see `ddsdk.artefact.hub_folder`. A second call
        after a failed one uploads only what is missing.

        Args:
            repo: Name of the repository, ``"owner/name"``.
            token: Access token with the right to write. None for that of the login or of ``HF_TOKEN``.
            private: Visibility of a new repository. True refuses an existing public one. None for the default of the
                owner.
            licence: Identifier of the licence on the hub, such as ``"mit"``. None states no licence.

        Returns:
            The address of the commit, ``"hf://owner/name@commit"``, which `load` opens.
        """
        from ddsdk.artefact.hub import push

        return push(self, repo, token=token, private=private, licence=licence)

    def to_bytes(self) -> bytes:
        """Return the set as one byte string, without dataset card and contact sheet."""
        return pack_artifact(self.manifest, self.arrays())

    @classmethod
    def from_bytes(cls, data: bytes) -> Distilled:
        """Return the set in a byte string from `to_bytes`, after all checks of `load`."""
        return cls._of(*unpack_artifact(data))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], manifest: str) -> Distilled:
        """Return the set in the arrays and the manifest of a file of `ddsdk.to_npz`, after all checks of `load`.

        Args:
            arrays: Arrays of the file by name.
            manifest: Content of the array ``metadata``, JSON text.

        Raises:
            ArtifactError: If a check fails, such as if the arrays are not those of the manifest.
        """
        # The export has the class of each image under another name, because numpy users need it for every set.
        distilled = cls._of(*(artifact := artifact_of(manifest.encode(), {"classes": arrays["owner"], **arrays})))
        if distilled.content_id != artifact.manifest.id:
            raise ArtifactError("hash", "arrays must be those of their manifest, whose content id differs")
        return distilled

    @classmethod
    def _of(cls, manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> Distilled:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        try:
            preprocess, packing = Preprocess.from_state(manifest.preprocess, tensors), None
            if manifest.packing:
                classes = len(manifest.class_names)
                packing = PackedStorage.from_entry(manifest.packing, classes, manifest.value_range, arrays)
                tensors["images"] = preprocess(packing.unit_images())
                tensors["labels"] = packing.label_rows(manifest.label_space)
            distilled = cls(
                tensors["images"],
                tensors["labels"],
                class_names=manifest.class_names,
                preprocess=preprocess,
                protocol=manifest.protocol,
                label_space=manifest.label_space,
                learned_lr=_numbers(tensors.get("learned_lr")),
                learned_momentum=_numbers(tensors.get("learned_momentum")),
                **{name: tensors.get(name) for name in _OPTIONAL},
                stored_floats=manifest.storage.image_floats,
                provenance=manifest.provenance,
                certificate=manifest.certificate or None,
                packing=packing,
            )
        except (ValueError, TypeError, OverflowError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError("preprocess", f"the set cannot be rebuilt: {clean(str(error))}") from None
        own = distilled._manifest(manifest.tensors)
        if own.id != manifest.id:
            raise ArtifactError("id", f"the set has the content id {own.id}, and its manifest states {manifest.id}")
        return distilled

    def first_of_classes(self, counts: Sequence[int]) -> Distilled:
        """Return the set with at most `counts[c]` images of class c: the first ones in the stored order.

        The result has no certificate, because the counts may depend on private data. Sets that are stored as fewer
        floats than their pixels, sets with edges, and sets with a learned rate for each step give a ValueError.

        Args:
            counts: Largest number of images of each of the K classes.
        """
        from ddsdk.artefact.subsets import first_of_classes

        return first_of_classes(self, counts)

    def select(self, index: Tensor | Sequence[int]) -> Distilled:
        """Return the set of some of the images, in the order of `index`.

        The result has no certificate, because the choice may depend on private data. Sets that are stored as fewer
        floats than their pixels, sets with edges, and sets with a learned rate for each step give a ValueError.

        Args:
            index: Positions of the images, each in 0..M-1, at least one.
        """
        from ddsdk.artefact.subsets import selected

        return selected(self, index)

    def concat(self, *others: Distilled) -> Distilled:
        """Return the union of this set and `others`, with the protocol of this set.

        The union has no certificate, because a union of private sets has a weaker guarantee than each of them. A
        learned rate or momentum is kept if it is one number and equal in all sets. Sets with edges, and sets that
        differ in shape, class names, value space or label space, give a ValueError.
        """
        from ddsdk.artefact.subsets import union

        return union(self, *others)

    def unpacked(self) -> Distilled:
        """Return the set with images and labels stored as floats; a set without a packing is returned unchanged."""
        if self.packing is None:
            return self
        provenance = {**self.provenance, "unpacked_from": self.content_id}
        return dataclasses.replace(self, packing=None, stored_floats=0, provenance=provenance)


def _numbers(tensor: Tensor | None) -> float | tuple[float, ...] | None:
    if tensor is None:
        return None
    return tuple(tensor.tolist()) if tensor.ndim else float(tensor)
