"""Private records as methods see them: public facts, noised sums, and no draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, final

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
    """Records with the ledger that counts their releases. Methods may read public facts, and draw nothing.

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
        k, shape = real.num_classes, real.image_shape
        self.class_sizes = tuple(class_size) if isinstance(class_size, Sequence) else (class_size,) * k
        require(len(self.class_sizes) == k, "class_size", f"be one number, or one for each of {k} classes", class_size)
        for size in self.class_sizes:
            require_rate("class_size", size)
        limit = 1 / sum(self.class_sizes)
        require(ledger.budget.delta < limit, "delta", f"lie below 1/records, {limit:.3g}", ledger.budget.delta)
        if public is not None:
            require(public.image_shape == shape, "public", f"have shape {shape}", public.image_shape)
            if public.images.untyped_storage().data_ptr() == real.images.untyped_storage().data_ptr():
                raise PrivacyError(f"public must not be the records, got {public.name!r}, which holds their images")
        if statistics:
            ledger.assume(f"normalisation: {statistics}")
        if public is not None:
            ledger.assume(f"the images called {public.name!r} are public"[:_LONGEST_NAME])
        self.ledger, self._real, self._public = ledger, real, public

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
        """Map from the unit range to the value space, public by declaration or paid for."""
        return self._real.preprocess

    @property
    def device(self) -> torch.device:
        """Device of the records."""
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
        """Certificate of all releases by now."""
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
            what: Kind of the sums, in words.
            releases: Largest number of sums.
            sample_rate: Probability with which a record is in a sample; a public number.
            clip: Norm to which the row of a record is shortened.
            noise_multiplier: Standard deviation of the noise over `clip`. None takes the least with which the releases
                fit what the budget has left.
            share: Share of epsilon that the releases may cost with all before them, where noise is None.
            after: Releases that will be entered before them, where noise is None.

        Raises:
            BudgetSpentError: If nothing is left.
        """
        noise = noise_multiplier
        if noise is None:
            noise = self.ledger.noise_for(sample_rate=sample_rate, releases=releases, share=share, after=after)
        return NoisedRelease(what=what, clip=clip, noise_multiplier=noise, sample_rate=sample_rate, count=releases)

    def mechanisms(self, *releases: NoisedRelease) -> tuple[Mechanism, ...]:
        """Enter releases in the ledger, all or none, and return the mechanisms that make them.

        Raises:
            BudgetSpentError: If they do not fit.
        """
        self.ledger.reserve(*releases)
        return tuple(Mechanism(self._real, release) for release in releases)

    def mechanism(self, what: str, **how: Any) -> Mechanism:  # noqa: ANN401
        """Enter one kind of releases and return their mechanism; the arguments are those of `planned`."""
        return self.mechanisms(self.planned(what, **how))[0]

    def with_preprocess(self, preprocess: dd.Preprocess, statistics: str) -> PrivateData:
        """Return the records in another value space, under the same ledger.

        Args:
            preprocess: Map from the unit range to the value space.
            statistics: Source of its numbers, in words.
        """
        real, sizes = self._real.with_preprocess(preprocess), self.class_sizes
        return PrivateData(real, self.ledger, class_size=sizes, statistics=statistics, public=self._public)

    def of_class(self, c: int, n: int, rng: torch.Generator) -> NoReturn:  # noqa: ARG002
        """Refuse."""
        raise PrivacyError(f"private records must not leave the mechanism, got a draw of {n} of class {c}")

    def mixed(self, n: int, rng: torch.Generator) -> NoReturn:  # noqa: ARG002
        """Refuse."""
        raise PrivacyError(f"private records must not leave the mechanism, got a draw of {n}")


def require_private(real: object) -> None:
    """Refuse open data, of which a method could draw records."""
    if not isinstance(real, PrivateData):
        raise PrivacyError(
            f"real must be PrivateData, got {type(real).__name__}: a ledger has to count what is released of it"
        )
