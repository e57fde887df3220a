"""Neural architecture search on distilled data: rank candidates by a proxy, and measure how good the ranking is.

>>> import ddsdk
>>> from ddsdk_integrations.nas import distilled_proxy, rank
>>> train, test = ddsdk.load_pair("digits")
>>> coreset = ddsdk.distill(ddsdk.BASELINES["random"](ipc=2), train)
>>> candidates = [ddsdk.network_factory("mlp", train.image_shape, 10, width=width) for width in (4, 8)]
>>> ranking = rank(candidates, distilled_proxy(coreset, test, steps=5), seed=0)
>>> len(ranking.best(2))
2

`ProxyObjective`, `add_ranking` and `distributions` need Optuna: ``pip install 'ddsdk[nas]'``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddsdk_integrations.nas.agreement import (
    Interval,
    RankingReport,
    bootstrap,
    correlation_gain,
    judge_ranking,
    kendall,
    rank_average,
    regret,
    spearman,
)
from ddsdk_integrations.nas.cells import Cell, CellSpace, cell_network, equivalence_classes, read_accuracies
from ddsdk_integrations.nas.proxies import Proxy, TrainingProxy, distilled_proxy, early_stopping
from ddsdk_integrations.nas.ranking import Ranking, rank
from ddsdk_integrations.nas.space import Candidate, ConvNetSpace, RandomArchitecture, Space, named_candidates
from ddsdk_integrations.nas.untrained import GradientNorm, NasWot, ParameterCount, SynFlow

if TYPE_CHECKING:
    from ddsdk_integrations.nas.studies import ProxyObjective, add_ranking, distributions

__all__ = [
    "Candidate",
    "Cell",
    "CellSpace",
    "ConvNetSpace",
    "GradientNorm",
    "Interval",
    "NasWot",
    "ParameterCount",
    "Proxy",
    "ProxyObjective",
    "RandomArchitecture",
    "Ranking",
    "RankingReport",
    "Space",
    "SynFlow",
    "TrainingProxy",
    "add_ranking",
    "bootstrap",
    "cell_network",
    "correlation_gain",
    "distilled_proxy",
    "distributions",
    "early_stopping",
    "equivalence_classes",
    "judge_ranking",
    "kendall",
    "named_candidates",
    "rank",
    "rank_average",
    "read_accuracies",
    "regret",
    "spearman",
]

_NEED_OPTUNA = ("ProxyObjective", "add_ranking", "distributions")


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Return a name of the bridge to Optuna, which is imported at first use.

    Raises:
        AttributeError: If the package has no such name.
    """
    if name in _NEED_OPTUNA:
        from ddsdk_integrations.nas import studies

        return getattr(studies, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
