"""Checks that compare clients: copies of a set, numbers of images, and labels that the other clients contradict."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import final

import torch
from torch import nn

import ddsdk as dd
from ddsdk.foundation import Fraction, NonNegativeFloat, check_numbers, derive, require
from ddsdk.networks import Network
from ddsdk_integrations.federated.agreement import LabelAgreement
from ddsdk_integrations.federated.checks import Refusal
from ddsdk_integrations.federated.client import perturb
from ddsdk_integrations.federated.payload import Contribution
from ddsdk_integrations.federated.task import FederatedTask

_NETWORKS = 5


@final
@dataclass(frozen=True, kw_only=True)
class CrossClientFilter:
    """Filter of copied sets, of images beyond the quotas, and of labels that the other clients contradict.

    Of two copies, the set that arrived later is refused, by the clock of the server. A client may send `quota` times as
    many images of a class as the median of the others. A class of a client is refused if classifiers of the other
    clients agree with its labels much less than usual, and two classes if they do so in the choice between these two,
    see `ddsdk_integrations.federated.agreement.LabelAgreement`.

    Attributes:
        near: Root mean square difference of pixels, in the unit range, below which two images are copies.
        copies: Share of copied images from which on a set is refused, in (0, 1].
        quota: Largest number of images of a class in units of the median of the other clients, at least 1: that in the
            class, or that over all classes if it is larger. Infinity for no quota; fewer than three clients have none.
        agree: Share of the usual agreement below which a class or a set is refused, in [0, 1]; 0 refuses none.
        whole: Share of refused classes among the judged ones of a client above which its set is refused, in [0, 1].
        least: Smallest number of other clients that hold a class for it to be judged, at least 2.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import CrossClientFilter, FederatedTask, fed_dm
        >>> task = FederatedTask.of(ddsdk.load("digits"), width=4, depth=2)
        >>> strategy = fed_dm(task, screen=CrossClientFilter(quota=4.0))
    """

    near: NonNegativeFloat = 0.01
    copies: float = 0.5
    quota: float = 2.0
    agree: Fraction = 0.5
    whole: Fraction = 0.5
    least: int = 3

    def __post_init__(self) -> None:
        check_numbers(self)
        require(0 < self.copies <= 1, "copies", "lie in 0 < value <= 1", self.copies)
        require(self.quota >= 1, "quota", "be at least 1", self.quota)
        require(self.least >= 2, "least", "be at least 2", self.least)

    def __call__(
        self,
        sets: Sequence[Contribution],
        task: FederatedTask,
        rng: torch.Generator,
        clean: dd.RealData | None = None,
        features: FeatureNetworks | None = None,
        earlier: Sequence[Contribution] = (),
    ) -> tuple[list[Contribution], list[Refusal]]:
        """Return the accepted sets, in their order, and the refusals.

        Args:
            sets: Sets that passed the checks of single replies.
            task: Task of the federation.
            rng: Generator derived from a secret, for the choice of images and the default features.
            clean: Clean images of the server, which judge each set before the clients judge each other; None for none.
            features: Networks of the features; None for random networks.
            earlier: Accepted sets of earlier rounds, at most one of each client, which judge pairs of classes too.
        """
        sets, copies = self._without_copies(sets)
        sets, surplus = self._within_quotas(sets, rng)
        features = FeatureNetworks.of(task, rng) if features is None else features
        refused = copies + surplus
        if clean is not None:
            sets, unclean = self._agreeing(sets, task, features.matched, clean)
            refused += unclean
        for networks in features.families:
            sets, contradicted = self._agreeing(sets, task, networks, earlier=earlier)
            refused += contradicted
        return [*sets], refused

    def _without_copies(self, sets: Sequence[Contribution]) -> tuple[list[Contribution], list[Refusal]]:
        accepted: list[Contribution] = []
        refused = []
        # The clock of the server decides; partition ids are claims of the clients.
        for contribution in sorted(sets, key=lambda contribution: contribution.arrival):
            copied = ((self._copied_share(contribution, other), other.node) for other in accepted)
            share, node = max(copied, default=(0.0, 0))
            if share >= self.copies:
                reason = f"{100 * share:.0f} % of the images are copies of those of node {node}, which arrived earlier"
                refused.append(Refusal(contribution.node, 11, "duplicate", reason))
            else:
                accepted.append(contribution)
        nodes = {contribution.node for contribution in accepted}
        return [contribution for contribution in sets if contribution.node in nodes], refused

    def _copied_share(self, contribution: Contribution, other: Contribution) -> float:
        a, b = contribution.images.flatten(1), other.images.flatten(1)
        # Only images of the same class count: equal noise or blank images under different labels are no copied set.
        same_class = contribution.classes[:, None] == other.classes[None]
        distance = torch.cdist(a, b) / math.sqrt(a.shape[1])
        return float(((distance < self.near) & same_class).any(1).float().mean())

    def _within_quotas(
        self, sets: Sequence[Contribution], rng: torch.Generator
    ) -> tuple[list[Contribution], list[Refusal]]:
        """Return the sets without the images beyond the quotas; the images that stay are drawn at random."""
        if len(sets) < 3:
            return [*sets], []
        counts = [Counter(contribution.classes.tolist()) for contribution in sets]
        accepted, refused = [], []
        for i, contribution in enumerate(sets):
            others = [count for j, count in enumerate(counts) if j != i]
            # Without the median over all classes, one image of a rare class would take that class from its only holder.
            usual = median_low(n for count in others for n in count.values())
            kept = torch.ones(len(contribution.classes), dtype=torch.bool)
            for c in counts[i]:
                in_class = [count[c] for count in others if c in count]
                quota = math.floor(min(self.quota * max([usual, median_low(in_class or [0])]), counts[i][c]))
                members = torch.nonzero(contribution.classes == c).flatten()
                order = torch.randperm(len(members), generator=derive(rng, "quota", i, c))
                kept[members[order[quota:]]] = False
            surplus = int((~kept).sum())
            if surplus:
                reason = f"{surplus} of {len(kept)} images exceed {self.quota:g} times the median of the others"
                refused.append(Refusal(contribution.node, 12, "quota", reason))
                contribution = contribution.of_classes(kept)
            accepted.append(contribution)
        return accepted, refused

    def _agreeing(
        self,
        sets: Sequence[Contribution],
        task: FederatedTask,
        networks: Sequence[nn.Module],
        clean: dd.RealData | None = None,
        earlier: Sequence[Contribution] = (),
    ) -> tuple[list[Contribution], list[Refusal]]:
        if not sets or self.agree == 0:
            return [*sets], []
        agreement = LabelAgreement(sets, task, networks, clean, earlier=earlier, least=self.least)
        judge = "the other clients" if clean is None else "the clean images"
        accepted, refused = [], []
        for i, contribution in enumerate(sets):
            low, classes = agreement.low(i, self.agree)
            for c in classes:
                reason = f"{judge} agree with {100 * agreement.of[i][c]:.0f} % of class {task.class_names[c]!r}"
                refused.append(Refusal(contribution.node, 13, "agreement", reason, c))
            for a, b, value in agreement.exchanged(i, self.agree):
                names = f"{task.class_names[a]!r} against {task.class_names[b]!r}"
                reason = f"{judge} agree with {100 * value:.0f} % of class {names}"
                exchanged = [c for c in (a, b) if c not in classes]
                refused += [Refusal(contribution.node, 13, "agreement", reason, c) for c in exchanged]
                classes += exchanged
            if low or len(classes) > self.whole * len({*agreement.of[i], *classes}):
                share = f"{judge} agree with {100 * agreement.mean(i):.0f} % of the labels" if agreement.of[i] else ""
                reason = share or f"{judge} refuse all classes that they judge"
                refused.append(Refusal(contribution.node, 13, "agreement", reason))
                continue
            if classes:
                contribution = contribution.of_classes(~torch.isin(contribution.classes, torch.tensor(classes)))
            accepted += [contribution] if len(contribution.images) else []
        return accepted, refused


@final
@dataclass(frozen=True)
class FeatureNetworks:
    """Networks whose embeddings are the features in which sets are compared.

    Sets that were matched around the weights of the server need not look like real images; only networks near these
    weights read their labels. Clients know these weights, so random networks are compared as well.

    Attributes:
        random: Networks with random weights.
        near: Random perturbations of the server's network; empty if clients did not get it.
    """

    random: tuple[nn.Module, ...]
    near: tuple[nn.Module, ...] = ()

    @classmethod
    def of(
        cls, task: FederatedTask, rng: torch.Generator, around: Network | None = None, radius: float = 0.0
    ) -> FeatureNetworks:
        """Return the networks of a round.

        Args:
            task: Task of the federation.
            rng: Generator derived from a secret: a client that can compute the networks can fit its images to them.
            around: Network that the clients got; None for none.
            radius: Largest distance of the clients' students from that network.
        """
        near = [] if around is None else [copy.deepcopy(around).eval() for _ in range(_NETWORKS)]
        for i, network in enumerate(near):
            perturb(network, radius, derive(rng, "near", i))
        return cls(tuple(task.make(derive(rng, "network", i)).eval() for i in range(_NETWORKS)), tuple(near))

    @property
    def matched(self) -> tuple[nn.Module, ...]:
        """Networks like those on which the clients matched their sets."""
        return self.near or self.random

    @property
    def families(self) -> list[tuple[nn.Module, ...]]:
        """Each kind of networks, for one comparison of the clients each."""
        return [family for family in (self.near, self.random) if family]
