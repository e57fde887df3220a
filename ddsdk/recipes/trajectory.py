"""The frame that MTT and those after it share: students follow experts that were trained on the real data."""

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
from ddsdk.recipes.parts import augmentation_for, hard_set, start_images

if TYPE_CHECKING:
    from ddsdk.recipes.signature import ExpertSpan, Generator, MakeStudent, Optimizer, Plan, RealData, SyntheticSet


Points = Mapping[int, float]
"""Number of synthetic images to a value that was published for it."""

# CIFAR-10 at 1, 10 and 50 images per class. CIFAR-100 at 1 image per class has max_start and rate_lr of its 100 images.
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
    """Return the value at `images`, linear over the logarithm of the number of images, and flat beyond the ends.

    Values that span more than a factor of 5 are interpolated by their logarithms.
    """
    known = sorted(points.items())
    images = min(max(images, known[0][0]), known[-1][0])
    if images in points:
        return float(points[images])
    for (a, low), (b, high) in pairwise(known):
        if images <= b:
            share = math.log(images / a) / math.log(b / a)
            if low > 0 and high > 0 and not 1 / 5 <= low / high <= 5:
                return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
            return low + share * (high - low)
    raise AssertionError("images lie between the ends")


@dataclass(frozen=True, kw_only=True)
class TrajectoryMatching(AugmentedRecipe):
    """Students that train on the set follow experts that trained on the real data.

    The first run on some data trains the experts, which takes most of the time and of the disk: each is a file in
    the user's cache, and later runs and other recipes find it there. None in place of a number takes the published
    one for CIFAR-10, interpolated over the number of synthetic images.

    Attributes:
        steps: Image steps.
        student_steps: Steps of a student on the set, N.
        expert_span: Epochs of an expert that a student has to make up for in these steps, M.
        max_start: Epoch of an expert below which a student starts.
        batch_size: Images of one step of a student; None takes all up to 1000. Memory grows with it.
        experts: Networks that are trained on the real data.
        expert_epochs: Epochs of their training, with a snapshot after each.
        expert_images: Real images of each class for an expert; None for all. Fewer make shorter epochs.
        expert_lr: Learning rate of the experts (SGD without momentum).
        sharpness: Radius of the experts' sharpness-aware steps; 0 for plain ones.
        surrogate: Weight of their surrogate-gap term.
        image_lr: Learning rate of the images (SGD); None scales the published one by the number of pixels.
        image_momentum: Momentum of images and learned rate.
        student_lr: Learning rate of the students at the start; it is learned with the images.
        rate_lr: Learning rate of that learning rate.
    """

    values: ClassVar[Mapping[str, Points]]
    """Published values, by field."""

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
        """Check that a stretch fits into a trajectory."""
        longest = self.expert_epochs
        require(self.expert_span <= longest, "expert_span", f"not exceed {longest} expert_epochs", self.expert_span)
        if self.max_start is not None:
            latest = self._latest
            require(self.max_start <= latest, "max_start", f"be at most {latest}, to end in time", self.max_start)

    @property
    def _latest(self) -> int:
        """The first epoch at which no stretch may start."""
        return self.expert_epochs - self.expert_span + 1

    @final
    def value(self, name: str, real: RealData) -> float:
        """Return the field `name`, or the published value for so many images if it is None."""
        given = getattr(self, name)
        return between(self.values[name], self.ipc * real.num_classes) if given is None else float(given)

    @final
    def start_bound(self, real: RealData) -> int:
        """Return the epoch below which students start: the published one, or what the experts have."""
        return min(round(self.value("max_start", real)), self._latest)

    @final
    def derived_average(self, real: RealData, published_steps: int) -> float:
        """Return the decay that leaves as much of the start in the average after `steps` as the paper's run did."""
        published = between(self.values["average"], self.ipc * real.num_classes)
        return float(published ** (published_steps / self.steps))

    @final
    def runs(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> students.TrainedRuns:
        """Return the experts; none is trained before it is needed."""
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
    ) -> Plan[ExpertSpan]:
        """Return the plan that all of these recipes start from.

        Args:
            real: Real data.
            syn: Set with a learned rate.
            supply: Supply of the stretches that are followed.
            unroll: Gradient through the training of a student; None for the exact one.
            label_lr: Learning rate of the labels, where they are learned.
        """
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
            knobs="image_lr, rate_lr or student_lr",
        )

    @final
    def learned_rate(self, real: RealData, low: float = 1e-4) -> synthetic.LearnedRate:
        """Return the learned rate of students at its start."""
        start = self.value("student_lr", real)
        return synthetic.LearnedRate(start, low=min(low, start), high=max(1.0, start))


@dataclass(frozen=True, kw_only=True)
class FromPixels(TrajectoryMatching):
    """Trajectory matching of plain pixels with hard labels and a learned rate.

    Attributes:
        start: Start of the images: noise, real, k-means, means or herding.
    """

    start: str = "real"

    @final
    def followed(
        self, real: RealData, make_student: MakeStudent, rng: Generator, unroll: training.Unroll | None = None
    ) -> Plan[ExpertSpan]:
        """Return MTT's plan, with another gradient through the training of a student if `unroll` is given."""
        runs = self.runs(real, make_student=make_student, rng=rng)
        experts = students.ExpertStudents(runs, span=self.expert_span, last=self.start_bound(real))
        images = start_images(real, self.ipc, self.start, rng)
        syn = hard_set(real, self.ipc, synthetic.Pixels(images), self.learned_rate(real))
        return self.matching(real, syn, experts, unroll=unroll)


def sgd_by_kind(syn: SyntheticSet, *, image_lr: float, rate_lr: float, label_lr: float, momentum: float) -> Optimizer:
    """Return SGD with a learning rate for each of images, labels and learned rate; labels have a momentum of 0.9."""
    from torch.optim import SGD

    kinds = ((syn.parametrization, image_lr, momentum), (syn.labels, label_lr, 0.9), (syn.rate, rate_lr, momentum))
    groups = [
        {"params": list(module.parameters()), "lr": lr, "momentum": m} for module, lr, m in kinds if module is not None
    ]
    return SGD([group for group in groups if group["params"]])
