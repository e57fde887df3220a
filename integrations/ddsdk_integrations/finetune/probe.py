"""Use of a set for a pretrained backbone: a linear probe on its features, and fine-tuning of everything."""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.foundation import require_rate, root
from ddsdk.synthetic import read_labels
from ddsdk.training import accuracy, embeddings, train

_PASSES = 200


def linear_probe(features: Tensor, labels: Tensor, *, decay: float = 1e-3) -> nn.Linear:
    """Return the head that minimises cross-entropy + decay ||W||^2 / 2 on features: convex, so nothing is drawn.

    Args:
        features: Features, (M, F).
        labels: Rows of probabilities, (M, K).
        decay: Weight decay, > 0, or there may be no smallest value.
    """
    require_rate("decay", decay)
    head = nn.Linear(features.shape[1], labels.shape[1]).to(features)
    for p in head.parameters():
        nn.init.zeros_(p)
    solver = torch.optim.LBFGS(head.parameters(), max_iter=_PASSES, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value: Tensor = cross_entropy(head(features), labels) + decay * head.weight.square().sum() / 2
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    head.requires_grad_(False)
    return head


@final
class _Joined(nn.Module):
    """Features of a backbone under a head; batch norm keeps the statistics of the pretraining in every mode."""

    def __init__(self, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def train(self, mode: bool = True) -> _Joined:
        # A few synthetic images have no statistics of their own.
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
        return self

    def embed(self, x: Tensor) -> Tensor:
        found: Tensor = getattr(self.backbone, "embed", self.backbone)(x)
        return found.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.embed(x))
        return logits


def _probed(backbone: nn.Module, distilled: dd.Distilled, decay: float) -> tuple[_Joined, Tensor]:
    joined = _Joined(copy.deepcopy(backbone).eval(), nn.Linear(1, 1))
    rows = read_labels(distilled.labels, "probabilities" if distilled.label_space == "scores" else "stored")
    joined.head = linear_probe(embeddings(joined, distilled.images), rows, decay=decay)
    return joined, rows


def probe_accuracy(backbone: nn.Module, distilled: dd.Distilled, test: dd.RealData, *, decay: float = 1e-3) -> float:
    """Return the accuracy of a linear probe that is fitted to a set, on test images.

    Args:
        backbone: Frozen network from images to features by `embed`, or by a call.
        distilled: Set, in the value space of `test`.
        test: Test images, read once.
        decay: Weight decay of the probe.
    """
    joined, _ = _probed(backbone, distilled, decay)
    return accuracy(joined, test.batch(torch.arange(len(test))).x, test.labels)


def fine_tuned(
    backbone: nn.Module,
    distilled: dd.Distilled,
    evaluation: dd.Evaluation,
    *,
    seed: int | torch.Generator = 0,
    decay: float = 1e-3,
) -> nn.Module:
    """Return the backbone under the probe of a set, after both were trained on it; `backbone` stays as it is.

    Args:
        backbone: Network at the start.
        distilled: Set to train on.
        evaluation: Optimizer, rate, epochs, batches and augmentation; its network is not read.
        seed: Root of order and augmentation: an integer, or a generator, which is not advanced.
        decay: Weight decay of the probe.
    """
    joined, rows = _probed(backbone, distilled, decay)
    joined.requires_grad_(True)
    for _ in train(joined, dd.Batch(distilled.images, rows), evaluation, root(seed)):
        pass
    return joined.eval()
