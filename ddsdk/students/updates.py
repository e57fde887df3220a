"""Training of students between two distillation steps, on the synthetic set or on real data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from ddsdk.data import NO_AUGMENTATION, Augmentation, Batch, Source, cutmix
from ddsdk.foundation import CheckedDataclass, Fraction, NonNegativeInt, PositiveInt, derive
from ddsdk.networks import uses_batch_statistics
from ddsdk.synthetic import SyntheticSet
from ddsdk.training import Loss, epoch, gradient_step, micro_batch, pieces, soft_cross_entropy

StudentUpdate = Callable[[nn.Module, Optimizer, Source, SyntheticSet, torch.Generator], None]
"""`(student, optimizer, real, syn, rng)`: function that trains the student in place."""


@dataclass(frozen=True, kw_only=True)
class TrainOnSynthetic(CheckedDataclass):
    """Training of a student for some epochs on the synthetic set of the present step.

    Attributes:
        epochs: Number of passes over the set.
        batch_size: Images in one training step.
        augmentation: Augmentation with different random numbers for each image.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.students import AlternatingStudents, TrainOnSynthetic
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> supply = AlternatingStudents(make_student, TrainOnSynthetic(epochs=2), period=10)
        >>> swap = lambda plan: dataclasses.replace(plan, students=supply)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
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
        """Train the student in place."""
        decoded, join_single = syn.detached(derive(rng, "decode")), uses_batch_statistics(student)
        for i in range(self.epochs):
            for batch in epoch(
                decoded, self.batch_size, self.augmentation, derive(rng, "epoch", i), join_single=join_single
            ):
                gradient_step(student, optimizer, batch)


@final
@dataclass(frozen=True, kw_only=True)
class EarlyStoppingUpdate(CheckedDataclass):
    """Training of a student on the synthetic set with early stopping by the loss on real images.

    Gradients of a student that has overfitted a few synthetic images are near zero and useless for gradient matching.
    The mean cross-entropy on one batch of real images is computed after every epoch. Training stops after `patience`
    epochs in a row without a new lowest value; the student keeps the weights of the last epoch.

    Attributes:
        epochs: Largest number of passes over the set.
        batch_size: Images in one training step.
        augmentation: Augmentation with different random numbers for each image.
        real_batch: Number of real images, of random classes, in that batch.
        patience: Number of epochs without a new lowest loss after which training stops.

    Cost: in addition to the training, one forward pass over `real_batch` images for each epoch.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.students import AlternatingStudents, EarlyStoppingUpdate
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> supply = AlternatingStudents(make_student, EarlyStoppingUpdate(epochs=3), period=10)
        >>> swap = lambda plan: dataclasses.replace(plan, students=supply)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
    """

    epochs: NonNegativeInt
    batch_size: PositiveInt = 256
    augmentation: Augmentation = NO_AUGMENTATION
    real_batch: PositiveInt = 128
    patience: PositiveInt = 2

    def __call__(
        self, student: nn.Module, optimizer: Optimizer, real: Source, syn: SyntheticSet, rng: torch.Generator
    ) -> None:
        """Train the student in place."""
        decoded, join_single = syn.detached(derive(rng, "decode")), uses_batch_statistics(student)
        real_batch = real.mixed(self.real_batch, derive(rng, "real"))
        lowest, epochs_since = _loss(student, real_batch), 0
        for i in range(self.epochs):
            for batch in epoch(
                decoded, self.batch_size, self.augmentation, derive(rng, "epoch", i), join_single=join_single
            ):
                gradient_step(student, optimizer, batch)
            loss = _loss(student, real_batch)
            lowest, epochs_since = (loss, 0) if loss < lowest else (lowest, epochs_since + 1)
            if epochs_since == self.patience:
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
class TrainOnBatch(CheckedDataclass):
    """Training of a student for one step on a random batch of the synthetic set of the present step.

    Attributes:
        batch_size: Number of images in the batch.
        augmentation: Augmentation with different random numbers for each image.
        loss: Loss, summed over the batch; the step minimises its mean.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.students import AlternatingStudents, TrainOnBatch
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> supply = AlternatingStudents(make_student, TrainOnBatch(batch_size=5), period=10)
        >>> swap = lambda plan: dataclasses.replace(plan, students=supply)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
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
        """Train the student in place."""
        with torch.no_grad():
            x, y = syn.mixed(self.batch_size, derive(rng, "images"))
        draw = self.augmentation.per_image(len(x), derive(rng, "augmentation"))
        gradient_step(student, optimizer, Batch(draw(x), y), self.loss)


@dataclass(frozen=True, kw_only=True)
class TrainOnReal(CheckedDataclass):
    """Training of a student for some steps on real images.

    Attributes:
        steps: Number of optimizer steps.
        batch_size: Images in one training step.
        augmentation: Augmentation with different random numbers for each image.
        mix: Probability, 0..1, that a batch is mixed by CutMix.

    Examples:
        >>> import ddsdk, torch
        >>> student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)(ddsdk.generator(0))
        >>> optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
        >>> ddsdk.students.TrainOnReal(steps=2).on(student, optimizer, ddsdk.load("digits"), ddsdk.generator(1))
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
        """Train the student in place."""
        self.on(student, optimizer, real, rng)

    def on(self, student: nn.Module, optimizer: Optimizer, real: Source, rng: torch.Generator) -> None:
        """Train a network in place, without a synthetic set.

        Args:
            student: Network that is trained in place.
            optimizer: Optimizer of its parameters.
            real: Source of the real batches.
            rng: Root of the batches, the augmentation and CutMix.
        """
        for i in range(self.steps):
            x, y = real.mixed(self.batch_size, derive(rng, "real", i))
            draw = self.augmentation.per_image(len(x), derive(rng, "augmentation", i))
            mixed = cutmix(draw(x), y, self.mix, derive(rng, "mix", i))
            gradient_step(student, optimizer, Batch(*mixed))
