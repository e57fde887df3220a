"""Plain outer steps of DC and DM, the reference for tests and timings of the fast ones.

Each step computes the losses of all classes without micro-batches, followed by one backward pass of their sum.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddsdk.data import Batch
from ddsdk.networks import AvgPool2

ClassLoss = Callable[[nn.Module, Batch, Batch], Tensor]


def plain_network(network: nn.Module) -> nn.Module:
    """Return a copy with PyTorch's own pooling and ReLU layers whose parameters require gradients."""
    copied = copy.deepcopy(network).requires_grad_(True)
    for layer in list(copied.modules()):
        for name, child in layer.named_children():
            if isinstance(child, AvgPool2):
                setattr(layer, name, nn.AvgPool2d(2))
            elif isinstance(child, nn.ReLU):
                setattr(layer, name, nn.ReLU())
    return copied


def plain_dm_loss(network: nn.Module, real: Batch, syn: Batch) -> Tensor:
    """Return the squared distance of the mean embeddings of one class (DM)."""
    real_mean = network.embed(real.x).mean(0)  # type: ignore[operator]
    syn_mean = network.embed(syn.x).mean(0)  # type: ignore[operator]
    return ((real_mean - syn_mean) ** 2).sum()  # type: ignore[no-any-return]


def plain_dc_loss(network: nn.Module, real: Batch, syn: Batch) -> Tensor:
    """Return the filter-wise cosine distance of the weight gradients of one class (DC)."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    real_gradients = torch.autograd.grad(cross_entropy(network(real.x), real.y), weights, create_graph=True)
    syn_gradients = torch.autograd.grad(cross_entropy(network(syn.x), syn.y), weights, create_graph=True)
    total = torch.zeros((), dtype=syn.x.dtype)
    for real_gradient, syn_gradient in zip(real_gradients, syn_gradients, strict=True):
        u, v = real_gradient.flatten(1), syn_gradient.flatten(1)
        total = total + (1 - (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1) + 1e-6)).sum()
    return total


def plain_gradient(
    loss: ClassLoss, network: nn.Module, real: list[Batch], syn: list[Batch]
) -> tuple[float, list[Tensor]]:
    """Return the sum of the loss over the classes and its gradients with respect to the synthetic images.

    Args:
        loss: Loss of one class, `plain_dm_loss` or `plain_dc_loss`.
        network: Student network, such as that of `plain_network`.
        real: Real batches, one for each class.
        syn: Synthetic batches, one for each class.
    """
    leaves = [b.x.detach().requires_grad_() for b in syn]
    total = torch.stack([loss(network, r, Batch(x, s.y)) for r, s, x in zip(real, syn, leaves, strict=True)]).sum()
    return float(total.detach()), list(torch.autograd.grad(total, leaves))
