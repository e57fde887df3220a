"""The bridge to Optuna, ``pip install 'ddsdk[nas]'``: search a space with a proxy as the objective of a study."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch

from ddsdk.foundation import Checked, PositiveInt, derive, root
from ddsdk_integrations._require import require_library
from ddsdk_integrations.nas.proxies import Proxy
from ddsdk_integrations.nas.ranking import Ranking
from ddsdk_integrations.nas.space import Space

require_library("optuna", feature="A search by Optuna", package="optuna", extra="nas")

import optuna  # noqa: E402

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distributions(space: Space) -> Mapping[str, BaseDistribution]:
    """Return a categorical distribution for each factor of a space."""
    return {name: optuna.distributions.CategoricalDistribution(levels) for name, levels in space.choices.items()}


@final
@dataclass(frozen=True, kw_only=True)
class ProxyObjective(Checked):
    """Objective of `optuna.Study.optimize`: a trial draws a candidate, the proxy scores it, larger is better.

    After each seed the mean so far is reported, so a pruner can stop a poor candidate early. A trial keeps the
    candidate's name as its attribute ``"candidate"``.

    Attributes:
        space: Space that trials draw from.
        proxy: Proxy that gives the scores.
        seed: Root, an integer or a generator; a candidate has the seeds that `rank` would give it, so it scores the
            same in both.
        seeds: Number of scores of a trial.
        parameters: Whether the number of parameters is a second value, for a study with the directions ``"maximize"``
            and ``"minimize"``. Optuna prunes no such trial.
    """

    space: Space
    proxy: Proxy
    seed: int | torch.Generator = 0
    seeds: PositiveInt = 1
    parameters: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        root(self.seed)

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, int]:
        """Return the mean score, and the number of parameters if wanted; a pruner may stop the trial before."""
        choice: dict[str, Any] = {
            name: trial.suggest_categorical(name, levels) for name, levels in self.space.choices.items()
        }
        candidate = self.space.candidate(**choice)
        trial.set_user_attr("candidate", candidate.name)
        rng, scores = root(self.seed), list[float]()
        for s in range(self.seeds):
            key = derive(rng, "candidate", candidate.name, s)
            scores.append(self.proxy(candidate.make, key)["score"])
            if not self.parameters:
                trial.report(statistics.fmean(scores), s)
                if trial.should_prune():
                    raise optuna.TrialPruned
        mean = statistics.fmean(scores)
        if not self.parameters:
            return mean
        network = candidate.make(derive(rng, "size"))
        return mean, sum(p.numel() for p in network.parameters())


def add_ranking(study: optuna.Study, space: Space, ranking: Ranking) -> int:
    """Add the scores of a ranking to a study, as finished trials, and return their number.

    Args:
        study: Study with one value, which is maximised.
        space: Space of the ranking; candidates that it does not have are passed over. All its names are walked through.
        ranking: Ranking by any proxy.
    """
    means, told, added = ranking.means, distributions(space), 0
    for choice in space.combinations():
        name = space.candidate(**choice).name
        if name in means:
            trial = optuna.trial.create_trial(
                params=dict(choice), distributions=dict(told), value=means[name], user_attrs={"candidate": name}
            )
            study.add_trial(trial)
            added += 1
    return added
