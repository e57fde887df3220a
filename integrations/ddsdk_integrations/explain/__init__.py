"""Explanations of predictions by a distilled set: the synthetic images and the training images behind a prediction.

>>> import ddsdk
>>> from ddsdk_integrations.explain import Explainer, Influence
>>> train, test = ddsdk.load_pair("digits")
>>> distilled = ddsdk.distill(ddsdk.KIP(ipc=1, steps=2, real_batch=50), train)
>>> explainer = Explainer(distilled)
>>> explainer.explain(test.batch(test.index_of_class(3)).x).top(5).shape[1]
5
>>> Influence(explainer, train).falls(test.batch(test.index_of_class(3)).x).shape[1] == len(train)
True
"""

from __future__ import annotations

from ddsdk_integrations.explain.faithfulness import RemovalEffect as RemovalEffect
from ddsdk_integrations.explain.faithfulness import data_modelling_score as data_modelling_score
from ddsdk_integrations.explain.faithfulness import leave_one_out as leave_one_out
from ddsdk_integrations.explain.faithfulness import random_subsets as random_subsets
from ddsdk_integrations.explain.faithfulness import rank_correlation as rank_correlation
from ddsdk_integrations.explain.faithfulness import removal_test as removal_test
from ddsdk_integrations.explain.influence import Influence as Influence
from ddsdk_integrations.explain.influence import draw_explanations as draw_explanations
from ddsdk_integrations.explain.weights import Explainer as Explainer
from ddsdk_integrations.explain.weights import Explanation as Explanation
from ddsdk_integrations.explain.weights import NetworkKernel as NetworkKernel
