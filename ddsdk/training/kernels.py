"""Kernels in closed form, and the machine that predicts with one: no network is built and none is trained."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

import torch
from torch import Tensor

from ddsdk.foundation import Checked, NonNegativeFloat, PositiveFloat, PositiveInt
from ddsdk.training.micro import pieces
from ddsdk.training.ridge import Ridge, RidgeRule, solve

_AT_ONCE = 1000
_SQRT2 = math.sqrt(2)
_SAME = 1e-12
"""Images whose squared sine is below this count as parallel: there the angle has no derivative."""


class Kernel(Protocol):
    """A positive semi-definite function of two images."""

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the values between images (B, C, H, W) and (B', C, H, W), (B, B') float64, with graph to both."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class FullyConnectedNTK(Checked):
    """The neural tangent kernel of an infinitely wide fully connected ReLU network; images are vectors of D numbers.

    S_0 = T_0 = w^2 <x, z> / D + b^2; with t the angle of S_l between x and z, and p, q its diagonal values,
    S_l+1 = w^2 sqrt(p q) (sin t + (pi - t) cos t) / 2 pi + b^2 and T_l+1 = S_l+1 + T_l w^2 (pi - t) / 2 pi.
    Where images are parallel the angle counts as constant.

    Attributes:
        depth: Hidden layers; 1 is the "FC1" of KIP.
        weight_std: Number w in the parametrisation f = w W h / sqrt(fan-in) + b v with standard normal W and v.
        bias_std: Number b.

    References:
        Cho and Saul, "Kernel Methods for Deep Learning", NeurIPS 2009; Jacot et al., "Neural Tangent Kernel",
        NeurIPS 2018, arXiv:1806.07572.
    """

    depth: PositiveInt = 1
    weight_std: PositiveFloat = _SQRT2
    bias_std: NonNegativeFloat = 0.1

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel values, (B, B') float64."""
        x, z = x.double().flatten(1), z.double().flatten(1)
        w, b = self.weight_std**2, self.bias_std**2
        covariance = w * (x @ z.T) / x.shape[1] + b
        of_x, of_z = (w * v.square().mean(1) + b for v in (x, z))
        return relu_layers(Moments(covariance, covariance, of_x, of_z), self.depth, weight=w, bias=b).tangent


@final
@dataclass(frozen=True, kw_only=True)
class LinearKernel(Checked):
    """The kernel of linear regression on pixels: <x, z> / D + bias^2.

    Attributes:
        bias: Length of a constant feature; 0 for regression through the origin of the value space.
    """

    bias: NonNegativeFloat = 0.0

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel values, (B, B') float64."""
        x, z = x.double().flatten(1), z.double().flatten(1)
        return x @ z.T / x.shape[1] + self.bias**2


KERNELS: dict[str, Callable[..., Kernel]] = {"fc-ntk": FullyConnectedNTK, "linear": LinearKernel}
"""Name of a kernel to its builder, which takes its options."""


class Moments(NamedTuple):
    """The moments of a layer of an infinitely wide network for two batches.

    Attributes:
        covariance: Covariance of the outputs between the batches, (B, B').
        tangent: Tangent kernel up to that layer, (B, B').
        of_x: Covariance of each item of the first batch with itself, (B,).
        of_z: Covariance of each item of the second batch with itself, (B',).
    """

    covariance: Tensor
    tangent: Tensor
    of_x: Tensor
    of_z: Tensor


def relu_layers(moments: Moments, depth: int, *, weight: float = 2.0, bias: float = 0.0) -> Moments:
    """Pass an infinitely wide network through `depth` ReLU layers.

    Args:
        moments: Moments before the layers.
        depth: Number of layers.
        weight: Variance w^2 of the weights; 2 keeps the diagonal values where there is no bias.
        bias: Variance b^2 of the biases.
    """
    covariance, tangent, of_x, of_z = moments
    for _ in range(depth):
        length = (of_x[:, None] * of_z).clamp_min(torch.finfo(covariance.dtype).tiny).sqrt()
        cosine = covariance / length
        angle, sine = _angle(cosine)
        tangent = tangent * (weight * (math.pi - angle) / (2 * math.pi))
        covariance = weight * length * (sine + (math.pi - angle) * cosine) / (2 * math.pi) + bias
        tangent = tangent + covariance
        of_x, of_z = (weight * v / 2 + bias for v in (of_x, of_z))
    return Moments(covariance, tangent, of_x, of_z)


def _angle(cosine: Tensor) -> tuple[Tensor, Tensor]:
    """Return the angle in 0..pi and its sine."""
    squared = 1 - cosine.square()
    apart = squared > _SAME
    sine = torch.where(apart, squared, torch.ones_like(squared)).sqrt()
    end = torch.where(cosine > 0, 0.0, math.pi).to(cosine)
    return torch.where(apart, torch.atan2(sine, cosine), end), torch.where(apart, sine, 0.0)


@final
@dataclass(frozen=True, kw_only=True)
class KernelMachine:
    """Kernel ridge regression: a kernel and a ridge, without the set."""

    kernel: Kernel
    ridge: Ridge

    def predict(self, x: Tensor, y: Tensor, new: Tensor) -> Tensor:
        """Return the predictions for new images, (N, K) float64, of which the largest is the class.

        Args:
            x: Images of the set, (M, C, H, W).
            y: Labels of the set, (M, K): any real rows.
            new: New images, (N, C, H, W), taken 1000 at a time.
        """
        values = solve(self.kernel(x, x), y, self.ridge).values
        return torch.cat([self.kernel(new[part], x) @ values for part in pieces(len(new), _AT_ONCE)])


def kernel_machine(name: str, *, rule: RidgeRule = "trace", ridge: float = 1e-6, **options: object) -> KernelMachine:
    """Return the machine that a kernel's name and options describe, as an evaluation holds them.

    Args:
        name: Key of `KERNELS`.
        rule: Rule of the ridge.
        ridge: Strength of the ridge.
        **options: Options of the kernel, such as ``depth``.
    """
    if name not in KERNELS:
        near = difflib.get_close_matches(name.lower(), KERNELS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {name!r}{hint}")
    known = list(inspect.signature(KERNELS[name]).parameters)
    for option in options:
        if option not in known:
            raise TypeError(f"options of kernel {name!r} must be among {['rule', 'ridge', *known]}, got {option!r}")
    return KernelMachine(kernel=KERNELS[name](**options), ridge=Ridge(rule=rule, strength=ridge))
