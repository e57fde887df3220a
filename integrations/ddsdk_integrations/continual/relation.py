"""What tells new classes from remembered ones, as an objective beside the matching of a stream."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.functional import normalize

import ddsdk as dd
from ddsdk.data import Source
from ddsdk.foundation import derive
from ddsdk.objectives import embedding
from ddsdk.synthetic import SyntheticView


@final
@dataclass(frozen=True, kw_only=True)
class RelationMatch:
    """For each new class, how near its images lie to the remembered classes: the same for synthetic as for real ones.

    sum_c || r(S_c) - r(T_c) ||^2, where r(X)_j is the mean cosine of the embeddings of X with the mean embedding of
    remembered class j.

    Attributes:
        new: Number of new classes, the first ones; the others are remembered.
        real_batch: Real images of each class.
        augmentation: One siamese draw for each class.

    Differences from the published algorithm: cosines with class means stand for the distances to single images.

    References:
        Gu et al., "Summarizing Stream Data for Memory-Constrained Online Continual Learning", AAAI 2024,
        arXiv:2305.16645.
    """

    new: int
    real_batch: int = 256
    augmentation: dd.Augmentation = field(default_factory=dd.Augmentation)

    def __call__(
        self,
        student: Any,  # noqa: ANN401
        real: Source,
        syn: SyntheticView,
        rng: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield a term for each new class; none where nothing is remembered."""
        embed = embedding(student)
        for c in range(self.new if self.new < real.num_classes else 0):
            key = derive(rng, "relation", c)
            draw = self.augmentation.siamese(derive(key, "augmentation"))
            with torch.no_grad():
                past = [
                    embed(draw(real.of_class(j, self.real_batch, derive(key, "past", j)).x)).mean(0)
                    for j in range(self.new, real.num_classes)
                ]
                means = normalize(torch.stack(past), dim=1)
                seen = embed(draw(real.of_class(c, self.real_batch, derive(key, "real")).x))
                wanted = (normalize(seen, dim=1) @ means.T).mean(0)
            x = draw(syn.of_class(c, sys.maxsize, derive(key, "synthetic")).x)
            if len(x):
                yield ((normalize(embed(x), dim=1) @ means.T).mean(0) - wanted).square().sum()
