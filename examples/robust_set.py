"""Judge a distilled set under attack, harden what trains on it, and see a network that only seems robust.

python examples/robust_set.py
"""

import dataclasses

from torch import nn

import ddsdk as dd
from ddsdk_integrations.robustness import (
    PGD,
    AttackTrial,
    RobustnessJudge,
    Threat,
    TrainingPGD,
    UnitModel,
    robustness_table,
    square,
)

train, test = dd.load_pair("digits")
make_student = dd.network_factory("convnet", train.image_shape, 10, width=8, depth=2)
distilled = dd.distill(
    dd.DM(ipc=10, steps=60, real_batch=64, augmentation=""), train, make_student=make_student, seed=dd.generator("run")
)

# Radii are those of pixels in [0, 1]; models normalise by themselves, and every attack is checked for its bounds.
judge = RobustnessJudge(
    norm="linf",
    radii=(0.05, 0.1, 0.15),
    trials=(AttackTrial(PGD(restarts=2)), AttackTrial(square(200), images=40, networks=1)),
    images=60,
    networks=2,
)
options = {"width": 8, "depth": 2}
protocol = dataclasses.replace(dd.TrainingProtocol.published(), network_options=options, epochs=60)
adversary = TrainingPGD(preprocess=train.preprocess, threat=Threat("linf", 0.1), steps=3)
batch, rng = dd.Batch(distilled.images, distilled.labels), dd.generator("judge")

plain = judge.networks_of(batch, train, protocol, seed=rng)
hard = judge.networks_of(batch, train, protocol, seed=rng, adversary=adversary)


class Rounded(nn.Module):
    """Scores in steps: no attack finds a gradient, and nothing has become safer."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return (20 * self.network(x)).round() / 20 + 0 * x.sum()


masked = [UnitModel(Rounded(model.network), train.preprocess) for model in plain]
rows = {"plain training": plain, "adversarial training": hard, "masked gradients": masked}
reports = [judge(models, test, seed=dd.generator("attack"), name=name) for name, models in rows.items()]
print(robustness_table(reports))
for report in reports:
    for warning in report.warnings:
        print(f"{report.name}: {warning}")
