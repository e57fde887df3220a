"""Zero-cost proxies, scores of untrained networks: parameter count, SynFlow, NASWOT and gradient norm."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import require
from ddsdk.students import MakeStudent
from ddsdk.training import batch_gradient
from ddsdk_integrations.nas.proxies import tensor_hash

_WEIGHTED = (nn.Conv2d, nn.Linear)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.Sigmoid)


@final
@dataclass(frozen=True)
class ParameterCount:
    """The number of parameters, the baseline of all proxies.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.nas import ParameterCount
        >>> ParameterCount()(ddsdk.network_factory("convnet", (3, 32, 32), 10), ddsdk.generator(0))
        {'score': 320010.0}
    """

    seconds: ClassVar[float] = 0.0

    @property
    def identity(self) -> Mapping[str, Any]:
        """Kind of the score."""
        return {"kind": "parameters"}

    def __call__(self, make: MakeStudent, rng: torch.Generator) -> Mapping[str, float]:
        """Return the number of parameters as the score."""
        return {"score": float(sum(p.numel() for p in make(rng).parameters()))}


@final
@dataclass(frozen=True, eq=False)
class SynFlow:
    """SynFlow: log of the sum of |w dR/dw| over the weights of all convolutions and linear layers.

    R is the sum of the outputs for an image of ones, computed in float64 by the network without normalisation layers
    and with the absolute values of all parameters. Weights without a path to an output count zero.

    Attributes:
        image_shape: Shape of the images, (C, H, W).

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.nas import SynFlow
        >>> list(SynFlow((1, 8, 8))(ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4), ddsdk.generator(0)))
        ['score']

    References:
        Tanaka et al., NeurIPS 2020, arXiv:2006.05467; as a score: Abdelfattah et al., ICLR 2021, arXiv:2101.08134.
    """

    image_shape: tuple[int, int, int]
    seconds: ClassVar[float] = 0.0

    @property
    def identity(self) -> Mapping[str, Any]:
        """Kind of the score, and the shape."""
        return {"kind": "synflow", "shape": list(self.image_shape)}

    def __call__(self, make: MakeStudent, rng: torch.Generator) -> Mapping[str, float]:
        """Return the logarithm of the flow as the score; -1e300 for a flow of zero, because JSON has no infinity."""
        network = _without_norms(copy.deepcopy(make(rng))).double()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.abs_()
        total = network(torch.ones(1, *self.image_shape, dtype=torch.float64)).sum()
        weights = [layer.weight for layer in network.modules() if isinstance(layer, _WEIGHTED)]
        gradients = torch.autograd.grad(total, weights, allow_unused=True)
        flow = sum(
            float((w.detach() * g).abs().sum()) for w, g in zip(weights, gradients, strict=True) if g is not None
        )
        return {"score": math.log(flow) if flow > 0 else -1e300}


def _without_norms(network: nn.Module) -> nn.Module:
    for name, child in network.named_children():
        setattr(network, name, nn.Identity() if isinstance(child, _NORMS) else _without_norms(child))
    return network


@final
@dataclass(frozen=True, eq=False)
class NasWot:
    """NASWOT: log |det K|, where K_ij is the number of units of an untrained network that agree on two images.

    A unit agrees if the input of its activation is positive for both images i and j, or for neither. The paper has ReLU
    only; for a sigmoid the two signs are the two halves of its range. Batch norm uses the statistics of the batch.

    Attributes:
        x: Real images, (B, C, H, W) with B >= 2, without duplicates.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.nas import NasWot
        >>> real = ddsdk.load("digits")
        >>> proxy = NasWot(real.batch(torch.arange(8)).x)
        >>> list(proxy(ddsdk.network_factory("convnet", real.image_shape, 10, width=4), ddsdk.generator(0)))
        ['score']

    References:
        Mellor et al., ICML 2021, arXiv:2006.04647.
    """

    x: Tensor
    seconds: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        require(len(self.x) >= 2, "x", "hold at least 2 images", len(self.x))

    @property
    def identity(self) -> Mapping[str, Any]:
        """Kind of the score, and the images."""
        return {"kind": "naswot", "x": tensor_hash(self.x)}

    @torch.no_grad()
    def __call__(self, make: MakeStudent, rng: torch.Generator) -> Mapping[str, float]:
        """Return the log determinant as the score; -1e300 for a singular kernel, because JSON has no infinity."""
        network = make(rng).to(self.x.device).train()
        kernel = torch.zeros(len(self.x), len(self.x), dtype=torch.float64, device=self.x.device)

        def count(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:  # noqa: ARG001
            positive = (inputs[0] > 0).flatten(1).to(torch.float32)
            kernel.add_((positive @ positive.T + (1 - positive) @ (1 - positive).T).double())

        layers = [layer for layer in network.modules() if isinstance(layer, _ACTIVATIONS)]
        require(bool(layers), "make", "build a network with ReLU, LeakyReLU or Sigmoid layers", type(network))
        # Inputs are counted before the layer runs, because it may work in place.
        hooks = [layer.register_forward_pre_hook(count) for layer in layers]
        network(self.x)
        for hook in hooks:
            hook.remove()
        sign, value = torch.linalg.slogdet(kernel)
        return {"score": float(value) if float(sign) > 0 and math.isfinite(value) else -1e300}


@final
@dataclass(frozen=True, eq=False)
class GradientNorm:
    """The gradient norm of an untrained network, summed over the weights of all convolutions and linear layers.

    The loss is the mean cross-entropy of one batch.

    Attributes:
        batch: Real images and their labels.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.nas import GradientNorm
        >>> real = ddsdk.load("digits")
        >>> proxy = GradientNorm(real.batch(torch.arange(8)))
        >>> list(proxy(ddsdk.network_factory("convnet", real.image_shape, 10, width=4), ddsdk.generator(0)))
        ['score']

    References:
        Abdelfattah et al., ICLR 2021, arXiv:2101.08134.
    """

    batch: dd.Batch
    seconds: ClassVar[float] = 0.0

    @property
    def identity(self) -> Mapping[str, Any]:
        """Kind of the score, and the batch."""
        return {"kind": "gradient norm", "batch": tensor_hash(*self.batch)}

    def __call__(self, make: MakeStudent, rng: torch.Generator) -> Mapping[str, float]:
        """Return the sum of the gradient norms of all layers as the score."""
        network = make(rng).to(self.batch.x.device).train()
        batch_gradient(network, self.batch)
        weights = [layer.weight for layer in network.modules() if isinstance(layer, _WEIGHTED)]
        return {"score": sum(float(w.grad.norm()) for w in weights if w.grad is not None)}
