"""IDM: distribution matching under a queue of networks of different training ages."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import foundation, objectives, running, students, training
from ddsdk.foundation import Momentum, NonNegativeFloat, PositiveFloat, PositiveInt
from ddsdk.recipes.distribution import SGDMatching
from ddsdk.recipes.parts import multiformation_set

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Plan, RealData, ScoredStudent


@final
@dataclass(frozen=True, kw_only=True)
class IDM(SGDMatching):
    """Improved distribution matching: DM with tiled canvases, partly trained networks and a classification loss.

    min_S E_theta sum_c ||mean psi_theta(A(S_c)) - mean psi_theta(A(T_c))||^2 + class_weight * 100 acc(theta) CE(S_c),
    where theta is drawn from a queue of networks and acc is its accuracy on real images. In each image step two
    networks of the queue train on a few real batches; every `push_every` steps a fresh network joins the queue. The
    classification loss therefore counts under trained networks only. Canvases are cut into factor^2 tiles.

    Attributes:
        image_lr: Learning rate of the images (SGD); None for the published 0.2.
        real_batch: Real images per class in one image step. None for the published 5000 at ipc 1, and 256 otherwise.
        factor: Tiles along each side of a canvas; 1 for plain images. 2 is worse for many simple images, as in
            FashionMNIST at ipc 50.
        class_weight: Weight of the cross-entropy per percent of accuracy. None for the published 0.5 up to ipc 10 and
            0.1 from ipc 50 on, linear in between. It is then scaled by the number of features relative to the paper's
            2048, because the distance of means grows with this number.
        queue: Largest number of networks in the queue; a run of some minutes fills no more than 10.
        push_every: Image steps between two fresh networks. None for the published 5 at ipc 1, and 30 otherwise.
        student_steps: SGD steps on real batches in one training update of a network.
        student_batch: Real images of one training batch of a network.
        student_lr: Learning rate of the networks (SGD).
        student_momentum: Momentum of the networks' SGD within one training update.

    Differences from the published algorithm: each image step updates all classes together; the paper's code updates
    class by class with a shared momentum. Accuracies are measured after the last training update on fresh real images,
    not as running averages. The scaling of the default `class_weight` with the number of features is a choice of this
    library. The momentum of a network is reset between training updates. Pixels are clamped to the unit range.

    References:
        Zhao et al., "Improved Distribution Matching for Dataset Condensation", CVPR 2023, arXiv:2307.09742.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.IDM(ipc=1, steps=1, real_batch=16, queue=2, student_steps=1)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)  # four tiles for each canvas
        (40, 1, 8, 8)
    """

    name: ClassVar[str] = "idm"
    sums_over_classes: ClassVar[bool] = True
    needs = ("features",)
    real_batch: PositiveInt | None = None
    factor: PositiveInt = 2
    class_weight: NonNegativeFloat | None = None
    queue: PositiveInt = 100
    push_every: PositiveInt | None = None
    student_steps: PositiveInt = 10
    student_batch: PositiveInt = 256
    student_lr: PositiveFloat = 0.01
    student_momentum: Momentum = 0.9

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[ScoredStudent]:
        """Return matching of mean embeddings with a classification loss, under a queue of networks."""
        augmentation, network = self.siamese(real), attrgetter("network")
        weight = self.weight(_features(real, make_student, rng))
        match = self.mean_match(real, self.real_batch or (5000 if self.ipc == 1 else 256))
        classification = objectives.CrossEntropy(augmentation=augmentation)
        return running.Plan(
            syn=multiformation_set(real, self.ipc, self.factor, self.start, rng),
            objective=objectives.WeightedSum(
                (
                    (1.0, objectives.PartObjective(network, match)),
                    (
                        lambda student: weight * 100 * student.accuracy,
                        objectives.PartObjective(network, classification),
                    ),
                )
            ),
            students=students.QueueStudents(
                make_student,
                students.TrainOnReal(
                    steps=self.student_steps, batch_size=self.student_batch, augmentation=augmentation
                ),
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
        """Return the weight of the cross-entropy per percent of accuracy, for networks with `features` features."""
        if self.class_weight is not None:
            return self.class_weight
        published = 0.5 - 0.4 * min(max((self.ipc - 10) / 40, 0.0), 1.0)
        return published * features / 2048


def _features(real: RealData, make_student: MakeStudent, rng: Generator) -> int:
    student = students.prepare_student(make_student, real, foundation.derive(rng, "features"))
    return training.embeddings(student, real.of_class(0, 1, rng).x).shape[1]
