"""Recommendation from few synthetic users: the infinitely wide autoencoder in closed form, and Distill-CF.

>>> import ddsdk
>>> from ddsdk_integrations.recommend import DistillCF, WideAutoencoder, simulated_interactions
>>> table = simulated_interactions(100, 40, ddsdk.generator(0))
>>> train, validation, test = table.split(ddsdk.generator(1))
>>> users = ddsdk.distill(DistillCF(users=10, steps=2, draws=20), train)
>>> scores = WideAutoencoder().scores(users.images.flatten(1), train.matrix)
>>> scores.shape == train.matrix.shape
True

Distill-CF is experimental: docs/integrations/recommend.md compares it with random users.
"""

from __future__ import annotations

from ddsdk_integrations.recommend.distill_cf import DistillCF as DistillCF
from ddsdk_integrations.recommend.distill_cf import sampled_users as sampled_users
from ddsdk_integrations.recommend.distill_cf import write_users as write_users
from ddsdk_integrations.recommend.interactions import Interactions as Interactions
from ddsdk_integrations.recommend.interactions import simulated_interactions as simulated_interactions
from ddsdk_integrations.recommend.ranking import EASE as EASE
from ddsdk_integrations.recommend.ranking import RankingMetrics as RankingMetrics
from ddsdk_integrations.recommend.ranking import WideAutoencoder as WideAutoencoder
from ddsdk_integrations.recommend.ranking import popularity_scores as popularity_scores
from ddsdk_integrations.recommend.ranking import propensities as propensities
from ddsdk_integrations.recommend.ranking import ranking_metrics as ranking_metrics
from ddsdk_integrations.recommend.users import GumbelUsers as GumbelUsers
