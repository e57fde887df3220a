"""NDPDC: distribution matching with noised class sums of embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, final

import ddsdk as dd
from ddsdk.foundation import Momentum, NonNegativeInt, PositiveFloat, PositiveInt, derive, require
from ddsdk.recipes import sgd_on_images
from ddsdk_integrations.privacy.class_sums import ClassSumStudents, FeatureSpace, MatchClassSums, released_class_sums
from ddsdk_integrations.privacy.recipe import PrivateRecipe
from ddsdk_integrations.privacy.refusals import PrivacyError, refuse_bad_student
from ddsdk_integrations.privacy.statistics import planned_class_means, released_class_means

if TYPE_CHECKING:
    import torch

    from ddsdk.students import MakeStudent
    from ddsdk_integrations.privacy.data import PrivateData
    from ddsdk_integrations.privacy.mechanism import Mechanism


@final
@dataclass(frozen=True, kw_only=True)
class NDPDC(PrivateRecipe):
    """NDPDC: distribution matching with class sums of embeddings that are noised and released once.

    min_S sum_c || R_c / n_c - mean clip(f(S_c)) ||^2. R_c = sum clip(f(x)) + N(0, (s C)^2) over a Poisson sample of
    class c, f is the random network of the release, n_c the expected sample size, C the clip norm and s the noise
    multiplier. NDPDC is the recommended private recipe: it needs no per-sample gradients, and its sets have the best
    accuracy for their budget.

    Attributes:
        releases: Number of released sums, each with a random network of its own.
        steps: Number of image steps, each with one random release; steps cost no budget.
        image_lr: Learning rate of the images (SGD). None takes 10 ipc, because the objective contains a mean over the
            ipc images of a class.
        image_momentum: Momentum of the images, in 0 <= value < 1.
        start: Source of the initial images: ``"means"`` for noised class means plus Gaussian noise, which spend
            `means_share` of the budget; ``"noise"``; or ``"public"`` for public images of the data.
        centred: Whether the mean embedding of the initial images is subtracted from embeddings before clipping. Random
            networks map all images to similar embeddings, and their common part would use up the clip norm.
        means_share: Share of epsilon for the noised class means, strictly between 0 and 1.
        directions: Number of released directions of the embedding space, those of largest variance over the public
            images; 0 releases all.
        augmentation: DSA operations joined by "_", one draw for each release; empty for none.

    Differences from the published algorithm: all sums are released before the first step and matched afterwards, with
    their noise drawn once, as Dosser proposes. The start from noised means and the centring are ours;
    `start="noise", centred=False` is the published form. The sampling rate is public; the paper computes it from exact
    class sizes.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import NDPDC, Budget, Ledger, PrivateData
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> distilled = ddsdk.distill(NDPDC(ipc=1, releases=2, steps=2), private, make_student=student)
        >>> [release.what for release in distilled.certificate.releases]
        ['class means', 'class sums of embeddings']

    References:
        Zheng and Li, "Differentially Private Dataset Condensation", 2023; Dosser, ICCV 2025.
    """

    name: ClassVar[str] = "ndpdc"
    starts: ClassVar[tuple[str, ...]] = ("means", "noise", "public")
    # Steps reuse the releases, so a repeated step costs no budget.
    retries: ClassVar[int] = 5
    shortest: ClassVar[Mapping[str, int]] = {"releases": 1, "steps": 1}
    releases: PositiveInt = 200
    steps: PositiveInt = 2000
    image_lr: PositiveFloat | None = None
    image_momentum: Momentum = 0.5
    start: str = "means"
    centred: bool = True
    means_share: float = 0.25
    directions: NonNegativeInt = 0
    sample_rate: float = 0.1
    augmentation: str = ""

    def check(self) -> None:
        """Check the share of the class means."""
        require(0 < self.means_share < 1, "means_share", "lie strictly between 0 and 1", self.means_share)

    def parts(self, private: PrivateData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the plan of matching noised class sums; all sums are released here.

        Raises:
            PrivacyError: If `directions` is positive and the data has no public images.
        """
        refuse_bad_student(make_student, embeds=True)
        public = private.public if self.directions else None
        if self.directions and public is None:
            raise PrivacyError(
                f"public must be given to PrivateData for directions={self.directions}, got None: pass public=, or "
                "take directions=0"
            )
        mechanism, means = self._released_means(private)
        syn = self.pixels(private, derive(rng, "start"), means)
        space = FeatureSpace(
            make_student,
            dd.Augmentation(self.augmentation),
            centre=syn.detached(rng).x if self.centred else None,
            subspace=public,
            directions=self.directions,
            device=private.device,
        )
        released = released_class_sums(mechanism, space, private.image_shape, derive(rng, "networks"))
        image_lr = 10.0 * self.ipc if self.image_lr is None else self.image_lr
        return dd.Plan(
            syn=syn,
            objective=MatchClassSums(expected=self.expected(private), clip=self.clip),
            students=ClassSumStudents(released, space),
            make_optimizer=partial(sgd_on_images, lr=image_lr, momentum=self.image_momentum),
            steps=self.steps,
            average=self.average,
        )

    def _released_means(self, private: PrivateData) -> tuple[Mechanism, torch.Tensor | None]:
        """Return the mechanism of the class sums, and noised class means if the set starts from them.

        Both are entered in the ledger before either is released: a run that does not fit the budget spends nothing.
        """
        means = () if self.start != "means" else (planned_class_means(private, share=self.means_share),)
        sums = private.planned("class sums of embeddings", releases=self.releases, after=means, **self.terms)
        *of_means, of_sums = private.mechanisms(*means, sums)
        return of_sums, released_class_means(private, of_means[0]) if of_means else None

    def protocol(self, private: PrivateData) -> dd.TrainingProtocol:  # noqa: ARG002
        """Return the published evaluation protocol of the field, with the recipe's augmentation."""
        return dd.TrainingProtocol.published(self.augmentation)
