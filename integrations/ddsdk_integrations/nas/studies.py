"""Bridge to Optuna, ``pip install 'ddsdk[nas]'``: a study searches a space with a proxy as its objective."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch

from ddsdk.foundation import CheckedDataclass, PositiveInt, as_generator, derive
from ddsdk_integrations._require import require_library
from ddsdk_integrations.nas.proxies import Proxy
from ddsdk_integrations.nas.ranking import Ranking
from ddsdk_integrations.nas.space import Space

require_library("optuna", feature="A search by Optuna", package="optuna", extra="nas")

import optuna  # noqa: E402

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def distributions(space: Space) -> Mapping[str, BaseDistribution]:
    """Return Optuna's categorical distribution for each factor of a space, by factor name."""
    return {name: optuna.distributions.CategoricalDistribution(levels) for name, levels in space.choices.items()}


@final
@dataclass(frozen=True, kw_only=True)
class ProxyObjective(CheckedDataclass):
    """The objective of an Optuna study: the proxy score of a candidate that the trial suggests; larger is better.

    After each seed the mean so far is reported, so that a pruner can stop a poor candidate early. The user attribute
    ``"candidate"`` of a trial is the candidate's name.

    Attributes:
        space: Search space of the study.
        proxy: Proxy that scores a candidate.
        seed: Root of all random numbers, an integer or a generator; with equal seeds, `rank` gives the same scores.
        seeds: Number of scores of a trial.
        parameters: Whether the number of parameters is a second value, for a study with the directions ``"maximize"``
            and ``"minimize"``. Optuna cannot prune such trials.

    Examples:
        >>> import optuna
        >>> from ddsdk_integrations.nas import CellSpace, ParameterCount, ProxyObjective
        >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
        >>> space = CellSpace(image_shape=(1, 8, 8), num_classes=10, channels=2, cells=1)
        >>> study = optuna.create_study(direction="maximize")
        >>> study.optimize(ProxyObjective(space=space, proxy=ParameterCount()), n_trials=3)
        >>> len(study.trials)
        3
    """

    space: Space
    proxy: Proxy
    seed: int | torch.Generator = 0
    seeds: PositiveInt = 1
    parameters: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        as_generator(self.seed)

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, int]:
        """Return the mean score, and the number of parameters if it is the second value.

        Raises:
            optuna.TrialPruned: If the study's pruner stops the trial.
        """
        choice: dict[str, Any] = {
            name: trial.suggest_categorical(name, levels) for name, levels in self.space.choices.items()
        }
        candidate = self.space.candidate(**choice)
        trial.set_user_attr("candidate", candidate.name)
        rng, scores = as_generator(self.seed), list[float]()
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
    """Return the number of finished trials that are added to a study, one for each candidate of a ranking.

    Args:
        study: Study with one value, which is maximised.
        space: Search space of the ranking, which is enumerated; candidates outside it are skipped.
        ranking: Ranking by any proxy.

    Examples:
        >>> import optuna
        >>> from ddsdk_integrations.nas import ConvNetSpace, Ranking, add_ranking
        >>> space = ConvNetSpace(image_shape=(3, 32, 32), num_classes=10)
        >>> ranking = Ranking(name="proxy", scores={"d3-w128-relu-instance-avg": (0.8,)})
        >>> add_ranking(optuna.create_study(direction="maximize"), space, ranking)
        1
    """
    means, levels, added = ranking.means, distributions(space), 0
    for choice in space.combinations():
        name = space.candidate(**choice).name
        if name in means:
            trial = optuna.trial.create_trial(
                params=dict(choice), distributions=dict(levels), value=means[name], user_attrs={"candidate": name}
            )
            study.add_trial(trial)
            added += 1
    return added
