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
    from ddsdk.recipes.signature import ExpertSpan, Generator, MakeStudent, Plan, RealData, SyntheticSet, TrainedRuns


@final
@dataclass(frozen=True, kw_only=True)
class DATM(TrajectoryMatching):
    """Difficulty-aligned trajectory matching: follow early epochs for small sets and late ones for large sets.

    Early epochs teach what is easy, and a small set has room for no more; a large set gains nothing from them. So the
    epoch at which a student starts comes from a window that depends on the number of images, and its upper end grows
    in the course of the run. Labels are learned with the images: the set starts as real images that an expert has
    right, with the mean logits of the experts that are right on each. Otherwise FTD.

    Attributes:
        min_start: First epoch of an expert at which a student may start. None takes the published one.
        early_max_start: `max_start` at the first step; it grows linearly until the last one. None takes the published
            one.
        label_lr: Learning rate of the label logits (SGD with momentum 0.9).
        skip_above: Loss above which a step is skipped. None takes the published 1, and 1.1 at 1 image per class.
        average: Decay of the average. None takes the published one, to the power that leaves as much of the start in a
            run of `steps` as in one of 10000.

    Differences from the published algorithm: those of FTD. A class of which the expert has fewer than `ipc` images
    right is filled up with random ones; an image that no expert has right starts with 0.9 on its class.

    References:
        Guo, Wang, Cazenavette, Li, Zhang and You, "Towards Lossless Dataset Distillation via Difficulty-Aligned
        Trajectory Matching", ICLR 2024, arXiv:2310.05773.
    """

    name: ClassVar[str] = "datm"
    # CIFAR-10 at 1, 10, 50, 500 and 1000 images per class.
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

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[ExpertSpan]:
        """Return FTD's plan with a window of epochs, learned labels and a bound on the distance."""
        runs = self.runs(real, make_student=make_student, rng=rng)
        syn = self._known_set(real, runs, rng)
        plan = self.matching(real, syn, self._window(real, runs), label_lr=self.value("label_lr", real))
        average = self.derived_average(real, 10_000)
        return dataclasses.replace(plan, average=average, skip_above=1.1 if self.ipc == 1 else 1.0)

    def _window(self, real: RealData, runs: TrainedRuns) -> students.ExpertStudents:
        """Return the supply; derived bounds give way to given ones."""
        last = self.start_bound(real)
        early = min(round(self.value("early_max_start", real)), last)
        first = round(self.value("min_start", real))
        first = min(first, early - 1) if self.min_start is None else first
        growth = students.Growth(max(early, first + 1), self.steps)
        return students.ExpertStudents(runs, span=self.expert_span, first=first, last=last, growth=growth)

    def _known_set(self, real: RealData, runs: TrainedRuns, rng: Generator) -> SyntheticSet:
        """Return real images that the first expert has right, with soft labels and a rate that are learned."""
        synthetic.check_ipc(real, self.ipc)
        known = students.known_images(runs.network(0), real, self.ipc, foundation.derive(rng, "start"))
        batch = real.batch(known)
        labels = synthetic.LearnedLabels(students.expert_logits(runs, batch))
        return class_set(real, self.ipc, synthetic.Pixels(batch.x), labels, self.learned_rate(real))
