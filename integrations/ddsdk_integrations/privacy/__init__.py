"""Differentially private distillation with Opacus: ``pip install 'ddsdk[privacy]'``.

>>> import ddsdk
>>> from ddsdk_integrations.privacy import NDPDC, Budget, Ledger, PrivateData
>>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
>>> ledger = Ledger(Budget(epsilon=1, delta=1e-5), "ledger.json")
>>> private = PrivateData(real, ledger, class_size=135)
>>> distilled = ddsdk.distill(NDPDC(ipc=1, releases=2, steps=2), private, seed=0)
>>> print(distilled.privacy)
(0.99..., 1e-05)-differential privacy, ...
"""

from __future__ import annotations

from ddsdk_integrations._require import require_library

require_library("opacus", feature="Private release", package="opacus", extra="privacy")

from ddsdk_integrations.privacy.accounting import certified_epsilon  # noqa: E402
from ddsdk_integrations.privacy.audit import OneRunAudit, audit_in_one_run, mislabelled  # noqa: E402
from ddsdk_integrations.privacy.bounds import OneRunBound, one_run_bound  # noqa: E402
from ddsdk_integrations.privacy.budget import Budget, BudgetSpentError, Ledger  # noqa: E402
from ddsdk_integrations.privacy.class_sums import ClassSumStudents, FeatureSpace, MatchClassSums, released_class_sums  # noqa: E402
from ddsdk_integrations.privacy.data import PrivateData  # noqa: E402
from ddsdk_integrations.privacy.dp_kip import DPKIP, NoisedRegression  # noqa: E402
from ddsdk_integrations.privacy.gradients import MatchNoisedGradients, NoisedGradients, dp_sgd, sample_gradients  # noqa: E402
from ddsdk_integrations.privacy.ndpdc import NDPDC  # noqa: E402
from ddsdk_integrations.privacy.psg import PSG  # noqa: E402
from ddsdk_integrations.privacy.recipe import PrivateRecipe  # noqa: E402
from ddsdk_integrations.privacy.refusals import PrivacyError  # noqa: E402
from ddsdk_integrations.privacy.statistics import private_class_means, private_class_sizes, private_normalisation  # noqa: E402

__all__ = [
    "DPKIP",
    "NDPDC",
    "PSG",
    "Budget",
    "BudgetSpentError",
    "ClassSumStudents",
    "FeatureSpace",
    "Ledger",
    "MatchClassSums",
    "MatchNoisedGradients",
    "NoisedGradients",
    "NoisedRegression",
    "OneRunAudit",
    "OneRunBound",
    "PrivacyError",
    "PrivateData",
    "PrivateRecipe",
    "audit_in_one_run",
    "certified_epsilon",
    "dp_sgd",
    "mislabelled",
    "one_run_bound",
    "private_class_means",
    "private_class_sizes",
    "private_normalisation",
    "released_class_sums",
    "sample_gradients",
]
