"""IDM: distribution matching under a queue of networks of all ages."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import foundation, objectives, running, students, training
from ddsdk.foundation import Momentum, NonNegativeFloat, PositiveFloat, PositiveInt
from ddsdk.recipes.distribution import SGDMatching
from ddsdk.recipes.parts import multiformation_set

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Plan, Rated, RealData


@final
@dataclass(frozen=True, kw_only=True)
class IDM(SGDMatching):
    """Improved distribution matching: DM with enlarged tiles, networks of all ages, and images that these recognise.

    min_S E_theta sum_c ||mean psi_theta(A(S_c)) - mean psi_theta(A(T_c))||^2 + class_weight * 100 acc(theta) CE(S_c)
    where theta is drawn from a queue of networks. At each step two of them train on a few real batches, and every
    `push_every` steps a fresh one joins; acc is the accuracy of theta on real images, so that the classification loss
    counts under trained networks. Canvases are cut into factor^2 tiles.

    Attributes:
        image_lr: Learning rate of the images (SGD). None takes the paper's 0.2.
        real_batch: Real images of each class in one step. None takes the paper's: 5000 at ipc 1, else 256.
        factor: Tiles along each side of a stored image; 1 for plain images. 2 hurts where images are many and plain, as
            in FashionMNIST at ipc 50.
        class_weight: Weight of the cross-entropy for each percent of accuracy. None takes the paper's: 0.5 up to
            ipc 10, 0.1 from 50 on, and in between on the line of both; for networks with other than the paper's 2048
            features in proportion, because the distance of means grows with their number.
        queue: Largest number of networks. Each step copies all of them; 10 do for a budget of minutes.
        push_every: Steps between two fresh networks. None takes the paper's: 5 at ipc 1, else 30.
        student_steps: Real batches that a network trains on in one lesson.
        student_batch: Real images of such a batch.
        student_lr: Learning rate of the networks (SGD).
        student_momentum: Momentum of the networks within a lesson.

    Differences from the published algorithm: the images take one step for all classes together, where the paper's
    code takes one after each class with the same momentum. Accuracies are those after the last lesson on fresh real
    images, and not running averages. Where `class_weight` is None, its growth with the number of features is a choice
    of this library. Momentum is not kept between two lessons of a network. Pixels stay where the unit
    range lies.

    References:
        Zhao et al., "Improved Distribution Matching for Dataset Condensation", CVPR 2023, arXiv:2307.09742.
    """

    name: ClassVar[str] = "idm"
    real_batch: PositiveInt | None = None
    factor: PositiveInt = 2
    class_weight: NonNegativeFloat | None = None
    queue: PositiveInt = 100
    push_every: PositiveInt | None = None
    student_steps: PositiveInt = 10
    student_batch: PositiveInt = 256
    student_lr: PositiveFloat = 0.01
    student_momentum: Momentum = 0.9

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Rated]:
        """Return mean matching with a classification loss under a queue of networks."""
        augmentation, network = self.siamese(real), attrgetter("network")
        weight = self.weight(_features(real, make_student, rng))
        match = self.mean_match(real, self.real_batch or (5000 if self.ipc == 1 else 256))
        recognised = objectives.CrossEntropy(augmentation=augmentation)
        return running.Plan(
            syn=multiformation_set(real, self.ipc, self.factor, self.start, rng),
            objective=objectives.Total(
                (
                    (1.0, objectives.Through(network, match)),
                    (lambda student: weight * 100 * student.accuracy, objectives.Through(network, recognised)),
                )
            ),
            students=students.QueueStudents(
                make_student,
                students.OnReal(steps=self.student_steps, batch_size=self.student_batch, augmentation=augmentation),
                students.accuracy_on(self.student_batch),
                queue=self.queue,
                push_every=self.push_every or (5 if self.ipc == 1 else 30),
                lr=self.student_lr,
                momentum=self.student_momentum,
            ),
            make_optimizer=self.sgd(0.2),
            steps=self.steps,
        )

    def weight(self, features: int) -> float:
        """Return the weight of the cross-entropy for each percent of accuracy of networks with so many features."""
        if self.class_weight is not None:
            return self.class_weight
        published = 0.5 - 0.4 * min(max((self.ipc - 10) / 40, 0.0), 1.0)
        return published * features / 2048


def _features(real: RealData, make_student: MakeStudent, rng: Generator) -> int:
    student = students.enrol(make_student, real, foundation.derive(rng, "features"))
    return training.embeddings(student, real.of_class(0, 1, rng).x).shape[1]
