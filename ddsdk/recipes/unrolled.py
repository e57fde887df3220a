"""Base classes of back-propagation through time: unrolled student training, and batches in a fixed order (DD, SLDD)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students, synthetic, training
from ddsdk.foundation import PositiveFloat, PositiveInt
from ddsdk.recipes.base import IterativeRecipe
from ddsdk.recipes.parts import adam_on_images, augmentation_for, dd_network, start_images

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData, TrainingProtocol, Unroll


_FULL_GRAPH_STEPS = 30
"""Largest number of steps whose whole graph is stored. Rebuilding the graph step by step takes 1.4 times as long."""

_HALVINGS = 10
"""Halvings of the learning rate of DD's optimizer in a run."""


def unroll_for(steps: int) -> Unroll:
    """Return the exact unrolled gradient for `steps` steps: the full graph if they are few, else constant memory."""
    return training.full_graph if steps <= _FULL_GRAPH_STEPS else training.constant_memory


def flip_or_rotate(real: RealData, requested: str | None) -> str:
    """Return the augmentation `requested`, or if it is None one of flip and rotation, as far as they suit the data."""
    if requested is not None:
        return requested
    suitable = augmentation_for(real, None).split("_")
    return "_".join(op for op in ("flip", "rotate") if op in suitable)


@dataclass(frozen=True, kw_only=True)
class UnrolledTraining(IterativeRecipe):
    """Back-propagation through time: the loss of a student on real images is differentiated through its training.

    Each step trains a fresh student on the set.

    Attributes:
        steps: Image steps, each with a fresh student.
        image_lr: Learning rate of all learned tensors of the set.
        student_lr: Learning rate of the students.
        real_batch: Real images on which a trained student is tested.
        start: Initialisation of the images: noise, real, k-means, means or herding.
    """

    steps: PositiveInt = 20_000
    image_lr: PositiveFloat = 1e-3
    student_lr: PositiveFloat | None = 1e-3
    real_batch: PositiveInt = 1024
    start: str = "real"


@dataclass(frozen=True, kw_only=True)
class OrderedBatches(UnrolledTraining):
    """Batches in a fixed order, on which a student trains for several passes with a learned rate for each step.

    A batch holds one image of each class. The order and the learned rates are stored with the images and form the
    evaluation protocol.

    Attributes:
        passes: Passes of a student through all batches.
        image_lr: Learning rate of all learned tensors (Adam); halved ten times over the run.
        student_lr: Initial value of the learned rate of each step. None for `grey_lr` on grey images, 0.001 on others.
    """

    grey_lr: ClassVar[float]
    """Initial learned rate on grey images."""

    image_lr: PositiveFloat = 0.01
    student_lr: PositiveFloat | None = None
    start: str = "noise"
    passes: PositiveInt = 3

    @final
    def ordered(
        self, real: RealData, *, make_student: MakeStudent, rng: Generator, images: int, learned: bool
    ) -> Plan[Module]:
        """Return the plan of a set of `images` images, with free labels if `learned`, else fixed one-hot labels."""
        from torch import arange

        k = real.num_classes
        batches = -(-images // k)
        by_class = start_images(real, batches, self.start, rng).view(k, batches, *real.image_shape)
        # Slots are sorted by batch, not by class: slot i holds an image of class i mod K.
        by_batch = by_class.transpose(0, 1).flatten(0, 1)
        classes = arange(images) % k
        hard = synthetic.hard_labels(classes, k)
        syn = synthetic.SyntheticSet(
            synthetic.Pixels(by_batch[:images]),
            synthetic.FreeLabels(hard.rows(arange(images))) if learned else hard,
            classes,
            k,
            self._rates(real, batches * self.passes),
        )
        return running.Plan(
            syn=syn.to(real.device),
            objective=objectives.TrainAndTest(
                steps=batches * self.passes,
                training=objectives.SetTraining(batch_size=k, order="stored"),
                unroll=unroll_for(batches * self.passes),
                real_batch=self.real_batch,
            ),
            students=students.FreshStudents(make_student),
            make_optimizer=partial(adam_on_images, lr=self.image_lr, betas=(0.5, 0.999)),
            steps=self.steps,
            rate_at=self._halved,
            divergence_hint="image_lr or student_lr",
        )

    @final
    def protocol(self, real: RealData) -> TrainingProtocol:
        """Return the paper's protocol: the same batches in the same order, at the learned rates."""
        return training.TrainingProtocol(
            name="stored order",
            network=dd_network(real),
            network_options={"init": "xavier-normal"},
            epochs=self.passes,
            batch_size=real.num_classes,
            lr=self._first_rate(real),
            momentum=0.0,
            weight_decay=0.0,
            decay_at=(),
            order="stored",
        )

    def _rates(self, real: RealData, steps: int) -> synthetic.LearnedRate:
        start = self._first_rate(real)
        return synthetic.LearnedRate(start, low=min(1e-5, start), high=max(10.0, start), steps=steps, scale="softplus")

    def _first_rate(self, real: RealData) -> float:
        published = self.grey_lr if real.image_shape[0] == 1 else 0.001
        return published if self.student_lr is None else self.student_lr

    def _halved(self, step: int) -> float:
        return float(0.5 ** (step * _HALVINGS // self.steps))
