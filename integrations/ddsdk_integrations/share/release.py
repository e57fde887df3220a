"""From records of patients to a release: split, distil, audit, check words and limits, export or refuse."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import NonNegativeFloat, NonNegativeInt, check_numbers, derive, require, root
from ddsdk.judging import trained_networks
from ddsdk.running import Method
from ddsdk.students import MakeStudent
from ddsdk_integrations.share.audit import Audit, Figures, audit, figures
from ddsdk_integrations.share.groups import group_ids, split_by_group

_CERTIFICATE = "certificate"
CLAIMS: Mapping[str, str] = {
    r"anonym\w*": _CERTIFICATE,
    r"de-?identif\w*": _CERTIFICATE,
    r"privacy[- ]preserving": _CERTIFICATE,
    r"differential\w*": _CERTIFICATE,
    r"private": _CERTIFICATE,
    r"robust\w*": "robustness",
    r"faithful\w*": "faithfulness",
    r"tileable|seamless\w*": "seam",
    r"clean": "scan",
}
"""Pattern of a word to the entry of provenance that must be there; a certificate for words about privacy."""


def check_words(name: str, text: str, distilled: dd.Distilled) -> None:
    """Refuse a text that makes a promise which no measurement of the set supports.

    Args:
        name: Name of the text, for the message.
        text: Text, such as the title or the intended use of a release.
        distilled: Set that the text goes with.

    Raises:
        ValueError: If the text holds a word such as "anonymous" and the set has no certificate, or "robust" without
            figures of it.
    """
    for pattern, entry in CLAIMS.items():
        word = re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE)
        has = distilled.certificate is not None if entry == _CERTIFICATE else entry in distilled.provenance
        if word and not has:
            needed = "a certificate of differential privacy" if entry == _CERTIFICATE else f"figures of {entry}"
            raise ValueError(f"{name} must not say {word.group(0)!r} of a set without {needed}, got {text!r}")


class ExportRefusedError(ValueError):
    """A release breaks stated limits, `broken` in words; nothing was written."""

    def __init__(self, broken: tuple[str, ...]) -> None:
        super().__init__(f"the release must keep its limits, got {'; '.join(broken)}")
        self.broken = broken


@final
@dataclass(frozen=True, kw_only=True)
class Limits:
    """Conditions of an export. None sets no limit.

    An audit within limits proves nothing: other attacks may be stronger. Only a limit on `epsilon` is on a guarantee.

    Attributes:
        membership_auc: Area under the curve of telling distilled from held-out records, by networks or by distance.
        membership_at_1: True positives of the same at 1 % false positives.
        shadow_auc: Area of the likelihood-ratio attack over shadow runs, which must then have been made.
        near_copies: Synthetic images nearer to a record than the nearest hundredth of held-out records are.
        smallest_distance: Least distance of a synthetic image to a record, root mean square over pixels of 0..1.
        least_sensitivity: Sensitivity of the worst class on held-out groups: a set without use need not be shared.
        epsilon: Budget of the certificate, which must then be there.
    """

    membership_auc: NonNegativeFloat | None = 0.6
    membership_at_1: NonNegativeFloat | None = 0.05
    shadow_auc: NonNegativeFloat | None = None
    near_copies: NonNegativeInt | None = 0
    smallest_distance: NonNegativeFloat | None = None
    least_sensitivity: NonNegativeFloat | None = None
    epsilon: NonNegativeFloat | None = None

    def __post_init__(self) -> None:
        check_numbers(self)

    def broken(self, audit: Audit, certificate: dd.Certificate | None) -> tuple[str, ...]:
        """Return the limits that the audit and the certificate of a set break, in words.

        A limit on a value that was not measured is broken.
        """
        shadow = audit.shadow
        highest = (
            ("membership_auc", max(audit.membership.auc, audit.distance.auc)),
            ("membership_at_1", max(audit.membership.at_1, audit.distance.at_1)),
            ("shadow_auc", None if shadow is None else max(shadow.confidence.auc, shadow.distance.auc)),
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


@final
@dataclass(frozen=True, kw_only=True)
class Terms:
    """Words of the makers about a release. Those that promise something are checked, see `check_words`.

    Attributes:
        title: One line.
        intended_use: Purpose of the set.
        licence: Licence of the set, with the terms of the source.
    """

    title: str
    intended_use: str
    licence: str


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Release:
    """A set that was made to be shared, with its audit.

    Attributes:
        distilled: Set; its provenance holds terms, audit, figures and coarse counts, and no fingerprint of records.
        audit: Results of attacks.
        held_out: Positions of the records that were not distilled, (H,) int64.
    """

    distilled: dd.Distilled
    audit: Audit
    held_out: Tensor

    def export(self, folder: str | os.PathLike[str], limits: Limits) -> str:
        """Write the set with its card into a folder, if it keeps all limits; return the content id.

        The card has the certificate, or the words "no formal privacy guarantee", the audit and the limits.

        Raises:
            ExportRefusedError: If a limit is broken; nothing is written.
        """
        broken = limits.broken(self.audit, self.distilled.certificate)
        if broken:
            raise ExportRefusedError(broken)
        kept = {name: value for name, value in asdict(limits).items() if value is not None}
        told = {**self.distilled.provenance, "limits": kept}
        return dataclasses.replace(self.distilled, provenance=told).save(folder)


def release(
    records: dd.RealData,
    groups: Sequence[Hashable] | Tensor,
    *,
    recipe: Method[dd.RealData],
    terms: Terms,
    make_student: MakeStudent | None = None,
    seed: int | torch.Generator = 0,
    held_out: float = 0.3,
    evaluation: dd.Evaluation | None = None,
    networks: int = 3,
    shadow_runs: int = 0,
) -> Release:
    """Hold out groups, distil the others, and audit the set.

    Args:
        records: All images.
        groups: Groups of the images, one entry each, such as the names of patients; no group is on both sides.
        recipe: Recipe, such as `ddsdk.SLDD`, which learns soft labels and the rate of each step with the images.
        terms: Words of the makers about the release.
        make_student: Factory of the recipe's networks; None takes the network of its own protocol.
        seed: Root of every random number: an integer, or a generator, which is not advanced.
        held_out: Part of the images of each class to hold out.
        evaluation: Protocol of training on the set, which travels with it; None takes the recipe's.
        networks: Number of networks that attack, and measure the use of the set.
        shadow_runs: Runs of the likelihood-ratio attack on the recipe, each of which distils anew; 0 for none.

    Raises:
        ValueError: If the groups cannot be split, or a text promises what is not measured.
    """
    rng, began = root(seed), time.perf_counter()
    rest, held = split_by_group(records, groups, held_out, derive(rng, "split"))
    inside, outside = records.subset(rest), records.subset(held)

    def distil(real: dd.RealData, key: torch.Generator) -> dd.Distilled:
        made = dd.distill(recipe, real, make_student=make_student, seed=key)
        return made if evaluation is None else dataclasses.replace(made, evaluation=evaluation.to_dict())

    distilled = distil(inside, derive(rng, "distil"))
    for name, text in asdict(terms).items():
        check_words(name, text, distilled)
    shadow = None
    if shadow_runs:
        key = derive(rng, "shadow")
        shadow = dd.audit_by_likelihood(distil, inside, seed=key, runs=shadow_runs, networks=1)
    ids = group_ids(groups, len(records))
    key = derive(rng, "audit")
    found = audit(distilled, inside, outside, ids[held], seed=key, networks=networks, shadow=shadow)
    told = {
        **distilled.provenance,
        # A fingerprint lets anybody check a guess of the records, and exact counts tell how frequent a finding is.
        "data": {"name": records.name, "images": coarse(len(inside)), "groups": coarse(len(set(ids[rest].tolist())))},
        "terms": asdict(terms),
        "audit": found.record,
        "figures": {**asdict(found.figures), "networks": networks, "held_out": coarse(len(outside))},
        "seconds": time.perf_counter() - began,
    }
    return Release(distilled=dataclasses.replace(distilled, provenance=told), audit=found, held_out=held)


def coarse(count: int) -> str:
    """Return a count to one digit, such as "about 300"."""
    unit = 10 ** (len(str(count)) - 1)
    return f"about {round(count / unit) * unit}"


def reproduces(
    distilled: dd.Distilled,
    held_out: dd.RealData,
    groups: Sequence[Hashable] | Tensor,
    *,
    seed: int | torch.Generator = 0,
    networks: int = 3,
) -> tuple[bool, Figures]:
    """Train on a loaded release again, and return whether the recorded accuracy comes out, with the new figures.

    It does not where soft labels, rates of steps or their order were lost. Chance may explain three standard errors of
    an accuracy on so many images, of both measurements.

    Args:
        distilled: Release, such as of `ddsdk.Distilled.load`.
        held_out: Images of the kind that was held out.
        groups: Groups of the images, one entry each.
        seed: Root of networks of their own: an integer, or a generator, which is not advanced.
        networks: Number of networks that train.

    Raises:
        ValueError: If the set records no figures.
    """
    recorded = distilled.provenance.get("figures", {}).get("accuracy")
    require(recorded is not None, "distilled", "be a release with figures", distilled)
    trained = trained_networks(distilled, None, networks, root(seed))
    found = figures(trained, held_out.with_preprocess(distilled.preprocess), groups)
    spread = math.sqrt(recorded * (1 - recorded) / len(held_out)) + 0.005
    return abs(found.accuracy - recorded) <= 3 * math.sqrt(2) * spread, found
