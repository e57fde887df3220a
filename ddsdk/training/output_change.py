"""Networks less their initial output, which train as linear models of infinite width start: from zero."""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import Tensor, nn

from ddsdk.data import Batch
from ddsdk.training.fit import Penalty


@final
class OutputChange(nn.Module):
    """The change of a network's output since its initial weights: f_w(x) - f_w0(x).

    Args:
        network: Network from images (B, C, H, W) to logits (B, K), with its initial weights; it is trained in place.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk.training import OutputChange
        >>> network = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)(ddsdk.generator(0))
        >>> float(OutputChange(network)(torch.rand(2, 1, 8, 8)).detach().abs().max())
        0.0

    References:
        Loo et al., "Efficient Dataset Distillation Using Random Feature Approximation", NeurIPS 2022, arXiv:2210.12067.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.initial = copy.deepcopy(network).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the change of the logits, (B, K)."""
        change: Tensor = self.network(x) - self.initial(x)
        return change

    def pull(self, strength: float) -> Penalty:
        """Return the penalty strength |w - w0|^2 / 2 for each image of a batch, as weight decay to the initial weights.

        Args:
            strength: Factor of w - w0 that is added to the gradient of the mean loss.
        """
        pairs = list(zip(self.network.parameters(), self.initial.parameters(), strict=True))

        def penalty(network: nn.Module, batch: Batch) -> Tensor:  # noqa: ARG001
            return len(batch.x) * strength / 2 * torch.stack([(w - w0).square().sum() for w, w0 in pairs]).sum()

        return penalty
