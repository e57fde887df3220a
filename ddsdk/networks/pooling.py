"""Fast 2x2 average pooling on the CPU, as sums of strided views.

PyTorch's CPU kernel for `avg_pool2d` takes a quarter of the forward time of a ConvNet. The sum of rows and then of
columns takes a seventh of the time of that kernel. Both pooling and its adjoint are linear. The backward pass of each
one is the other one, so that derivatives of any order are available.
"""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import avg_pool2d


class _Linear(Function):
    """Base of the pooling and its adjoint: linear maps, whose derivatives need no stored tensors."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ANN401
        """Store no tensors for the backward pass."""


class _Pool(_Linear):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        rows = x[:, :, 0::2] + x[:, :, 1::2]
        return (rows[..., 0::2] + rows[..., 1::2]) * 0.25

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ANN401, ARG004
        return _unpool(grad)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # noqa: ANN401, ARG004
        return _pool(tangent)


class _Unpool(_Linear):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        quarter = x * 0.25
        batch, channels, height, width = x.shape
        unpooled = x.new_empty(batch, channels, 2 * height, 2 * width)
        unpooled[:, :, 0::2, 0::2] = quarter
        unpooled[:, :, 0::2, 1::2] = quarter
        unpooled[:, :, 1::2] = unpooled[:, :, 0::2]
        return unpooled

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ANN401, ARG004
        return _pool(grad)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # noqa: ANN401, ARG004
        return _unpool(tangent)


def _pool(x: Tensor) -> Tensor:
    pooled: Tensor = _Pool.apply(x)
    return pooled


def _unpool(x: Tensor) -> Tensor:
    unpooled: Tensor = _Unpool.apply(x)
    return unpooled


@final
class AvgPool2(nn.Module):
    """Average pooling with kernel and stride 2, equal to `torch.nn.AvgPool2d(2)` except for rounding.

    PyTorch's own kernel is used for maps with an odd side, and on other devices than the CPU.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> ddsdk.networks.AvgPool2()(torch.arange(4.0).view(1, 1, 2, 2)).item()
        1.5
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled maps, (B, C, H // 2, W // 2), of maps (B, C, H, W)."""
        if x.device.type != "cpu" or x.shape[2] % 2 or x.shape[3] % 2:
            return avg_pool2d(x, 2)
        return _pool(x)
