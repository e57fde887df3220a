"""Kernels in closed form, and the predictor of kernel ridge regression; no network is trained."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

import torch
from torch import Tensor

from ddsdk.foundation import CheckedDataclass, NonNegativeFloat, PositiveFloat, PositiveInt
from ddsdk.training.micro import pieces
from ddsdk.training.ridge import Ridge, RidgeRule, solve

_IMAGES_AT_ONCE = 1000
_SQRT2 = math.sqrt(2)
_PARALLEL = 1e-12
"""Squared sine below which two images count as parallel: the angle has no derivative there."""


class Kernel(Protocol):
    """A positive semi-definite function of two images."""

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel values of images (B, C, H, W) and (B', C, H, W), (B, B') float64, with graph to both."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class FullyConnectedNTK(CheckedDataclass):
    """The neural tangent kernel of an infinitely wide fully connected ReLU network, on images as vectors of D pixels.

    S_0 = T_0 = w^2 <x, z> / D + b^2; with t the angle of S_l between x and z, and p, q its diagonal values,
    S_l+1 = w^2 sqrt(p q) (sin t + (pi - t) cos t) / 2 pi + b^2 and T_l+1 = S_l+1 + T_l w^2 (pi - t) / 2 pi.
    For parallel images the angle counts as constant.

    Attributes:
        depth: Number of hidden layers; 1 is the "FC1" of KIP.
        weight_std: Factor w in the parametrisation f = w W h / sqrt(fan-in) + b v with standard normal W and v.
        bias_std: Factor b of the biases in that parametrisation.

    References:
        Cho and Saul, "Kernel Methods for Deep Learning", NeurIPS 2009; Jacot et al., "Neural Tangent Kernel",
        NeurIPS 2018, arXiv:1806.07572.

    Examples:
        >>> import ddsdk
        >>> x = ddsdk.load("digits").images[:6].float()
        >>> ddsdk.training.FullyConnectedNTK(depth=2)(x, x[:4]).shape
        torch.Size([6, 4])
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
class LinearKernel(CheckedDataclass):
    """The kernel of linear regression on D pixels: <x, z> / D + bias^2.

    Attributes:
        bias: Value of a constant feature; 0 for regression through the origin of the value space.

    Examples:
        >>> import ddsdk
        >>> x = ddsdk.load("digits").images[:6].float()
        >>> ddsdk.training.LinearKernel()(x, x[:4]).shape
        torch.Size([6, 4])
    """

    bias: NonNegativeFloat = 0.0

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel values, (B, B') float64."""
        x, z = x.double().flatten(1), z.double().flatten(1)
        return x @ z.T / x.shape[1] + self.bias**2


KERNELS: dict[str, Callable[..., Kernel]] = {"fc-ntk": FullyConnectedNTK, "linear": LinearKernel}
"""Constructors of the kernels by name; their options are keyword arguments."""


class Moments(NamedTuple):
    """The covariances and the tangent kernel at one layer of an infinitely wide network, for two batches.

    Attributes:
        covariance: Covariance of the outputs between the batches, (B, B').
        tangent: Tangent kernel of the network up to this layer, (B, B').
        of_x: Variance of the output for each item of the first batch, (B,).
        of_z: Variance of the output for each item of the second batch, (B',).
    """

    covariance: Tensor
    tangent: Tensor
    of_x: Tensor
    of_z: Tensor


def relu_layers(moments: Moments, depth: int, *, weight: float = 2.0, bias: float = 0.0) -> Moments:
    """Return the moments after `depth` fully connected ReLU layers of infinite width.

    Args:
        moments: Moments before the first of the layers.
        depth: Number of layers, at least 0.
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
    apart = squared > _PARALLEL
    # The square root gets ones for parallel images: torch.where would otherwise pass on its infinite derivative.
    sine = torch.where(apart, squared, torch.ones_like(squared)).sqrt()
    parallel_angle = torch.where(cosine > 0, 0.0, math.pi).to(cosine)
    return torch.where(apart, torch.atan2(sine, cosine), parallel_angle), torch.where(apart, sine, 0.0)


@final
@dataclass(frozen=True, kw_only=True)
class KernelMachine:
    """Kernel ridge regression with a given kernel and ridge; `fitted` takes the training set.

    Attributes:
        kernel: Kernel function of two batches of images.
        ridge: Ridge that is added to the diagonal of the Gram matrix.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk.training import KernelMachine, LinearKernel, Ridge
        >>> x, y = ddsdk.load("digits").batch(torch.arange(50))
        >>> KernelMachine(kernel=LinearKernel(), ridge=Ridge()).fitted(x, y)(x[:3]).shape
        torch.Size([3, 10])
    """

    kernel: Kernel
    ridge: Ridge

    def fitted(self, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the function from new images (N, C, H, W) to their scores, (N, K) float64.

        The largest score of a row is the predicted class.

        Args:
            x: Training images, (M, C, H, W).
            y: Training label rows, (M, K), of any real numbers.
        """
        coefficients = solve(self.kernel(x, x), y, self.ridge).values

        def predict(new: Tensor) -> Tensor:
            scores = [self.kernel(new[part], x) @ coefficients for part in pieces(len(new), _IMAGES_AT_ONCE)]
            return torch.cat(scores)

        return predict


def kernel_machine(name: str, *, rule: RidgeRule = "trace", ridge: float = 1e-6, **options: object) -> KernelMachine:
    """Return the kernel machine for a kernel's name and options, as a training protocol stores them.

    Args:
        name: Name of the kernel, a key of `KERNELS`.
        rule: Rule of the ridge, see `Ridge`.
        ridge: Strength of the ridge, at least 0.
        **options: Options of the kernel, such as ``depth``.

    Raises:
        ValueError: If no kernel has this name.
        TypeError: If the kernel has no such option.

    Examples:
        >>> import ddsdk
        >>> ddsdk.training.kernel_machine("fc-ntk", depth=2).kernel.depth
        2
    """
    if name not in KERNELS:
        matches = difflib.get_close_matches(name.lower(), KERNELS, n=1, cutoff=0.4)
        hint = f"; did you mean {matches[0]!r}?" if matches else ""
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {name!r}{hint}")
    known = list(inspect.signature(KERNELS[name]).parameters)
    for option in options:
        if option not in known:
            raise TypeError(f"options of kernel {name!r} must be among {['rule', 'ridge', *known]}, got {option!r}")
    return KernelMachine(kernel=KERNELS[name](**options), ridge=Ridge(rule=rule, strength=ridge))
