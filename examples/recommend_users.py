"""Recommend to 300 people from 20 synthetic ones.

python examples/recommend_users.py
"""

from pathlib import Path

import ddsdk as dd
from ddsdk_integrations.recommend import (
    EASE,
    DistillCF,
    WideAutoencoder,
    popularity_scores,
    propensities,
    ranking_metrics,
    sampled_users,
    simulated_interactions,
    write_users,
)

# Any table will do: Interactions.from_csv("ratings.csv", least_rating=4).
table = simulated_interactions(300, 120, dd.generator("people"), tastes=6, sharpness=8.0, skew=0.8)
train, validation, test = table.split(dd.generator("split"))
weights, known = propensities(train.matrix.sum(0)), train.matrix

distilled = dd.distill(DistillCF(users=20, steps=60, draws=100), train, seed=dd.generator("run"))
sparse = sampled_users(distilled, 25)
few = {
    "20 random users": known[:20],
    "20 synthetic users": distilled.images[:, 0, 0],
    "the same with 25 items each": sparse.images[:, 0, 0],
}
scores = {
    "popularity": popularity_scores(known, known),
    "EASE on all 300": EASE(ridge=30).scores(known, known),
    "autoencoder on all 300": WideAutoencoder(ridge=3).scores(known, known),
    **{name: WideAutoencoder().scores(users, known) for name, users in few.items()},
}
for name, found in scores.items():
    figures = ranking_metrics(found, known + validation, test, weights)
    print(f"{name}: nDCG {100 * figures.ndcg:.1f} %, propensity-scored precision {100 * figures.psp:.1f} %")

Path("out").mkdir(exist_ok=True)
distilled.save("out/users")
write_users(sparse, train.items, "out/users.csv")
