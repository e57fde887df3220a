"""Explain predictions by a synthetic set: which of its images carry one, and which training images stand behind it.

>>> from ddsdk_integrations.explain import Explainer, Influence
>>> explainer = Explainer(distilled)  # a set for kernel machines, such as KIP's
>>> explainer.explain(test.batch(index).x).top(5)
>>> Influence(explainer, train).falls(test.batch(index).x)  # by how much each training image moves the prediction
"""

from __future__ import annotations

from ddsdk_integrations.explain.faithfulness import Removal as Removal
from ddsdk_integrations.explain.faithfulness import data_modelling_score as data_modelling_score
from ddsdk_integrations.explain.faithfulness import leave_one_out as leave_one_out
from ddsdk_integrations.explain.faithfulness import random_subsets as random_subsets
from ddsdk_integrations.explain.faithfulness import rank_correlation as rank_correlation
from ddsdk_integrations.explain.faithfulness import removal as removal
from ddsdk_integrations.explain.influence import Influence as Influence
from ddsdk_integrations.explain.influence import draw_explanations as draw_explanations
from ddsdk_integrations.explain.weights import Explainer as Explainer
from ddsdk_integrations.explain.weights import Explanation as Explanation
from ddsdk_integrations.explain.weights import NetworkKernel as NetworkKernel
