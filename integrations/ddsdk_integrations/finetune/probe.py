"""Evaluation of a set with a pretrained backbone: linear probe and fine-tuning."""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import as_generator
from ddsdk.judging import top1_accuracy
from ddsdk.synthetic import read_labels
from ddsdk.training import embeddings, linear_probe, train


@final
class _ProbedBackbone(nn.Module):
    """A backbone with a linear head; batch norm uses the pretraining statistics, also in training mode."""

    def __init__(self, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def train(self, mode: bool = True) -> _ProbedBackbone:
        # Statistics of a few synthetic images would be poor.
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
        return self

    def embed(self, x: Tensor) -> Tensor:
        features: Tensor = getattr(self.backbone, "embed", self.backbone)(x)
        return features.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(x))
        return logits


def _probed(backbone: nn.Module, distilled: dd.Distilled, decay: float) -> tuple[_ProbedBackbone, Tensor]:
    """Return a copy of the backbone with the probe of a set, and the labels of the set as probabilities."""
    probed = _ProbedBackbone(copy.deepcopy(backbone).eval(), nn.Linear(1, 1))
    rows = read_labels(distilled.labels, "probabilities" if distilled.label_space == "scores" else "stored")
    probed.head = linear_probe(embeddings(probed, distilled.images), rows, decay=decay)
    return probed, rows


def probe_accuracy(backbone: nn.Module, distilled: dd.Distilled, test: dd.RealData, *, decay: float = 1e-3) -> float:
    """Return the test accuracy of a linear probe that is fitted to a set.

    Args:
        backbone: Pretrained network from images to features, by its method `embed` or a call.
        distilled: Distilled set in the value space of `test`.
        test: Real test images, in the value space of the set.
        decay: Weight decay of the probe, > 0.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.finetune import probe_accuracy
        >>> train, test = ddsdk.load_pair("digits")
        >>> backbone = ddsdk.network_factory("mlp", train.image_shape, 10, width=16)(ddsdk.generator(0))
        >>> coreset = ddsdk.distill(ddsdk.BASELINES["random"](ipc=2), train)
        >>> 0 <= probe_accuracy(backbone, coreset, test) <= 1
        True
    """
    probed, _ = _probed(backbone, distilled, decay)
    return top1_accuracy(probed, test)


def fine_tune(
    backbone: nn.Module,
    distilled: dd.Distilled,
    protocol: dd.TrainingProtocol,
    *,
    seed: int | torch.Generator = 0,
    decay: float = 1e-3,
) -> nn.Module:
    """Return a copy of the backbone with a linear head, both fine-tuned on a set; the head starts as its linear probe.

    Args:
        backbone: Pretrained network from images to features, by its method `embed` or a call.
        distilled: Training set of the fine-tuning.
        protocol: Optimizer, learning rate, epochs, batch size and augmentation; its network is ignored.
        seed: Root of order and augmentation: an integer, or a generator, which is not advanced.
        decay: Weight decay of the probe, > 0.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.finetune import fine_tune
        >>> real = ddsdk.load("digits")
        >>> backbone = ddsdk.network_factory("mlp", real.image_shape, 10, width=16)(ddsdk.generator(0))
        >>> coreset = ddsdk.distill(ddsdk.BASELINES["random"](ipc=2), real)
        >>> fine_tune(backbone, coreset, ddsdk.TrainingProtocol(epochs=2))(torch.rand(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """
    probed, rows = _probed(backbone, distilled, decay)
    probed.requires_grad_(True)
    for _ in train(probed, dd.Batch(distilled.images, rows), protocol, as_generator(seed)):
        pass
    return probed.eval()
