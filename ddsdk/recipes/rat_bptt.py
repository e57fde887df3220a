"""RaT-BPTT: random truncated back-propagation through time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import data, objectives, running, students, synthetic, training
from ddsdk.foundation import PositiveFloat, PositiveInt, require
from ddsdk.recipes.parts import adam_on_images, class_set, pixel_set
from ddsdk.recipes.unrolled import UnrolledTraining, flip_or_rotate, unroll_for

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData, SyntheticSet, TrainingProtocol


_EVALUATION_STEPS = 1000
"""Training steps of an evaluation network."""


@final
@dataclass(frozen=True, kw_only=True)
class RaTBPTT(UnrolledTraining):
    """Random truncated back-propagation through time: the gradient passes through a short window of a long training.

    min_S E l(w_N; T), where w_N are the weights after N steps of Adam on S, of which only the last `window` steps are
    differentiated. The number N, uniform in window..student_steps, and the initial weights are drawn anew for each
    image step. The windows cover early and late training alike, at the cost and the stability of a short unroll.

    Attributes:
        student_steps: Largest number of training steps of a student, T.
        window: Differentiated training steps at the end, W.
        drawn: Whether N is drawn at random; if false, all students take T steps.
        student_batch: Synthetic images per class in one training step of a student.
        image_lr: Learning rate of the images and the learned labels (Adam).
        student_lr: Learning rate of the students (Adam).
        student_eps: Epsilon inside the square root of the students' Adam; see `ddsdk.training.InnerAdam`.
        learned_labels: Whether labels are learned too. They start one-hot and stay non-negative, and the sum of a row
            is the weight of its image.
        clip_ratio: Multiple, at least 1, of the usual gradient norm to which the gradient of an image step is scaled
            down.
        augmentation: DSA operations joined by "_", for student training, real images and evaluation; empty for none.
            None for one of flip and rotation, without flip unless the data is mirror-safe.

    The defaults are the paper's, for a GPU. On a CPU use narrow students (width 16), `student_steps` 15, `window` 5,
    `student_lr` 3e-3, `image_lr` 0.01, `real_batch` 256, and some hundred `steps` at one image per class.

    Differences from the published algorithm: images start as real ones; the paper's noise of norm 1 needs more steps. N
    is drawn for each image step; the paper's code draws it every ten steps. The usual gradient norm is an average over
    clipped gradients. The evaluation takes 1000 steps; the paper has the best of four numbers of steps.

    References:
        Feng, Vedantam and Kempe, "Embarrassingly Simple Dataset Distillation", ICLR 2024, arXiv:2311.07025.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.RaTBPTT(ipc=1, steps=1, student_steps=3, window=2, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (10, 1, 8, 8)
    """

    name: ClassVar[str] = "rat-bptt"
    needs = ("second derivatives",)
    steps: PositiveInt = 60_000
    student_lr: PositiveFloat = 1e-3
    real_batch: PositiveInt = 5000
    student_steps: PositiveInt = 200
    window: PositiveInt = 60
    drawn: bool = True
    student_batch: PositiveInt = 10
    student_eps: PositiveFloat = 1e-8
    learned_labels: bool = False
    clip_ratio: float = 2.0
    augmentation: str | None = None

    def check(self) -> None:
        """Check that the window fits into the student's training, and the range of the clipping ratio."""
        longest = self.student_steps
        require(self.window <= longest, "window", f"be at most {longest} student_steps", self.window)
        require(1 <= self.clip_ratio < float("inf"), "clip_ratio", "be at least 1 and finite", self.clip_ratio)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return back-propagation through a random window of a student's training, with fresh students."""
        augmentation = data.Augmentation(flip_or_rotate(real, self.augmentation))
        return running.Plan(
            syn=self._set(real, rng),
            objective=objectives.TrainAndTest(
                steps=self.student_steps,
                window=self.window,
                drawn=self.drawn,
                training=objectives.SetTraining(
                    batch_size=self.student_batch, order="stratified", augmentation=augmentation
                ),
                optimizer=training.InnerAdam(eps=self.student_eps),
                lr=self.student_lr,
                unroll=unroll_for(self.window),
                real_batch=self.real_batch,
                augmentation=augmentation,
            ),
            students=students.FreshStudents(make_student),
            make_optimizer=partial(adam_on_images, lr=self.image_lr),
            steps=self.steps,
            clip_ratio=self.clip_ratio,
            divergence_hint="image_lr or student_lr",
        )

    def protocol(self, real: RealData) -> TrainingProtocol:
        """Return 1000 steps of the students' Adam on a ConvNet-3 of width 128."""
        images = self.ipc * real.num_classes
        batch = min(images, self.student_batch * real.num_classes)
        return training.TrainingProtocol(
            name="rat-bptt",
            network_options={"width": 128},
            epochs=-(-_EVALUATION_STEPS // -(-images // batch)),
            batch_size=batch,
            lr=self.student_lr,
            weight_decay=0.0,
            decay_at=(),
            optimizer="adam",
            augmentation=flip_or_rotate(real, self.augmentation),
        )

    def _set(self, real: RealData, rng: Generator) -> SyntheticSet:
        syn = pixel_set(real, self.ipc, self.start, rng)
        if not self.learned_labels:
            return syn
        labels = synthetic.FreeLabels(synthetic.hard_labels(syn.classes, real.num_classes).probabilities, low=0.0)
        return class_set(real, self.ipc, syn.parametrization, labels)
