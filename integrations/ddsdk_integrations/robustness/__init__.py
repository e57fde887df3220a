"""Robust distillation and evaluation of robust accuracy: ``pip install 'ddsdk[robustness]'``.

>>> import ddsdk
>>> from ddsdk_integrations.robustness import PGD, AttackTrial, RobustnessJudge, Threat, TrainingPGD
>>> train, test = ddsdk.load_pair("digits")
>>> judge = RobustnessJudge(radii=(0.02, 0.1), trials=(AttackTrial(PGD(steps=5)),), images=20, networks=1)
>>> adversary = TrainingPGD(preprocess=train.preprocess, threat=Threat("linf", 0.1))
>>> few = train.mixed(20, ddsdk.generator("few"))
>>> protocol = ddsdk.TrainingProtocol(epochs=2, network_options={"width": 4})
>>> networks = judge.networks_of(few, train, protocol, adversary=adversary)
>>> judge(networks, test).radii
[0.02, 0.1]
"""

from __future__ import annotations

from ddsdk_integrations._require import require_library

require_library("pyautoattack", feature="The robustness judge", package="pyautoattack", extra="robustness")

from ddsdk_integrations.robustness.attacks import FGSM, PGD, Attack, TrainingPGD, ascend, surviving  # noqa: E402
from ddsdk_integrations.robustness.backdoor import Scan, Trigger, attack_success, poison, scan  # noqa: E402
from ddsdk_integrations.robustness.judge import AttackTrial, RobustnessJudge, Transfer, transfer  # noqa: E402
from ddsdk_integrations.robustness.library import AutoAttack, square  # noqa: E402
from ddsdk_integrations.robustness.recipes import AdversarialLearning, AttackedObjective, AttackedSource, RobustMatching  # noqa: E402
from ddsdk_integrations.robustness.report import AttackOutcome, Robustness, robustness_table  # noqa: E402
from ddsdk_integrations.robustness.threat import BrokenAttackError, KernelClassifier, Threat, UnitModel  # noqa: E402

__all__ = [
    "FGSM",
    "PGD",
    "AdversarialLearning",
    "Attack",
    "AttackOutcome",
    "AttackTrial",
    "AttackedObjective",
    "AttackedSource",
    "AutoAttack",
    "BrokenAttackError",
    "KernelClassifier",
    "RobustMatching",
    "Robustness",
    "RobustnessJudge",
    "Scan",
    "Threat",
    "TrainingPGD",
    "Transfer",
    "Trigger",
    "UnitModel",
    "ascend",
    "attack_success",
    "poison",
    "robustness_table",
    "scan",
    "square",
    "surviving",
    "transfer",
]
