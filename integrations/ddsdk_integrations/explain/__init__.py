"""Explain predictions by a synthetic set: which of its images carry one, and which training images stand behind it.

>>> from ddsdk_integrations.explain import Explainer, Influence
>>> explainer = Explainer(distilled)  # a set for kernel machines, such as KIP's
>>> explainer.explain(test.batch(index).x).top(5)
>>> Influence(explainer, train).falls(test.batch(index).x)  # by how much each training image moves the prediction
"""

from __future__ import annotations

from ddsdk_integrations.explain.faithfulness import (
    Removal,
    data_modelling_score,
    leave_one_out,
    random_subsets,
    rank_correlation,
    removal,
)
from ddsdk_integrations.explain.influence import Influence
from ddsdk_integrations.explain.picture import draw_explanations
from ddsdk_integrations.explain.weights import Explainer, Explanation, NetworkKernel

__all__ = [
    "Explainer",
    "Explanation",
    "Influence",
    "NetworkKernel",
    "Removal",
    "data_modelling_score",
    "draw_explanations",
    "leave_one_out",
    "random_subsets",
    "rank_correlation",
    "removal",
]
