"""Base class of private recipes: plans that read only noised sums of the records, and sets with a certificate."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch

import ddsdk as dd
from ddsdk.foundation import (
    DivergedError,
    PositiveFloat,
    PositiveInt,
    check_numbers,
    derive,
    require,
    require_rng,
    seeded_layers,
)
from ddsdk.running import IterativeMethod
from ddsdk.synthetic import FixedLabels, Pixels, class_slots, hard_labels
from ddsdk_integrations.privacy.data import PrivateData, require_private
from ddsdk_integrations.privacy.refusals import PrivacyError, refuse_options, refuse_private_start, refuse_unsealed

if TYPE_CHECKING:
    from ddsdk.networks import NetworkFactory
    from ddsdk.students import MakeStudent


_START_NOISE = 0.5
PUBLISHED_PROVENANCE: Mapping[str, str] = {
    "recipe": "name of the recipe",
    "class": "name of the class of the recipe",
    "parameters": "hyperparameters; chosen without the records by assumption of the certificate",
    "data": "name that the owner gave to the data; neither size nor fingerprint",
    "student": "name and options of the student network, or the name of its factory; chosen without the records",
    "rng_seed": "root of networks, starts and augmentation; noise and samples do not depend on it",
    "rate_reductions": "computed from noised sums and public values",
    "diverged": "computed from noised sums and public values",
    "versions": "packages and Python of the machine",
    "device": "processor of the machine",
    "threads": "setting of the machine",
}
"""Entries of the provenance that a private set publishes, each with the reason why it reveals no record.

All others are None: the seconds of a run depend on the number of records, and so does its number of steps where a clock
stops it.
"""


@dataclass(frozen=True, kw_only=True)
class PrivateRecipe(IterativeMethod[PrivateData], ABC):
    """Differentially private recipe for `PrivateData`; `ddsdk.distill` runs it and the ledger counts its releases.

    The provenance of a set holds neither the size nor the fingerprint of the records, because both are functions of the
    records without noise. A plan changed by `transform` must not draw records, validate, or finish the set. Before the
    payment, the shortest run takes one step on noise images, so `transform` is called twice.

    Attributes:
        name: Name of the method in tables.
        starts: Allowed values of the parameter `start`.
        shortest: Parameters of the shortest run, which is rehearsed on noise images before any payment.
        retries: Number of times that a step with non-finite values may be repeated; 0 where each step is a release.
        repeatable: False, because plans and steps are releases that a repetition would spend again.
        ipc: Number of images per class.
        start: Source of the initial images: ``"noise"``, or ``"public"`` for public images of the data.
        sample_rate: Probability with which a record is in a sample, in 0 < value <= 1; it must not depend on the
            records.
        clip: Norm to which the row of a record is clipped.
        noise_multiplier: Standard deviation of the noise, divided by `clip`. None takes the smallest value with which
            the run fits the budget, and so spends the whole budget.
        average: Decay of an exponential moving average of the set, which becomes the result; None for no average.
    """

    starts: ClassVar[tuple[str, ...]] = ("noise", "public")
    shortest: ClassVar[Mapping[str, int]] = {}
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
        """Check parameters beyond the rules of their types; an impossible one is a ValueError."""

    @abstractmethod
    def parts(self, private: PrivateData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the plan of the method; its releases are entered in the ledger here."""

    @final
    @property
    def terms(self) -> dict[str, Any]:
        """Sampling rate, clip norm and noise multiplier of the releases: arguments of `PrivateData.planned`."""
        return {name: getattr(self, name) for name in ("sample_rate", "clip", "noise_multiplier")}

    @final
    def expected(self, private: PrivateData) -> tuple[float, ...]:
        """Return the expected number of records of each class in a sample, from public class sizes, (K,)."""
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
        """Return a set of pixels with fixed labels, initialised from the recipe's `start`.

        Args:
            private: Private records; only classes, shape and public images are read.
            rng: Generator of the initial images.
            means: Noised mean images of the classes, (K, C, H, W), for the start ``"means"``, to which Gaussian noise
                is added; None for other starts.
            make_labels: Function from class slots, (M,) int64, and the number of classes to labels.
        """
        classes = class_slots(private.num_classes, self.ipc)
        images = torch.randn(len(classes), *private.image_shape, generator=rng, dtype=torch.float32)
        if self.start == "public" and (public := private.public) is not None:
            images = public[torch.randint(len(public), (len(classes),), generator=rng)].cpu().clone()
        if self.start == "means" and means is not None:
            images = means.cpu()[classes] + _START_NOISE * images
        labels = make_labels(classes, private.num_classes)
        return dd.SyntheticSet(Pixels(images), labels, classes, private.num_classes).to(private.device)

    @final
    def plan(self, real: PrivateData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the plan, ready to run; its releases are entered in the ledger here.

        A first step on noise images comes before, so that a network that does not fit costs nothing. `BudgetSpentError`
        is raised, before any record is read, if the run would exceed the budget.

        Args:
            real: Private records with their ledger.
            make_student: Factory of the student networks.
            rng: Generator of the public random numbers; noise and samples use the generator of the operating system.

        Raises:
            PrivacyError: If the recipe starts from public images and the data has none.
        """
        require_rng(rng)
        require_private(real)
        if self.start == "public" and real.public is None:
            raise PrivacyError(
                "public must be given to PrivateData for a start from public images, got None: pass public=, or take "
                'start="noise"'
            )
        self.rehearse(real, make_student=make_student, rng=rng, transform=None)
        return self.parts(real, make_student=make_student, rng=rng)

    @final
    def rehearse(
        self,
        real: PrivateData,
        *,
        make_student: MakeStudent,
        rng: torch.Generator,
        transform: Callable[[dd.Plan[Any]], dd.Plan[Any]] | None,
    ) -> None:
        """Take one step of the shortest run on noise images, so that a plan that cannot run costs nothing.

        Networks, rows and a changed plan are tried as they will run: their errors are raised here.
        """
        changes: dict[str, Any] = {"noise_multiplier": 1.0, **self.shortest}
        trial, short = real.rehearsal(), dataclasses.replace(self, **changes)
        # The values of noise need not converge: only errors count.
        with seeded_layers(derive(rng, "rehearsal")), suppress(DivergedError):
            plan = short.parts(trial, make_student=make_student, rng=rng)
            if transform is not None:
                plan = transform(plan)
            self.admit(plan)
            next(dd.Distillation(plan, trial, rng=derive(rng, "rehearsal"), retries=0), None)

    @final
    def published(self, provenance: dict[str, Any]) -> dict[str, Any]:
        """Return the provenance with None for all entries that are not known to be independent of the records."""
        return {name: value if name in PUBLISHED_PROVENANCE else None for name, value in provenance.items()}

    @final
    def refuse(self, real: PrivateData, *, start: object, validation: object, transform: object) -> None:  # noqa: ARG002
        """Refuse data without a ledger, a warm start and a validation, before any release."""
        require_private(real)
        refuse_options(start=start, validation=validation)

    @final
    def source(self, real: PrivateData) -> PrivateData:
        """Return the private records, which refuse every draw of records."""
        return real

    @final
    def described(self, real: PrivateData) -> PrivateData:
        """Return the private records; the provenance holds only their name."""
        return real

    @final
    def student(self, real: PrivateData) -> NetworkFactory:
        """Return the network of the recipe's protocol, or a ConvNet if the protocol trains a kernel machine."""
        protocol = self.protocol(real)
        is_network = protocol.learner == "network"
        name, options = (protocol.network, protocol.network_options) if is_network else ("convnet", {})
        return dd.network_factory(name, real.image_shape, real.num_classes, **options)

    @final
    def certificate(self, real: PrivateData) -> dd.Certificate:
        """Return the certificate of all releases so far."""
        return real.certificate

    @final
    def admit(self, plan: dd.Plan[Any]) -> None:
        """Refuse a plan with a validation or a final step, which may use records without noise."""
        refuse_unsealed(plan)
