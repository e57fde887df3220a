"""What a private recipe is: a plan whose only word of the records are noised sums, and a set with its certificate."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch

import ddsdk as dd
from ddsdk.artefact import assemble
from ddsdk.foundation import derive, require, require_count, require_rate, require_rng
from ddsdk.synthetic import FixedLabels, Pixels, class_slots, hard_labels
from ddsdk_integrations.privacy.data import PrivateData, require_private
from ddsdk_integrations.privacy.guard import PrivacyError, refuse_private_start, refuse_unsealed

if TYPE_CHECKING:
    from ddsdk.students import MakeStudent

__all__ = ["PrivateRecipe", "distilled_privately", "fixed_label_pixels"]

_SPREAD = 0.5


@dataclass(frozen=True, kw_only=True)
class PrivateRecipe(ABC):
    """A recipe that takes `PrivateData`, and spends of its ledger.

    Attributes:
        name: What tables call the method.
        starts: Where images may start.
        retries: How often a step that is not finite is tried again with a smaller rate: never, where it is a release.
        ipc: Images per class.
        start: Where images start: ``"noise"``, or ``"public"``: public images.
        sample_rate: Probability with which a record is in a sample: a number that does not depend on the records.
        clip: Norm to which the row of a record is shortened.
        noise_multiplier: Standard deviation of the noise, over `clip`. None takes the least with which the run fits
            what the budget has left, and so spends all of it.
        average: Decay of a moving average of the set, which is then the result; None for none.
    """

    name: ClassVar[str]
    starts: ClassVar[tuple[str, ...]] = ("noise", "public")
    retries: ClassVar[int] = 0
    ipc: int = 10
    start: str = "noise"
    sample_rate: float = 0.01
    clip: float = 1.0
    noise_multiplier: float | None = None
    average: float | None = None

    def __post_init__(self) -> None:
        require_count("ipc", self.ipc)
        require(0 < self.sample_rate <= 1, "sample_rate", "lie in 0 < value <= 1", self.sample_rate)
        require_rate("clip", self.clip)
        if self.noise_multiplier is not None:
            require_rate("noise_multiplier", self.noise_multiplier)
        refuse_private_start(self.start, self.starts)
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError for a parameter that no data could make right."""

    @abstractmethod
    def parts(
        self,
        private: PrivateData,
        *,
        make_student: MakeStudent,
        public: torch.Tensor | None,
        rng: torch.Generator,
    ) -> dd.Plan[Any]:
        """Return the paper's parts; releases are paid here."""

    @abstractmethod
    def evaluation(self, private: PrivateData) -> dd.Evaluation:
        """Return how to train on the set."""

    @final
    def plan(
        self,
        private: PrivateData,
        *,
        make_student: MakeStudent,
        rng: torch.Generator,
        public: dd.RealData | None = None,
    ) -> dd.Plan[Any]:
        """Return the parts, ready to run by `distilled_privately`; `dataclasses.replace` swaps one.

        Args:
            private: The records.
            make_student: Builds a network from a generator.
            rng: For everything that is public. Noise and samples have generators of their own.
            public: Images that everybody may see, of the same shape and any classes.

        Raises:
            BudgetSpentError: If the run does not fit what is left; nothing was looked at.
            PrivacyError: If the configuration would break the guarantee.
            ValueError: If a parameter does not fit the data.
        """
        require_rng(rng)
        require_private(private)
        if self.start == "public" and public is None:
            raise PrivacyError("public must be given for a start from public images, got None")
        images = None if public is None else private.public_images(public)
        return self.parts(private, make_student=make_student, public=images, rng=derive(rng, "plan"))

    @final
    def __call__(
        self,
        private: PrivateData,
        *,
        make_student: MakeStudent,
        rng: torch.Generator,
        public: dd.RealData | None = None,
    ) -> dd.Distilled:
        """Spend, distil, and return the set with its certificate.

        Args:
            private: As for `plan`, as are the other arguments.
            make_student: See `plan`.
            rng: See `plan`.
            public: See `plan`.

        Raises:
            BudgetSpentError: See `plan`.
            PrivacyError: See `plan`.
        """
        began = time.perf_counter()
        plan = self.plan(private, make_student=make_student, rng=rng, public=public)
        return distilled_privately(
            plan,
            private,
            recipe=self,
            evaluation=self.evaluation(private),
            make_student=make_student,
            rng=rng,
            seconds=time.perf_counter() - began,
            retries=self.retries,
        )


def distilled_privately(
    plan: dd.Plan[Any],
    private: PrivateData,
    *,
    recipe: Any,  # noqa: ANN401
    evaluation: dd.Evaluation,
    make_student: MakeStudent,
    rng: torch.Generator,
    seconds: float = 0.0,
    retries: int = 0,
) -> dd.Distilled:
    """Run a plan on what was released, and return its set with the certificate.

    Provenance tells neither size nor fingerprint of the records, for those are functions of them without noise.

    Args:
        plan: Its students or its objective hold releases; its set must start from what is public.
        private: The records; every draw is refused.
        recipe: A dataclass with the parameters, for provenance.
        evaluation: How to train on the set.
        make_student: For provenance.
        rng: Root of the run; not of noise and samples.
        seconds: That were spent before.
        retries: See `ddsdk.Distillation`. A step that is tried again must not be a release.

    Raises:
        PrivacyError: If the plan draws records, chooses its set on held-out ones, or has a function to finish it.
        DivergedError: If a step is not finite; the last finite set is the error's `syn`, and what was spent is spent.
    """
    refuse_unsealed(plan)
    require_private(private)
    began = time.perf_counter()
    run = dd.Distillation(plan, private, rng=derive(rng, "steps"), retries=retries)
    for _ in run:
        pass
    return assemble(
        recipe,
        run.result,
        private,
        evaluation=evaluation,
        rng=rng,
        seconds=seconds + time.perf_counter() - began,
        make_student=make_student,
        run=run.record(),
        certificate=private.certificate,
    )


def fixed_label_pixels(
    recipe: PrivateRecipe,
    private: PrivateData,
    public: torch.Tensor | None,
    rng: torch.Generator,
    means: torch.Tensor | None = None,
    *,
    make_labels: Callable[[torch.Tensor, int], FixedLabels] = hard_labels,
) -> dd.SyntheticSet:
    """Return plain pixels with fixed labels, which start as the recipe says.

    Args:
        recipe: Has `ipc` and `start`.
        private: Gives classes and shape.
        public: Public images, of which some are drawn.
        rng: For the start.
        means: Images of classes that were paid for, (K, C, H, W), for the start ``"means"``: with noise on top.
        make_labels: From class slots and the number of classes.
    """
    classes = class_slots(private.num_classes, recipe.ipc)
    images = torch.randn(len(classes), *private.image_shape, generator=rng)
    if recipe.start == "public" and public is not None:
        images = public[torch.randint(len(public), (len(classes),), generator=rng)].cpu().clone()
    if recipe.start == "means" and means is not None:
        images = means.cpu()[classes] + _SPREAD * images
    labels = make_labels(classes, private.num_classes)
    return dd.SyntheticSet(Pixels(images), labels, classes, private.num_classes).to(private.device)
