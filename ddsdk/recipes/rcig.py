"""RCIG: regression with linearised students and implicit gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import data, objectives, running, students, synthetic, training
from ddsdk.foundation import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ddsdk.recipes.regression import LabelRegression, mild_augmentation, regression_protocol

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData, TrainingProtocol


@final
@dataclass(frozen=True, kw_only=True)
class RCIG(LabelRegression):
    """Reparameterised convexified implicit gradients: FRePo with students that are linearised in all weights.

    min over S, Y and s of CE(softmax(s (J(T) t + h(T) w)), y) - mean min(y_1 - y_2, 1/2K) on a real batch (T, y). J and
    h are the gradients and features of a network from a pool that trains on the set; y_1 and y_2 are the two largest
    entries of a row of Y. The weights (t, w) solve ridge regression of Y on the gradients and features of S. This
    problem is convex, and its solution is differentiated by the implicit function theorem.

    Attributes:
        steps: Image steps; the paper has 10 000 and more.
        pool: Number of networks in the pool; the paper has 30.
        student_steps: Training steps after which a network of the pool is replaced; 0 for untrained networks.
        most_steps: Largest number of training steps of a network after each image step; the number is drawn from 1 on.
        student_lr: Learning rate of the networks (Adam).
        student_batch: Synthetic images in one training step of a network.
        solve_steps: Conjugate-gradient steps for the solution t. None for the exact solutions of both systems where
            ipc times the squared number of classes is at most 1000, and for 20 steps otherwise.
        implicit_steps: Conjugate-gradient steps for the implicit gradient; None for as many as `solve_steps`.
        real_batch: Real images in one image step; the paper has 1024.
        scale_lr: Learning rate of the logarithm of the scale s.
        ridge: Ridge per image of the regression; its product with the number of images is added to the diagonal of the
            Gram matrices.
        augmentation: Operations of the evaluation, joined by "_", see `ddsdk.Augmentation`; None for those of the
            paper's code that suit the data. The paper reports the accuracy without and with them.

    An image step costs a backward pass for each image and class, or some hundred passes over the set. The defaults are
    for a CPU and one image per class: a narrow student (width 16), a small pool and few steps. The result is a moving
    average over the run (decay 0.99), as in the paper.

    Differences from the published algorithm: both linear systems are solved exactly, or by conjugate gradients; the
    paper has 20 steps of Adam with adaptive rates. Adam replaces AdaBelief. Neither mirror images
    nor random subsets of large sets are used. The bound on the implicit gradient, by the norm of the direct one,
    applies to images and labels separately. Networks of the catalogue have no normalisation, and softplus in place of
    ReLU. The evaluation is that of the paper's code, without the mirror images that it adds to colour images.

    References:
        Loo, Hasani, Lechner and Rus, "Dataset Distillation with Convexified Implicit Gradients", ICML 2023,
        arXiv:2302.06755.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.RCIG(ipc=1, steps=1, pool=1, real_batch=16, solve_steps=2, implicit_steps=2)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> ddsdk.distill(recipe, real, make_student=make_student).label_space
        'scores'
    """

    name: ClassVar[str] = "rcig"
    needs = ("features", "body", "no random layers")
    pool: PositiveInt = 4
    student_steps: NonNegativeInt = 100
    most_steps: PositiveInt = 15
    student_lr: PositiveFloat = 5e-5
    student_batch: PositiveInt = 500
    solve_steps: PositiveInt | None = None
    implicit_steps: PositiveInt | None = None
    image_lr: PositiveFloat = 3e-3
    label_lr: PositiveFloat = 3e-3
    scale_lr: PositiveFloat = 0.03
    ridge: NonNegativeFloat = 5e-4
    augmentation: str | None = ""

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return ridge regression with linearised networks of a pool."""
        # The evaluation alone uses the augmentation: check it before the run.
        data.Augmentation(mild_augmentation(real, self.augmentation, color=False))
        return running.Plan(
            syn=self.scored_set(real, rng, scale=synthetic.LearnedScale(10.0)),
            objective=objectives.ImplicitRegression(
                ridge=training.Ridge(rule="count", strength=self.ridge),
                real_batch=self.real_batch,
                solve_steps=self.solve_steps,
                implicit_steps=self.implicit_steps,
                margin=0.5 / real.num_classes,
            ),
            students=students.TrainedPool(
                students.SoftplusStudents(
                    students.InitialisedStudents(students.plain_student(make_student), "lecun-normal")
                ),
                pool=self.pool,
                longest=self.student_steps,
                most_steps=self.most_steps,
                lr=self.student_lr,
                batch_size=self.student_batch,
            ),
            make_optimizer=self.adam(self.scale_lr),
            steps=self.steps,
            average=0.99,
            divergence_hint="image_lr, label_lr or student_lr",
        )

    def protocol(self, real: RealData) -> TrainingProtocol:
        """Return the evaluation protocol of the paper's code."""
        images = self.ipc * real.num_classes
        augmentation = mild_augmentation(real, self.augmentation, color=False)
        # The authors have 1000 steps for ten images, and 2000 for more.
        steps = 1000 if images <= 10 else 2000
        return regression_protocol(images, augmentation=augmentation, lr=1e-4, steps=steps, batch=256)
