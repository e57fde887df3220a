"""Robust sets and an honest judge of robustness: ``pip install 'ddsdk[robustness]'``.

>>> from ddsdk_integrations.robustness import PixelAdversary, RobustnessJudge, Threat, robustness_table
>>> judge = RobustnessJudge(norm="linf", radii=(0.02, 0.05, 0.1))
>>> adversary = PixelAdversary(preprocess=test.preprocess, threat=Threat("linf", 0.1))
>>> networks = judge.networks_of(batch, test, evaluation, seed=0, adversary=adversary)
>>> print(robustness_table([judge(networks, test, seed=0)]))
"""

from __future__ import annotations

from ddsdk_integrations._require import require_library

require_library("pyautoattack", feature="The robustness judge", package="pyautoattack", extra="robustness")

from ddsdk_integrations.robustness.attacks import FGSM, PGD, Attack, PixelAdversary, ascend, surviving  # noqa: E402
from ddsdk_integrations.robustness.backdoor import Scan, Trigger, attack_success, poison, scan  # noqa: E402
from ddsdk_integrations.robustness.judge import RobustnessJudge, Transfer, Trial, transfer  # noqa: E402
from ddsdk_integrations.robustness.library import AutoAttack, square  # noqa: E402
from ddsdk_integrations.robustness.recipes import AdversarialLearning, AttackedSource, OnAttacked, RobustMatching  # noqa: E402
from ddsdk_integrations.robustness.report import Outcome, Robustness, robustness_table  # noqa: E402
from ddsdk_integrations.robustness.threat import BrokenAttackError, KernelClassifier, Threat, UnitModel  # noqa: E402

__all__ = [
    "FGSM",
    "PGD",
    "AdversarialLearning",
    "Attack",
    "AttackedSource",
    "AutoAttack",
    "BrokenAttackError",
    "KernelClassifier",
    "OnAttacked",
    "Outcome",
    "PixelAdversary",
    "RobustMatching",
    "Robustness",
    "RobustnessJudge",
    "Scan",
    "Threat",
    "Transfer",
    "Trial",
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
