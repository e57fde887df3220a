"""The base class of IDC, DREAM and Acc-DD: gradient matching of tiled canvases under students trained on real data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import data, objectives, running, students, training
from ddsdk.foundation import Fraction, Momentum, NonNegativeInt, PositiveFloat, PositiveInt, require
from ddsdk.recipes.base import IterativeRecipe
from ddsdk.recipes.parts import augmentation_for, multiformation_set, sgd_on_images, unit_rate

if TYPE_CHECKING:
    from ddsdk.objectives import RealSampler
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData, TrainingProtocol


_GREY_IMAGES, _COLOUR_IMAGES = 500, 2000
"""Real images on which a network trains between two sweeps, as published for 28x28 and 32x32 data."""

_PIXELS = 32 * 32
_METRICS = ("l1", "mse")


@dataclass(frozen=True, kw_only=True)
class TiledGradientMatching(IterativeRecipe):
    """Gradient matching of multi-formation canvases, one class per step, under students trained on real data.

    A sweep is one step for each class. A network trains on real images after each sweep, and is replaced after
    `steps_per_student` sweeps.

    Attributes:
        steps: Image steps, each of which updates one class. None for the published number of networks times
            `steps_per_student` times the number of classes.
        steps_per_student: Sweeps over the classes before a network is replaced.
        student_steps: SGD steps of a network on real images between two sweeps. None for as many as the published 500
            images (grey data) or 2000 images (colour data) make batches.
        student_lr: Learning rate of the networks (SGD with momentum 0.9 and weight decay 5e-4).
        image_lr: Learning rate of the images (SGD), for images in the unit range. None for the published rate of the
            metric, times ipc/10 and the pixels of an image relative to 32x32.
        image_momentum: Momentum of the SGD on the images.
        real_batch: Real images of the class in one image step, and batch size of the networks' training.
        synthetic_images: Largest number of decoded images of the class in one image step.
        factor: Tiles along each side of a canvas. None for 2, or fewer for images of less than 2 pixels per side.
        metric: Distance of gradients, l1 (sum of absolute differences) or mse (sum of squared differences). None for l1
            on grey images and mse on colour images.
        mix: Probability of CutMix in the training of the networks.
        start: Initialisation of the tiles: noise, real, k-means, means or herding.
        augmentation: Operations of the matching, see `ddsdk.Augmentation`; empty for no augmentation, also in the
            evaluation. The networks train on real data with the same operations except cutout.
    """

    published_students: ClassVar[int] = 2000
    rates: ClassVar[dict[str, float]] = {"l1": 1e-4, "mse": 5e-3}
    steps: PositiveInt | None = None
    steps_per_student: PositiveInt = 100
    student_steps: NonNegativeInt | None = None
    student_lr: PositiveFloat = 0.01
    image_lr: PositiveFloat | None = None
    image_momentum: Momentum = 0.5
    real_batch: PositiveInt = 64
    synthetic_images: PositiveInt = 128
    factor: PositiveInt | None = None
    metric: str | None = None
    mix: Fraction = 0.5
    start: str = "real"
    augmentation: str = "color+crop+cutout"

    def check(self) -> None:
        """Check that the gradient metric is known."""
        require(self.metric in (None, *_METRICS), "metric", f"be one of {', '.join(_METRICS)}", self.metric)

    @final
    def sweeps(
        self, real: RealData, *, make_student: MakeStudent, rng: Generator, sample: RealSampler | None = None
    ) -> Plan[Module]:
        """Return the plan of IDC.

        Args:
            real: Real data to distil.
            make_student: Factory of the networks under which gradients are matched.
            rng: Root generator of the initial images, not advanced.
            sample: Choice of the real images of each step. None for random images.
        """
        classes = real.num_classes
        metric = self.metric or ("l1" if real.image_shape[0] == 1 else "mse")
        pixels = math.prod(real.image_shape[1:]) / _PIXELS
        rate = self.image_lr or self.rates[metric] * self.ipc / 10 * pixels
        factor = self.factor or min(2, *real.image_shape[1:])
        matches = [
            objectives.ClassMatch(
                byproduct=objectives.body_gradients,
                distance=objectives.absolute if metric == "l1" else objectives.squared,
                real_batch=self.real_batch,
                synthetic_batch=max(1, self.synthetic_images // factor**2),
                augmentation=data.Augmentation(self.augmentation),
                sample=objectives.random_images if sample is None else sample,
                classes=(c,),
            )
            for c in range(classes)
        ]
        return running.Plan(
            syn=multiformation_set(real, self.ipc, factor, self.start, rng, shrink="nearest"),
            objective=running.ObjectiveSchedule(lambda step: matches[step % classes]),
            students=students.AlternatingStudents(
                make_student,
                self._update(real),
                period=self.steps_per_student * classes,
                every=classes,
                lr=self.student_lr,
                momentum=0.9,
                weight_decay=5e-4,
            ),
            make_optimizer=partial(sgd_on_images, lr=unit_rate(real, rate), momentum=self.image_momentum),
            steps=self.steps or self.published_students * self.steps_per_student * classes,
            # The trial that measures time then covers the first training of the network between sweeps.
            trial=classes + 1,
        )

    @final
    def _update(self, real: RealData) -> students.TrainOnReal:
        images = min(len(real), _GREY_IMAGES if real.image_shape[0] == 1 else _COLOUR_IMAGES)
        return students.TrainOnReal(
            steps=math.ceil(images / self.real_batch) if self.student_steps is None else self.student_steps,
            batch_size=self.real_batch,
            augmentation=data.Augmentation(without("cutout", self.augmentation)),
            mix=self.mix,
        )

    @final
    def protocol(self, real: RealData) -> TrainingProtocol:
        """Return the evaluation protocol of IDC: batches of 64, two rate decays, CutMix, and DSA without cutout.

        Colour and, where the data is mirror-safe, flip are always applied, with one of crop, scale and rotate.
        """
        alternatives = ("crop", "scale", "rotate")
        suitable = [op for op in augmentation_for(real, None).split("_") if op != "cutout"]
        always = [op for op in suitable if op not in alternatives]
        return training.TrainingProtocol(
            name="idc",
            network_options={"width": 128},
            epochs=1000,
            batch_size=64,
            decay_at=(2 / 3, 5 / 6),
            decay=0.2,
            augmentation="+".join([*always, "_".join(alternatives)]) if self.augmentation else "",
            mix=self.mix,
        )


def without(operation: str, strategy: str) -> str:
    """Return the augmentation `strategy` without `operation`."""
    groups = ([name for name in group.split("_") if name != operation] for group in strategy.split("+"))
    return "+".join("_".join(group) for group in groups if group)
