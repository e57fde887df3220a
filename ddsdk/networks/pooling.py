"""Average pooling by two, as sums of strided views.

PyTorch's CPU kernel for `avg_pool2d` takes a quarter of a ConvNet's forward time; adding rows and then columns
takes a seventh of that, and the adjoint is as simple. Both directions are linear, so each is the other's
derivative, and derivatives of any order follow.
"""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import avg_pool2d


class _Linear(Function):
    """A linear map that needs no memory: what forward, reverse and batched derivatives share."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ANN401
        """Keep nothing."""


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
        out = x.new_empty(batch, channels, 2 * height, 2 * width)
        out[:, :, 0::2, 0::2] = quarter
        out[:, :, 0::2, 1::2] = quarter
        out[:, :, 1::2] = out[:, :, 0::2]
        return out

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
    spread: Tensor = _Unpool.apply(x)
    return spread


@final
class AvgPool2(nn.Module):
    """Average pooling with kernel and stride 2, equal to `torch.nn.AvgPool2d(2)` to rounding.

    Maps with an odd side, and maps on another device than the CPU, go through PyTorch's own kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H // 2, W // 2)."""
        if x.device.type != "cpu" or x.shape[2] % 2 or x.shape[3] % 2:
            return avg_pool2d(x, 2)
        return _pool(x)
