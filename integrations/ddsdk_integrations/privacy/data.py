"""Private records as methods see them: what is public about them, and no draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import NoisedRelease
from ddsdk.foundation import require, require_rate
from ddsdk_integrations.privacy.budget import Ledger
from ddsdk_integrations.privacy.guard import PrivacyError, refuse_fitted_values
from ddsdk_integrations.privacy.mechanism import Mechanism

_NEIGHBOURS = "adding or removing one record"
_LONGEST_NAME = 200
_RECORD = "one image with its label; a person who has several records is not protected as one"
_MECHANISM = "Gaussian noise on sums of clipped rows of Poisson samples; all else is computed from those"
_NOISE = "the operating system's cryptographic generator, in double precision; nothing of it is kept"
_ALWAYS = (
    "class names, image shape, the expected number of records of each class and sampling rates are public",
    "settings, networks and starts were chosen without these records",
    "everything that was ever computed from these records and seen is counted here, restarts and trials included",
    "nobody exploits that sums are floating-point numbers, or how long it took",
)


@final
class PrivateData:
    """Records with the ledger that counts what is released of them. Methods may know what is public, and draw nothing.

    It stands where the engine expects a `ddsdk.data.Source`: every draw is refused. Numbers leave by a `Mechanism`
    alone.

    Args:
        real: Records.
        ledger: Counter of all that is released of them, by any method, restarts and sweeps included.
        class_size: Approximate number of records of a class, as is publicly known, or one number for each class. A
            wrong one costs accuracy, no privacy: the true numbers are private.
        statistics: Source of the normalisation of `real`, in words, where it was not computed from the records, such
            as "published constants"; not needed in the unit range. See `paid_normalisation`.
        public: Images that everybody may see, of the same shape and any classes, from which recipes may start or take
            directions; None for none.

    Raises:
        PrivacyError: If normalisation or whitening are not declared public, or `public` holds the records.
        ValueError: If `class_size` or the shape of `public` does not fit, or delta does not lie below one over the
            expected number of records.
    """

    def __init__(
        self,
        real: dd.RealData,
        ledger: Ledger,
        *,
        class_size: float | Sequence[float],
        statistics: str = "",
        public: dd.RealData | None = None,
    ) -> None:
        refuse_fitted_values(real.preprocess, statistics)
        self.class_sizes = _sizes(class_size, real.num_classes)
        limit = 1 / sum(self.class_sizes)
        require(ledger.budget.delta < limit, "delta", f"lie below 1/records, {limit:.3g}", ledger.budget.delta)
        if public is not None:
            _refuse_records(public, real)
        if statistics:
            ledger.assume(f"normalisation: {statistics}")
        if public is not None:
            ledger.assume(f"the images called {public.name!r} are public"[:_LONGEST_NAME])
        self.ledger = ledger
        self._real = real
        self._public = public

    @property
    def num_classes(self) -> int:
        """Number of classes K, public by declaration."""
        return self._real.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names, public by declaration."""
        return self._real.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), public by declaration."""
        return self._real.image_shape

    @property
    def preprocess(self) -> dd.Preprocess:
        """From the unit range to the value space, public by declaration or paid for."""
        return self._real.preprocess

    @property
    def device(self) -> torch.device:
        """Where the records are."""
        return self._real.device

    @property
    def description(self) -> dict[str, Any]:
        """The name alone: fingerprint and exact size are functions of the records without noise."""
        return {"name": self._real.name}

    @property
    def public(self) -> Tensor | None:
        """Public images, (N, C, H, W), in the value space and on the device of the records; None without any."""
        if self._public is None:
            return None
        same = self._public.to(self.device).with_preprocess(self.preprocess)
        return same.batch(torch.arange(len(same))).x

    @property
    def certificate(self) -> dd.Certificate:
        """What the ledger has counted by now.

        Raises:
            PrivacyError: If nothing was released.
        """
        if not self.ledger.releases:
            raise PrivacyError("a certificate must count a release, got an empty ledger")
        return dd.Certificate(
            epsilon=self.ledger.epsilon,
            delta=self.ledger.budget.delta,
            adjacency=_NEIGHBOURS,
            protects=_RECORD,
            mechanism=_MECHANISM,
            releases=self.ledger.releases,
            accountant=self.ledger.accountant,
            noise_source=_NOISE,
            assumptions=(*_ALWAYS, *self.ledger.assumptions),
        )

    def planned(
        self,
        what: str,
        *,
        releases: int,
        sample_rate: float,
        clip: float = 1.0,
        noise_multiplier: float | None = None,
        share: float = 1.0,
        after: tuple[NoisedRelease, ...] = (),
    ) -> NoisedRelease:
        """Return releases as the ledger would have them; nothing is entered yet.

        Args:
            what: Is summed, in words.
            releases: How many sums at most.
            sample_rate: Probability with which a record is in a sample; a public number.
            clip: Norm to which the row of a record is shortened.
            noise_multiplier: Standard deviation of the noise over `clip`. None takes the least with which the releases
                fit what the budget has left.
            share: For None: the releases, with all before them, may cost so large a share of epsilon.
            after: For None: will be entered before them.

        Raises:
            BudgetSpentError: If nothing is left.
        """
        if noise_multiplier is None:
            noise_multiplier = self.ledger.noise_for(
                sample_rate=sample_rate, releases=releases, share=share, after=after
            )
        return NoisedRelease(
            what=what, clip=clip, noise_multiplier=noise_multiplier, sample_rate=sample_rate, count=releases
        )

    def mechanisms(self, *releases: NoisedRelease) -> tuple[Mechanism, ...]:
        """Enter releases in the ledger, all or none, and return what makes them.

        Raises:
            BudgetSpentError: If they do not fit.
        """
        self.ledger.reserve(*releases)
        return tuple(Mechanism(self._real, release) for release in releases)

    def mechanism(self, what: str, **how: Any) -> Mechanism:  # noqa: ANN401
        """Enter one kind of releases and return what makes them; the arguments are those of `planned`."""
        return self.mechanisms(self.planned(what, **how))[0]

    def with_preprocess(self, preprocess: dd.Preprocess, statistics: str) -> PrivateData:
        """Return the records in another value space, under the same ledger.

        Args:
            preprocess: Map from the unit range to the value space.
            statistics: Source of its numbers, in words.
        """
        return PrivateData(
            self._real.with_preprocess(preprocess),
            self.ledger,
            class_size=self.class_sizes,
            statistics=statistics,
            public=self._public,
        )

    def of_class(self, c: int, n: int, rng: torch.Generator) -> dd.Batch:  # noqa: ARG002
        """Refuse.

        Raises:
            PrivacyError: Always.
        """
        raise PrivacyError(f"private records must not leave the mechanism, got a draw of {n} of class {c}")

    def mixed(self, n: int, rng: torch.Generator) -> dd.Batch:  # noqa: ARG002
        """Refuse.

        Raises:
            PrivacyError: Always.
        """
        raise PrivacyError(f"private records must not leave the mechanism, got a draw of {n}")


def require_private(real: object) -> PrivateData:
    """Return the data if it is sealed.

    Raises:
        PrivacyError: If a method could draw records of it.
    """
    if not isinstance(real, PrivateData):
        raise PrivacyError(
            f"real must be PrivateData, got {type(real).__name__}: a ledger has to count what is released of it"
        )
    return real


def _refuse_records(public: dd.RealData, real: dd.RealData) -> None:
    """Refuse public images of another shape, and the records themselves."""
    require(public.image_shape == real.image_shape, "public", f"have shape {real.image_shape}", public.image_shape)
    if public.images.untyped_storage().data_ptr() == real.images.untyped_storage().data_ptr():
        raise PrivacyError(f"public must not be the records, got {public.name!r}, which holds their images")


def _sizes(given: float | Sequence[float], classes: int) -> tuple[float, ...]:
    sizes = tuple(given) if isinstance(given, Sequence) else (given,) * classes
    require(len(sizes) == classes, "class_size", f"be one number, or one for each of {classes} classes", given)
    for size in sizes:
        require_rate("class_size", size)
    return sizes
