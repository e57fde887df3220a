"""Share images as a synthetic set: split by patient, distil, audit, and export only within stated limits.

>>> from ddsdk_integrations.share import Limits, Terms, release
>>> recipe = SoftLabels(recipe=ddsdk.DM(ipc=5, start="noise"))
>>> made = release(records, patients, recipe=recipe, terms=terms, seed=0)
>>> made.export("out/release", Limits(near_copies=0, membership_auc=0.55))  # or ExportRefusedError
"""

from __future__ import annotations

from ddsdk_integrations.share.audit import Audit, audit
from ddsdk_integrations.share.claims import check_words
from ddsdk_integrations.share.figures import Figures, figures
from ddsdk_integrations.share.groups import split_by_group
from ddsdk_integrations.share.limits import ExportRefusedError, Limits
from ddsdk_integrations.share.patients import simulated_patients
from ddsdk_integrations.share.release import Release, Terms, release, reproduces
from ddsdk_integrations.share.soft_labels import SoftLabels

__all__ = [
    "Audit",
    "ExportRefusedError",
    "Figures",
    "Limits",
    "Release",
    "SoftLabels",
    "Terms",
    "audit",
    "check_words",
    "figures",
    "release",
    "reproduces",
    "simulated_patients",
    "split_by_group",
]
