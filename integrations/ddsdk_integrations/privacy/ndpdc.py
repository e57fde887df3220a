"""NDPDC: match noised class sums of features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, final

import ddsdk as dd
from ddsdk.foundation import Momentum, NonNegativeInt, PositiveFloat, PositiveInt, derive, require
from ddsdk.recipes import sgd_on_images
from ddsdk_integrations.privacy.class_sums import FeatureSpace, MatchClassSums, ReleasedSums, released_class_sums
from ddsdk_integrations.privacy.guard import PrivacyError, refuse_bad_student
from ddsdk_integrations.privacy.recipe import PrivateRecipe
from ddsdk_integrations.privacy.statistics import planned_class_means, released_class_means

if TYPE_CHECKING:
    import torch

    from ddsdk.students import MakeStudent
    from ddsdk_integrations.privacy.data import PrivateData
    from ddsdk_integrations.privacy.mechanism import Mechanism


@final
@dataclass(frozen=True, kw_only=True)
class NDPDC(PrivateRecipe):
    """Noised class sums of embeddings under random networks, released once and matched for many steps.

    min_S sum_c || R_c / n_c - mean clip(f(S_c)) ||^2, R_c = sum clip(f(x)) + N(0, (s C)^2) over a Poisson sample of
    class c, for the random network of each release. The recommended private recipe: it needs no per-sample gradients,
    and has the best sets for its budget.

    Attributes:
        releases: Number of released sums, each under a network of its own.
        steps: Image steps, each on one release at random.
        image_lr: Learning rate of the images (SGD). None takes 10 ipc: the gradient of an image is that of a mean.
        image_momentum: Momentum of the images.
        start: ``"means"``: noised means of classes, paid for with `means_share`, and noise on top; ``"noise"``;
            ``"public"``.
        centred: Whether embeddings are taken less the mean embedding of the start, before they are clipped: random
            networks give all images much the same embedding, on which the clip norm is spent otherwise.
        means_share: Share of epsilon for the class means of that start.
        directions: Number of directions along which sums are released, those in which the embeddings of public images
            vary most; 0 takes all.
        augmentation: DSA operations joined by "_", one draw for each release; empty for none.

    Differences from the published algorithm: all releases come first and are matched afterwards, as Dosser says, with
    their noise drawn once; the start from paid means and the centre are ours, and `start="noise", centred=False` is the
    published form. The sampling rate is public, where the paper takes it from exact class sizes.

    References:
        Zheng and Li, "Differentially Private Dataset Condensation", 2023; Dosser, ICCV 2025.
    """

    name: ClassVar[str] = "ndpdc"
    starts: ClassVar[tuple[str, ...]] = ("means", "noise", "public")
    # Its steps are no releases.
    retries: ClassVar[int] = 5
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
        """Check the share."""
        require(0 < self.means_share < 1, "means_share", "lie strictly between 0 and 1", self.means_share)

    def parts(self, private: PrivateData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return matching of sums that are released here."""
        refuse_bad_student(make_student, embeds=True)
        public = private.public if self.directions else None
        if self.directions and public is None:
            raise PrivacyError(f"public must be given to PrivateData for directions={self.directions}, got None")
        sums, means = self._paid(private)
        syn = self.pixels(private, derive(rng, "start"), means)
        space = FeatureSpace(
            make_student,
            dd.Augmentation(self.augmentation),
            centre=syn.detached(rng).x if self.centred else None,
            subspace=public,
            directions=self.directions,
            device=private.device,
        )
        released = released_class_sums(sums, space, private.image_shape, derive(rng, "networks"))
        image_lr = 10.0 * self.ipc if self.image_lr is None else self.image_lr
        return dd.Plan(
            syn=syn,
            objective=MatchClassSums(expected=self.expected(private), clip=self.clip),
            students=ReleasedSums(released, space),
            make_optimizer=partial(sgd_on_images, lr=image_lr, momentum=self.image_momentum),
            steps=self.steps,
            average=self.average,
        )

    def _paid(self, private: PrivateData) -> tuple[Mechanism, torch.Tensor | None]:
        """Return the mechanism of the sums, and the means of the start; both are entered before either is made."""
        asked = () if self.start != "means" else (planned_class_means(private, share=self.means_share),)
        sums = private.planned("class sums of embeddings", releases=self.releases, after=asked, **self.terms)
        *first, last = private.mechanisms(*asked, sums)
        return last, released_class_means(private, first[0]) if first else None

    def evaluation(self, private: PrivateData) -> dd.Evaluation:  # noqa: ARG002
        """Return the published protocol of the field, with the recipe's augmentation."""
        return dd.Evaluation.published(self.augmentation)
