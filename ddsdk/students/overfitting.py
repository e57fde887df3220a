"""A lesson on the synthetic set that ends before the student forgets the real data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Source
from ddsdk.foundation import derive, require_count
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import epoch, gradient_step, micro_batch, pieces


@final
@dataclass(frozen=True, kw_only=True)
class UntilOverfit:
    """Train on the synthetic set while that helps on real images, for some epochs at most.

    A student that has fitted a handful of images has gradients that say nothing any more. Its mean cross-entropy on
    one draw of real images is read after every epoch; the lesson ends once `patience` epochs in a row have brought
    no new low. The student stays as the last epoch left it.

    Attributes:
        epochs: Passes over the set at most.
        batch_size: Images of one step.
        augmentation: With numbers of its own for each image.
        real_batch: Real images that are looked at, of any class.
        patience: Epochs without a new low that are allowed.

    Cost: beside the training, a forward pass over `real_batch` images for each epoch.
    """

    epochs: int
    batch_size: int = 256
    augmentation: Augmentation = NO_AUGMENTATION
    real_batch: int = 128
    patience: int = 2

    def __post_init__(self) -> None:
        for name in ("batch_size", "real_batch", "patience"):
            require_count(name, getattr(self, name))
        require_count("epochs", self.epochs, least=0)

    def __call__(
        self,
        student: nn.Module,
        optimizer: torch.optim.Optimizer,
        real: Source,
        syn: SyntheticSet,
        rng: torch.Generator,
    ) -> None:
        """Train `student` in place."""
        images = syn.detached(derive(rng, "decode"))
        shown = real.mixed(self.real_batch, derive(rng, "real"))
        lowest, since = _loss(student, shown), 0
        for i in range(self.epochs):
            for batch in epoch(images, self.batch_size, self.augmentation, derive(rng, "epoch", i)):
                gradient_step(student, optimizer, batch)
            loss = _loss(student, shown)
            lowest, since = (loss, 0) if loss < lowest else (lowest, since + 1)
            if since == self.patience:
                return


@torch.no_grad()
def _loss(student: nn.Module, batch: Batch) -> float:
    n = len(batch.x)
    return sum(
        float(cross_entropy(student(batch.x[part]), batch.y[part], reduction="sum")) / n
        for part in pieces(n, micro_batch(student, batch.x.device, n))
    )
