"""Rank architectures on distilled data, and know when that pays: ``pip install 'ddsdk[nas]'`` for the Optuna bridge.

>>> from ddsdk_integrations.nas import ConvNetSpace, distilled_proxy, judge, rank
>>> candidates = ConvNetSpace(image_shape=(1, 28, 28), num_classes=10).sample(100, ddsdk.generator("sample"))
>>> proxy = distilled_proxy(distilled, held_out)
>>> ranking = rank(candidates, proxy, seed=0, seeds=3)
>>> print(ranking.best(5))

Everything but `ProxyObjective`, `add_ranking` and `distributions` works without Optuna.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddsdk_integrations.nas.cells import Cell, CellSpace, cell_network, read_accuracies, unique
from ddsdk_integrations.nas.proxies import Proxy, TrainedOn, distilled_proxy, early_stopping
from ddsdk_integrations.nas.ranking import Ranking, rank
from ddsdk_integrations.nas.space import AnyOf, Candidate, ConvNetSpace, Space, named
from ddsdk_integrations.nas.untrained import GradientNorm, NasWot, ParameterCount, SynFlow
from ddsdk_integrations.nas.verdict import (
    Estimate,
    Verdict,
    bootstrap,
    edge,
    judge,
    kendall,
    rank_average,
    regret,
    spearman,
)

if TYPE_CHECKING:
    from ddsdk_integrations.nas.studies import ProxyObjective, add_ranking, distributions

__all__ = [
    "AnyOf",
    "Candidate",
    "Cell",
    "CellSpace",
    "ConvNetSpace",
    "Estimate",
    "GradientNorm",
    "NasWot",
    "ParameterCount",
    "Proxy",
    "ProxyObjective",
    "Ranking",
    "Space",
    "SynFlow",
    "TrainedOn",
    "Verdict",
    "add_ranking",
    "bootstrap",
    "cell_network",
    "distilled_proxy",
    "distributions",
    "early_stopping",
    "edge",
    "judge",
    "kendall",
    "named",
    "rank",
    "rank_average",
    "read_accuracies",
    "regret",
    "spearman",
    "unique",
]

_OF_OPTUNA = ("ProxyObjective", "add_ranking", "distributions")


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Return what needs Optuna, which is imported now.

    Raises:
        MissingExtraError: If Optuna is not installed.
        AttributeError: If there is no such name.
    """
    if name in _OF_OPTUNA:
        from ddsdk_integrations.nas import studies

        return getattr(studies, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
