"""The frame of back-propagation through time, and of its oldest form: batches in a fixed order, each with its rate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students, synthetic, training
from ddsdk.foundation import PositiveFloat, PositiveInt
from ddsdk.recipes.base import IterativeRecipe
from ddsdk.recipes.parts import adam_on_images, augmentation_for, classic_network, start_images

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Evaluation, Generator, MakeStudent, Module, Plan, RealData, Unroll


_LONG = 30
"""Steps from which on rebuilding graphs is worth their memory; up to there it costs 1.4 times as long."""

_DROPS = 10
"""Halvings of the rate of DD's optimizer in a run."""


def unroll_for(steps: int) -> Unroll:
    """Return the exact way to pass through so many steps that suits them: the full graph, or constant memory."""
    return training.full_graph if steps <= _LONG else training.constant_memory


def flip_or_rotate(real: RealData, given: str | None) -> str:
    """Return `given`, or if it is None one of flip and rotation, which suit the data; see `augmentation_for`."""
    if given is not None:
        return given
    suits = augmentation_for(real, None).split("_")
    return "_".join(op for op in ("flip", "rotate") if op in suits)


@dataclass(frozen=True, kw_only=True)
class UnrolledTraining(IterativeRecipe):
    """Fresh students train on the set, and the gradient of their loss on real images passes through that training.

    Attributes:
        steps: Image steps.
        image_lr: Learning rate of everything that the set stores.
        student_lr: Learning rate of the students.
        real_batch: Real images on which a student is tested.
        start: Start of the images: noise, real, k-means, means or herding.
    """

    steps: PositiveInt = 20_000
    image_lr: PositiveFloat = 1e-3
    student_lr: PositiveFloat | None = 1e-3
    real_batch: PositiveInt = 1024
    start: str = "real"


@dataclass(frozen=True, kw_only=True)
class OrderedBatches(UnrolledTraining):
    """A student trains on batches in their stored order, several times, each time with a rate of its own.

    A batch holds one image of each class. The images mean little without their order and the rates, which are stored
    with them and make the protocol.

    Attributes:
        passes: Passes of a student through all batches.
        image_lr: Learning rate of everything that is learned (Adam); halved ten times over the run.
        student_lr: Start of the learned rate of each step. None takes `grey_lr` for grey images, 0.001 for others.
    """

    grey_lr: ClassVar[float]
    """Start of learned rates on grey images."""

    image_lr: PositiveFloat = 0.01
    student_lr: PositiveFloat | None = None
    start: str = "noise"
    passes: PositiveInt = 3

    @final
    def ordered(
        self, real: RealData, *, make_student: MakeStudent, rng: Generator, images: int, learned: bool
    ) -> Plan[Module]:
        """Return the plan of so many images; labels are free numbers if `learned`, one-hot and fixed otherwise."""
        from torch import arange

        k = real.num_classes
        batches = -(-images // k)
        # Class by class, as a start has them, to batch by batch.
        started = start_images(real, batches, self.start, rng).view(k, batches, *real.image_shape)
        classes = arange(images) % k
        hard = synthetic.hard_labels(classes, k)
        syn = synthetic.SyntheticSet(
            synthetic.Pixels(started.transpose(0, 1).flatten(0, 1)[:images]),
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
            knobs="image_lr or student_lr",
        )

    @final
    def evaluation(self, real: RealData) -> Evaluation:
        """Return the paper's: the same batches in the same order at the learned rates, and nothing else."""
        return training.Evaluation(
            protocol="stored order",
            network=classic_network(real),
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
        derived = self.grey_lr if real.image_shape[0] == 1 else 0.001
        return derived if self.student_lr is None else self.student_lr

    def _halved(self, step: int) -> float:
        return float(0.5 ** (step * _DROPS // self.steps))
