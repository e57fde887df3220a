"""Distil for a frozen pretrained backbone: any recipe on its features, or linear gradient matching; probes and tuning.

>>> from ddsdk_integrations.finetune import FrozenBackbone, LinearGradientMatching, probe_accuracy
>>> make_student = FrozenBackbone(backbone, features=512, num_classes=10)
>>> distilled = ddsdk.distill(LinearGradientMatching(ipc=1), real, make_student=make_student, seed=0)
>>> probe_accuracy(backbone, distilled, test)
"""

from __future__ import annotations

from ddsdk_integrations.finetune.matching import FrozenBackbone as FrozenBackbone
from ddsdk_integrations.finetune.matching import LinearGradientMatching as LinearGradientMatching
from ddsdk_integrations.finetune.probe import fine_tuned as fine_tuned
from ddsdk_integrations.finetune.probe import linear_probe as linear_probe
from ddsdk_integrations.finetune.probe import probe_accuracy as probe_accuracy
