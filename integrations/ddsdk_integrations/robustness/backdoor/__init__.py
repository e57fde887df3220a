"""Back doors: red-team triggers for tests, and a scan of distilled sets.

>>> from ddsdk_integrations.robustness.backdoor import scan
>>> print(scan(ddsdk.Distilled.load("out/set"), clean=trusted, seed=0))
"""

from __future__ import annotations

from ddsdk_integrations.robustness.backdoor.doorping import (
    Doorping,
    DoorpingStudents,
    Opened,
    TrainedVictims,
    distil_doorping,
    optimised_trigger,
)
from ddsdk_integrations.robustness.backdoor.inversion import (
    Inversion,
    InvertedTriggers,
    invert_triggers,
    outlier_indices,
)
from ddsdk_integrations.robustness.backdoor.scan import LIMITS, TESTS, Scan, Thresholds, Verdict, scan
from ddsdk_integrations.robustness.backdoor.signatures import (
    Pasted,
    Spectrum,
    occlusion_falls,
    pasted_regions,
    spectral_signatures,
)
from ddsdk_integrations.robustness.backdoor.triggers import Poisoned, Success, Trigger, attack_success, poison

__all__ = [
    "LIMITS",
    "TESTS",
    "Doorping",
    "DoorpingStudents",
    "Inversion",
    "InvertedTriggers",
    "Opened",
    "Pasted",
    "Poisoned",
    "Scan",
    "Spectrum",
    "Success",
    "Thresholds",
    "TrainedVictims",
    "Trigger",
    "Verdict",
    "attack_success",
    "distil_doorping",
    "invert_triggers",
    "occlusion_falls",
    "optimised_trigger",
    "outlier_indices",
    "pasted_regions",
    "poison",
    "scan",
    "spectral_signatures",
]
