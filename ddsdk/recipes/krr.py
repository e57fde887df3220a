"""KRR: analytic dataset distillation by kernel ridge regression with the linear kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk import synthetic, training
from ddsdk.foundation import NonNegativeFloat, PositiveInt
from ddsdk.recipes.base import DirectRecipe
from ddsdk.recipes.parts import hard_label_set, start_images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddsdk.recipes.signature import Generator, MakeStudent, RealData, SyntheticSet, Tensor, TrainingProtocol


_CHUNK = 2000


@final
@dataclass(frozen=True, kw_only=True)
class KRR(DirectRecipe):
    """Analytic distillation: images on which linear regression gives the same weights as on the whole data set.

    Ridge regression on all real images (T, y) gives weights W. With the one-hot labels Y of the set and real images Z,
    the images are X = (W Y^+ + Z^+ (I - Y Y^+))^+, where ^+ is the pseudo-inverse. Then X^+ Y = W, and X^+ is as near
    to Z^+ as possible. One image per class is enough. The solution takes no optimisation steps.

    Attributes:
        ipc: Images per class, at least 1. More than one does not change the predictions.
        ridge: Ridge of the regression on the real images, as a multiple of the mean diagonal of their Gram matrix.
        start: Choice of the images Z: noise, real, k-means, means or herding.

    The student network is not used. The set serves linear regression without intercept, which is also the evaluation;
    networks do not train well on it. A run takes seconds, which suits tests of a pipeline, and it is a baseline for
    kernel methods.

    Differences from the published algorithm: the kernel is the linear one on pixels, while the paper also has
    invertible feature maps. Regression on the set has no ridge.

    Cost: n D^2 multiplications for n real images of D pixels; memory for two D x D matrices.

    References:
        Chen, Huang and Weng, "Provable and Efficient Dataset Distillation for Kernel Ridge Regression", NeurIPS 2024.

    Examples:
        >>> import ddsdk
        >>> distilled = ddsdk.distill(ddsdk.KRR(ipc=1), ddsdk.load("digits"))
        >>> tuple(distilled.images.shape), distilled.protocol["learner"]
        ((10, 1, 8, 8), 'kernel')
    """

    name: ClassVar[str] = "krr"
    ipc: PositiveInt = 1
    ridge: NonNegativeFloat = 1e-3
    start: str = "real"

    def protocol(self, real: RealData) -> TrainingProtocol:  # noqa: ARG002
        """Return linear regression on pixels, without ridge or intercept."""
        return training.TrainingProtocol(
            name="kernel regression",
            network="linear",
            network_options={"rule": "absolute", "ridge": 0.0},
            networks=1,
            learner="kernel",
        )

    def make(
        self,
        real: RealData,
        *,
        make_student: MakeStudent,  # noqa: ARG002
        rng: Generator,
    ) -> SyntheticSet:
        """Return the closed-form solution near real images, which `rng` draws.

        A class with fewer than `ipc` images, or a set with more images than pixels per image, is a ValueError.
        """
        initial = start_images(real, self.ipc, self.start, rng)
        weights = training.linear_weights(_chunks(real), training.Ridge(rule="trace", strength=self.ridge))
        syn = hard_label_set(real, self.ipc, synthetic.Pixels(initial))
        labels = syn.detached(rng).y
        syn.parametrization.encode(training.images_of_weights(weights, labels, initial).view_as(initial).float())
        return syn


def _chunks(real: RealData) -> Iterator[tuple[Tensor, Tensor]]:
    from torch import arange, split

    for index in split(arange(len(real)), _CHUNK):
        yield real.batch(index)
