"""Limits that a release must keep, and the refusal to export beyond them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import final

import ddsdk as dd
from ddsdk.foundation import require, require_count
from ddsdk.judging import LikelihoodRatio, Roc
from ddsdk_integrations.share.audit import Audit


class ExportRefusedError(ValueError):
    """A release breaks a stated limit; nothing was written.

    Attributes:
        broken: Each limit that is broken, in words.
    """

    def __init__(self, broken: tuple[str, ...]) -> None:
        super().__init__(f"the release must keep its limits, got {'; '.join(broken)}")
        self.broken = broken


@final
@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may be exported. None sets no limit.

    An audit within limits proves nothing: other attacks may know more. Only `epsilon` asks for a guarantee.

    Attributes:
        membership_auc: Area under the curve of telling distilled from held-out records, by networks or by distance.
        membership_at_1: True positives of the same at 1 % false positives.
        shadow_auc: Area of the likelihood-ratio attack over shadow runs, which must then have been made.
        near_copies: Synthetic images nearer to a record than the nearest hundredth of held-out records are.
        smallest_distance: Least distance of a synthetic image to a record, root mean square over pixels of 0..1.
        least_sensitivity: Of the worst class, on held-out groups: what is of no use need not be shared.
        epsilon: Of the certificate, which must then be there.
    """

    membership_auc: float | None = 0.6
    membership_at_1: float | None = 0.05
    shadow_auc: float | None = None
    near_copies: int | None = 0
    smallest_distance: float | None = None
    least_sensitivity: float | None = None
    epsilon: float | None = None

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is None:
                continue
            if one.name == "near_copies":
                require_count(one.name, value, least=0)
            else:
                require(0 <= value < math.inf, one.name, "be finite and not negative", value)

    def broken(self, audit: Audit, certificate: dd.Certificate | None) -> tuple[str, ...]:
        """Return each limit that is broken, in words; a limit on what was not measured is.

        Args:
            audit: Of the set.
            certificate: Of the set, or None.
        """
        highest = (
            ("membership_auc", max(audit.membership.auc, audit.distance.auc)),
            ("membership_at_1", max(audit.membership.at_1, audit.distance.at_1)),
            ("shadow_auc", None if audit.shadow is None else max(r.auc for r in _of_shadow(audit.shadow))),
            ("near_copies", audit.near_copies),
            ("epsilon", None if certificate is None else certificate.epsilon),
        )
        lowest = (("smallest_distance", audit.smallest_distance), ("least_sensitivity", min(audit.figures.sensitivity)))
        found = [self._fault(name, value, 1) for name, value in highest]
        found += [self._fault(name, value, -1) for name, value in lowest]
        return tuple(text for text in found if text)

    def _fault(self, name: str, value: float | None, sign: int) -> str:
        limit = getattr(self, name)
        if limit is None:
            return ""
        words = name.replace("_", " ")
        if value is None:
            return f"{words} is limited to {limit:g} and was not measured"
        if sign * value <= sign * limit:
            return ""
        return f"{words} {value:.4g} {'above' if sign > 0 else 'below'} the limit {limit:g}"


def _of_shadow(shadow: LikelihoodRatio) -> tuple[Roc, Roc]:
    return shadow.confidence, shadow.distance
