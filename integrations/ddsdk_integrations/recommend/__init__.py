"""Recommend from few synthetic users: the infinitely wide autoencoder in closed form, and Distill-CF over it.

>>> from ddsdk_integrations.recommend import Interactions, WideAutoencoder, DistillCF
>>> table = Interactions.from_rows(rows)  # (user, item, rating) of any table
>>> train, validation, test = table.split(rng)
>>> scores = WideAutoencoder(ridge=1.0).scores(train.matrix, train.matrix)

Distill-CF is experimental: docs/applications.md has what it reaches beside as many random users.
"""

from __future__ import annotations

from ddsdk_integrations.recommend.autoencoder import EASE, WideAutoencoder, popularity
from ddsdk_integrations.recommend.distill_cf import DistillCF, sampled_users, write_users
from ddsdk_integrations.recommend.interactions import Interactions, simulated_interactions
from ddsdk_integrations.recommend.metrics import Ranking, propensities, ranking
from ddsdk_integrations.recommend.users import GumbelUsers

__all__ = [
    "EASE",
    "DistillCF",
    "GumbelUsers",
    "Interactions",
    "Ranking",
    "WideAutoencoder",
    "popularity",
    "propensities",
    "ranking",
    "sampled_users",
    "simulated_interactions",
    "write_users",
]
