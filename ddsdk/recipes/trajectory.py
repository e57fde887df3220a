"""Base classes of trajectory matching: students on the set follow experts that were trained on the real data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import foundation, objectives, running, students, synthetic, training
from ddsdk.foundation import Momentum, NonNegativeFloat, PositiveFloat, PositiveInt, require
from ddsdk.recipes.base import AugmentedRecipe
from ddsdk.recipes.parts import augmentation_for, hard_label_set, start_images

if TYPE_CHECKING:
    from ddsdk.recipes.signature import ExpertSegment, Generator, MakeStudent, Optimizer, Plan, RealData, SyntheticSet


Points = Mapping[int, float]
"""Published values of a hyperparameter, by the number of synthetic images."""

# CIFAR-10 at 1, 10 and 50 images per class; max_start and rate_lr at 100 images are those of CIFAR-100 at 1 per class.
MTT_VALUES: dict[str, Points] = {
    "student_steps": {10: 50, 100: 30, 500: 30},
    "max_start": {10: 2, 100: 20, 500: 40},
    "image_lr": {10: 100, 100: 100, 500: 1000},
    "rate_lr": {10: 1e-7, 100: 1e-5, 500: 1e-5},
    "student_lr": {10: 0.01, 100: 0.001, 500: 0.01},
}
_LARGEST_BATCH = 1000
_PIXELS = 32 * 32


def between(points: Points, images: int) -> float:
    """Return the value at `images`, interpolated linearly in the logarithm of the number of images.

    Two values that differ by more than a factor of 5 are interpolated in their logarithm too. Beyond the published
    numbers of images the value stays constant.
    """
    published = sorted(points.items())
    images = min(max(images, published[0][0]), published[-1][0])
    if images in points:
        return float(points[images])
    (a, low), (b, high) = next(pair for pair in pairwise(published) if images <= pair[1][0])
    share = math.log(images / a) / math.log(b / a)
    if low > 0 and high > 0 and not 1 / 5 <= low / high <= 5:
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    return low + share * (high - low)


@dataclass(frozen=True, kw_only=True)
class TrajectoryMatching(AugmentedRecipe):
    """Matching of training trajectories: a student trained on the set should reach the weights of an expert.

    Experts are networks trained on the real data. The first run on a data set trains them, which takes most of the
    time and disk space. Each expert is one file in the user's cache folder, which later runs and other recipes reuse.

    Published values are those for CIFAR-10, interpolated over the number of synthetic images.

    Attributes:
        steps: Image steps, each of which follows one segment of one expert.
        student_steps: Steps of a student on the set, N; None for the published number.
        expert_span: Expert epochs that a student has to cover in its steps, M.
        max_start: Expert epoch below which a student starts; None for the published epoch.
        batch_size: Synthetic images of one student step. None for all, up to 1000. Memory grows with it.
        experts: Number of expert networks.
        expert_epochs: Training epochs of an expert; its weights are stored after each.
        expert_images: Real images per class in an expert's training; None for all. Fewer images make shorter epochs.
        expert_lr: Learning rate of the experts (SGD without momentum).
        sharpness: Radius of the experts' sharpness-aware steps; 0 for plain SGD steps.
        surrogate: Weight of the surrogate-gap term of the sharpness-aware steps.
        image_lr: Learning rate of the images (SGD). None for the published one, scaled by the pixels of an image.
        image_momentum: Momentum of the SGD on the images and on the learned learning rate.
        student_lr: Initial value of the students' learned learning rate; None for the published one.
        rate_lr: Learning rate of the learned learning rate; None for the published one.
    """

    values: ClassVar[Mapping[str, Points]]
    """Published values by the name of their field."""
    training_fields = ("expert_images", "experts", "expert_epochs")

    steps: PositiveInt = 5000
    student_steps: PositiveInt | None = None
    expert_span: PositiveInt = 2
    max_start: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    experts: PositiveInt = 100
    expert_epochs: PositiveInt = 50
    expert_images: PositiveInt | None = None
    expert_lr: PositiveFloat = 0.01
    sharpness: NonNegativeFloat = 0.0
    surrogate: NonNegativeFloat = 0.3
    image_lr: PositiveFloat | None = None
    image_momentum: Momentum = 0.5
    student_lr: PositiveFloat | None = None
    rate_lr: PositiveFloat | None = None

    def check(self) -> None:
        """Check that the segments of a student fit into the trajectory of an expert."""
        longest = self.expert_epochs
        require(self.expert_span <= longest, "expert_span", f"not exceed {longest} expert_epochs", self.expert_span)
        if self.max_start is not None:
            latest = self._latest
            rule = f"be at most {latest} (expert_epochs - expert_span + 1)"
            require(self.max_start <= latest, "max_start", rule, self.max_start)

    @property
    def _latest(self) -> int:
        """Largest allowed `max_start`, so that every segment ends within the trajectory."""
        return self.expert_epochs - self.expert_span + 1

    @final
    def value(self, name: str, real: RealData) -> float:
        """Return the field `name`, or its published value for the number of synthetic images if the field is None."""
        requested = getattr(self, name)
        return between(self.values[name], self.ipc * real.num_classes) if requested is None else float(requested)

    @final
    def start_bound(self, real: RealData) -> int:
        """Return the expert epoch below which students start: `max_start`, or less for short trajectories."""
        return min(round(self.value("max_start", real)), self._latest)

    @final
    def runs(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> students.TrainedRuns:
        """Return the training runs of the experts; an expert is trained at its first use."""
        training = students.Training(
            epochs=self.expert_epochs,
            lr=self.expert_lr,
            augmentation=augmentation_for(real, self.augmentation),
            sharpness=self.sharpness,
            surrogate=self.surrogate,
            images=self.expert_images,
        )
        seed = foundation.derive(rng, "runs").initial_seed()
        return students.TrainedRuns(real, make_student, training, count=self.experts, seed=seed)

    @final
    def matching(
        self,
        real: RealData,
        syn: SyntheticSet,
        supply: students.ExpertStudents,
        *,
        unroll: training.Unroll | None = None,
        label_lr: float = 2.0,
    ) -> Plan[ExpertSegment]:
        """Return the plan of MTT over a given set.

        Args:
            real: Real data to distil.
            syn: Initial set with a learned learning rate.
            supply: Supply of random segments of the experts' trajectories.
            unroll: Gradient through the training of a student; None for the exact one at constant memory.
            label_lr: Learning rate of the labels, where the labels are learned.
        """
        # The published rates are those for images of 32 x 32 pixels.
        derived = self.value("image_lr", real) * math.prod(real.image_shape[1:]) / _PIXELS
        return running.Plan(
            syn=syn,
            objective=objectives.MatchTrajectory(
                steps=round(self.value("student_steps", real)),
                batch_size=_LARGEST_BATCH if self.batch_size is None else self.batch_size,
                augmentation=self.siamese(real),
                unroll=training.constant_memory if unroll is None else unroll,
            ),
            students=supply,
            make_optimizer=partial(
                sgd_by_kind,
                image_lr=derived if self.image_lr is None else self.image_lr,
                rate_lr=self.value("rate_lr", real),
                label_lr=label_lr,
                momentum=self.image_momentum,
            ),
            steps=self.steps,
            divergence_hint="image_lr, rate_lr or student_lr",
        )

    @final
    def learned_rate(self, real: RealData, low: float = 1e-4) -> synthetic.LearnedRate:
        """Return the students' learned learning rate at its initial value, with bounds `low` and 1."""
        start = self.value("student_lr", real)
        return synthetic.LearnedRate(start, low=min(low, start), high=max(1.0, start))


@dataclass(frozen=True, kw_only=True)
class FromPixels(TrajectoryMatching):
    """Trajectory matching of plain pixels with hard labels and a learned learning rate.

    Attributes:
        start: Initialisation of the images: noise, real, k-means, means or herding.
    """

    start: str = "real"

    @final
    def followed(
        self, real: RealData, make_student: MakeStudent, rng: Generator, unroll: training.Unroll | None = None
    ) -> Plan[ExpertSegment]:
        """Return the plan of MTT, with `unroll` as the gradient through a student's training if it is given."""
        runs = self.runs(real, make_student=make_student, rng=rng)
        experts = students.ExpertStudents(runs, span=self.expert_span, last=self.start_bound(real))
        images = start_images(real, self.ipc, self.start, rng)
        syn = hard_label_set(real, self.ipc, synthetic.Pixels(images), self.learned_rate(real))
        return self.matching(real, syn, experts, unroll=unroll)


def sgd_by_kind(syn: SyntheticSet, *, image_lr: float, rate_lr: float, label_lr: float, momentum: float) -> Optimizer:
    """Return an SGD optimizer with separate learning rates for images, labels and the learned learning rate.

    Images and learning rate have the momentum `momentum`, labels have 0.9.
    """
    from torch.optim import SGD

    kinds = ((syn.parametrization, image_lr, momentum), (syn.labels, label_lr, 0.9), (syn.rate, rate_lr, momentum))
    groups = [
        {"params": list(module.parameters()), "lr": lr, "momentum": m} for module, lr, m in kinds if module is not None
    ]
    return SGD([group for group in groups if group["params"]])
