"""Private recipes: plans that read noised sums of the records alone, and sets with their certificate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch

import ddsdk as dd
from ddsdk.foundation import PositiveFloat, PositiveInt, check_numbers, require, require_rng
from ddsdk.running import IterativeMethod
from ddsdk.synthetic import FixedLabels, Pixels, class_slots, hard_labels
from ddsdk_integrations.privacy.data import PrivateData, require_private
from ddsdk_integrations.privacy.guard import PrivacyError, refuse_options, refuse_private_start, refuse_unsealed

if TYPE_CHECKING:
    from ddsdk.networks import NetworkFactory
    from ddsdk.students import MakeStudent


_SPREAD = 0.5


@dataclass(frozen=True, kw_only=True)
class PrivateRecipe(IterativeMethod[PrivateData], ABC):
    """A recipe that takes `PrivateData`, and spends of its ledger; `ddsdk.distill` runs it.

    The provenance of a set has neither size nor fingerprint of the records, for those are functions of them without
    noise. A plan that `transform` has changed must not draw records, validate, or finish the set.

    Attributes:
        name: Name of the method in tables.
        starts: Allowed values of `start`.
        retries: Number of times that a step that is not finite may be tried again: 0 where a step is a release.
        repeatable: False: plans and steps are paid releases, which a trial would spend.
        ipc: Images per class.
        start: Source of the first images: ``"noise"``, or ``"public"``: public images of the data.
        sample_rate: Probability with which a record is in a sample: a number that does not depend on the records.
        clip: Norm to which the row of a record is shortened.
        noise_multiplier: Standard deviation of the noise, over `clip`. None takes the least with which the run fits
            what the budget has left, and so spends all of it.
        average: Decay of a moving average of the set, which is then the result; None for none.
    """

    starts: ClassVar[tuple[str, ...]] = ("noise", "public")
    retries: ClassVar[int] = 0
    repeatable: ClassVar[bool] = False
    ipc: PositiveInt = 10
    start: str = "noise"
    sample_rate: float = 0.01
    clip: PositiveFloat = 1.0
    noise_multiplier: PositiveFloat | None = None
    average: float | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        require(0 < self.sample_rate <= 1, "sample_rate", "lie in 0 < value <= 1", self.sample_rate)
        refuse_private_start(self.start, self.starts)
        self.check()

    def check(self) -> None:
        """Raise ValueError for parameters that no data could make right, beyond the rules of their types."""

    @abstractmethod
    def parts(self, private: PrivateData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the paper's parts; releases are paid here."""

    @final
    @property
    def terms(self) -> dict[str, Any]:
        """Sampling rate, clip norm and noise of the releases, as `PrivateData.planned` takes them."""
        return {name: getattr(self, name) for name in ("sample_rate", "clip", "noise_multiplier")}

    @final
    def expected(self, private: PrivateData) -> tuple[float, ...]:
        """Return the publicly expected number of records of each class in a sample."""
        return tuple(self.sample_rate * size for size in private.class_sizes)

    @final
    def pixels(
        self,
        private: PrivateData,
        rng: torch.Generator,
        means: torch.Tensor | None = None,
        *,
        make_labels: Callable[[torch.Tensor, int], FixedLabels] = hard_labels,
    ) -> dd.SyntheticSet:
        """Return plain pixels with fixed labels, which start as the recipe says.

        Args:
            private: Records whose classes, shape and public images are read.
            rng: Generator of the start.
            means: Paid images of the classes, (K, C, H, W), for the start ``"means"``: with noise on top.
            make_labels: Function of class slots, (M,) int64, and the number of classes that returns the labels.
        """
        classes = class_slots(private.num_classes, self.ipc)
        images = torch.randn(len(classes), *private.image_shape, generator=rng)
        if self.start == "public" and (public := private.public) is not None:
            images = public[torch.randint(len(public), (len(classes),), generator=rng)].cpu().clone()
        if self.start == "means" and means is not None:
            images = means.cpu()[classes] + _SPREAD * images
        labels = make_labels(classes, private.num_classes)
        return dd.SyntheticSet(Pixels(images), labels, classes, private.num_classes).to(private.device)

    @final
    def plan(self, real: PrivateData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the parts, ready to run; releases are paid here.

        Args:
            real: Private records.
            make_student: Factory of the networks.
            rng: Generator of everything that is public. Noise and samples have generators of their own.

        Raises:
            BudgetSpentError: If the run does not fit what is left; nothing was looked at.
            PrivacyError: If the configuration would break the guarantee.
        """
        require_rng(rng)
        require_private(real)
        if self.start == "public" and real.public is None:
            raise PrivacyError("public must be given to PrivateData for a start from public images, got None")
        return self.parts(real, make_student=make_student, rng=rng)

    @final
    def refuse(self, real: PrivateData, *, start: object, validation: object, transform: object) -> None:  # noqa: ARG002
        """Refuse open records, a warm start and a validation before anything is paid."""
        require_private(real)
        refuse_options(start=start, validation=validation)

    @final
    def source(self, real: PrivateData) -> PrivateData:
        """Return the private records, which refuse every draw."""
        return real

    @final
    def described(self, real: PrivateData) -> PrivateData:
        """Return the private records, of which the name alone is recorded."""
        return real

    @final
    def student(self, real: PrivateData) -> NetworkFactory:
        """Return the network of the recipe's own protocol, and a ConvNet where that is a kernel."""
        own = self.evaluation(real)
        name, options = (own.network, own.network_options) if own.learner == "network" else ("convnet", {})
        return dd.network_factory(name, real.image_shape, real.num_classes, **options)

    @final
    def certificate(self, real: PrivateData) -> dd.Certificate:
        """Return the ledger's count of all releases so far."""
        return real.certificate

    @final
    def admit(self, plan: dd.Plan[Any]) -> None:
        """Refuse a plan that chooses or changes its set by what the mechanism does not see."""
        refuse_unsealed(plan)
