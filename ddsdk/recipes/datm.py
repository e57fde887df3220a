"""DATM: difficulty-aligned trajectory matching."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import foundation, students, synthetic
from ddsdk.foundation import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ddsdk.recipes.parts import class_set
from ddsdk.recipes.trajectory import Points, TrajectoryMatching

if TYPE_CHECKING:
    from ddsdk.recipes.signature import ExpertSegment, Generator, MakeStudent, Plan, RealData, SyntheticSet, TrainedRuns


@final
@dataclass(frozen=True, kw_only=True)
class DATM(TrajectoryMatching):
    """Difficulty-aligned trajectory matching: small sets match early epochs of the experts, large sets late ones.

    Early epochs hold easy patterns, which are all that a small set can store; a large set gains nothing from them. The
    epoch at which a student starts is drawn from a window that depends on the number of images, and whose upper end
    grows during the run. Labels are learned with the images. The set starts as real images that an expert classifies
    correctly, with the mean logits of the experts that classify them correctly. All else is FTD.

    Attributes:
        min_start: First expert epoch at which a student may start; None for the published epoch.
        early_max_start: Value of `max_start` at the first step, from which it grows linearly until the last step. None
            for the published epoch.
        label_lr: Learning rate of the label logits (SGD with momentum 0.9); None for the published one.
        skip_above: Loss above which a step changes nothing and is only counted. None for the published 1, or 1.1 at 1
            image per class.
        average: Decay of the moving average of all stored tensors. None for the published decay, adapted so that the
            initial images keep as much weight after `steps` as after 10000.

    Differences from the published algorithm: those of FTD. A class of which the expert classifies fewer than `ipc`
    images correctly is filled up with random images. An image that no expert classifies correctly starts with the
    probability 0.9 for its class.

    References:
        Guo, Wang, Cazenavette, Li, Zhang and You, "Towards Lossless Dataset Distillation via Difficulty-Aligned
        Trajectory Matching", ICLR 2024, arXiv:2310.05773.

    Examples:
        >>> import ddsdk, os
        >>> _ = os.environ.setdefault("DDSDK_CACHE", "cache")  # folder of the experts
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.DATM(ipc=1, steps=1, student_steps=2, experts=1, expert_epochs=2)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (10, 1, 8, 8)
    """

    name: ClassVar[str] = "datm"
    needs = ("second derivatives",)
    # Published for CIFAR-10 at 1, 10, 50, 500 and 1000 images per class.
    values: ClassVar[Mapping[str, Points]] = {
        "student_steps": {10: 80, 500: 80, 5000: 40, 10_000: 100},
        "min_start": {500: 0, 5000: 40},
        "early_max_start": {10: 4, 100: 10, 500: 20, 5000: 60},
        "max_start": {10: 4, 100: 20, 500: 40, 5000: 60},
        "image_lr": {10: 100, 100: 100, 500: 1000, 5000: 50},
        "rate_lr": {10: 1e-7, 100: 1e-5},
        "student_lr": {10: 0.01},
        "label_lr": {10: 5, 100: 2, 500: 2, 5000: 10},
        "average": {10: 0.995, 100: 0.9995, 500: 0.995},
    }
    steps: PositiveInt = 10_000
    expert_epochs: PositiveInt = 100
    sharpness: NonNegativeFloat = 0.01
    min_start: NonNegativeInt | None = None
    early_max_start: PositiveInt | None = None
    label_lr: PositiveFloat | None = None

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[ExpertSegment]:
        """Return the plan of FTD with a window of start epochs, learned labels and a bound on the loss."""
        runs = self.runs(real, make_student=make_student, rng=rng)
        syn = self._initial_set(real, runs, rng)
        plan = self.matching(real, syn, self._window(real, runs), label_lr=self.value("label_lr", real))
        average = self.derived_average(real, 10_000)
        return dataclasses.replace(plan, average=average, skip_above=1.1 if self.ipc == 1 else 1.0)

    def _window(self, real: RealData, runs: TrainedRuns) -> students.ExpertStudents:
        """Return the supply of expert segments; published bounds of the window are adapted to explicit ones."""
        last = self.start_bound(real)
        early = min(round(self.value("early_max_start", real)), last)
        first = round(self.value("min_start", real))
        first = min(first, early - 1) if self.min_start is None else first
        growth = students.StartEpochSchedule(max(early, first + 1), self.steps)
        return students.ExpertStudents(runs, span=self.expert_span, first=first, last=last, growth=growth)

    def _initial_set(self, real: RealData, runs: TrainedRuns, rng: Generator) -> SyntheticSet:
        """Return real images that the first expert classifies correctly, with learned soft labels and learning rate."""
        synthetic.check_ipc(real, self.ipc)
        correct = students.correctly_classified_images(runs.network(0), real, self.ipc, foundation.derive(rng, "start"))
        batch = real.batch(correct)
        labels = synthetic.LearnedLabels(students.expert_logits(runs, batch))
        return class_set(real, self.ipc, synthetic.Pixels(batch.x), labels, self.learned_rate(real))
