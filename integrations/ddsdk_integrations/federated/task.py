"""Agreement of all sides before the first round, and a client's own part of the data under it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import torch
from flwr.app import ArrayRecord
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import canonical_json, require
from ddsdk.networks import Network, NetworkFactory


@final
@dataclass(frozen=True, kw_only=True)
class Task:
    """Classes, images, value space, facts of the images and network that a federation agrees on.

    Attributes:
        class_names: Names of the K classes, in the order of their ids.
        image_shape: (C, H, W).
        preprocess: Map from the unit range to the value space. Choose it from public knowledge: a fit on private images
            would disclose them. Whitening is refused, for codecs need pixels.
        pictures: False for matrices that are no pictures, see `ddsdk.RealData`.
        mirror_safe: Whether the mirror image of an image has the same class, see `ddsdk.RealData`. Clients mirror
            images by default only where it has.
        network: A key of `ddsdk.NETWORKS`.
        network_options: Options of its builder, such as ``{"width": 32}``.

    Raises:
        ValueError: If the network does not take such images, or the value space is whitened.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    preprocess: dd.Preprocess
    pictures: bool = True
    mirror_safe: bool = False
    network: str = "convnet"
    network_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(str(name) for name in self.class_names))
        channels, space = self.preprocess.channels, self.preprocess.space
        require(self.image_shape[0] == channels, "image_shape", f"have {channels} channels", self.image_shape)
        require(space != "zca", "preprocess", "not whiten, which mixes the pixels that codecs keep", space)
        self.make(dd.generator("task"))

    @classmethod
    def of(cls, real: dd.RealData, *, network: str = "convnet", **options: Any) -> Task:  # noqa: ANN401
        """Return the task of some data, such as a public part, with a network and options of its builder."""
        return cls(
            class_names=real.class_names,
            image_shape=real.image_shape,
            preprocess=real.preprocess,
            pictures=real.pictures,
            mirror_safe=real.mirror_safe,
            network=network,
            network_options=options,
        )

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all attributes, in hex: sets of another task are refused by it."""
        agreed = {
            "class_names": self.class_names,
            "image_shape": self.image_shape,
            "mean": self.preprocess.mean,
            "std": self.preprocess.std,
            "pictures": self.pictures,
            "mirror_safe": self.mirror_safe,
            "network": self.network,
            "network_options": dict(self.network_options),
        }
        return hashlib.sha256(canonical_json(agreed)).hexdigest()

    @property
    def factory(self) -> NetworkFactory:
        """Factory of the network."""
        return dd.network_factory(self.network, self.image_shape, self.num_classes, **self.network_options)

    def make(self, rng: torch.Generator) -> Network:
        """Return a new network, whose weights come from `rng` alone."""
        return self.factory(rng)

    def real(self, images: Tensor, labels: Tensor, *, classes: Sequence[int] | None = None, name: str) -> dd.RealData:
        """Return images of some classes, all if None, as real data with the value space and the facts of the task."""
        return dd.RealData(
            images,
            labels,
            class_names=[self.class_names[c] for c in classes or range(self.num_classes)],
            preprocess=self.preprocess,
            name=name,
            pictures=self.pictures,
            mirror_safe=self.mirror_safe,
        )

    def initial_arrays(self, seed: int = 0) -> ArrayRecord:
        """Return the weights of a new network, as a strategy's ``start`` takes them."""
        return ArrayRecord(self.make(dd.generator("global", seed)).state_dict())

    def loaded(self, arrays: ArrayRecord) -> Network:
        """Return a network with these weights.

        Raises:
            RuntimeError: If they are those of another network.
        """
        network = self.make(dd.generator("task"))
        network.load_state_dict(arrays.to_torch_state_dict())
        return network


@final
@dataclass(frozen=True)
class LocalData:
    """Images of one client: classes without images, or with too few, are left out.

    Attributes:
        task: Task that all sides agree on.
        real: Images of the client, whose classes 0, 1, … are those of `classes`.
        classes: Ids of these classes in the task.
        counts: Number of images of each of the K classes of the task, those left out included.
    """

    task: Task
    real: dd.RealData
    classes: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, task: Task, images: Tensor, labels: Tensor, *, least: int = 1) -> LocalData:
        """Return the data of a client.

        Args:
            task: Task that all sides agree on.
            images: Images, (N, C, H, W), uint8 or float in the unit range.
            labels: Class ids of the task, (N,) int64.
            least: Smallest number of images of a class that is kept.

        Raises:
            ValueError: If labels leave 0..K-1, images have another shape, or no class has enough images.
        """
        shape = tuple(images.shape[1:])
        require(shape == task.image_shape, "images", f"have the shape {task.image_shape} of the task", shape)
        bad = labels[(labels < 0) | (labels >= task.num_classes)]
        require(len(bad) == 0, "labels", f"lie in 0..{task.num_classes - 1}", bad[:1].tolist())
        counts = torch.bincount(labels, minlength=task.num_classes).tolist()
        classes = tuple(c for c, n in enumerate(counts) if n >= max(1, least))
        require(len(classes) > 0, "labels", f"have {least} images of at least one class", counts)
        kept = torch.isin(labels, torch.tensor(classes))
        local = torch.searchsorted(torch.tensor(classes), labels[kept])
        real = task.real(images[kept], local, classes=classes, name="client")
        return cls(task, real, classes, tuple(counts))

    def batch(self) -> dd.Batch:
        """Return everything in the value space, with label rows over all K classes."""
        x, _ = self.real.batch(torch.arange(len(self.real)))
        return dd.Batch(x, self.rows(torch.nn.functional.one_hot(self.real.labels, len(self.classes)).float()))

    def rows(self, local: Tensor) -> Tensor:
        """Return label rows (M, K) of the task for rows over the classes of this client."""
        rows = local.new_zeros(len(local), self.task.num_classes)
        rows[:, list(self.classes)] = local
        return rows

    def ids(self, local: Tensor) -> Tensor:
        """Return class ids of the task, (M,) int64, for those of this client."""
        return torch.tensor(self.classes)[local]
