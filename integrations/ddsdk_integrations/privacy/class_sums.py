"""Noised sums of class features: released once, kept with their noise, and matched for many steps."""

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
from ddsdk_integrations.privacy.guard import refuse_mixing
from ddsdk_integrations.privacy.mechanism import Mechanism, clipped


@final
@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """Public features: embeddings of fresh networks under one augmentation, less those of images that all may see.

    Attributes:
        make_student: Factory of networks that have `embed` and treat records one by one.
        augmentation: Augmentation with one draw for each release, applied to every image in the same way.
        centre: Public images, (B, C, H, W), whose mean embedding is taken off. Embeddings of a random network share
            most of their length; without it, the clip norm is spent on what all records have in common. None takes
            nothing off.
        subspace: Public images whose embeddings span the directions that are released. None releases all.
        directions: Number of directions that are released.
        device: Device of the images, and so of the networks.

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
        """Return network and augmentation of a key: the same again for the same key."""
        rng = torch.Generator().manual_seed(key)
        network = self.make_student(rng).to(self.device).eval().requires_grad_(False)
        return network, self.augmentation.siamese(derive(rng, "augmentation"))

    def at(self, key: int) -> Features:
        """Return the features of a key, with centre and directions of public images."""
        network, draw = self.network(key)
        refuse_mixing(network)
        with torch.no_grad():
            centre = None if self.centre is None else _embed(network, draw(self.centre)).mean(0)
            basis = None
            if self.subspace is not None:
                rows = _embed(network, draw(self.subspace))
                right = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)[2]
                basis = right[: self.directions].T.contiguous()
        return Features(network, draw, centre, basis)


@final
@dataclass(frozen=True, eq=False)
class Features:
    """Features of images under one network; see `FeatureSpace`."""

    network: nn.Module
    draw: Any
    centre: Tensor | None
    basis: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the features, (B, F)."""
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
        key: Key that makes network and augmentation again: hundreds of networks would take more memory than their sums.
        sums: Noised sums, (K, F).
        centre: Embedding that is taken off, (F,), or None.
        basis: Directions, (F, D), or None.
    """

    key: int
    sums: Tensor
    centre: Tensor | None
    basis: Tensor | None


def released_class_sums(
    mechanism: Mechanism, space: FeatureSpace, image_shape: tuple[int, ...], rng: torch.Generator
) -> tuple[ClassSums, ...]:
    """Release noised class sums under fresh random networks; nothing private is needed afterwards.

    Noise is drawn once for each release and kept with it. Drawing new noise for a sum that was kept would be one more
    release each time.

    Args:
        mechanism: Mechanism, of which all releases are made.
        space: Space of the features.
        image_shape: Shape of the images, (C, H, W).
        rng: Generator of networks and augmentation, which are public.

    References:
        Zheng and Li, "Differentially Private Dataset Condensation", 2023 (NDPDC).
    """
    found = []
    for i in range(mechanism.left):
        key = derive(rng, i).initial_seed()
        features = space.at(key)

        def rows(batch: dd.Batch, features: Features = features) -> Tensor:
            with torch.no_grad():
                return features(batch.x)

        with torch.no_grad():
            width = features(torch.zeros(1, *image_shape, device=space.device)).shape[1]
        sums = mechanism.noised_sum(rows, width, by="class")
        found.append(ClassSums(key, sums, features.centre, features.basis))
    return tuple(found)


@final
@dataclass(frozen=True, eq=False)
class Released:
    """Features, and the noised sums that they have on private records.

    Attributes:
        features: Function from images (B, C, H, W) to rows (B, F).
        sums: Noised sums, (K, F).
    """

    features: Features
    sums: Tensor


@final
@dataclass(frozen=True, eq=False)
class ReleasedSums:
    """The supply of students of such a run: one of the releases for every step, with its network made again.

    Attributes:
        releases: Releases, at least one.
        space: Space of the features of the releases.
    """

    releases: Sequence[ClassSums]
    space: FeatureSpace

    def __post_init__(self) -> None:
        require(len(self.releases) > 0, "releases", "hold at least one", 0)

    def next(self, real: Source, syn: dd.SyntheticSet, rng: torch.Generator) -> Released:  # noqa: ARG002
        """Return a release at random."""
        one = self.releases[int(torch.randint(len(self.releases), (), generator=rng))]
        return Released(Features(*self.space.network(one.key), one.centre, one.basis), one.sums)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: a step draws its release by its key."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back nothing."""


@final
@dataclass(frozen=True, kw_only=True)
class MatchClassSums:
    """Squared distance of noised sums to those of synthetic images, clipped in the same way.

    sum_c || R_c / n_c - 1/M_c sum_m clip(f(s_m)) ||^2, with R_c the release, and n_c the expected number of records of
    the class in a sample: expected, because the true one is private.

    Attributes:
        expected: Publicly expected number n_c of records of each class in a sample.
        clip: Clip norm of the release.
    """

    expected: Sequence[float]
    clip: float

    def __call__(self, student: Released, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield one distance for each class."""
        for c in range(real.num_classes):
            x, _ = syn.of_class(c, sys.maxsize, derive(rng, "class", c))
            if len(x) > 0:
                rows = clipped(student.features(x), self.clip)
                yield (student.sums[c] / self.expected[c] - rows.mean(0)).square().sum()
