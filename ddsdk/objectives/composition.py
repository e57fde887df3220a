"""Weighted sums of objectives, objectives of a part of the student, and terms that methods add to their matching."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from ddsdk.data import NO_AUGMENTATION, Augmentation, Source
from ddsdk.foundation import CheckedDataclass, PositiveInt, derive, require, require_count
from ddsdk.objectives.base import Objective, embedding, require_network
from ddsdk.synthetic import SyntheticView

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class PartObjective(Generic[S, T]):
    """An objective that uses a part of the student, such as the network of a `ddsdk.students.ScoredStudent`.

    Attributes:
        part: Function from the student to that part.
        objective: Objective for that part of the student.

    Examples:
        >>> from operator import attrgetter
        >>> from ddsdk.objectives import CrossEntropy, PartObjective
        >>> PartObjective(attrgetter("network"), CrossEntropy()).objective.batch is None
        True
    """

    part: Callable[[S], T]
    objective: Objective[T]

    def __call__(self, student: S, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the terms of the objective."""
        yield from self.objective(self.part(student), real, syn, rng)


@dataclass(frozen=True)
class WeightedSum(Generic[S]):
    """A weighted sum of objectives with the same student.

    Attributes:
        parts: Pairs (weight, objective). A weight is a number or a function of the student; 0 skips the objective.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.objectives import CrossEntropy, WeightedSum
        >>> def swap(plan):
        ...     return dataclasses.replace(plan, objective=WeightedSum(((1.0, plan.objective), (0.1, CrossEntropy()))))
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
    """

    parts: tuple[tuple[float | Callable[[S], float], Objective[S]], ...]

    def __call__(self, student: S, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the weighted terms of all objectives."""
        for i, (weight, objective) in enumerate(self.parts):
            factor = weight(student) if callable(weight) else weight
            if factor:
                for term in objective(student, real, syn, derive(rng, "part", i)):
                    yield factor * term


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(CheckedDataclass):
    """The mean cross-entropy of the synthetic images of each class under a network.

    Attributes:
        augmentation: Augmentation with different random numbers for each image.
        batch: Largest number of slots of each class in one step; None for all.
        teacher: Fixed network that replaces the student; None for the student.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.objectives import CrossEntropy
        >>> swap = lambda plan: dataclasses.replace(plan, objective=CrossEntropy(batch=1))
        >>> len(ddsdk.distill(ddsdk.DM(ipc=2, steps=2), ddsdk.load("digits"), transform=swap))
        20
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
    """The squared distance of generated images from the images that their latents were fitted to.

    The mean over the images of a class of ||x_i - anchor_i||^2. While another objective changes the latents, it keeps
    them in the region where the generator makes realistic images. The student is not used.

    Attributes:
        anchors: Images of all slots at the first step, (M', C, H, W), class by class in the order of the slots.

    References:
        Zhao and Bilen, "Synthesizing Informative Training Samples with GAN", 2022, arXiv:2204.07513: the
        regularisation of the inversion, here by pixels alone.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.objectives import Inversion
        >>> def swap(plan):
        ...     return dataclasses.replace(plan, objective=Inversion(plan.syn.detached(ddsdk.generator(0)).x))
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
    """

    anchors: Tensor

    def __call__(self, student: object, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:  # noqa: ARG002
        """Yield one distance for each class; a set with more images than there are anchors raises ValueError."""
        end = 0
        for c in range(syn.num_classes):
            # A view gives all images of a class in the order of their slots.
            images, _ = syn.of_class(c, sys.maxsize, derive(rng, "class", c))
            anchors = self.anchors[end : end + len(images)]
            end += len(images)
            require(end <= len(self.anchors), "anchors", f"hold at least {end} images", len(self.anchors))
            if len(images):
                yield (images - anchors).square().sum() / len(images)


@final
@dataclass(frozen=True, kw_only=True)
class ViewSimilarity(CheckedDataclass):
    """The mean cosine between the embeddings of two images of the same slot; a lower value means more diverse images.

    The two images are drawn anew for each class.

    Attributes:
        views: Number of images of each slot, such as the number of hallucinators; at least 2.
        batch: Largest number of slots of each class in one step; None for all.

    References:
        Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.objectives import ViewSimilarity
        >>> swap = lambda plan: dataclasses.replace(plan, objective=ViewSimilarity(views=2))
        >>> len(ddsdk.distill(ddsdk.DM(ipc=2, steps=2), ddsdk.load("digits"), transform=swap))
        20
    """

    views: int
    batch: PositiveInt | None = None

    def __post_init__(self) -> None:
        require_count("views", self.views, least=2)
        super().__post_init__()

    def __call__(self, student: nn.Module, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:  # noqa: ARG002
        """Yield the mean cosine of each class divided by the number of classes.

        A student without `embed` raises TypeError, and a slot that does not decode to `views` images ValueError.
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
