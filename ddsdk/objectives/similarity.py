"""How alike two decodings of what a slot stores are in the eyes of a network."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ddsdk.data import Source
from ddsdk.foundation import derive, require, require_count
from ddsdk.objectives.base import embedding
from ddsdk.synthetic import SyntheticView


@final
@dataclass(frozen=True, kw_only=True)
class ViewSimilarity:
    """The mean cosine between the embeddings of two images of the same slot: lower means more diverse decodings.

    Which two of its images are compared is drawn anew for each class.

    Attributes:
        views: Images of each slot, such as the number of hallucinators; at least 2.
        batch: At most so many slots of each class in one step; None takes all of them.

    References:
        Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774.
    """

    views: int
    batch: int | None = None

    def __post_init__(self) -> None:
        require_count("views", self.views, least=2)
        if self.batch is not None:
            require_count("batch", self.batch)

    def __call__(
        self,
        student: nn.Module,
        real: Source,  # noqa: ARG002
        syn: SyntheticView,
        rng: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield the share of each class.

        Raises:
            TypeError: If the student has no `embed` method.
            ValueError: If a slot does not decode to `views` images.
        """
        embed = embedding(student)
        shown = sys.maxsize if self.batch is None else self.batch
        for c in range(syn.num_classes):
            key = derive(rng, "class", c)
            images, _ = syn.of_class(c, shown, derive(key, "synthetic"))
            require(len(images) % self.views == 0, "views", "divide the images of a class", self.views)
            if len(images):
                pair = torch.randperm(self.views, generator=derive(key, "views"))[:2].tolist()
                a, b = (embed(images[view :: self.views]) for view in pair)
                yield cosine_similarity(a, b).mean() / syn.num_classes
