"""RCIG: regression with linearised students and implicit gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students, synthetic, training
from ddsdk.foundation import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from ddsdk.recipes.regression import LabelRegression, regression_protocol

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Evaluation, Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class RCIG(LabelRegression):
    """Reparameterised convexified implicit gradients: FRePo whose students' bodies move too, along their gradients.

    min over S, Y and s of CE(softmax(s (J(T) t + h(T) w)), y) - mean min(y_1 - y_2, 1/2K) on a real batch (T, y), where
    J and h are the gradients and features of a network of a pool that trains on the set, and (t, w) are the ridge
    regression of Y on those of S: a convex problem, whose solution is differentiated by the implicit function theorem.

    Attributes:
        steps: Image steps; the paper has 10 000 and more.
        pool: Networks; the paper has 30.
        student_steps: Steps of training after which a network of the pool is replaced; 0 leaves all untrained.
        most_steps: A network that was picked takes 1 to as many of them.
        student_lr: Learning rate of the networks (Adam).
        student_batch: Images of one of their steps.
        solve_steps: Conjugate gradient steps for t.
        implicit_steps: Conjugate gradient steps for the implicit gradient.
        real_batch: Real images of one step; the paper has 1024.
        scale_lr: Learning rate of the logarithm of the scale s.
        ridge: Times the number of images is added to the diagonal of the Gram matrices.

    A step costs some hundred passes over the set. The defaults are for a CPU and one image per class: a narrow student
    (width 16), a small pool, few steps. The result is a moving average over the run (decay 0.99) as in the paper.

    Differences from the published algorithm: both systems are solved by conjugate gradients, which need no learning
    rate, where the paper has 20 steps of Adam with rates that adapt. Adam for AdaBelief. No mirror images, and no
    random subset of large sets. The bound on the implicit gradient, by the norm of the direct one, is on images and
    on labels. The networks are the student's without normalisation where the catalogue has that, start with He's
    normal weights, and have softplus for ReLU. Evaluation is FRePo's.

    References:
        Loo, Hasani, Lechner and Rus, "Dataset Distillation with Convexified Implicit Gradients", ICML 2023,
        arXiv:2302.06755.
    """

    name: ClassVar[str] = "rcig"
    pool: PositiveInt = 4
    student_steps: NonNegativeInt = 100
    most_steps: PositiveInt = 15
    student_lr: PositiveFloat = 5e-5
    student_batch: PositiveInt = 500
    solve_steps: PositiveInt = 10
    implicit_steps: PositiveInt = 10
    image_lr: PositiveFloat = 3e-3
    label_lr: PositiveFloat = 3e-3
    scale_lr: PositiveFloat = 0.03
    ridge: NonNegativeFloat = 5e-4

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return regression with linearised students of a pool."""
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
                students.SoftStudents(students.HeStudents(students.plain_student(make_student))),
                pool=self.pool,
                longest=self.student_steps,
                most_steps=self.most_steps,
                lr=self.student_lr,
                batch_size=self.student_batch,
            ),
            make_optimizer=self.adam(self.scale_lr),
            steps=self.steps,
            average=0.99,
            knobs="image_lr, label_lr or student_lr",
        )

    def evaluation(self, real: RealData) -> Evaluation:
        """Return FRePo's protocol."""
        return regression_protocol(real, self.ipc * real.num_classes)
