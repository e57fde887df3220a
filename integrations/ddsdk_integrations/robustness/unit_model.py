"""Networks as attacks must see them: from the unit range to logits, with the normalisation as the first layer."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import require
from ddsdk.training import KernelMachine, probabilities

_ROUNDING = 1e-5


@final
class KernelClassifier(nn.Module):
    """Kernel ridge regression on a set, as a network whose scores are its logits.

    Args:
        machine: Machine of `ddsdk.training.kernel_machine`.
        batch: Images (M, C, H, W) in the value space, and label rows (M, K).
    """

    def __init__(self, machine: KernelMachine, batch: dd.Batch) -> None:
        super().__init__()
        self._machine, self._batch = machine, batch

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, (B, K), of value-space images (B, C, H, W)."""
        return self._machine.predict(self._batch.x, self._batch.y, x).to(x.dtype)


@final
class UnitModel(nn.Module):
    """A finished network that takes images in [0, 1] and brings them to its value space by itself.

    Attacks clamp to the unit range and measure radii there. A network that takes normalised images is attacked in the
    wrong space without any error: published tables have been wrong for it.

    Args:
        network: Network from images (B, C, H, W) in the value space to logits (B, K). It is put in the mode of
            evaluation, and its weights are constants from now on.
        preprocess: Map from the unit range to the value space.
    """

    def __init__(self, network: nn.Module, preprocess: dd.Preprocess) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.preprocess = preprocess
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of images (B, C, H, W).

        Raises:
            ValueError: If a value lies outside of [0, 1].
        """
        low, high = float(x.detach().amin()), float(x.detach().amax())
        inside = low >= -_ROUNDING and high <= 1 + _ROUNDING
        require(inside, "x", "lie in the unit range [0, 1]", (low, high))
        logits: Tensor = self.network(self.preprocess(x))
        return logits

    def train(self, mode: bool = True) -> UnitModel:
        """Stay in the mode of evaluation: a network that trains while it is attacked is another one after it."""
        require(not mode, "mode", "be False for a network under attack", mode)
        super().train(False)
        return self

    @torch.no_grad()
    def correct(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return whether each image (B, C, H, W) has its label (B,) as the largest logit, (B,) bool."""
        return probabilities(self, x).argmax(1) == labels
