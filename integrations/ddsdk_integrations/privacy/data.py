"""Private records with a ledger: methods read public facts and noised sums, and cannot draw records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import NoisedRelease
from ddsdk.foundation import require, require_positive
from ddsdk_integrations.privacy.budget import Budget, Ledger
from ddsdk_integrations.privacy.mechanism import Mechanism, PerExample
from ddsdk_integrations.privacy.refusals import PrivacyError, refuse_fitted_values, refuse_mixed_rows, refuse_records

_NEIGHBOURS = "adding or removing one record"
_LONGEST_NAME = 200
_UNLIMITED = 1e30
_RECORD = "one image with its label; a person who has several records is not protected as one"
_MECHANISM = "Gaussian noise on sums of clipped rows of Poisson samples; all else is computed from those"
_NOISE = "the operating system's cryptographic generator; clipping, sums and noise in double precision; no seed is kept"
_ALWAYS = (
    "class names, image shape, the expected number of records of each class and sampling rates are public",
    "settings, networks and starts were chosen without these records",
    "this ledger counts every published result that was computed from these records, restarts and trials included",
    "no attack uses floating-point rounding of the sums or the running time",
)


@final
class PrivateData:
    """Private records with the ledger that counts their releases.

    `PrivateData` takes the place of a `ddsdk.data.Source`, but every draw of records is refused. Methods read public
    facts, and noised sums through a `Mechanism`. `ValueError` is raised if `class_size` or the shape of `public` does
    not fit, or if delta is not below one over the expected number of records.

    Args:
        real: Records that the ledger protects.
        ledger: Ledger of all releases of these records, by any method, restarts and sweeps included.
        class_size: Approximate number of records of a class, from public knowledge, or one number for each class. A
            wrong number costs accuracy but no privacy; the true numbers are private.
        statistics: Source of the constants of a normalisation or whitening, in words, such as "published constants".
            They must not be computed from the records; see `private_normalisation`. Not needed in the unit range.
        public: Public images of the same shape and any classes, for initial images or for directions of the embedding
            space; None for none.

    Raises:
        PrivacyError: If `public` holds an image with the pixels of a record, compared to 8 bit. Mirrored, cropped or
            otherwise changed records are not recognised.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import Budget, Ledger, PrivateData
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> private.num_classes, private.image_shape
        (10, (1, 8, 8))
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
        sizes = tuple(class_size) if isinstance(class_size, Sequence) else (class_size,) * k
        require(len(sizes) == k, "class_size", f"be one number, or one for each of {k} classes", class_size)
        for size in sizes:
            require_positive("class_size", size)
        limit = 1 / sum(sizes)
        require(ledger.budget.delta < limit, "delta", f"lie below 1/records, {limit:.3g}", ledger.budget.delta)
        if public is not None:
            require(public.image_shape == shape, "public", f"have shape {shape}", public.image_shape)
            refuse_records(public, real)
        if statistics:
            ledger.assume(f"normalisation: {statistics}")
        if public is not None:
            ledger.assume(f"the images called {public.name!r} are public"[:_LONGEST_NAME])
        self._ledger, self._class_sizes, self._real, self._public = ledger, sizes, real, public

    @property
    def ledger(self) -> Ledger:
        """Ledger of all releases of these records."""
        return self._ledger

    @property
    def class_sizes(self) -> tuple[float, ...]:
        """Approximate number of records of each class, from public knowledge, (K,)."""
        return self._class_sizes

    @property
    def num_classes(self) -> int:
        """Number of classes K; public by declaration."""
        return self._real.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes; public by declaration."""
        return self._real.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of an image, (C, H, W); public by declaration."""
        return self._real.image_shape

    @property
    def preprocess(self) -> dd.Preprocess:
        """Map from the unit range to the value space; its constants are public by declaration, or a noised release."""
        return self._real.preprocess

    @property
    def device(self) -> torch.device:
        """Device of the records."""
        return self._real.device

    @property
    def description(self) -> dict[str, Any]:
        """Name of the data only, because fingerprint and exact size are functions of the records without noise."""
        return {"name": self._real.name}

    @property
    def public(self) -> Tensor | None:
        """Public images, (N, C, H, W), in the value space and on the device of the records; None if there are none."""
        if self._public is None:
            return None
        converted = self._public.to(self.device).with_preprocess(self.preprocess)
        return converted.batch(torch.arange(len(converted))).x

    @property
    def certificate(self) -> dd.Certificate:
        """Certificate of all releases so far.

        Raises:
            PrivacyError: If the ledger is empty.
        """
        if not self.ledger.releases:
            raise PrivacyError("a certificate must count a release, got an empty ledger: make a private run first")
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
        """Return a planned release; nothing is entered in the ledger yet.

        `BudgetSpentError` is raised if `noise_multiplier` is None and the budget is spent.

        Args:
            what: Name of the sums, in words; releases of one name and one noise are one entry of the ledger.
            releases: Largest number of noised sums.
            sample_rate: Probability with which a record is in a sample, in 0 < value <= 1; it must be public.
            clip: Norm to which the row of a record is clipped.
            noise_multiplier: Standard deviation of the noise, divided by `clip`. None takes the smallest value with
                which the releases fit the budget.
            share: Share of the budget's epsilon that all releases up to these may spend, if `noise_multiplier` is None.
            after: Planned releases that will be entered before these, if `noise_multiplier` is None.
        """
        noise = noise_multiplier
        if noise is None:
            noise = self.ledger.noise_for(sample_rate=sample_rate, releases=releases, share=share, after=after)
        return NoisedRelease(what=what, clip=clip, noise_multiplier=noise, sample_rate=sample_rate, count=releases)

    def mechanisms(self, *releases: NoisedRelease) -> tuple[Mechanism, ...]:
        """Return the mechanisms of planned releases, after entering the releases in the ledger, all or none.

        `BudgetSpentError` is raised if they would exceed the budget.
        """
        self.ledger.reserve(*releases)
        return tuple(Mechanism(self._real, release) for release in releases)

    def mechanism(self, what: str, **options: Any) -> Mechanism:  # noqa: ANN401
        """Return the mechanism of one kind of releases, after entering them; the arguments are those of `planned`."""
        return self.mechanisms(self.planned(what, **options))[0]

    def with_preprocess(self, preprocess: dd.Preprocess, statistics: str) -> PrivateData:
        """Return the records in another value space, with the same ledger.

        Args:
            preprocess: Map from the unit range to the new value space.
            statistics: Source of the constants of `preprocess`, in words; they must not be computed from the records.
        """
        moved = PrivateData(
            self._real.with_preprocess(preprocess), self.ledger, class_size=self.class_sizes, statistics=statistics
        )
        # Compared with the records already, and declared in the ledger.
        moved._public = self._public
        return moved

    def check_rows(self, rows: PerExample, width: int) -> None:
        """Check on noise images that rows fit a `Mechanism`, which costs nothing: call it before `mechanism`.

        `ValueError` is raised for rows of a wrong shape or type, and `PrivacyError` for rows that depend on other
        records of their batch. Errors of `rows` itself appear here, too.

        Args:
            rows: Function from records to rows, as for `Mechanism.noised_sum`.
            width: Length of a row.
        """
        refuse_mixed_rows(rows, width, self._real)

    def rehearsal(self) -> PrivateData:
        """Return noise images with the public facts of the records and a ledger of their own, for a trial of a run."""
        noise = torch.randint(256, (1, *self.image_shape), dtype=torch.uint8, generator=dd.generator("rehearsal"))
        classes = torch.arange(self.num_classes)
        # One image of each class, all in the memory of one.
        images = noise.to(self.device).expand(self.num_classes, -1, -1, -1)
        ledger = Ledger(Budget(epsilon=_UNLIMITED, delta=self.ledger.budget.delta))
        real = self._real.with_items(images, classes.to(self.device))
        trial = PrivateData(real, ledger, class_size=self.class_sizes, statistics="those of the records")
        trial._public = self._public
        return trial

    def of_class(self, c: int, n: int, rng: torch.Generator) -> NoReturn:  # noqa: ARG002
        """Refuse the draw of records of one class.

        Raises:
            PrivacyError: Always, because a draw reveals records without noise.
        """
        raise PrivacyError(
            f"private records must not leave the mechanism, got a draw of {n} of class {c}: release noised sums instead"
        )

    def mixed(self, n: int, rng: torch.Generator) -> NoReturn:  # noqa: ARG002
        """Refuse the draw of records of any class.

        Raises:
            PrivacyError: Always, because a draw reveals records without noise.
        """
        raise PrivacyError(
            f"private records must not leave the mechanism, got a draw of {n}: release noised sums instead"
        )


def require_private(real: object) -> None:
    """Refuse data without a ledger, because their records can be drawn.

    Raises:
        PrivacyError: If `real` is not `PrivateData`.
    """
    if not isinstance(real, PrivateData):
        raise PrivacyError(
            f"real must be PrivateData, got {type(real).__name__}: private methods need a ledger that counts releases"
        )
