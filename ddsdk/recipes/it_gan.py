"""IT-GAN: informative latents of real images under a frozen conditional generator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import objectives, running, students, synthetic
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt
from ddsdk.recipes.distribution import LatentMatching
from ddsdk.recipes.parts import adam_on_images, hard_label_set, start_images

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class ITGAN(LatentMatching):
    """Informative training samples: latents of real images that match class features and stay near their images.

    min_z sum_c ||mean psi_theta(A(G(z_c, c))) - mean psi_theta(A(T_c))||^2 + inversion mean_i ||G(z_i, c_i) - x_i||^2
    with a frozen generator G, fresh networks theta, and the same random augmentation A of real and synthetic images of
    a class. The latent z_i starts as the inversion of the real image x_i.

    Attributes:
        inversion: Weight of the squared distance from the inverted real images.

    Differences from the published algorithm: the generator is that of a small autoencoder, trained on the same data
    without an adversary, in place of BigGAN with latents of length 128. There are ipc latents per class; the paper has
    one for each training image, which is an ipc as large as the classes. The distance from the inverted images is
    measured in pixels, not in features too. The weight and the number of steps were chosen here, because the training
    code is not public. Each call trains the generator anew, in minutes, without a cache. The stored floats of a set
    include the generator.

    References:
        Zhao and Bilen, "Synthesizing Informative Training Samples with GAN", NeurIPS 2022 workshop, arXiv:2204.07513.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.ITGAN(ipc=1, steps=1, real_batch=16, generator_steps=2, inversion_steps=2)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (10, 1, 8, 8)
    """

    name: ClassVar[str] = "it-gan"
    needs = ("features",)
    steps: PositiveInt = 5000
    image_lr: PositiveFloat = 0.001
    generator_dim: PositiveInt = 128
    inversion: NonNegativeFloat = 0.001

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return matching of mean embeddings, with the inversion term, over latents of chosen images."""
        match = self.mean_match(real, self.real_batch)
        images = start_images(real, self.ipc, self.start, rng)
        classes = synthetic.class_slots(real.num_classes, self.ipc).to(real.device)
        autoencoder = self.trained(real, rng)
        latent = synthetic.Latent(
            autoencoder.generator,
            autoencoder.latents(images),
            classes,
            fit=self.inversion_steps,
            fit_lr=self.inversion_lr,
        )
        latent.encode(images)
        return running.Plan(
            syn=hard_label_set(real, self.ipc, latent),
            objective=objectives.WeightedSum(((1.0, match), (self.inversion, objectives.Inversion(images)))),
            students=students.FreshStudents(make_student),
            make_optimizer=partial(adam_on_images, lr=self.image_lr),
            steps=self.steps,
        )
