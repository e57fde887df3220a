"""KFS: knowledge factorisation and sharing, with codes and shared decoders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import foundation, running, students, synthetic
from ddsdk.foundation import NonNegativeInt, PositiveFloat, PositiveInt
from ddsdk.recipes.distribution import DistributionMatching
from ddsdk.recipes.parts import adam_on_images, cycled_images, hard_label_set

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class KFS(DistributionMatching):
    """Knowledge factorisation and sharing: each code is decoded by each of a few tiny decoders that all classes share.

    min sum_c ||mean psi_theta(A({G_d(z): z in Z_c, d = 1..D})) - mean psi_theta(A(T_c))||^2 over codes and decoders,
    with fresh networks theta and the same random augmentation A of real and synthetic images of a class. ipc is a
    storage budget: codes and decoders together have at most as many floats as ipc images per class, but at least one
    code per class.

    Attributes:
        ipc: Storage budget, as the number of images per class with equally many floats; at least 1.
        steps: Optimization steps of codes and decoders.
        image_lr: Learning rate of codes and decoders (Adam).
        real_batch: Real images per class in one step.
        start: Initialisation of the images to which codes and decoders are first fitted: noise, real, k-means, means or
            herding.
        decoders: Number of decoders, each of which decodes every code to one image.
        codes_batch: Largest number of codes per class in one step.
        fit_steps: Steps of the fit of codes and decoders to the initial images.

    Differences from the published algorithm: the sizes of codes (4C maps of a quarter of the resolution) and decoders
    (two 3x3 convolutions), the rates and the initialisation (each code is fitted to one image under all decoders) were
    chosen here, because they are not public. The objective is that of DM, without the paper's changes to it.

    References:
        Lee, Lee and Hwang, "Dataset Condensation with Latent Space Knowledge Factorization and Sharing",
        arXiv:2208.10494.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.KFS(ipc=1, steps=1, real_batch=16, decoders=2, fit_steps=2)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)  # one code, two decoders
        (20, 1, 8, 8)
    """

    name: ClassVar[str] = "kfs"
    sums_over_classes: ClassVar[bool] = True
    needs = ("features",)
    image_lr: PositiveFloat = 0.003
    real_batch: PositiveInt = 256
    decoders: PositiveInt = 4
    codes_batch: PositiveInt = 32
    fit_steps: NonNegativeInt = 300

    def codes_per_class(self, real: RealData) -> int:
        """Return the number of codes per class that fit into the storage budget beside the decoders."""
        decoder = synthetic.tiny_decoder(real.image_shape, foundation.generator("shapes"))
        decoder_floats = self.decoders * sum(p.numel() for p in decoder.parameters())
        code_floats = real.num_classes * self.ipc * prod(real.image_shape) - decoder_floats
        return max(1, code_floats // (real.num_classes * prod(synthetic.code_shape(real.image_shape))))

    def parametrization(self, real: RealData, rng: Generator) -> synthetic.Codes:
        """Return codes and decoders that are fitted to the initial images."""
        from torch import randn

        codes = self.codes_per_class(real)
        images = cycled_images(real, self.ipc, codes, self.start, rng)
        shape = (len(images), *synthetic.code_shape(real.image_shape))
        parametrization = synthetic.Codes(
            randn(shape, generator=foundation.derive(rng, "codes")),
            [
                synthetic.tiny_decoder(real.image_shape, foundation.derive(rng, "decoder", i))
                for i in range(self.decoders)
            ],
            fit=self.fit_steps,
        ).to(real.device)
        parametrization.encode(images.repeat_interleave(self.decoders, 0))
        return parametrization

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return matching of mean embeddings by squared distances, over codes and decoders."""
        return running.Plan(
            syn=hard_label_set(real, self.codes_per_class(real), self.parametrization(real, rng)),
            objective=self.mean_match(real, self.real_batch, self.codes_batch),
            students=students.FreshStudents(make_student),
            make_optimizer=partial(adam_on_images, lr=self.image_lr),
            steps=self.steps,
        )
