"""Task of a federation: classes, images and network, and the local data of a client under it."""

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
class FederatedTask:
    """Classes, image shape, value space and network that the server and all clients agree on before the first round.

    A ValueError is raised if the network does not accept such images, or if the value space is whitened.

    Attributes:
        class_names: Names of the K classes, in the order of their ids.
        image_shape: Shape of an image, (C, H, W).
        preprocess: Map from the unit range to the value space, chosen from public knowledge: statistics of private
            images would disclose information about them. Whitening is refused, because codecs need pixels.
        pictures: Whether images are pictures; False for other matrices, see `ddsdk.RealData`.
        mirror_safe: Whether a mirrored image keeps its class, see `ddsdk.RealData`. By default, clients mirror images
            only if it does.
        network: Name of the network in `ddsdk.NETWORKS`.
        network_options: Options of the network, such as ``{"width": 32}``.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import FederatedTask
        >>> task = FederatedTask.of(ddsdk.load("digits"), network="convnet", width=4, depth=2)
        >>> task.num_classes, task.image_shape
        (10, (1, 8, 8))
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
    def of(cls, real: dd.RealData, *, network: str = "convnet", **options: Any) -> FederatedTask:  # noqa: ANN401
        """Return the task of a data set, such as a public one, with a network and its options.

        Args:
            real: Data set with class names, image shape and value space.
            network: Name of the network in `ddsdk.NETWORKS`.
            **options: Options of the network, such as ``width=32``.
        """
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
        """SHA-256 of all attributes in hex, by which the server refuses sets of another task."""
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
        """Factory of the task's network."""
        return dd.network_factory(self.network, self.image_shape, self.num_classes, **self.network_options)

    def make(self, rng: torch.Generator) -> Network:
        """Return a new network with random weights from `rng`."""
        network: Network = self.factory(rng)
        return network

    def real(self, images: Tensor, labels: Tensor, *, classes: Sequence[int] | None = None, name: str) -> dd.RealData:
        """Return labelled images as real data with the value space and the facts of the task.

        Args:
            images: Images, (N, C, H, W), uint8 or float in the unit range.
            labels: Indices into `classes`, (N,) int64.
            classes: Class ids of the task; None for all classes.
            name: Name of the data, for the provenance of a set.

        Returns:
            Real data whose class c is ``classes[c]`` of the task.
        """
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
        """Return the weights of a new network as the initial arrays of a strategy's ``start``."""
        return ArrayRecord(self.make(dd.generator("global", seed)).state_dict())

    def loaded(self, arrays: ArrayRecord) -> Network:
        """Return the task's network with the weights of `arrays`; PyTorch raises a RuntimeError if they do not fit."""
        network = self.make(dd.generator("task"))
        network.load_state_dict(arrays.to_torch_state_dict())
        return network


@final
@dataclass(frozen=True)
class LocalData:
    """Images of one client, without the classes of which it has too few images.

    Attributes:
        task: Task of the federation.
        real: Images of the client, whose classes are numbered 0, 1, … in the order of `classes`.
        classes: Class ids in the task of the classes of `real`.
        counts: Number of images of each of the K classes of the task, including the classes without a place in `real`.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import FederatedTask, LocalData
        >>> real = ddsdk.load("digits")
        >>> two_classes = real.labels >= 8
        >>> data = LocalData.of(FederatedTask.of(real), real.images[two_classes], real.labels[two_classes], least=10)
        >>> data.classes
        (8, 9)
    """

    task: FederatedTask
    real: dd.RealData
    classes: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, task: FederatedTask, images: Tensor, labels: Tensor, *, least: int = 1) -> LocalData:
        """Return the data of a client.

        A ValueError is raised if a label lies outside 0..K-1, if the images have another shape than the task's, or if
        no class has `least` images.

        Args:
            task: Task of the federation.
            images: Images, (N, C, H, W), uint8 or float in the unit range.
            labels: Class ids of the task, (N,) int64.
            least: Smallest number of images of a class in `real`.
        """
        shape = tuple(images.shape[1:])
        require(shape == task.image_shape, "images", f"have the shape {task.image_shape} of the task", shape)
        unknown = labels[(labels < 0) | (labels >= task.num_classes)]
        require(len(unknown) == 0, "labels", f"lie in 0..{task.num_classes - 1}", unknown[:1].tolist())
        counts = torch.bincount(labels, minlength=task.num_classes).tolist()
        classes = tuple(c for c, n in enumerate(counts) if n >= max(1, least))
        require(len(classes) > 0, "labels", f"have {least} images of at least one class", counts)
        selected = torch.isin(labels, torch.tensor(classes))
        local_labels = torch.searchsorted(torch.tensor(classes), labels[selected])
        real = task.real(images[selected], local_labels, classes=classes, name="client")
        return cls(task, real, classes, tuple(counts))

    def batch(self) -> dd.Batch:
        """Return all images in the value space, with label rows over the K classes of the task."""
        x, _ = self.real.batch(torch.arange(len(self.real)))
        return dd.Batch(x, self.rows(torch.nn.functional.one_hot(self.real.labels, len(self.classes)).float()))

    def rows(self, local: Tensor) -> Tensor:
        """Return label rows over the task's classes, (M, K), for rows over the classes of this client."""
        rows = local.new_zeros(len(local), self.task.num_classes)
        rows[:, list(self.classes)] = local
        return rows

    def ids(self, local: Tensor) -> Tensor:
        """Return class ids of the task, (M,) int64, for class indices of this client."""
        return torch.tensor(self.classes)[local]
