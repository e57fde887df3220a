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
    from ddsdk.recipes.signature import Evaluation, Generator, MakeStudent, Module, Plan, RealData, SyntheticSet


_STEPS, _BATCH = 64, 128
"""The paper's steps of a student, and images of each."""


@final
@dataclass(frozen=True, kw_only=True)
class GTN(IterativeRecipe):
    """Generative teaching network: a generator and a curriculum of latents from which a student learns in one pass.

    min_{G, Z, rates, momenta} E_w0 1/N sum_k l(w_k; T_k) where step k = 1..N of a student trains on what the generator
    G makes of the latents Z_k and their classes, by SGD with a rate and a momentum of its own. After each step the
    student is tested on a real batch T_k, and the gradient passes through all steps.

    Attributes:
        ipc: Generated images per class, over all steps. The paper's 64 steps of 128 images are 819.
        steps: Steps of the generator.
        per_class: Images of each class in one step of a student. None makes 64 steps of them, as the paper has, of as
            many images as there are, at most about 128; with fewer than 64 images per class each step has one.
        image_lr: Learning rate of generator, latents and learned rates (Adam); it falls to a tenth along half a cosine.
        student_lr: Start of the learned rate of each step.
        student_momentum: Start of the learned momentum of each step.
        real_batch: Real images of one test.
        generator_dim: Length of a latent.
        generator_width: Channels of the generator's inner maps.
        checkpoint_every: Steps between two states of a student that are kept; those between are taken again.

    The set is what the generator makes in the end; the generator counts as stored. Order, rates and momenta make the
    protocol.

    The defaults are the paper's, for a GPU. On a CPU: narrow students, ipc 20 with `per_class` 2 (10 steps), and
    `generator_width` 16.

    Differences from the published algorithm: the generator has one linear layer and no batch normalisation, weight
    normalisation or tanh. Students are those of `make_student`, without weight normalisation and mean-only batch
    normalisation, and of one architecture. Fields are for one process: the paper multiplies `image_lr` by the number of
    workers. Learned rates stay in 1e-4..1; momenta are learned as they are and not as logarithms, in 0..0.99.

    References:
        Such, Rawal, Lehman, Stanley and Clune, "Generative Teaching Networks: Accelerating Neural Architecture Search
        by Learning to Generate Synthetic Training Data", ICML 2020, arXiv:1912.07768.
    """

    name: ClassVar[str] = "gtn"
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
        """Return back-propagation through a student's whole curriculum, with a test after each step."""
        batch = self._per_class(real) * real.num_classes
        lessons = math.ceil(self.ipc * real.num_classes / batch)
        return running.Plan(
            syn=self._curriculum(real, lessons, rng),
            objective=objectives.TrainAndTest(
                steps=lessons,
                training=objectives.SetTraining(batch_size=batch, order="stored"),
                optimizer=training.PacedSGD(),
                unroll=training.checkpointed(self.checkpoint_every),
                real_batch=self.real_batch,
                every_step=True,
            ),
            students=students.FreshStudents(make_student),
            make_optimizer=partial(adam_on_images, lr=self.image_lr),
            steps=self.steps,
            rate_at=self._falling,
            knobs="image_lr or student_lr",
        )

    def evaluation(self, real: RealData) -> Evaluation:
        """Return the paper's: one pass through the curriculum, at the learned rates and momenta."""
        return training.Evaluation(
            protocol="gtn",
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
        """Return random latents under a random generator, an image of each class after another."""
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
