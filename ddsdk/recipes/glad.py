"""GLaD: distillation in the inner maps of a generator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import running, students, synthetic
from ddsdk.foundation import PositiveInt, require
from ddsdk.recipes.distribution import LatentMatching
from ddsdk.recipes.parts import adam_on_images, hard_set, start_images

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class GLaD(LatentMatching):
    """Generative latent distillation: any matching, over what stands between two layers of a generator.

    min_z sum_c ||mean psi_theta(A(G_l(z_c))) - mean psi_theta(A(T_c))||^2, where G_l are the layers of a frozen
    generator from l on. Early layers keep images natural, late ones leave them free. Another objective, such as DC's,
    is `dataclasses.replace(plan, objective=..., students=...)`; another generator is `ddsdk.synthetic.Latent(own,
    latents)`.

    Attributes:
        layer: Number of the layer whose input is stored: 1 for maps of a quarter of the resolution, 2 for half of it.

    Differences from the published algorithm: the generator is a small one, trained on the same data without an
    adversary, in place of StyleGAN-XL; there are no style codes beside the maps; latents are found by an encoder and
    a short inversion of chosen real images. The learning rate is chosen here. The objective is DM's by default; the
    paper has DC's and MTT's too. The generator is trained anew in each call, in minutes, and not kept in a file; it
    counts as stored, as do the maps, which may be larger than the images.

    References:
        Cazenavette et al., "Generalizing Dataset Distillation via Deep Generative Prior", CVPR 2023, arXiv:2305.01649.
    """

    name: ClassVar[str] = "glad"
    layer: PositiveInt = 1

    def check(self) -> None:
        """Check that there is such a layer."""
        require(self.layer in (1, 2), "layer", "be 1 or 2", self.layer)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return matching of mean embeddings over inner maps of the generator."""
        objective = self.mean_match(real, self.real_batch)
        images = start_images(real, self.ipc, self.start, rng)
        classes = synthetic.class_slots(real.num_classes, self.ipc).to(real.device)
        both = self.trained(real, rng)
        latent = synthetic.Latent(
            both.generator.after(self.layer),
            both.generator.inner(both.latents(images), classes, self.layer),
            fit=self.inversion_steps,
            fit_lr=self.inversion_lr,
        )
        latent.encode(images)
        return running.Plan(
            syn=hard_set(real, self.ipc, latent),
            objective=objective,
            students=students.FreshStudents(make_student),
            make_optimizer=partial(adam_on_images, lr=self.image_lr),
            steps=self.steps,
        )
