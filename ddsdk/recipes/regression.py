"""Base class of the kernel-regression family: label regression, its optimizer, and the evaluation of FRePo."""

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

    from ddsdk.recipes.signature import Generator, Optimizer, RealData, SyntheticSet, TrainingProtocol
    from ddsdk.synthetic import LearnedScale


_EVALUATION_STEPS = ((10, 1000), (100, 2000), (200, 20_000), (500, 5000), (1000, 10_000), (2000, 40_000))
"""Pairs (smallest number of images, training steps) of the evaluation in FRePo's code."""


@dataclass(frozen=True, kw_only=True)
class LabelRegression(IterativeRecipe):
    """Images and centred labels from which ridge regression predicts the labels of real images.

    Attributes:
        steps: Image steps, each on one batch of real images.
        real_batch: Real images in one step.
        image_lr: Learning rate of the images (Adam).
        label_lr: Learning rate of the labels (Adam).
        learn_labels: Whether the labels are learned with the images; fixed labels are centred one-hot rows.
        ridge: Ridge added to the diagonal of the Gram matrix, as a multiple of the mean of the diagonal.
        start: Initialisation of the images: noise, real, k-means, means or herding.
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
        """Return plain pixels with the labels label_scale (one-hot - 1/K), learned if `learn_labels`."""
        images = start_images(real, self.ipc, self.start, rng)
        k = real.num_classes
        rows = synthetic.centred_labels(synthetic.class_slots(k, self.ipc), k, label_scale)
        labels = synthetic.FreeLabels(rows) if self.learn_labels else synthetic.FixedLabels(rows, space="scores")
        return class_set(real, self.ipc, synthetic.Pixels(images), labels, scale=scale)

    @final
    def adam(self, scale_lr: float = 1.0) -> Callable[[SyntheticSet], Optimizer]:
        """Return the factory of Adam with separate learning rates for images, labels and the learned scale."""
        return partial(adam_by_kind, image_lr=self.image_lr, label_lr=self.label_lr, scale_lr=scale_lr)

    @final
    @property
    def share(self) -> training.Ridge:
        """Ridge relative to the trace of the Gram matrix."""
        return training.Ridge(rule="trace", strength=self.ridge)


def mild_augmentation(real: RealData, given: str | None, *, color: bool = True) -> str:
    """Return the augmentation `given`, or if it is None the operations of FRePo that suit the data.

    Args:
        real: Real data to be augmented. Data that is not made of pictures gets no operation.
        given: Operations joined by "_"; empty for none, None for those of FRePo.
        color: Whether grey images get the changes of brightness and contrast; colour images always do.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.recipes import mild_augmentation
        >>> mild_augmentation(ddsdk.load("digits"), None)
        'jitter_zoom_rotate_translate_quarter-cutout'
    """
    # The authors flip colour images alone.
    colours = "flip_jitter_" if real.image_shape[0] > 1 else "jitter_" if color else ""
    return augmentation_for(real, given, f"{colours}zoom_rotate_translate_quarter-cutout")


def regression_protocol(
    images: int, *, augmentation: str, lr: float = 3e-4, steps: int | None = None, batch: int = 500
) -> TrainingProtocol:
    """Return the evaluation protocol of FRePo for a set of `images` images with centred labels.

    ConvNets without normalisation, whose width doubles from 128 to 512, start with LeCun's weights. They minimise half
    the squared error with Adam. The learning rate rises in 500 steps and then falls to a
    hundredth of its value along a cosine. Training takes 1000 to 40 000 steps, depending on the number of images.

    Args:
        images: Number of images in the set.
        augmentation: Operations joined by "_", of which each batch gets one; empty for none.
        lr: Largest learning rate of the schedule.
        steps: Training steps. None for the number in FRePo's code.
        batch: Largest number of images in one step.
    """
    batch = min(images, batch)
    if steps is None:
        steps = [s for n, s in _EVALUATION_STEPS if n <= max(images, _EVALUATION_STEPS[0][0])][-1]
    return training.TrainingProtocol(
        name="regression",
        network_options={"width": 128, "norm": "none", "doubling": True, "init": "lecun-normal"},
        networks=5,
        epochs=math.ceil(steps / math.ceil(images / batch)),
        batch_size=batch,
        lr=lr,
        weight_decay=0.0,
        decay_at=(),
        decay=0.01,
        augmentation=augmentation,
        loss="mse",
        optimizer="adam",
        schedule="cosine",
        warm_up=500 / steps,
    )
