"""Distillation for a frozen pretrained backbone, linear probes and fine-tuning.

>>> import ddsdk
>>> from ddsdk_integrations.finetune import FrozenBackbone, LinearGradientMatching, probe_accuracy
>>> train, test = ddsdk.load_pair("digits")
>>> backbone = ddsdk.network_factory("mlp", train.image_shape, 10, width=16)(ddsdk.generator(0))
>>> make_student = FrozenBackbone(backbone, features=16, num_classes=10)
>>> recipe = LinearGradientMatching(ipc=1, steps=2, real_batch=16)
>>> distilled = ddsdk.distill(recipe, train, make_student=make_student, seed=0)
>>> 0 <= probe_accuracy(backbone, distilled, test) <= 1
True
"""

from __future__ import annotations

from ddsdk.training import linear_probe as linear_probe
from ddsdk_integrations.finetune.matching import FrozenBackbone as FrozenBackbone
from ddsdk_integrations.finetune.matching import LinearGradientMatching as LinearGradientMatching
from ddsdk_integrations.finetune.probe import fine_tune as fine_tune
from ddsdk_integrations.finetune.probe import probe_accuracy as probe_accuracy
