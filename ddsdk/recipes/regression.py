"""The frame that the kernel regression family shares: scored sets, Adam for each kind of number, the evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

from ddsdk import synthetic, training
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt
from ddsdk.recipes.base import IterativeRecipe
from ddsdk.recipes.parts import adam_by_kind, augmentation_for, class_set, start_images

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddsdk.recipes.signature import Evaluation, Generator, Optimizer, RealData, SyntheticSet
    from ddsdk.synthetic import LearnedScale


_STEPS = ((10, 1000), (100, 2000), (200, 20_000), (500, 5000), (1000, 10_000), (2000, 40_000))
"""From so many images on, FRePo's code trains for so many steps."""


@dataclass(frozen=True, kw_only=True)
class LabelRegression(IterativeRecipe):
    """Images and centred labels from which ridge regression predicts the labels of real images.

    Attributes:
        steps: Image steps.
        real_batch: Real images of one step.
        image_lr: Learning rate of the images (Adam).
        label_lr: Learning rate of the labels.
        learn_labels: Whether labels are trained with the images; otherwise they stay centred one-hot rows.
        ridge: Amount on the diagonal of the Gram matrix, in units of the diagonal's mean.
        start: Start of the images: noise, real, k-means, means or herding.
    """

    steps: PositiveInt = 1000
    real_batch: PositiveInt = 200
    image_lr: PositiveFloat = 0.01
    label_lr: PositiveFloat = 0.01
    learn_labels: bool = True
    ridge: NonNegativeFloat = 1e-6
    start: str = "real"

    @final
    def scored_set(
        self, real: RealData, rng: Generator, *, label_scale: float = 1.0, scale: LearnedScale | None = None
    ) -> SyntheticSet:
        """Return plain pixels with labels label_scale (one-hot - 1/K), learned or not."""
        images = start_images(real, self.ipc, self.start, rng)
        k = real.num_classes
        rows = synthetic.centred_labels(synthetic.class_slots(k, self.ipc), k, label_scale)
        labels = synthetic.FreeLabels(rows) if self.learn_labels else synthetic.FixedLabels(rows, space="scores")
        return class_set(real, self.ipc, synthetic.Pixels(images), labels, scale=scale)

    @final
    def adam(self, scale_lr: float = 1.0) -> Callable[[SyntheticSet], Optimizer]:
        """Return the factory of Adam with a learning rate for each of images, labels and scale."""
        return partial(adam_by_kind, image_lr=self.image_lr, label_lr=self.label_lr, scale_lr=scale_lr)

    @final
    @property
    def share(self) -> training.Ridge:
        """The ridge, as a share of the trace."""
        return training.Ridge(rule="trace", strength=self.ridge)


def regression_protocol(real: RealData, images: int, *, augmentation: str | None = None) -> Evaluation:
    """Return FRePo's protocol for a set of so many images with centred labels.

    Networks without normalisation, half the squared error, Adam with a rate of 3e-4 after a warm-up of 500 steps and
    along a cosine to a hundredth of it, 1000 to 40 000 steps on batches of at most 500, one random operation a batch.
    The network is the ConvNet of width 128; the paper's doubles its width in each block, from 128 to 512. None for the
    augmentation takes the operations that suit the data.
    """
    batch = min(images, 500)
    steps = [s for n, s in _STEPS if n <= max(images, _STEPS[0][0])][-1]
    return training.Evaluation(
        protocol="regression",
        network_options={"width": 128, "norm": "none"},
        networks=5,
        epochs=math.ceil(steps / math.ceil(images / batch)),
        batch_size=batch,
        lr=3e-4,
        weight_decay=0.0,
        decay_at=(),
        decay=0.01,
        augmentation=augmentation_for(real, augmentation),
        loss="mse",
        optimizer="adam",
        schedule="cosine",
        warm_up=500 / steps,
    )
