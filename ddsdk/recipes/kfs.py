"""KFS: knowledge factorisation and sharing, codes times decoders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import foundation, running, students, synthetic
from ddsdk.foundation import NonNegativeInt, PositiveFloat, PositiveInt
from ddsdk.recipes.distribution import DistributionMatching
from ddsdk.recipes.parts import adam_on_images, cycled_images, hard_set

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class KFS(DistributionMatching):
    """Knowledge factorisation and sharing: every code of a class under every one of a few tiny shared decoders.

    min sum_c ||mean psi_theta(A({G_d(z): z in Z_c, d = 1..D})) - mean psi_theta(A(T_c))||^2 over codes and decoders,
    with fresh networks theta and one siamese augmentation A for each class. ipc is a budget: codes and decoders
    together take at most the floats of ipc images of each class, and at least one code of each class.

    Attributes:
        steps: Steps of codes and decoders.
        image_lr: Learning rate of codes and decoders (Adam).
        real_batch: Real images of each class in one step.
        start: Images that the codes stand for at first: noise, real, k-means, means or herding.
        decoders: Decoders, each of which makes an image of each code.
        codes_batch: Largest number of codes of each class in one step.
        fit_steps: Steps of the fit of codes and decoders to the images of the start.

    Differences from the published algorithm: the sizes of codes (4C maps of a quarter of the resolution) and decoders
    (two 3x3 convolutions), the rates and the start (each code is fitted to one image under all decoders) are chosen
    here, as they are not public; the objective is that of DM without the paper's changes to it.

    References:
        Lee, Lee and Hwang, "Dataset Condensation with Latent Space Knowledge Factorization and Sharing",
        arXiv:2208.10494.
    """

    name: ClassVar[str] = "kfs"
    image_lr: PositiveFloat = 0.003
    real_batch: PositiveInt = 256
    decoders: PositiveInt = 4
    codes_batch: PositiveInt = 32
    fit_steps: NonNegativeInt = 300

    def codes_per_class(self, real: RealData) -> int:
        """Return how many codes of each class the budget leaves beside the decoders."""
        decoder = synthetic.tiny_decoder(real.image_shape, foundation.generator("shapes"))
        shared = self.decoders * sum(p.numel() for p in decoder.parameters())
        budget = real.num_classes * self.ipc * prod(real.image_shape) - shared
        return max(1, budget // (real.num_classes * prod(synthetic.code_shape(real.image_shape))))

    def parametrization(self, real: RealData, rng: Generator) -> synthetic.Codes:
        """Return codes and decoders, fitted to images of the start."""
        from torch import randn

        codes = self.codes_per_class(real)
        images = cycled_images(real, self.ipc, codes, self.start, rng)
        shape = (len(images), *synthetic.code_shape(real.image_shape))
        found = synthetic.Codes(
            randn(shape, generator=foundation.derive(rng, "codes")),
            [
                synthetic.tiny_decoder(real.image_shape, foundation.derive(rng, "decoder", i))
                for i in range(self.decoders)
            ],
            fit=self.fit_steps,
        ).to(real.device)
        found.encode(images.repeat_interleave(self.decoders, 0))
        return found

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return squared matching of mean embeddings over codes and decoders."""
        return running.Plan(
            syn=hard_set(real, self.codes_per_class(real), self.parametrization(real, rng)),
            objective=self.mean_match(real, self.real_batch, self.codes_batch),
            students=students.FreshStudents(make_student),
            make_optimizer=partial(adam_on_images, lr=self.image_lr),
            steps=self.steps,
        )
