"""Sums and parts of objectives, and the terms that several methods add to their matching."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from ddsdk.data import NO_AUGMENTATION, Augmentation, Source
from ddsdk.foundation import Checked, PositiveInt, derive, require, require_count
from ddsdk.objectives.base import Objective, embedding, require_network
from ddsdk.synthetic import SyntheticView

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Through(Generic[S, T]):
    """An objective of a part of the student.

    Attributes:
        part: Function from the student to the part, such as its network.
        objective: Objective of that part.
    """

    part: Callable[[S], T]
    objective: Objective[T]

    def __call__(self, student: S, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the terms of the objective."""
        yield from self.objective(self.part(student), real, syn, rng)


@dataclass(frozen=True)
class Total(Generic[S]):
    """A weighted sum of objectives under one student.

    Attributes:
        parts: Pairs (weight, objective). A weight may be a function of the student.
    """

    parts: tuple[tuple[float | Callable[[S], float], Objective[S]], ...]

    def __call__(self, student: S, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the weighted terms of each part."""
        for i, (weight, part) in enumerate(self.parts):
            factor = weight(student) if callable(weight) else weight
            if factor:
                for term in part(student, real, syn, derive(rng, "part", i)):
                    yield factor * term


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Checked):
    """Mean cross-entropy of the synthetic images of each class under the student: images that a network recognises.

    Attributes:
        augmentation: Augmentation with numbers of its own for each image.
        batch: Largest number of slots of each class in one step; None takes all of them.
        teacher: Fixed network in place of the student.
    """

    augmentation: Augmentation = NO_AUGMENTATION
    batch: PositiveInt | None = None
    teacher: nn.Module | None = None

    def __call__(self, student: nn.Module, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:  # noqa: ARG002
        """Yield one loss for each class that has synthetic images."""
        network = student if self.teacher is None else self.teacher
        require_network(network)
        for c in range(syn.num_classes):
            key = derive(rng, "class", c)
            x, y = syn.of_class(c, self.batch or sys.maxsize, derive(key, "synthetic"))
            if len(x):
                draw = self.augmentation.per_image(len(x), derive(key, "augmentation"))
                yield cross_entropy(network(draw(x)), y)


@final
@dataclass(frozen=True, eq=False)
class Inversion:
    """The squared distance of the images of each class from the images that their latents were found for.

    Mean over the images of a class of ||x_i - anchor_i||^2: it keeps latents where the generator makes images, while
    another objective moves them. Students are not used.

    Attributes:
        anchors: Images of all slots at the start, (M', C, H, W), class by class in the order of the slots.

    References:
        Zhao and Bilen, "Synthesizing Informative Training Samples with GAN", 2022, arXiv:2204.07513: the
        regularisation of the inversion, here by pixels alone.
    """

    anchors: Tensor

    def __call__(self, student: object, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:  # noqa: ARG002
        """Yield one distance for each class.

        Raises:
            ValueError: If the set decodes to more images than there are anchors.
        """
        seen = 0
        for c in range(syn.num_classes):
            # All images of the class, which a view gives in their own order.
            images, _ = syn.of_class(c, sys.maxsize, derive(rng, "class", c))
            anchors = self.anchors[seen : seen + len(images)]
            seen += len(images)
            require(seen <= len(self.anchors), "anchors", f"be at least {seen} images", len(self.anchors))
            if len(images):
                yield (images - anchors).square().sum() / len(images)


@final
@dataclass(frozen=True, kw_only=True)
class ViewSimilarity(Checked):
    """The mean cosine between the embeddings of two images of the same slot: lower means more diverse decodings.

    The two images are drawn anew for each class.

    Attributes:
        views: Images of each slot, such as the number of hallucinators; at least 2.
        batch: Largest number of slots of each class in one step; None takes all of them.

    References:
        Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774.
    """

    views: int
    batch: PositiveInt | None = None

    def __post_init__(self) -> None:
        require_count("views", self.views, least=2)
        super().__post_init__()

    def __call__(self, student: nn.Module, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:  # noqa: ARG002
        """Yield the share of each class.

        Raises:
            TypeError: If the student has no `embed` method.
            ValueError: If a slot does not decode to `views` images.
        """
        embed = embedding(student)
        for c in range(syn.num_classes):
            key = derive(rng, "class", c)
            images, _ = syn.of_class(c, self.batch or sys.maxsize, derive(key, "synthetic"))
            require(len(images) % self.views == 0, "views", "divide the images of a class", self.views)
            if len(images):
                pair = torch.randperm(self.views, generator=derive(key, "views"))[:2].tolist()
                a, b = (embed(images[view :: self.views]) for view in pair)
                yield cosine_similarity(a, b).mean() / syn.num_classes
