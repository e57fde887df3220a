"""GTN: generative teaching networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import foundation, networks, objectives, running, students, synthetic, training
from ddsdk.foundation import Momentum, PositiveFloat, PositiveInt
from ddsdk.recipes.base import IterativeRecipe
from ddsdk.recipes.parts import adam_on_images

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData, SyntheticSet, TrainingProtocol


_STEPS, _BATCH = 64, 128
"""Training steps of a student and images of each step, as in the paper."""


@final
@dataclass(frozen=True, kw_only=True)
class GTN(IterativeRecipe):
    """Generative teaching network: a generator and a curriculum of latents, on which a student trains in a single pass.

    min_{G, Z, rates, momenta} E_w0 1/N sum_k l(w_k; T_k), where training step k = 1..N of a student takes the images
    that the generator G decodes from the latents Z_k and their classes, with SGD at the learned rate and momentum of
    that step. The student is tested on a real batch T_k after each training step, and the gradient passes through all
    steps.

    Attributes:
        ipc: Generated images per class, over all training steps. The paper's 64 steps of 128 images are 819.
        steps: Steps of the generator's optimizer, each with a fresh student.
        per_class: Images per class in one training step of a student. None for the published 64 training steps, with at
            most about 128 images each; for an ipc below 64 each training step has one image per class.
        image_lr: Learning rate of generator, latents and learned rates (Adam), which falls to a tenth along half a
            cosine.
        student_lr: Initial value of the learned rate of each training step.
        student_momentum: Initial value of the learned momentum of each training step.
        real_batch: Real images in one test.
        generator_dim: Length of a latent vector.
        generator_width: Channels of the generator's feature maps at half resolution.
        checkpoint_every: Training steps between two stored student states; the steps between are recomputed.

    The result are the decoded images at the end; the stored floats include the generator. The order, rates and momenta
    form the evaluation protocol.

    The defaults are the paper's, for a GPU. On a CPU use narrow students, ipc 20 with `per_class` 2 (10 training
    steps), and `generator_width` 16.

    Differences from the published algorithm: the generator has one linear layer, and no batch normalisation, weight
    normalisation or tanh. Students are those of `make_student`, of one architecture, without weight normalisation and
    mean-only batch normalisation. The values are for one process: the paper multiplies `image_lr` by the number of
    workers. Learned rates stay between 1e-4 and 1. Momenta are learned directly, in 0..0.99; the paper learns
    logarithms.

    References:
        Such, Rawal, Lehman, Stanley and Clune, "Generative Teaching Networks: Accelerating Neural Architecture Search
        by Learning to Generate Synthetic Training Data", ICML 2020, arXiv:1912.07768.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.GTN(ipc=4, per_class=2, steps=1, real_batch=16, generator_width=4)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> len(ddsdk.distill(recipe, real, make_student=make_student).learned_lr)  # two training steps
        2
    """

    name: ClassVar[str] = "gtn"
    needs = ("second derivatives",)
    ipc: PositiveInt = 832
    steps: PositiveInt = 2000
    per_class: PositiveInt | None = None
    image_lr: PositiveFloat = 0.02
    student_lr: PositiveFloat = 0.02
    student_momentum: Momentum = 0.5
    real_batch: PositiveInt = 128
    generator_dim: PositiveInt = 128
    generator_width: PositiveInt = 64
    checkpoint_every: PositiveInt = 1

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return back-propagation through a student's whole training, with a test after each training step."""
        batch = self._per_class(real) * real.num_classes
        training_steps = math.ceil(self.ipc * real.num_classes / batch)
        return running.Plan(
            syn=self._curriculum(real, training_steps, rng),
            objective=objectives.TrainAndTest(
                steps=training_steps,
                training=objectives.SetTraining(batch_size=batch, order="stored"),
                optimizer=training.PerStepSGD(),
                unroll=training.checkpointed(self.checkpoint_every),
                real_batch=self.real_batch,
                every_step=True,
            ),
            students=students.FreshStudents(make_student),
            make_optimizer=partial(adam_on_images, lr=self.image_lr),
            steps=self.steps,
            rate_at=self._falling,
            divergence_hint="image_lr or student_lr",
        )

    def protocol(self, real: RealData) -> TrainingProtocol:
        """Return the paper's protocol: one pass through the curriculum, at the learned rates and momenta."""
        return training.TrainingProtocol(
            name="gtn",
            network_options={"width": 128},
            epochs=1,
            batch_size=self._per_class(real) * real.num_classes,
            lr=self.student_lr,
            momentum=self.student_momentum,
            weight_decay=0.0,
            decay_at=(),
            order="stored",
        )

    def _per_class(self, real: RealData) -> int:
        if self.per_class is not None:
            return self.per_class
        return max(1, min(round(self.ipc / _STEPS), round(_BATCH / real.num_classes)))

    def _curriculum(self, real: RealData, steps: int, rng: Generator) -> SyntheticSet:
        """Return random latents with a random generator; slot i belongs to class i mod K."""
        from torch import arange, device, randn

        k = real.num_classes
        classes = arange(self.ipc * k) % k
        with device("meta"):
            generator = synthetic.ConditionalGenerator(
                real.image_shape, k, dim=self.generator_dim, width=self.generator_width
            )
        generator = networks.initialise(generator, foundation.derive(rng, "generator"))
        latents = randn(len(classes), self.generator_dim, generator=foundation.derive(rng, "latents"))
        rate = synthetic.LearnedRate(
            self.student_lr,
            low=min(1e-4, self.student_lr),
            high=max(1.0, self.student_lr),
            steps=steps,
            momentum=self.student_momentum,
            scale="log",
        )
        syn = synthetic.SyntheticSet(
            synthetic.Latent(generator, latents, classes, learned=True),
            synthetic.hard_labels(classes, k),
            classes,
            k,
            rate,
        )
        return syn.to(real.device)

    def _falling(self, step: int) -> float:
        return 0.1 + 0.45 * (1 + math.cos(math.pi * step / self.steps))
