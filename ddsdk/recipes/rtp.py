"""RTP: remember the past, addressable memories."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, final, get_args

from ddsdk import data, foundation, objectives, running, students, synthetic, training
from ddsdk.foundation import Momentum, PositiveFloat, PositiveInt, require
from ddsdk.recipes.parts import adam_on_images, cycled_images, hard_set, sgd_on_images
from ddsdk.recipes.unrolled import UnrolledTraining, flip_or_rotate, unroll_for

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Evaluation, Generator, MakeStudent, Module, Plan, RealData, SyntheticSet


_CLIP_NORM = 2.0
_OPTIMIZER = Literal["sgd", "adam"]


@final
@dataclass(frozen=True, kw_only=True)
class RTP(UnrolledTraining):
    """Remember the past: images are mixed from bases that all classes share, and learned through a long training.

    image_cj = up(sum_b a_cjb basis_b) with the label c of its address: min over bases and addresses of E l(w_N; T) with
    w_N the weights after N steps of SGD with momentum on stratified batches, and a gradient through all of them at the
    memory of one step. ipc counts the floats of so many images of each class: the bases are paid first, and what is
    left pays for addresses, so there are many more images than ipc. Compare by stored floats.

    Attributes:
        bases: Number of bases.
        factor: Ratio of the sides of an image to those of a basis.
        most: Largest number of images of each class; None takes as many as the budget pays.
        student_steps: Steps of a student, N.
        window: Steps with a gradient; None for all of them, as in the paper. Otherwise N is drawn for each image step,
            uniform in window..student_steps, and the gradient passes through the last `window` steps alone, as RaT-BPTT
            has it: many more image steps fit into the same time.
        student_batch: Synthetic images of each class in one step of a student.
        student_momentum: Momentum of the students.
        image_lr: Learning rate of bases and addresses.
        image_momentum: Momentum of bases and addresses, of SGD.
        optimizer: Optimizer of bases and addresses: ``"sgd"``, as in the paper, or ``"adam"``, with an
            `image_lr` near 0.01, which pays where there are few image steps.
        real_batch: Real images of each class on which a student is tested.
        start: Start of bases and addresses: random ones for ``"noise"``; for real, k-means, means or herding
            the leading singular vectors of such images.
        augmentation: DSA operations joined by "_", for both sides and evaluation; empty for none. None takes flip or
            rotation, without flip unless the data is mirror-safe.

    The defaults are the paper's, for a GPU: 150 steps of a student for each image step. On a CPU: narrow students
    (width 16), `student_steps` 60 with a `window` of 10, Adam, a start from k-means, `student_batch` 5 and `real_batch`
    26. All images are decoded at once in each step, which `most` bounds where ipc is large.

    Differences from the published algorithm: real and synthetic images are augmented by draws of their own. The
    regulariser of the addresses, which has no gradient in the paper's code, is left out.

    References:
        Deng and Russakovsky, "Remember the Past: Distilling Datasets into Addressable Memories for Neural Networks",
        NeurIPS 2022, arXiv:2206.02916.
    """

    name: ClassVar[str] = "rtp"
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
        """Check that the window fits, and the optimizer."""
        longest = self.student_steps
        fits = self.window is None or self.window <= longest
        require(fits, "window", f"be at most {longest} student_steps", self.window)
        known = list(get_args(_OPTIMIZER))
        require(self.optimizer in known, "optimizer", f"be one of {known}", self.optimizer)

    def images(self, real: RealData) -> int:
        """Return the images of each class: as many as the budget pays, or `most`.

        Raises:
            ValueError: If the bases leave nothing for an address of each class.
        """
        paid = synthetic.address_count(
            self.ipc, real.num_classes, real.image_shape, bases=self.bases, factor=self.factor
        )
        return paid if self.most is None else min(self.most, paid)

    def memory(self, real: RealData, rng: Generator) -> SyntheticSet:
        """Return bases and addresses at their start, with hard labels."""
        each = self.images(real)
        parametrization = synthetic.AddressedBases(
            each * real.num_classes,
            real.image_shape,
            bases=self.bases,
            factor=self.factor,
            rng=foundation.derive(rng, "memory"),
        )
        if self.start != "noise":
            parametrization.encode(cycled_images(real, 1, each, self.start, rng))
        return hard_set(real, each, parametrization)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return train and test over bases and addresses, under fresh students."""
        augmentation = data.Augmentation(flip_or_rotate(real, self.augmentation))
        move = (
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
            make_optimizer=move,
            steps=self.steps,
            clip_norm=_CLIP_NORM,
            knobs="image_lr or student_lr",
        )

    def evaluation(self, real: RealData) -> Evaluation:
        """Return 300 passes of the students' own SGD, without a schedule, over a ConvNet-3 of width 128."""
        return training.Evaluation(
            protocol="rtp",
            network_options={"width": 128},
            batch_size=64 * real.num_classes,
            lr=self.student_lr,
            momentum=self.student_momentum,
            weight_decay=0.0,
            decay_at=(),
            augmentation=flip_or_rotate(real, self.augmentation),
        )
