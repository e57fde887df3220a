"""Attention kernels with derivatives of any order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def differentiable_attention() -> Iterator[None]:
    """Compute attention by plain matrix products, because PyTorch's fused kernels have no second derivatives.

    Gradient matching and unrolled training differentiate gradients. Networks without attention are not affected.

    Examples:
        >>> import torch
        >>> from ddsdk.networks import differentiable_attention
        >>> q = torch.rand(1, 2, 3, 4, requires_grad=True)
        >>> with differentiable_attention():
        ...     loss = torch.nn.functional.scaled_dot_product_attention(q, q, q).square().sum()
        >>> (gradient,) = torch.autograd.grad(loss, q, create_graph=True)
        >>> torch.autograd.grad(gradient.square().sum(), q)[0].shape
        torch.Size([1, 2, 3, 4])
    """
    with sdpa_kernel(SDPBackend.MATH):
        yield
