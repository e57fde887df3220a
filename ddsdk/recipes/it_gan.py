"""IT-GAN: informative latents of real images under a frozen conditional generator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students, synthetic
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt
from ddsdk.recipes.distribution import LatentMatching
from ddsdk.recipes.parts import adam_on_images, hard_set, start_images

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class ITGAN(LatentMatching):
    """Informative training samples: latents of real images move to match features, and stay near their images.

    min_z sum_c ||mean psi_theta(A(G(z_c, c))) - mean psi_theta(A(T_c))||^2 + inversion mean_i ||G(z_i, c_i) - x_i||^2
    with a frozen generator G, fresh networks theta, one siamese augmentation A for each class, and the real images
    x_i that the latents z_i were found for.

    Attributes:
        inversion: Weight of the distance from the images that the latents were found for.

    Differences from the published algorithm: a small autoencoder, trained on the same data without an adversary, is in
    place of BigGAN with latents of length 128; ipc latents of each class in place of one for every training image (take
    ipc as large as the classes for that); the inversion is kept in pixels, and not in features too. The weight and the
    number of steps are chosen here: the training code is not public. The generator is trained anew in each call, in
    minutes, and not kept in a file; it counts as stored.

    References:
        Zhao and Bilen, "Synthesizing Informative Training Samples with GAN", NeurIPS 2022 workshop, arXiv:2204.07513.
    """

    name: ClassVar[str] = "it-gan"
    steps: PositiveInt = 5000
    image_lr: PositiveFloat = 0.001
    generator_dim: PositiveInt = 128
    inversion: NonNegativeFloat = 0.001

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return matching of mean embeddings, and the inversion, over latents of chosen images."""
        objective = self.mean_match(real, self.real_batch)
        images = start_images(real, self.ipc, self.start, rng)
        classes = synthetic.class_slots(real.num_classes, self.ipc).to(real.device)
        both = self.trained(real, rng)
        latent = synthetic.Latent(
            both.generator, both.latents(images), classes, fit=self.inversion_steps, fit_lr=self.inversion_lr
        )
        latent.encode(images)
        return running.Plan(
            syn=hard_set(real, self.ipc, latent),
            objective=objectives.Total(((1.0, objective), (self.inversion, objectives.Inversion(images)))),
            students=students.FreshStudents(make_student),
            make_optimizer=partial(adam_on_images, lr=self.image_lr),
            steps=self.steps,
        )
