"""Share images as a synthetic set: split by patient, distil, audit, and export only within stated limits.

>>> from ddsdk_integrations.share import Limits, Terms, release
>>> recipe = SoftLabels(recipe=ddsdk.DM(ipc=5, start="noise"))
>>> made = release(records, patients, recipe=recipe, terms=terms, seed=0)
>>> made.export("out/release", Limits(near_copies=0, membership_auc=0.55))  # or ExportRefusedError
"""

from __future__ import annotations

from ddsdk_integrations.share.audit import Audit as Audit
from ddsdk_integrations.share.audit import Figures as Figures
from ddsdk_integrations.share.audit import audit as audit
from ddsdk_integrations.share.audit import figures as figures
from ddsdk_integrations.share.groups import simulated_patients as simulated_patients
from ddsdk_integrations.share.groups import split_by_group as split_by_group
from ddsdk_integrations.share.release import ExportRefusedError as ExportRefusedError
from ddsdk_integrations.share.release import Limits as Limits
from ddsdk_integrations.share.release import Release as Release
from ddsdk_integrations.share.release import Terms as Terms
from ddsdk_integrations.share.release import check_words as check_words
from ddsdk_integrations.share.release import release as release
from ddsdk_integrations.share.release import reproduces as reproduces
from ddsdk_integrations.share.soft_labels import SoftLabels as SoftLabels
