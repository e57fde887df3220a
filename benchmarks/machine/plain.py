"""The slow, obvious outer steps of DC and DM: what the fast ones are tested and timed against.

Each loops over the classes, takes every batch at once, and keeps every graph until one backward pass over the sum.
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
    """Return a copy made of PyTorch's own layers alone, whose parameters keep their graphs."""
    copied = copy.deepcopy(network).requires_grad_(True)
    for layer in list(copied.modules()):
        for name, child in layer.named_children():
            if isinstance(child, AvgPool2):
                setattr(layer, name, nn.AvgPool2d(2))
            elif isinstance(child, nn.ReLU):
                setattr(layer, name, nn.ReLU())
    return copied


def plain_dm_loss(network: nn.Module, real: Batch, syn: Batch) -> Tensor:
    """Return the squared gap of mean embeddings of one class."""
    a = network.embed(real.x).mean(0)  # type: ignore[operator]
    b = network.embed(syn.x).mean(0)  # type: ignore[operator]
    return ((a - b) ** 2).sum()  # type: ignore[no-any-return]


def plain_dc_loss(network: nn.Module, real: Batch, syn: Batch) -> Tensor:
    """Return the filter-wise cosine distance of the class gradients."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    a = torch.autograd.grad(cross_entropy(network(real.x), real.y), weights, create_graph=True)
    b = torch.autograd.grad(cross_entropy(network(syn.x), syn.y), weights, create_graph=True)
    total = torch.zeros((), dtype=syn.x.dtype)
    for x, y in zip(a, b, strict=True):
        u, v = x.flatten(1), y.flatten(1)
        total = total + (1 - (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1) + 1e-6)).sum()
    return total


def plain_gradient(
    loss: ClassLoss, network: nn.Module, real: list[Batch], syn: list[Batch]
) -> tuple[float, list[Tensor]]:
    """Return the summed loss over the classes and its gradient by each class's synthetic images.

    Args:
        loss: One of the above.
        network: The student.
        real: One batch for each class.
        syn: One batch for each class.
    """
    leaves = [b.x.detach().requires_grad_() for b in syn]
    total = torch.stack([loss(network, r, Batch(x, s.y)) for r, s, x in zip(real, syn, leaves, strict=True)]).sum()
    return float(total.detach()), list(torch.autograd.grad(total, leaves))
