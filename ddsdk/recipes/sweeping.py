"""The frame that IDC, DREAM and Acc-DD share: canvases that step class by class under students trained on real data."""

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
    from ddsdk.recipes.signature import Evaluation, Generator, MakeStudent, Module, Plan, RealData


_GREY, _COLOUR = 500, 2000
"""Real images on which a network trains between two sweeps, as published for 28x28 and 32x32 data."""

_METRICS = ("l1", "mse")


@dataclass(frozen=True, kw_only=True)
class Sweeping(IterativeRecipe):
    """Gradient matching of multi-formation canvases, one class at a step, under students trained on real data.

    A network serves for some sweeps over the classes and has a lesson on real images after each of them.

    Attributes:
        steps: Image steps, one class each; None takes the recipe's own number of networks.
        steps_per_student: Sweeps over the classes for which a network serves.
        student_steps: SGD steps of a network on real images between two sweeps; None takes the published 500 images
            of grey data and 2000 of colour.
        student_lr: Learning rate of the networks (SGD with momentum 0.9 and weight decay 5e-4).
        image_lr: Learning rate of the images (SGD), for images in the unit range. None takes the one that suits
            the metric, times ipc/10.
        image_momentum: Momentum of the images.
        real_batch: Real images of the class in one step, and of a step of the networks.
        synthetic_images: Largest number of decoded images of the class in one step.
        factor: Tiles along each side of a stored image; None takes 2, or less for tiny images.
        metric: Distance of gradients: l1 (sum of absolute differences) or mse (of squares). None takes l1 for grey
            images and mse for colour.
        mix: Probability of CutMix where networks train.
        start: Start of the tiles: noise, real, k-means, means or herding.
        augmentation: Operations for matching, see `ddsdk.Augmentation`; empty for none, in the evaluation too. Where
            networks train on real data, cutout is left out of them.
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
        """Check the metric."""
        require(self.metric in (None, *_METRICS), "metric", f"be one of {', '.join(_METRICS)}", self.metric)

    @final
    def sweeps(
        self, real: RealData, *, make_student: MakeStudent, rng: Generator, sample: RealSampler | None = None
    ) -> Plan[Module]:
        """Return the plan of IDC, with `sample` in place of random real images if it is given."""
        classes = real.num_classes
        metric = self.metric or ("l1" if real.image_shape[0] == 1 else "mse")
        rate = self.image_lr or self.rates[metric] * self.ipc / 10
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
            syn=multiformation_set(real, self.ipc, factor, self.start, rng),
            objective=running.Schedule(lambda step: matches[step % classes]),
            students=students.AlternatingStudents(
                make_student,
                self._lesson(real),
                period=self.steps_per_student * classes,
                every=classes,
                lr=self.student_lr,
                momentum=0.9,
                weight_decay=5e-4,
            ),
            make_optimizer=partial(sgd_on_images, lr=unit_rate(real, rate), momentum=self.image_momentum),
            steps=self.steps or self.published_students * self.steps_per_student * classes,
            trial=classes + 1,
        )

    @final
    def _lesson(self, real: RealData) -> students.OnReal:
        images = min(len(real), _GREY if real.image_shape[0] == 1 else _COLOUR)
        return students.OnReal(
            steps=math.ceil(images / self.real_batch) if self.student_steps is None else self.student_steps,
            batch_size=self.real_batch,
            augmentation=data.Augmentation(without("cutout", self.augmentation)),
            mix=self.mix,
        )

    @final
    def evaluation(self, real: RealData) -> Evaluation:
        """Return IDC's protocol: small batches, two decays, CutMix, and DSA without cutout.

        Colour and flip are always applied, and one of crop, scale and rotate; flip only where the data is mirror-safe.
        """
        drawn = ("crop", "scale", "rotate")
        known = [op for op in augmentation_for(real, None).split("_") if op != "cutout"]
        always = [op for op in known if op not in drawn]
        return training.Evaluation(
            protocol="idc",
            network_options={"width": 128},
            epochs=1000,
            batch_size=64,
            decay_at=(2 / 3, 5 / 6),
            decay=0.2,
            augmentation="+".join([*always, "_".join(drawn)]) if self.augmentation else "",
            mix=self.mix,
        )


def without(operation: str, strategy: str) -> str:
    """Return the augmentation `strategy` with `operation` taken out of its groups."""
    groups = ([name for name in group.split("_") if name != operation] for group in strategy.split("+"))
    return "+".join("_".join(group) for group in groups if group)
