"""LD: label distillation."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import data, foundation, objectives, running, students, synthetic, training
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt, require
from ddsdk.recipes.base import IterativeRecipe
from ddsdk.recipes.parts import adam_by_kind, class_set, classic_network, start_images

if TYPE_CHECKING:
    from ddsdk.artefact import Distilled
    from ddsdk.objectives import Objective
    from ddsdk.recipes.signature import Evaluation, Generator, MakeStudent, Module, Plan, RealData, SyntheticSet, Tensor


@final
@dataclass(frozen=True, kw_only=True)
class LD(IterativeRecipe):
    """Label distillation: real images that stay as they are, and soft labels that are learned for them.

    min_Y l(w - inner_lr grad l(w; X, Y); T) over rows Y on the simplex, with a student w that goes on learning (X, Y)
    by Adam between two steps and starts anew when its accuracy stops rising: one unrolled step, second order. With
    `ridge`, the second variant: min_Y CE(softmax(s P), y) on a real batch (T, y), where P is ridge regression on the
    student's features from (X, Y) to T; features are constants, so that it is of first order.

    Attributes:
        steps: Label steps; the paper's 400 epochs of 50 000 images are 19 600.
        label_lr: Learning rate of the labels (Adam).
        scale_lr: Learning rate of the logarithm of s, in the ridge variant.
        inner_lr: Learning rate of the unrolled step (SGD).
        student_lr: Learning rate of the student that goes on learning (Adam), and of networks at the evaluation.
        student_batch: Images of the set in one step of a student. None takes the paper's: half of them, at least 10.
        student_steps: Steps for which a student serves at most, and steps of networks at the evaluation.
        window: Checks of the student's accuracy that are averaged. None takes the paper's: 50 up to 100 images, 100 for
            more classes than that, 200 otherwise.
        check_batch: Real images of one check.
        real_batch: Real images of one step.
        ridge: Number r of ridge regression in the second variant; the paper has 1. None takes the first.
        start: Choice of the real images: real (random), k-means or herding. The paper's are random.

    A step is a few passes over the real batch: the defaults run on a CPU with a LeNet, best with `real_batch` 256.

    The accuracy is capped by the images. `across` learns labels for images of another data set.

    Differences from the published algorithm: the student's lesson between two steps is on a batch of its own; its
    accuracy is measured by itself on real images of its own, and not by the student after the unrolled step. Networks
    at the evaluation take `student_steps` steps, where the paper counts those of the last three students. The ridge
    variant fits the whole set in each step, and has no head that averages the solutions.

    References:
        Bohdal, Yang and Hospedales, "Flexible Dataset Distillation: Learn Labels Instead of Images", NeurIPS 2020
        workshop, arXiv:2006.08572.
    """

    name: ClassVar[str] = "ld"
    steps: PositiveInt = 20_000
    label_lr: PositiveFloat = 1e-3
    scale_lr: PositiveFloat = 0.01
    inner_lr: PositiveFloat = 0.01
    student_lr: PositiveFloat = 1e-3
    student_batch: PositiveInt | None = None
    student_steps: PositiveInt = 1000
    window: PositiveInt | None = None
    check_batch: PositiveInt = 256
    real_batch: PositiveInt = 1024
    ridge: NonNegativeFloat | None = None
    start: str = "k-means"

    def check(self) -> None:
        """Check that images are real."""
        require(self.start != "noise", "start", "choose real images", self.start)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return labels of chosen images under a student that goes on learning."""
        images = self.ipc * real.num_classes
        return running.Plan(
            syn=self._labelled(real, start_images(real, self.ipc, self.start, rng)),
            objective=self._objective(images, make_student, real),
            students=students.OnlineStudents(
                make_student,
                students.OnBatch(batch_size=self._batch(images)),
                students.accuracy_on(self.check_batch),
                window=self._window(real) if self.window is None else self.window,
                longest=self.student_steps,
                lr=self.student_lr,
            ),
            # Images that are swapped for learned ones move too.
            make_optimizer=partial(
                adam_by_kind, image_lr=self.label_lr, label_lr=self.label_lr, scale_lr=self.scale_lr
            ),
            steps=self.steps,
            knobs="label_lr",
        )

    def across(
        self, base: RealData, real: RealData, *, make_student: MakeStudent | None = None, seed: int | Generator = 0
    ) -> Distilled:
        """Learn labels of images of one data set that teach another one.

        Args:
            base: Source of ipc K random images, which get labels of the classes of `real`; its own labels are not read.
            real: Data that networks should learn, with K classes.
            make_student: Factory of the student networks, see `ddsdk.distill`.
            seed: Root of every random number, see `ddsdk.distill`.

        Raises:
            ValueError: If the images have another shape, or there are too few.
            DivergedError: If the loss stays non-finite.
        """
        from torch import arange

        rng = foundation.root(seed)
        wanted = self.ipc * real.num_classes
        require(base.image_shape == real.image_shape, "base", f"have shape {real.image_shape}", base.image_shape)
        require(len(base) >= wanted, "base", f"hold at least {wanted} images", len(base))
        chosen = data.choose(arange(len(base)), wanted, foundation.derive(rng, "base"))
        # Students see them as they see real images: in their value space.
        images = base.with_preprocess(real.preprocess).batch(chosen).x.to(real.device)

        def of_base(plan: Plan[Module]) -> Plan[Module]:
            return dataclasses.replace(plan, syn=self._labelled(real, images), finish=_by_label)

        made = running.distill(self, real, make_student=make_student, seed=rng, transform=of_base)
        return dataclasses.replace(made, provenance={**made.provenance, "base": base.description})

    def evaluation(self, real: RealData) -> Evaluation:
        """Return the paper's: a fresh LeNet, or AlexNet for colour, trained by Adam for as many steps as a student."""
        images = self.ipc * real.num_classes
        batch = self._batch(images)
        return training.Evaluation(
            protocol="ld",
            network=classic_network(real),
            epochs=math.ceil(self.student_steps / math.ceil(images / batch)),
            batch_size=batch,
            lr=self.student_lr,
            weight_decay=0.0,
            decay_at=(),
            optimizer="adam",
        )

    def _batch(self, images: int) -> int:
        return max(10, images // 2) if self.student_batch is None else self.student_batch

    def _window(self, real: RealData) -> int:
        if self.ipc * real.num_classes <= 100:
            return 50
        return 100 if real.num_classes >= 49 else 200

    def _labelled(self, real: RealData, images: Tensor) -> SyntheticSet:
        """Return fixed images with uniform labels."""
        from torch import full

        pixels = synthetic.Pixels(images).requires_grad_(False)
        labels = synthetic.SimplexLabels(full((len(images), real.num_classes), 1 / real.num_classes))
        scale = None if self.ridge is None else synthetic.LearnedScale()
        return class_set(real, self.ipc, pixels, labels, scale=scale)

    def _objective(self, images: int, make_student: MakeStudent, real: RealData) -> Objective[Module]:
        if self.ridge is None:
            return objectives.TrainAndTest(
                steps=1,
                training=objectives.SetTraining(batch_size=self._batch(images)),
                lr=self.inner_lr,
                unroll=training.full_graph,
                real_batch=self.real_batch,
            )
        from torch import zeros

        network = make_student(foundation.generator("template")).to(real.device)
        # Of one image alone, BatchNorm has no statistics.
        features = training.embeddings(network, zeros(2, *real.image_shape, device=real.device)).shape[1]
        return objectives.FitAndTest(
            # The plain inner product, with one more feature that is always 1.
            compare=objectives.ByFeatures(slope=float(features), bias=1.0),
            ridge=training.Ridge(rule="absolute", strength=self.ridge),
            real_batch=self.real_batch,
            loss="cross-entropy",
        )


def _by_label(syn: SyntheticSet, rng: Generator) -> SyntheticSet:  # noqa: ARG001
    """Return the set with each image in the class of its largest label."""
    from torch import arange

    classes = syn.labels.rows(arange(len(syn)).to(syn.device)).argmax(1)
    return synthetic.SyntheticSet(syn.parametrization, syn.labels, classes, syn.num_classes, syn.rate, syn.scale)
