"""RTP: remember the past, addressable memories."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, final, get_args

from ddsdk import data, foundation, objectives, running, students, synthetic, training
from ddsdk.foundation import Momentum, PositiveFloat, PositiveInt, require
from ddsdk.recipes.parts import adam_on_images, cycled_images, hard_label_set, sgd_on_images
from ddsdk.recipes.unrolled import UnrolledTraining, flip_or_rotate, unroll_for

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData, SyntheticSet, TrainingProtocol


_CLIP_NORM = 2.0
"""Largest gradient norm of an image step."""

_OPTIMIZER = Literal["sgd", "adam"]


@final
@dataclass(frozen=True, kw_only=True)
class RTP(UnrolledTraining):
    """Remember the past: images are mixtures of bases that all classes share, learned through a long student training.

    image_cj = up(sum_b a_cjb basis_b), where the address a_cj belongs to class c and up enlarges to the image size. The
    bases and addresses minimise E l(w_N; T), where w_N are the weights after N steps of SGD with momentum on batches
    with equally many images per class. The gradient passes through all N steps at the memory of one step.

    ipc is a storage budget: bases and addresses together have at most as many floats as ipc images per class. The bases
    are stored first and the remaining budget holds addresses, so there are many more images than ipc. Compare sets by
    stored floats, not by ipc.

    Attributes:
        ipc: Storage budget, as the number of images per class with equally many floats; at least 1.
        bases: Number of bases that all classes share.
        factor: Ratio of the side lengths of an image and a basis.
        most: Largest number of images per class; None for as many as the storage budget allows.
        student_steps: Largest number of training steps of a student, N.
        window: Differentiated training steps at the end. None for all of them, as in the paper. Otherwise N is drawn
            for each image step, uniform in window..student_steps, as in RaT-BPTT, which allows many more image steps in
            the same time.
        student_batch: Synthetic images per class in one training step of a student.
        student_momentum: Momentum of the students' SGD.
        image_lr: Learning rate of bases and addresses.
        image_momentum: Momentum of bases and addresses, for SGD.
        optimizer: Optimizer of bases and addresses: ``"sgd"``, as in the paper, or ``"adam"`` with an `image_lr` near
            0.01, which is better for few image steps.
        real_batch: Real images per class on which a trained student is tested.
        start: Initialisation of bases and addresses: random for ``"noise"``; for real, k-means, means or herding the
            leading singular vectors of such images.
        augmentation: DSA operations joined by "_", for student training, real images and evaluation; empty for none.
            None for one of flip and rotation, without flip unless the data is mirror-safe.

    The defaults are the paper's, for a GPU: 150 training steps of a student for each image step. On a CPU use narrow
    students (width 16), `student_steps` 60 with a `window` of 10, Adam, a start from k-means, `student_batch` 5 and
    `real_batch` 26. Each step decodes all images at once; `most` bounds their number where ipc is large.

    Differences from the published algorithm: real and synthetic images are augmented independently. The regularisation
    of the addresses, which has no gradient in the paper's code, is left out.

    References:
        Deng and Russakovsky, "Remember the Past: Distilling Datasets into Addressable Memories for Neural Networks",
        NeurIPS 2022, arXiv:2206.02916.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.RTP(ipc=1, steps=1, student_steps=2, bases=4, most=3, real_batch=2)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (30, 1, 8, 8)
    """

    name: ClassVar[str] = "rtp"
    needs = ("second derivatives",)
    steps: PositiveInt = 50_000
    image_lr: PositiveFloat = 0.1
    image_momentum: Momentum = 0.5
    optimizer: _OPTIMIZER = "sgd"
    student_lr: PositiveFloat = 0.01
    student_momentum: Momentum = 0.9
    real_batch: PositiveInt = 64
    start: str = "noise"
    bases: PositiveInt = 16
    factor: PositiveInt = 2
    most: PositiveInt | None = None
    student_steps: PositiveInt = 150
    window: PositiveInt | None = None
    student_batch: PositiveInt = 32
    augmentation: str | None = None

    def check(self) -> None:
        """Check that the window fits into the student's training, and that the optimizer is known."""
        longest = self.student_steps
        fits = self.window is None or self.window <= longest
        require(fits, "window", f"be at most {longest} student_steps", self.window)
        known = list(get_args(_OPTIMIZER))
        require(self.optimizer in known, "optimizer", f"be one of {known}", self.optimizer)

    def images(self, real: RealData) -> int:
        """Return the number of images per class: as many as the storage budget allows, at most `most`.

        A budget that leaves no address for each class beside the bases is a ValueError.
        """
        affordable = synthetic.address_count(
            self.ipc, real.num_classes, real.image_shape, bases=self.bases, factor=self.factor
        )
        return affordable if self.most is None else min(self.most, affordable)

    def memory(self, real: RealData, rng: Generator) -> SyntheticSet:
        """Return the initial bases and addresses, with hard labels."""
        per_class = self.images(real)
        parametrization = synthetic.AddressedBases(
            per_class * real.num_classes,
            real.image_shape,
            bases=self.bases,
            factor=self.factor,
            rng=foundation.derive(rng, "memory"),
        )
        if self.start != "noise":
            parametrization.encode(cycled_images(real, 1, per_class, self.start, rng))
        return hard_label_set(real, per_class, parametrization)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return back-propagation through student training, over bases and addresses, with fresh students."""
        augmentation = data.Augmentation(flip_or_rotate(real, self.augmentation))
        make_optimizer = (
            partial(sgd_on_images, lr=self.image_lr, momentum=self.image_momentum)
            if self.optimizer == "sgd"
            else partial(adam_on_images, lr=self.image_lr)
        )
        return running.Plan(
            syn=self.memory(real, rng),
            objective=objectives.TrainAndTest(
                steps=self.student_steps,
                window=self.window,
                drawn=self.window is not None,
                training=objectives.SetTraining(
                    batch_size=self.student_batch, order="stratified", augmentation=augmentation
                ),
                optimizer=training.InnerSGD(momentum=self.student_momentum),
                lr=self.student_lr,
                unroll=unroll_for(self.window or self.student_steps),
                real_batch=self.real_batch,
                per_class=True,
                augmentation=augmentation,
            ),
            students=students.FreshStudents(make_student),
            make_optimizer=make_optimizer,
            steps=self.steps,
            clip_norm=_CLIP_NORM,
            divergence_hint="image_lr or student_lr",
        )

    def protocol(self, real: RealData) -> TrainingProtocol:
        """Return 300 epochs of the students' SGD at a constant learning rate, on a ConvNet-3 of width 128."""
        return training.TrainingProtocol(
            name="rtp",
            network_options={"width": 128},
            batch_size=64 * real.num_classes,
            lr=self.student_lr,
            momentum=self.student_momentum,
            weight_decay=0.0,
            decay_at=(),
            augmentation=flip_or_rotate(real, self.augmentation),
        )
