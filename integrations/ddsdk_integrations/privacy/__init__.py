"""Private release with Opacus: ``pip install 'ddsdk[privacy]'``.

>>> from ddsdk_integrations.privacy import NDPDC, Budget, Ledger, PrivateData
>>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5), "ledger.json"), class_size=6000)
>>> distilled = ddsdk.distill(NDPDC(ipc=10), private, seed=0)
>>> print(distilled.privacy)
"""

from __future__ import annotations

from ddsdk_integrations._require import require_library

require_library("opacus", feature="Private release", package="opacus", extra="privacy")

from ddsdk_integrations.privacy.audit import OneRun, audit_in_one_run, mislabelled  # noqa: E402
from ddsdk_integrations.privacy.bounds import OneRunBound, one_run_bound  # noqa: E402
from ddsdk_integrations.privacy.budget import Budget, BudgetSpentError, Ledger, certified_epsilon  # noqa: E402
from ddsdk_integrations.privacy.class_sums import FeatureSpace, MatchClassSums, ReleasedSums, released_class_sums  # noqa: E402
from ddsdk_integrations.privacy.data import PrivateData  # noqa: E402
from ddsdk_integrations.privacy.dp_kip import DPKIP, NoisedRegression  # noqa: E402
from ddsdk_integrations.privacy.gradients import MatchNoisedGradients, NoisedGradients, dp_sgd, sample_gradients  # noqa: E402
from ddsdk_integrations.privacy.guard import PrivacyError  # noqa: E402
from ddsdk_integrations.privacy.ndpdc import NDPDC  # noqa: E402
from ddsdk_integrations.privacy.psg import PSG  # noqa: E402
from ddsdk_integrations.privacy.recipe import PrivateRecipe  # noqa: E402
from ddsdk_integrations.privacy.statistics import paid_class_means, paid_class_sizes, paid_normalisation  # noqa: E402

__all__ = [
    "DPKIP",
    "NDPDC",
    "PSG",
    "Budget",
    "BudgetSpentError",
    "FeatureSpace",
    "Ledger",
    "MatchClassSums",
    "MatchNoisedGradients",
    "NoisedGradients",
    "NoisedRegression",
    "OneRun",
    "OneRunBound",
    "PrivacyError",
    "PrivateData",
    "PrivateRecipe",
    "ReleasedSums",
    "audit_in_one_run",
    "certified_epsilon",
    "dp_sgd",
    "mislabelled",
    "one_run_bound",
    "paid_class_means",
    "paid_class_sizes",
    "paid_normalisation",
    "released_class_sums",
    "sample_gradients",
]
