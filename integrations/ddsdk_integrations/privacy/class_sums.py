"""Noised class sums of embeddings, released once before the first step and matched in all steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.data import Source
from ddsdk.foundation import derive, require
from ddsdk.synthetic import SyntheticView
from ddsdk_integrations.privacy.mechanism import Mechanism, clipped
from ddsdk_integrations.privacy.refusals import refuse_mixing


@final
@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """Public feature maps: embeddings of fresh random networks, each under one draw of an augmentation.

    Attributes:
        make_student: Factory of networks that have `embed` and no batch statistics.
        augmentation: Augmentation with one draw for each release, applied to all images in the same way.
        centre: Public images, (B, C, H, W), whose mean embedding is subtracted. Embeddings of a random network have a
            large common part, which would use up the clip norm. None subtracts nothing.
        subspace: Public images, (B, C, H, W), whose principal directions in the embedding space are released. None
            releases all directions.
        directions: Number of principal directions that are released.
        device: Device of the images and networks.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import FeatureSpace
        >>> real = ddsdk.load("digits")
        >>> student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> features = FeatureSpace(student, ddsdk.Augmentation("flip")).at(key=0)
        >>> features(real.mixed(5, ddsdk.generator("batch")).x).shape
        torch.Size([5, 16])

    References:
        The subspace: Dosser, ICCV 2025.
    """

    make_student: Callable[[torch.Generator], nn.Module]
    augmentation: dd.Augmentation
    centre: Tensor | None = None
    subspace: Tensor | None = None
    directions: int = 128
    device: torch.device | str = "cpu"

    def network(self, key: int) -> tuple[nn.Module, Any]:
        """Return network and augmentation draw of a key; equal keys give equal networks and draws."""
        rng = torch.Generator().manual_seed(key)
        network = self.make_student(rng).to(self.device).eval().requires_grad_(False)
        return network, self.augmentation.siamese(derive(rng, "augmentation"))

    def at(self, key: int) -> Features:
        """Return the feature map of a key, with centre and directions computed from public images."""
        network, draw = self.network(key)
        refuse_mixing(network)
        with torch.no_grad():
            centre = None if self.centre is None else _embed(network, draw(self.centre)).mean(0)
            basis = None
            if self.subspace is not None:
                # PCA: the first right singular vectors of the centred public embeddings.
                rows = _embed(network, draw(self.subspace))
                right = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)[2]
                basis = right[: self.directions].T.contiguous()
        return Features(network, draw, centre, basis)


@final
@dataclass(frozen=True, eq=False)
class Features:
    """Feature map of one release: embedding minus centre, projected on the directions; see `FeatureSpace`.

    Attributes:
        network: Random network that has `embed`.
        draw: Draw of the augmentation, a function of images.
        centre: Embedding that is subtracted, (F,), or None.
        basis: Directions of the projection, (F, D), or None.
    """

    network: nn.Module
    draw: Any
    centre: Tensor | None
    basis: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the features of images (B, C, H, W), (B, F), or (B, D) after projection."""
        rows = _embed(self.network, self.draw(x))
        if self.centre is not None:
            rows = rows - self.centre
        return rows if self.basis is None else rows @ self.basis


def _embed(network: nn.Module, x: Tensor) -> Tensor:
    return network.embed(x)  # type: ignore[operator,no-any-return]


@final
@dataclass(frozen=True, eq=False)
class ClassSums:
    """One release: noised sums of clipped features of each class.

    Attributes:
        key: Key from which network and augmentation draw are made again, which saves the memory of hundreds of
            networks.
        sums: Noised sums of the classes, (K, F), or (K, D) after projection.
        centre: Embedding that is subtracted, (F,), or None.
        basis: Directions of the projection, (F, D), or None.
    """

    key: int
    sums: Tensor
    centre: Tensor | None
    basis: Tensor | None


def released_class_sums(
    mechanism: Mechanism, space: FeatureSpace, image_shape: tuple[int, ...], rng: torch.Generator
) -> tuple[ClassSums, ...]:
    """Return noised class sums, one release for each of many random networks; the records are not needed afterwards.

    Noise is drawn once for each release and stays in the sum. Fresh noise on a stored exact sum would be a further
    release each time.

    Args:
        mechanism: Mechanism whose remaining releases are all made.
        space: Space of the features.
        image_shape: Shape of the images, (C, H, W).
        rng: Generator of networks and augmentation, which are public.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import Budget, FeatureSpace, Ledger, PrivateData, released_class_sums
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> mechanism = private.mechanism("class sums", releases=2, sample_rate=0.1, noise_multiplier=5)
        >>> student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> space = FeatureSpace(student, ddsdk.Augmentation(""))
        >>> sums = released_class_sums(mechanism, space, real.image_shape, ddsdk.generator("networks"))
        >>> len(sums), sums[0].sums.shape
        (2, torch.Size([10, 16]))

    References:
        Zheng and Li, "Differentially Private Dataset Condensation", 2023 (NDPDC).
    """
    releases = []
    for i in range(mechanism.left):
        key = derive(rng, i).initial_seed()
        features = space.at(key)

        def rows(batch: dd.Batch, features: Features = features) -> Tensor:
            with torch.no_grad():
                return features(batch.x)

        with torch.no_grad():
            width = features(torch.zeros(1, *image_shape, dtype=torch.float32, device=space.device)).shape[1]
        sums = mechanism.noised_sum(rows, width, by="class")
        releases.append(ClassSums(key, sums, features.centre, features.basis))
    return tuple(releases)


@final
@dataclass(frozen=True, eq=False)
class ClassSumStudent:
    """Student of the matching of class sums: a feature map with the noised sums of its release.

    Attributes:
        features: Function from images (B, C, H, W) to rows (B, F).
        sums: Noised sums of the classes, (K, F).
    """

    features: Features
    sums: Tensor


@final
@dataclass(frozen=True, eq=False)
class ClassSumStudents:
    """Supply of students: one random release for each step, with its network made again from its key.

    Attributes:
        releases: Releases of `released_class_sums`, at least one.
        space: Space of the features of the releases.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.privacy import FeatureSpace, ClassSumStudents
        >>> from ddsdk_integrations.privacy.class_sums import ClassSums
        >>> student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> space = FeatureSpace(student, ddsdk.Augmentation(""))
        >>> supply = ClassSumStudents([ClassSums(key=0, sums=torch.zeros(10, 16), centre=None, basis=None)], space)
    """

    releases: Sequence[ClassSums]
    space: FeatureSpace

    def __post_init__(self) -> None:
        require(len(self.releases) > 0, "releases", "hold at least one", 0)

    def next(self, real: Source, syn: dd.SyntheticSet, rng: torch.Generator) -> ClassSumStudent:  # noqa: ARG002
        """Return a random release with its feature map."""
        release = self.releases[int(torch.randint(len(self.releases), (), generator=rng))]
        features = Features(*self.space.network(release.key), release.centre, release.basis)
        return ClassSumStudent(features, release.sums)

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state, because the generator of a step determines its release."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept the empty state of `state_dict`."""


@final
@dataclass(frozen=True, kw_only=True)
class MatchClassSums:
    """Objective: squared distance between noised class sums and mean clipped features of synthetic images.

    sum_c || R_c / n_c - 1/M_c sum_m clip(f(s_m)) ||^2. R_c is the release. n_c is the expected number of records of the
    class in a sample, because the true number is private.

    Attributes:
        expected: Expected number n_c of records of each class in a sample, from public class sizes, (K,).
        clip: Clip norm of the release.

    Examples:
        >>> from ddsdk_integrations.privacy import MatchClassSums
        >>> objective = MatchClassSums(expected=[13.5] * 10, clip=1.0)
    """

    expected: Sequence[float]
    clip: float

    def __call__(
        self, student: ClassSumStudent, real: Source, syn: SyntheticView, rng: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield one squared distance for each class."""
        for c in range(real.num_classes):
            x, _ = syn.of_class(c, sys.maxsize, derive(rng, "class", c))
            if len(x) > 0:
                rows = clipped(student.features(x), self.clip)
                yield (student.sums[c] / self.expected[c] - rows.mean(0)).square().sum()
