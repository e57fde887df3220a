"""Release of a distilled set of sensitive records: split, distil, audit, check claims and limits, export."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import time
import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import NonNegativeFloat, NonNegativeInt, as_generator, check_numbers, derive, require
from ddsdk.judging import trained_networks
from ddsdk.running import Method
from ddsdk.students import MakeStudent
from ddsdk_integrations.share.audit import ReleaseAudit, UseMetrics, audit_release, use_metrics
from ddsdk_integrations.share.groups import group_ids, split_by_group

_CERTIFICATE, _NOTHING = "certificate", ""
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
    r"complian\w*|conform\w* (?:to|with)|certified": _NOTHING,
    r"gdpr|ccpa|hipaa": _NOTHING,
}
"""Patterns of claims, each with the entry of provenance that supports it.

Claims of privacy need a certificate. Nothing in a set supports a claim about a law.
"""
# Cyrillic and Greek letters that look like Latin ones.
_LOOK_ALIKES = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u04bb\u043a\u043c\u0442\u0432\u043d"
    "\u03b1\u03b5\u03bf\u03c1\u03c5\u03bd\u03b9\u03ba\u03c4\u03b2\u03b7",
    "aeopcyxijsdhkmtbhaeopuviktbn",
)


def check_claims(name: str, text: str, distilled: dd.Distilled) -> None:
    """Check that a text makes no claim without a measurement of the set that supports it, see `CLAIMS`.

    Letters that look like Latin ones are read as these, and invisible characters are left out.

    Args:
        name: Name of the text, for the error message.
        text: Text such as the title or the intended use of a release.
        distilled: Distilled set that the text describes.

    Raises:
        ValueError: If the text has a word such as "anonymous" and the set has no certificate of differential privacy,
            or a word such as "robust" and its provenance has no measurement of robustness, or claims to comply with a
            law.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.share import check_claims
        >>> coreset = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), ddsdk.load("digits"))
        >>> check_claims("title", "Anonymous digits", coreset)
        Traceback (most recent call last):
        ValueError: title must not contain 'anonymous' without a certificate of differential privacy, got ...
    """
    plain = _plain_letters(text)
    for pattern, entry in CLAIMS.items():
        claim = re.search(rf"\b(?:{pattern})\b", plain, re.IGNORECASE)
        supported = distilled.certificate is not None if entry == _CERTIFICATE else entry in distilled.provenance
        if claim and not supported:
            evidence = "a certificate of differential privacy" if entry == _CERTIFICATE else f"a measurement of {entry}"
            without = f" without {evidence}" if entry else ", which no measurement of a set supports"
            raise ValueError(f"{name} must not contain {claim.group(0)!r}{without}, got {text!r}")


def _plain_letters(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    # Marks on letters, and format characters such as joiners.
    visible = (letter for letter in decomposed if unicodedata.category(letter) not in ("Mn", "Me", "Cf"))
    return "".join(visible).casefold().translate(_LOOK_ALIKES)


class ExportRefusedError(ValueError):
    """A release exceeds limits of its export; nothing was written.

    Attributes:
        broken: Exceeded limits, each as a text.
    """

    def __init__(self, broken: tuple[str, ...]) -> None:
        super().__init__(f"the release must keep its limits, got {'; '.join(broken)}")
        self.broken = broken


@final
@dataclass(frozen=True, kw_only=True)
class ExportLimits:
    """Limits on the audit of a release, without which it is not exported; None sets no limit.

    An audit within these limits is no proof of privacy, because stronger attacks may exist. Only `epsilon` limits a
    guarantee.

    Attributes:
        membership_auc: Largest area under the ROC curve of the membership attacks, by networks and by distance.
        membership_at_1: Largest true-positive rate of the membership attacks at a false-positive rate of 1 %.
        shadow_auc: Largest area under the ROC curves of the likelihood-ratio attack; needs shadow runs.
        near_copies: Largest number of synthetic images nearer to a distilled record than the nearest 1 % of held-out
            records.
        smallest_distance: Smallest allowed distance of a synthetic image to a distilled record, root mean square over
            pixels in 0..1.
        least_sensitivity: Smallest allowed sensitivity of the worst class on held-out groups, so that the set is of
            use.
        epsilon: Largest privacy budget of the certificate; needs a certificate.

    Examples:
        >>> from ddsdk_integrations.share import ExportLimits
        >>> ExportLimits(membership_auc=0.55).near_copies
        0
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

    def broken(self, audit: ReleaseAudit, certificate: dd.Certificate | None) -> tuple[str, ...]:
        """Return the limits that the audit and the certificate of a set exceed, each as a text.

        A value without measurement exceeds its limit.
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
        texts = [self._violation(name, value, 1) for name, value in highest]
        texts += [self._violation(name, value, -1) for name, value in lowest]
        return tuple(text for text in texts if text)

    def _violation(self, name: str, value: float | None, sign: int) -> str:
        limit = getattr(self, name)
        if limit is None:
            return ""
        label = name.replace("_", " ")
        if value is None:
            return f"{label} is limited to {limit:g} and was not measured"
        # Sign 1 is an upper limit, sign -1 a lower one.
        if sign * value <= sign * limit:
            return ""
        return f"{label} {value:.4g} {'above' if sign > 0 else 'below'} the limit {limit:g}"


@final
@dataclass(frozen=True, kw_only=True)
class ReleaseTerms:
    """Texts about a release; their claims are checked, see `check_claims`.

    Attributes:
        title: Title of the release, one line.
        intended_use: Intended use of the set.
        licence: Licence of the set, with the terms of the source.

    Examples:
        >>> from ddsdk_integrations.share import ReleaseTerms
        >>> ReleaseTerms(title="Digits", intended_use="teaching", licence="CC-BY-4.0").title
        'Digits'
    """

    title: str
    intended_use: str
    licence: str


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Release:
    """A distilled set for sharing, with its audit.

    Attributes:
        distilled: Distilled set, whose provenance has terms, audit, metrics and rounded counts, but no fingerprint of
            the records.
        audit: Results of the attacks, and metrics of the use.
        held_out: Positions of the records that were not distilled, (H,) int64.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.share import ExportLimits, ReleaseTerms, prepare_release
        >>> real = ddsdk.load("digits")
        >>> terms = ReleaseTerms(title="Digits", intended_use="teaching", licence="CC-BY-4.0")
        >>> options = {"protocol": ddsdk.TrainingProtocol(network="mlp", epochs=2), "networks": 1}
        >>> recipe = ddsdk.BASELINES["random"](ipc=2)
        >>> release = prepare_release(real, range(len(real)), recipe=recipe, terms=terms, **options)
        >>> release.export("release", ExportLimits(membership_auc=None, membership_at_1=None, near_copies=0))
        Traceback (most recent call last):
        ddsdk_integrations.share.release.ExportRefusedError: the release must keep its limits, got near copies 20 ...
    """

    distilled: dd.Distilled
    audit: ReleaseAudit
    held_out: Tensor

    def export(self, folder: str | os.PathLike[str], limits: ExportLimits) -> str:
        """Return the content id of the set after writing it with its card to a folder, if it keeps all limits.

        The card has the audit, the limits, and the certificate or the words "no formal privacy guarantee".

        Args:
            folder: Path of a new or empty folder.
            limits: Limits on the audit and the certificate.

        Raises:
            ExportRefusedError: If a limit is exceeded; nothing is written.
        """
        broken = limits.broken(self.audit, self.distilled.certificate)
        if broken:
            raise ExportRefusedError(broken)
        stated_limits = {name: value for name, value in asdict(limits).items() if value is not None}
        provenance = {**self.distilled.provenance, "limits": stated_limits}
        return dataclasses.replace(self.distilled, provenance=provenance).save(folder)


def prepare_release(
    records: dd.RealData,
    groups: Sequence[Hashable] | Tensor,
    *,
    recipe: Method[dd.RealData],
    terms: ReleaseTerms,
    make_student: MakeStudent | None = None,
    seed: int | torch.Generator = 0,
    held_out: float = 0.3,
    protocol: dd.TrainingProtocol | None = None,
    networks: int = 3,
    shadow_runs: int = 0,
) -> Release:
    """Return a release: hold out some groups, distil the others, and audit the set.

    Groups that cannot be split, and terms with an unsupported claim (see `check_claims`), raise ValueError.

    Args:
        records: Images of all groups.
        groups: Group of each image, such as the name of its patient; a group is distilled or held out as a whole.
        recipe: Recipe of the distillation, such as `ddsdk.SLDD`, which learns soft labels and the learning rate of each
            step.
        terms: Title, intended use and licence of the release.
        make_student: Factory of the recipe's student networks; None takes the network of its protocol.
        seed: Root of all random numbers: an integer, or a generator, which is not advanced.
        held_out: Share of the images of each class to hold out, strictly between 0 and 1.
        protocol: Protocol of training on the set, which is stored with it; None takes that of the recipe.
        networks: Number of networks that train on the set for the attacks and the metrics.
        shadow_runs: Distillations of the likelihood-ratio attack on the recipe; 0 skips the attack.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.share import ReleaseTerms, prepare_release, simulated_patients
        >>> records, patients = simulated_patients(ddsdk.load("digits"), 20, ddsdk.generator(0))
        >>> terms = ReleaseTerms(title="Digits", intended_use="teaching", licence="CC-BY-4.0")
        >>> recipe, protocol = ddsdk.BASELINES["random"](ipc=2), ddsdk.TrainingProtocol(network="mlp", epochs=2)
        >>> release = prepare_release(records, patients, recipe=recipe, terms=terms, protocol=protocol, networks=1)
        >>> release.audit.near_copies
        20
    """
    rng, began = as_generator(seed), time.perf_counter()
    distilled_index, held_out_index = split_by_group(records, groups, held_out, derive(rng, "split"))
    inside, outside = records.subset(distilled_index), records.subset(held_out_index)

    def distil(real: dd.RealData, key: torch.Generator) -> dd.Distilled:
        result = dd.distill(recipe, real, make_student=make_student, seed=key)
        return result if protocol is None else dataclasses.replace(result, protocol=protocol.to_dict())

    distilled = distil(inside, derive(rng, "distil"))
    for name, text in asdict(terms).items():
        check_claims(name, text, distilled)
    shadow = None
    if shadow_runs:
        key = derive(rng, "shadow")
        shadow = dd.audit_by_likelihood(distil, inside, seed=key, runs=shadow_runs, networks=1)
    ids = group_ids(groups, len(records))
    key = derive(rng, "audit")
    audit = audit_release(distilled, inside, outside, ids[held_out_index], seed=key, networks=networks, shadow=shadow)
    provenance = {
        **distilled.provenance,
        # With a fingerprint, an attacker could verify a guess of the records; exact counts would reveal how frequent a
        # finding is.
        "data": {
            "name": records.name,
            "images": rounded_count(len(inside)),
            "groups": rounded_count(len(set(ids[distilled_index].tolist()))),
        },
        "terms": asdict(terms),
        "audit": audit.record,
        "figures": {**asdict(audit.figures), "networks": networks, "held_out": rounded_count(len(outside))},
        "seconds": time.perf_counter() - began,
    }
    release = dataclasses.replace(distilled, provenance=provenance)
    return Release(distilled=release, audit=audit, held_out=held_out_index)


def rounded_count(count: int) -> str:
    """Return a count rounded to one significant digit, such as "about 300"."""
    unit = 10 ** (len(str(count)) - 1)
    return f"about {round(count / unit) * unit}"


def reproduces_accuracy(
    distilled: dd.Distilled,
    held_out: dd.RealData,
    groups: Sequence[Hashable] | Tensor,
    *,
    seed: int | torch.Generator = 0,
    networks: int = 3,
) -> tuple[bool, UseMetrics]:
    """Return whether new networks reach the recorded accuracy of a release, and their metrics.

    They do not if soft labels, learning rates of steps or the order of the images were lost. Accuracies agree if they
    differ by less than three standard errors of the difference of two measurements on so many images. A set without
    recorded metrics raises ValueError.

    Args:
        distilled: Release, for example from `ddsdk.Distilled.load`.
        held_out: Held-out images like those of the release.
        groups: Group of each image, such as its patient.
        seed: Root of the networks: an integer, or a generator, which is not advanced.
        networks: Number of networks that train on the set.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.share import ReleaseTerms, prepare_release, reproduces_accuracy
        >>> real = ddsdk.load("digits")
        >>> terms = ReleaseTerms(title="Digits", intended_use="teaching", licence="CC-BY-4.0")
        >>> options = {"protocol": ddsdk.TrainingProtocol(network="mlp", epochs=2), "networks": 1}
        >>> recipe = ddsdk.BASELINES["random"](ipc=2)
        >>> release = prepare_release(real, range(len(real)), recipe=recipe, terms=terms, **options)
        >>> index = release.held_out
        >>> agrees, metrics = reproduces_accuracy(release.distilled, real.subset(index), index, networks=1)
        >>> len(metrics.sensitivity)
        10
    """
    recorded = distilled.provenance.get("figures", {}).get("accuracy")
    require(recorded is not None, "distilled", "be a release with recorded metrics", distilled)
    trained = trained_networks(distilled, None, networks, as_generator(seed))
    on_device = held_out.to(distilled.images.device).with_preprocess(distilled.preprocess)
    metrics = use_metrics(trained, on_device, groups)
    # The constant stands for the spread of networks, which the binomial standard error does not include.
    standard_error = math.sqrt(recorded * (1 - recorded) / len(held_out)) + 0.005
    return abs(metrics.accuracy - recorded) <= 3 * math.sqrt(2) * standard_error, metrics
