"""Release of a synthetic set of sensitive records: split by patient, distil, audit, and export within limits.

>>> import ddsdk
>>> from ddsdk_integrations.share import ReleaseTerms, prepare_release, simulated_patients
>>> records, patients = simulated_patients(ddsdk.load("digits"), 20, ddsdk.generator(0))
>>> terms = ReleaseTerms(title="Digits", intended_use="to try the command", licence="that of the source")
>>> recipe, protocol = ddsdk.BASELINES["random"](ipc=2), ddsdk.TrainingProtocol(network="mlp", epochs=2)
>>> release = prepare_release(records, patients, recipe=recipe, terms=terms, protocol=protocol, networks=1)
>>> len(release.distilled)
20

`Release.export` writes the release if its audit keeps all limits of an `ExportLimits`, and refuses it otherwise.
"""

from __future__ import annotations

from ddsdk_integrations.share.audit import ReleaseAudit as ReleaseAudit
from ddsdk_integrations.share.audit import UseMetrics as UseMetrics
from ddsdk_integrations.share.audit import audit_release as audit_release
from ddsdk_integrations.share.audit import use_metrics as use_metrics
from ddsdk_integrations.share.groups import simulated_patients as simulated_patients
from ddsdk_integrations.share.groups import split_by_group as split_by_group
from ddsdk_integrations.share.release import ExportLimits as ExportLimits
from ddsdk_integrations.share.release import ExportRefusedError as ExportRefusedError
from ddsdk_integrations.share.release import Release as Release
from ddsdk_integrations.share.release import ReleaseTerms as ReleaseTerms
from ddsdk_integrations.share.release import check_claims as check_claims
from ddsdk_integrations.share.release import prepare_release as prepare_release
from ddsdk_integrations.share.release import reproduces_accuracy as reproduces_accuracy
from ddsdk_integrations.share.soft_labels import TeacherLabels as TeacherLabels
