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
from ddsdk.recipes.parts import adam_by_kind, class_set, dd_network, start_images

if TYPE_CHECKING:
    from ddsdk.artefact import Distilled
    from ddsdk.objectives import Objective
    from ddsdk.recipes.signature import (
        Generator,
        MakeStudent,
        Module,
        Plan,
        RealData,
        SyntheticSet,
        Tensor,
        TrainingProtocol,
    )


@final
@dataclass(frozen=True, kw_only=True)
class LD(IterativeRecipe):
    """Label distillation: fixed real images with learned soft labels.

    min_Y l(w - inner_lr grad l(w; X, Y); T) over rows Y on the probability simplex. The student w trains on (X, Y) by
    Adam between two label steps, and is replaced when its accuracy stops rising. One training step is unrolled, with a
    second-order gradient. With `ridge`, the second variant is used: min_Y CE(softmax(s P), y) on a real batch (T, y),
    where P is the prediction for T by ridge regression on the student's features, fitted to (X, Y). The features are
    constants, so this variant is of first order.

    Attributes:
        steps: Label steps; the paper's 400 epochs of 50 000 images are 19 600.
        label_lr: Learning rate of the labels (Adam).
        scale_lr: Learning rate of the logarithm of s, for the ridge variant.
        inner_lr: Learning rate of the unrolled training step (SGD).
        student_lr: Learning rate of the student between label steps, and of evaluation networks (Adam).
        student_batch: Images of the set in one training step of a student. None for the published half of them, at
            least 10.
        student_steps: Largest number of label steps before a student is replaced, and training steps of evaluation
            networks.
        window: Number of accuracy checks in the moving average that decides about replacement. None for the published
            50 up to 100 images, and above that 100 for at least 49 classes and 200 for fewer.
        check_batch: Real images of one accuracy check.
        real_batch: Real images in one label step.
        ridge: Ridge r of the regression in the second variant, 1 in the paper. None for the first variant.
        start: Choice of the real images: real (random), k-means or herding. The paper's are random.

    A step takes a few passes over the real batch. The defaults run on a CPU with a LeNet, best with `real_batch` 256.

    The images limit the accuracy. `across` learns labels for images of another data set.

    Differences from the published algorithm: the student trains on a separate batch between label steps. Its accuracy
    is measured on separate real images, not after the unrolled step. Evaluation networks take `student_steps` steps;
    the paper takes the number of steps of the last three students. The ridge variant fits the whole set in each step,
    and does not average the solutions over steps.

    References:
        Bohdal, Yang and Hospedales, "Flexible Dataset Distillation: Learn Labels Instead of Images", NeurIPS 2020
        workshop, arXiv:2006.08572.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.LD(ipc=1, steps=2, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).labels.shape)
        (10, 10)
    """

    name: ClassVar[str] = "ld"
    needs = ("second derivatives",)
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
        """Check that the images are real ones."""
        require(self.start != "noise", "start", "choose real images", self.start)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return learned labels of chosen images, under a student that trains between label steps."""
        images = self.ipc * real.num_classes
        return running.Plan(
            syn=self._labelled_set(real, start_images(real, self.ipc, self.start, rng)),
            objective=self._objective(images, make_student, real),
            students=students.OnlineStudents(
                make_student,
                students.TrainOnBatch(batch_size=self._batch(images)),
                students.accuracy_on(self.check_batch),
                window=self._window(real) if self.window is None else self.window,
                longest=self.student_steps,
                lr=self.student_lr,
            ),
            # The images are fixed here; they are optimised too if a changed plan makes them learnable.
            make_optimizer=partial(
                adam_by_kind, image_lr=self.label_lr, label_lr=self.label_lr, scale_lr=self.scale_lr
            ),
            steps=self.steps,
            divergence_hint="label_lr",
        )

    def across(
        self, base: RealData, real: RealData, *, make_student: MakeStudent | None = None, seed: int | Generator = 0
    ) -> Distilled:
        """Learn labels for images of one data set with which networks learn the classes of another one.

        Images of another shape, or too few of them, are a ValueError. A loss that stays non-finite is a DivergedError.

        Args:
            base: Data set from which ipc * K random images are drawn; its labels are not used.
            real: Data with K classes that networks should learn.
            make_student: Factory of the student networks, see `ddsdk.distill`; None for the network of the protocol.
            seed: Root of all random numbers, an integer or a generator, see `ddsdk.distill`.

        Returns:
            Distilled set of base images with labels for the classes of `real`, each image in the class of its largest
            label.
        """
        from torch import arange

        rng = foundation.as_generator(seed)
        count = self.ipc * real.num_classes
        require(base.image_shape == real.image_shape, "base", f"have shape {real.image_shape}", base.image_shape)
        require(len(base) >= count, "base", f"hold at least {count} images", len(base))
        indices = data.sample_indices(arange(len(base)), count, foundation.derive(rng, "base"))
        # Students expect the preprocessing of the real data.
        images = base.with_preprocess(real.preprocess).batch(indices).x.to(real.device)

        def with_base_images(plan: Plan[Module]) -> Plan[Module]:
            return dataclasses.replace(plan, syn=self._labelled_set(real, images), finish=_classes_from_labels)

        distilled = running.distill(self, real, make_student=make_student, seed=rng, transform=with_base_images)
        return dataclasses.replace(distilled, provenance={**distilled.provenance, "base": base.description})

    def protocol(self, real: RealData) -> TrainingProtocol:
        """Return the paper's protocol: LeNet, or AlexNet for colour images, and Adam for `student_steps` steps."""
        images = self.ipc * real.num_classes
        batch = self._batch(images)
        return training.TrainingProtocol(
            name="ld",
            network=dd_network(real),
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

    def _labelled_set(self, real: RealData, images: Tensor) -> SyntheticSet:
        """Return a set of fixed images with uniform initial labels."""
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
        # Two images, because BatchNorm has no batch statistics of a single one.
        features = training.embeddings(network, zeros(2, *real.image_shape, device=real.device)).shape[1]
        return objectives.FitAndTest(
            # ByFeatures divides by the number of features: this gives <f(x), f(z)> + 1, features with an intercept.
            compare=objectives.ByFeatures(slope=float(features), bias=1.0),
            ridge=training.Ridge(rule="absolute", strength=self.ridge),
            real_batch=self.real_batch,
            loss="cross-entropy",
        )


def _classes_from_labels(syn: SyntheticSet, rng: Generator) -> SyntheticSet:  # noqa: ARG001
    """Return the set with each image assigned to the class of its largest label."""
    from torch import arange

    classes = syn.labels.rows(arange(len(syn)).to(syn.device)).argmax(1)
    return synthetic.SyntheticSet(syn.parametrization, syn.labels, classes, syn.num_classes, syn.rate, syn.scale)
