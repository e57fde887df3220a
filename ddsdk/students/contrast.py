"""A rival that learns to see what the images of a slot have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from ddsdk.data import Batch, Source
from ddsdk.foundation import derive, require_count
from ddsdk.networks import Network
from ddsdk.synthetic import SyntheticSet


@final
@dataclass(frozen=True, kw_only=True)
class ViewLesson:
    """Teach a rival that two images of one slot are alike: an objective then drives them apart in its eyes.

    Its loss is the cross-entropy, plus `similarity` (1 - the cosine of two images of the same slot), plus `contrast`
    times the supervised contrastive loss. `ddsdk.objectives.ViewSimilarity` is the objective of the set. See
    `ddsdk.students.WithRival`.

    Attributes:
        views: Images of each slot; at least 2.
        batch: Slots of one step.
        similarity: Weight of the second term.
        contrast: Weight of the third term.

    References:
        Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774.
    """

    views: int
    batch: int = 64
    similarity: float = 0.1
    contrast: float = 0.1

    def __post_init__(self) -> None:
        require_count("views", self.views, least=2)
        require_count("batch", self.batch)

    def __call__(
        self,
        rival: nn.Module,
        student: object,  # noqa: ARG002
        real: Source,  # noqa: ARG002
        syn: SyntheticSet,
        rng: torch.Generator,
    ) -> Tensor:
        """Return the loss on two views of some slots."""
        if not isinstance(rival, Network):
            raise TypeError(f"rival must be a Network with embed and head, got {type(rival).__name__}")
        whole = syn.detached(derive(rng, "decode"))
        chosen = torch.randperm(len(whole.x) // self.views, generator=derive(rng, "slots"))[: self.batch]
        pair = torch.randperm(self.views, generator=derive(rng, "views"))[:2]
        where = (chosen[None] * self.views + pair[:, None]).flatten().to(whole.x.device)
        batch = Batch(whole.x[where], whole.y[where])
        features = rival.embed(batch.x)
        first, second = features.chunk(2)
        near = 1 - cosine_similarity(first, second).mean()
        apart = supervised_contrast(features, batch.y.argmax(1))
        return cross_entropy(rival.head(features), batch.y) + self.similarity * near + self.contrast * apart


def supervised_contrast(features: Tensor, classes: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the supervised contrastive loss: images of a class must be more alike than others.

    -mean_i mean_{p in P(i)} log(exp(z_i z_p / t) / sum_{a != i} exp(z_i z_a / t)), with z the normalised features and
    P(i) the other images of the class of i; images that are alone in their class do not count.

    Args:
        features: (B, F).
        classes: (B,) int64.
        temperature: t, > 0.

    References:
        Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv:2004.11362, eq. 2.
    """
    z = normalize(features)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, float("-inf"))
    shares = logits.log_softmax(1).masked_fill(itself, 0)
    friends = (classes[:, None] == classes[None]) & ~itself
    counts = friends.sum(1)
    each = -(shares * friends).sum(1) / counts.clamp_min(1)
    return each.sum() / (counts > 0).sum().clamp_min(1)
