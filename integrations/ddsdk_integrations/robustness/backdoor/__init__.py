"""Backdoors: triggers for attacks on distillation, and a scan of distilled sets for backdoors.

>>> import ddsdk
>>> from ddsdk_integrations.robustness.backdoor import InversionSettings, scan
>>> train, test = ddsdk.load_pair("digits")
>>> distilled = ddsdk.distill(ddsdk.baselines.Random(ipc=3), train)
>>> protocol = ddsdk.TrainingProtocol(epochs=2, network_options={"width": 4})
>>> report = scan(distilled, clean=test, protocol=protocol, networks=1, inversion=InversionSettings(steps=2))
>>> len(report.verdicts)
10
"""

from __future__ import annotations

from ddsdk_integrations.robustness.backdoor.doorping import (
    BackdooredSet,
    DoorpingSettings,
    DoorpingStudents,
    TrainedVictims,
    distil_doorping,
    optimised_trigger,
)
from ddsdk_integrations.robustness.backdoor.inversion import (
    InversionSettings,
    InvertedTriggers,
    anomaly_indices,
    invert_triggers,
)
from ddsdk_integrations.robustness.backdoor.scan import LIMITS, TESTS, ClassVerdict, Scan, Thresholds, scan
from ddsdk_integrations.robustness.backdoor.signatures import (
    Pasted,
    Spectrum,
    occlusion_drops,
    pasted_regions,
    spectral_signatures,
)
from ddsdk_integrations.robustness.backdoor.triggers import AttackSuccess, PoisonedData, Trigger, attack_success, poison

__all__ = [
    "LIMITS",
    "TESTS",
    "AttackSuccess",
    "BackdooredSet",
    "ClassVerdict",
    "DoorpingSettings",
    "DoorpingStudents",
    "InversionSettings",
    "InvertedTriggers",
    "Pasted",
    "PoisonedData",
    "Scan",
    "Spectrum",
    "Thresholds",
    "TrainedVictims",
    "Trigger",
    "anomaly_indices",
    "attack_success",
    "distil_doorping",
    "invert_triggers",
    "occlusion_drops",
    "optimised_trigger",
    "pasted_regions",
    "poison",
    "scan",
    "spectral_signatures",
]
