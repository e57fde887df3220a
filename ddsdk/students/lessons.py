"""Lessons of students between two steps, on the synthetic set or on real data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Source, cutmix
from ddsdk.foundation import Checked, Fraction, NonNegativeInt, PositiveInt, derive
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import Loss, epoch, gradient_step, micro_batch, pieces, soft_cross_entropy

Lesson = Callable[[nn.Module, Optimizer, Source, SyntheticSet, torch.Generator], None]
"""`(student, optimizer, real, syn, rng)`: trains the student in place."""


@dataclass(frozen=True, kw_only=True)
class OnSynthetic(Checked):
    """Train for some epochs on the synthetic set as it is now.

    Attributes:
        epochs: Passes over the set.
        batch_size: Images of one step.
        augmentation: Augmentation with numbers of its own for each image.
    """

    epochs: NonNegativeInt
    batch_size: PositiveInt = 256
    augmentation: Augmentation = NO_AUGMENTATION

    def __call__(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        real: Source,  # noqa: ARG002
        syn: SyntheticSet,
        rng: torch.Generator,
    ) -> None:
        """Train `student` in place."""
        images = syn.detached(derive(rng, "decode"))
        for i in range(self.epochs):
            for batch in epoch(images, self.batch_size, self.augmentation, derive(rng, "epoch", i)):
                gradient_step(student, optimizer, batch)


@final
@dataclass(frozen=True, kw_only=True)
class UntilOverfit(Checked):
    """Train on the synthetic set while that helps on real images, for some epochs at most.

    A student that has fitted a handful of images has gradients that say nothing any more. Its mean cross-entropy on
    one draw of real images is read after every epoch; the lesson ends once `patience` epochs in a row have brought
    no new low. The student stays as the last epoch left it.

    Attributes:
        epochs: Largest number of passes over the set.
        batch_size: Images of one step.
        augmentation: Augmentation with numbers of its own for each image.
        real_batch: Real images of that draw, of any class.
        patience: Epochs without a new low that are allowed.

    Cost: beside the training, a forward pass over `real_batch` images for each epoch.
    """

    epochs: NonNegativeInt
    batch_size: PositiveInt = 256
    augmentation: Augmentation = NO_AUGMENTATION
    real_batch: PositiveInt = 128
    patience: PositiveInt = 2

    def __call__(
        self, student: nn.Module, optimizer: Optimizer, real: Source, syn: SyntheticSet, rng: torch.Generator
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


@final
@dataclass(frozen=True, kw_only=True)
class OnBatch(Checked):
    """Train for one step on some random items of the synthetic set as it is now.

    Attributes:
        batch_size: Items of the step.
        augmentation: Augmentation with numbers of its own for each item.
        loss: Loss, summed over the batch; the step descends its mean.
    """

    batch_size: PositiveInt = 256
    augmentation: Augmentation = NO_AUGMENTATION
    loss: Loss = soft_cross_entropy

    def __call__(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        real: Source,  # noqa: ARG002
        syn: SyntheticSet,
        rng: torch.Generator,
    ) -> None:
        """Train `student` in place."""
        with torch.no_grad():
            x, y = syn.mixed(self.batch_size, derive(rng, "images"))
        draw = self.augmentation.per_image(len(x), derive(rng, "augmentation"))
        gradient_step(student, optimizer, Batch(draw(x), y), self.loss)


@dataclass(frozen=True, kw_only=True)
class OnReal(Checked):
    """Train for some steps on real images.

    Attributes:
        steps: Optimizer steps.
        batch_size: Images of one step.
        augmentation: Augmentation with numbers of its own for each image.
        mix: Probability that a batch is mixed by CutMix.
    """

    steps: NonNegativeInt
    batch_size: PositiveInt = 256
    augmentation: Augmentation = NO_AUGMENTATION
    mix: Fraction = 0.0

    def __call__(
        self,
        student: nn.Module,
        optimizer: Optimizer,
        real: Source,
        syn: SyntheticSet,  # noqa: ARG002
        rng: torch.Generator,
    ) -> None:
        """Train `student` in place."""
        self.on(student, optimizer, real, rng)

    def on(self, student: nn.Module, optimizer: Optimizer, real: Source, rng: torch.Generator) -> None:
        """Train a network in place, where there is no synthetic set.

        Args:
            student: Network to train.
            optimizer: Optimizer of its parameters.
            real: Source of the batches.
            rng: Root of batches, augmentation and CutMix.
        """
        for i in range(self.steps):
            x, y = real.mixed(self.batch_size, derive(rng, "real", i))
            draw = self.augmentation.per_image(len(x), derive(rng, "augmentation", i))
            mixed = cutmix(draw(x), y, self.mix, derive(rng, "mix", i))
            gradient_step(student, optimizer, Batch(*mixed))
