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

from ddsdk.foundation import require, require_count
from ddsdk.training.micro import pieces
from ddsdk.training.ridge import Ridge, RidgeRule, solve

_AT_ONCE = 1000
_SAME = 1e-12
"""Images whose squared sine is below this count as parallel: there the angle has no derivative."""


class Kernel(Protocol):
    """A positive semi-definite function of two images."""

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the values between images (B, C, H, W) and (B', C, H, W), (B, B') float64, with graph to both."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class FullyConnectedNTK:
    """The neural tangent kernel of an infinitely wide fully connected ReLU network, see `fc_ntk`.

    Attributes:
        depth: Hidden layers.
        weight_std: Standard deviation of the weights, before the division by the root of the fan-in.
        bias_std: Standard deviation of the biases.
    """

    depth: int = 1
    weight_std: float = math.sqrt(2)
    bias_std: float = 0.1

    def __post_init__(self) -> None:
        require_count("depth", self.depth)
        require(0 < self.weight_std < math.inf, "weight_std", "be positive and finite", self.weight_std)
        require(0 <= self.bias_std < math.inf, "bias_std", "be finite and not negative", self.bias_std)

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel values, (B, B') float64."""
        return fc_ntk(x, z, self.depth, weight_std=self.weight_std, bias_std=self.bias_std)


@final
@dataclass(frozen=True, kw_only=True)
class LinearKernel:
    """The kernel of linear regression on pixels: <x, z> / D + bias^2.

    Attributes:
        bias: Length of a constant feature; 0 for regression through the origin of the value space.
    """

    bias: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.bias < math.inf, "bias", "be finite and not negative", self.bias)

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel values, (B, B') float64."""
        x, z = x.double().flatten(1), z.double().flatten(1)
        return x @ z.T / x.shape[1] + self.bias**2


KERNELS: dict[str, Callable[..., Kernel]] = {"fc-ntk": FullyConnectedNTK, "linear": LinearKernel}
"""Name of a kernel to what builds it from its options."""


class Moments(NamedTuple):
    """What an infinitely wide network makes of two batches, layer by layer.

    Attributes:
        covariance: Of the outputs of a layer between the batches, (B, B').
        tangent: The tangent kernel up to that layer, (B, B').
        of_x: The covariance of each item of the first batch with itself, (B,).
        of_z: The same of the second batch, (B',).
    """

    covariance: Tensor
    tangent: Tensor
    of_x: Tensor
    of_z: Tensor


def fc_ntk(x: Tensor, z: Tensor, depth: int, *, weight_std: float = math.sqrt(2), bias_std: float = 0.1) -> Tensor:
    """Return the neural tangent kernel of an infinitely wide ReLU network with `depth` hidden layers.

    S_0 = T_0 = w^2 <x, z> / D + b^2; with t the angle of S_l between x and z, and p, q its diagonal values,
    S_l+1 = w^2 sqrt(p q) (sin t + (pi - t) cos t) / 2 pi + b^2 and T_l+1 = S_l+1 + T_l w^2 (pi - t) / 2 pi.

    Args:
        x: (B, ...); every image is taken as a vector of D numbers.
        z: (B', ...).
        depth: Hidden layers; 1 is the "FC1" of KIP.
        weight_std: w, in the parametrisation f = w W h / sqrt(fan-in) + b v with standard normal W and v.
        bias_std: b.

    Returns:
        (B, B') float64, with graph to both. Where images are parallel the angle counts as constant.

    References:
        Cho and Saul, "Kernel Methods for Deep Learning", NeurIPS 2009; Jacot et al., "Neural Tangent Kernel",
        NeurIPS 2018, arXiv:1806.07572.
    """
    require_count("depth", depth)
    x, z = x.double().flatten(1), z.double().flatten(1)
    w, b = weight_std**2, bias_std**2
    covariance = w * (x @ z.T) / x.shape[1] + b
    of_x, of_z = (w * v.square().mean(1) + b for v in (x, z))
    return relu_layers(Moments(covariance, covariance, of_x, of_z), depth, weight=w, bias=b).tangent


def relu_layers(moments: Moments, depth: int, *, weight: float = 2.0, bias: float = 0.0) -> Moments:
    """Pass an infinitely wide network through `depth` ReLU layers.

    Args:
        moments: Before the layers.
        depth: How many.
        weight: Variance w^2 of the weights; 2 keeps the diagonal values where there is no bias.
        bias: Variance b^2 of the biases.

    References:
        As `fc_ntk`.
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


def predict(kernel: Kernel, x: Tensor, y: Tensor, new: Tensor, ridge: Ridge) -> Tensor:
    """Return what kernel ridge regression on a set says of new images, (N, K) float64; the largest is the class.

    Args:
        kernel: Compares images.
        x: Images of the set, (M, C, H, W).
        y: Their labels, (M, K): any real rows.
        new: (N, C, H, W), taken 1000 at a time.
        ridge: What is added to the diagonal.
    """
    values = solve(kernel(x, x), y, ridge).values
    return torch.cat([kernel(new[part], x) @ values for part in pieces(len(new), _AT_ONCE)])


@final
@dataclass(frozen=True, kw_only=True)
class KernelMachine:
    """Kernel ridge regression with everything that it needs but the set.

    Attributes:
        kernel: Compares images.
        ridge: What is added to the diagonal.
    """

    kernel: Kernel
    ridge: Ridge

    def predict(self, x: Tensor, y: Tensor, new: Tensor) -> Tensor:
        """Return what a set (x, y) says of new images, see `predict`."""
        return predict(self.kernel, x, y, new, self.ridge)


def kernel_machine(name: str, *, rule: RidgeRule = "trace", ridge: float = 1e-6, **options: object) -> KernelMachine:
    """Return the machine that a kernel's name and options describe, as an evaluation holds them.

    Args:
        name: A key of `KERNELS`.
        rule: See `Ridge`.
        ridge: Strength of the ridge.
        **options: Of the kernel, such as ``depth``.

    Raises:
        ValueError: If the name is unknown or an option has a value out of range.
        TypeError: If the kernel has no such option.
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
