"""Recommend from few synthetic users: the infinitely wide autoencoder in closed form, and Distill-CF over it.

>>> from ddsdk_integrations.recommend import Interactions, WideAutoencoder, DistillCF
>>> table = Interactions.from_rows(rows)  # (user, item, rating) of any table
>>> train, validation, test = table.split(rng)
>>> scores = WideAutoencoder(ridge=1.0).scores(train.matrix, train.matrix)

Distill-CF is experimental: docs/applications.md has what it reaches beside as many random users.
"""

from __future__ import annotations

from ddsdk_integrations.recommend.distill_cf import DistillCF as DistillCF
from ddsdk_integrations.recommend.distill_cf import sampled_users as sampled_users
from ddsdk_integrations.recommend.distill_cf import write_users as write_users
from ddsdk_integrations.recommend.interactions import Interactions as Interactions
from ddsdk_integrations.recommend.interactions import simulated_interactions as simulated_interactions
from ddsdk_integrations.recommend.ranking import EASE as EASE
from ddsdk_integrations.recommend.ranking import Ranking as Ranking
from ddsdk_integrations.recommend.ranking import WideAutoencoder as WideAutoencoder
from ddsdk_integrations.recommend.ranking import popularity as popularity
from ddsdk_integrations.recommend.ranking import propensities as propensities
from ddsdk_integrations.recommend.ranking import ranking as ranking
from ddsdk_integrations.recommend.users import GumbelUsers as GumbelUsers
