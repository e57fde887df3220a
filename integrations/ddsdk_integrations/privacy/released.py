"""Noised sums as students' lessons: what a private method matches, once it is released."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.errors import require, require_count
from ddsdk_integrations.privacy.guard import refuse_mixing
from ddsdk_integrations.privacy.mechanism import Mechanism, clipped

__all__ = ["ClassSums", "MatchClassSums", "ReleasedSums", "released_class_sums"]


@final
@dataclass(frozen=True, eq=False)
class ClassSums:
    """One release: noised sums of clipped embeddings of each class, under one network and one augmentation.

    Attributes:
        key: Seeds network and augmentation, so that both are made again.
        sums: (K, F).
    """

    key: int
    sums: Tensor


def released_class_sums(
    mechanism: Mechanism,
    make_student: Callable[[torch.Generator], nn.Module],
    augmentation: dd.Augmentation,
    rng: torch.Generator,
    *,
    releases: int,
) -> tuple[ClassSums, ...]:
    """Release noised class sums of embeddings under fresh random networks; nothing private is needed afterwards.

    Noise is drawn once for each release and kept with it. Drawing new noise for a sum that was kept would be one more
    release each time.

    Args:
        mechanism: Samples, clips, adds noise and counts.
        make_student: Builds networks that have `embed` and treat records one by one.
        augmentation: One draw for each release, applied to every record in the same way.
        rng: For networks and augmentation, which are public.
        releases: How many.

    References:
        Zheng and Li, "Differentially Private Dataset Condensation", 2023 (NDPDC).
    """
    require_count("releases", releases)
    network = _network(make_student, dd.derive(rng, 0).initial_seed())
    refuse_mixing(network)
    reservation = mechanism.reserve("class sums of embeddings", releases)
    found = []
    for i in range(releases):
        key = dd.derive(rng, i).initial_seed()
        network, draw = _network(make_student, key), _draw(augmentation, key)
        width = _width(network, mechanism)

        def rows(batch: dd.Batch, network: nn.Module = network, draw: Any = draw) -> Tensor:  # noqa: ANN401
            with torch.no_grad():
                return network.embed(draw(batch.x))  # type: ignore[operator,no-any-return]

        found.append(ClassSums(key, mechanism.noised_sum(reservation, rows, width, by="class")))
    return tuple(found)


@final
@dataclass(frozen=True, eq=False)
class ReleasedSums:
    """The supply of students of such a run: a release for every step, in turn, with its network made again.

    Attributes:
        releases: What was released.
        make_student: That of the release.
        augmentation: That of the release.
    """

    releases: Sequence[ClassSums]
    make_student: Callable[[torch.Generator], nn.Module]
    augmentation: dd.Augmentation

    def __post_init__(self) -> None:
        require(len(self.releases) > 0, "releases", "hold at least one", 0)

    def next(self, real: dd.Source, syn: dd.Source, rng: torch.Generator) -> Lesson:  # noqa: ARG002
        """Return a release at random."""
        one = self.releases[int(torch.randint(len(self.releases), (), generator=rng))]
        network = _network(self.make_student, one.key)
        return Lesson(network.requires_grad_(False), _draw(self.augmentation, one.key), one.sums)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: a step draws its release by its key."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back nothing."""


@final
@dataclass(frozen=True, eq=False)
class Lesson:
    """A network, the augmentation, and the noised sums that it made of private records.

    Attributes:
        network: Has `embed`.
        draw: Applied to synthetic images as it was to records.
        sums: (K, F).
    """

    network: nn.Module
    draw: Any
    sums: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class MatchClassSums:
    """Squared distance of noised sums to those of synthetic images, clipped in the same way.

    sum_c || R_c - n_c/M_c sum_m clip(psi(A(s_m))) ||^2 / n_c^2, with R_c the release, and n_c the expected number of
    records of the class in a sample: expected, because the true one is private.

    Attributes:
        expected: n_c, the same for all classes, or one for each.
        clip: That of the release.
    """

    expected: float | tuple[float, ...]
    clip: float

    def __call__(
        self, student: Lesson, real: dd.Source, syn: dd.Source, rng: torch.Generator
    ) -> Iterator[Tensor]:
        """Yield one distance for each class."""
        for c in range(real.num_classes):
            x, _ = syn.of_class(c, sys.maxsize, dd.derive(rng, "class", c))
            if len(x) == 0:
                continue
            rows = clipped(student.network.embed(student.draw(x)), self.clip)  # type: ignore[operator]
            expected = self.expected if isinstance(self.expected, int | float) else self.expected[c]
            yield (student.sums[c] / expected - rows.mean(0)).square().sum()


def _network(make_student: Callable[[torch.Generator], nn.Module], key: int) -> nn.Module:
    return make_student(torch.Generator().manual_seed(key)).eval()


def _draw(augmentation: dd.Augmentation, key: int) -> Any:  # noqa: ANN401 - a draw of `Augmentation`
    return augmentation.siamese(dd.derive(torch.Generator().manual_seed(key), "augmentation"))


def _width(network: nn.Module, mechanism: Mechanism) -> int:
    blank = torch.zeros(1, *mechanism.image_shape)
    with torch.no_grad():
        return int(network.embed(blank).shape[1])  # type: ignore[operator]
