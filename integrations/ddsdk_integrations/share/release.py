"""From records of patients to a release: split, distil, audit, export or refuse."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import derive, require, root
from ddsdk.judging import trained_networks
from ddsdk.running import Method
from ddsdk.students import MakeStudent
from ddsdk_integrations.share.audit import Audit, audit
from ddsdk_integrations.share.claims import check_words
from ddsdk_integrations.share.figures import Figures, figures
from ddsdk_integrations.share.groups import group_ids, split_by_group
from ddsdk_integrations.share.limits import ExportRefusedError, Limits


@final
@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the makers say of a release. Words that promise something are checked, see `check_words`.

    Attributes:
        title: One line.
        intended_use: What the set is for.
        licence: Under which it is given, with the terms of the source.
    """

    title: str
    intended_use: str
    licence: str


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Release:
    """A set that was made to be shared, with its audit.

    Attributes:
        distilled: The set; provenance holds terms, audit, figures and coarse counts, and no fingerprint of records.
        audit: What attacks found.
        held_out: Positions of the records that were not distilled, (H,) int64.
    """

    distilled: dd.Distilled
    audit: Audit
    held_out: Tensor

    def export(self, folder: str | os.PathLike[str], limits: Limits) -> str:
        """Write the set with its card, if it keeps all limits; return the content id.

        The card has the certificate, or the words "no formal privacy guarantee", and the audit. The limits are written
        into it.

        Args:
            folder: New, or holding an older set.
            limits: What may be exported.

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
        groups: One entry for each image, such as the name of its patient; no group is on both sides.
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
    """Train on a loaded release again: is the recorded accuracy within what chance explains?

    Soft labels, rates of steps and their order must have come along, or it is not. Chance is three standard errors of
    an accuracy on so many images, of both measurements.

    Args:
        distilled: Release, such as of `ddsdk.Distilled.load`.
        held_out: Images of the kind that was held out; other data are another question.
        groups: One entry for each image.
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
