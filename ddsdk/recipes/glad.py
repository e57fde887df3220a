"""GLaD: distillation into the feature maps of a generator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import running, students, synthetic
from ddsdk.foundation import PositiveInt, require
from ddsdk.recipes.distribution import LatentMatching
from ddsdk.recipes.parts import adam_on_images, hard_label_set, start_images

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class GLaD(LatentMatching):
    """Generative latent distillation: the set stores feature maps between two layers of a frozen generator.

    min_z sum_c ||mean psi_theta(A(G_l(z_c))) - mean psi_theta(A(T_c))||^2, where G_l are the layers of the generator
    from l on. Early layers keep images natural; late layers constrain them less. `dataclasses.replace(plan,
    objective=..., students=...)` gives another objective, such as that of DC, and `ddsdk.synthetic.Latent(generator,
    latents)` another generator.

    Attributes:
        layer: Number of the layer whose input is stored: 1 for maps of a quarter of the image's resolution, 2 for maps
            of half of it.

    Differences from the published algorithm: the generator is a small one, trained on the same data without an
    adversary, in place of StyleGAN-XL. The maps have no style codes. Initial latents are found by an encoder and a
    short inversion of chosen real images. The learning rate was chosen here. The objective is that of DM; the paper
    also has those of DC and MTT. Each call trains the generator anew, in minutes, without a cache. The stored floats of
    a set include the generator and the maps, which may be larger than the images.

    References:
        Cazenavette et al., "Generalizing Dataset Distillation via Deep Generative Prior", CVPR 2023, arXiv:2305.01649.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.GLaD(ipc=1, steps=1, real_batch=16, generator_steps=2, inversion_steps=2)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)
        (10, 1, 8, 8)
    """

    name: ClassVar[str] = "glad"
    sums_over_classes: ClassVar[bool] = True
    needs = ("features",)
    layer: PositiveInt = 1

    def check(self) -> None:
        """Check that the generator has the layer."""
        require(self.layer in (1, 2), "layer", "be 1 or 2", self.layer)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return matching of mean embeddings over feature maps of the generator."""
        objective = self.mean_match(real, self.real_batch)
        images = start_images(real, self.ipc, self.start, rng)
        classes = synthetic.class_slots(real.num_classes, self.ipc).to(real.device)
        autoencoder = self.trained(real, rng)
        generator = autoencoder.generator
        latent = synthetic.Latent(
            generator.after(self.layer),
            generator.inner(autoencoder.latents(images), classes, self.layer),
            fit=self.inversion_steps,
            fit_lr=self.inversion_lr,
        )
        latent.encode(images)
        return running.Plan(
            syn=hard_label_set(real, self.ipc, latent),
            objective=objective,
            students=students.FreshStudents(make_student),
            make_optimizer=partial(adam_on_images, lr=self.image_lr),
            steps=self.steps,
        )
