"""Plain image steps of six methods, as their authors write them: the reference for tests and for timings.

Each step takes whole batches through PyTorch's own layers, builds no graph on the real side, and has one backward pass
of the sum of its losses. As in the authors' networks, ReLU is in place and instance normalisation is a GroupNorm with
one group for each channel.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, interpolate

from ddsdk.data import Batch
from ddsdk.networks import AvgPool2

ClassLoss = Callable[[nn.Module, Batch, Batch], Tensor]


def plain_network(network: nn.Module) -> nn.Module:
    """Return a copy with PyTorch's own pooling layers, whose parameters require gradients where those given do."""
    copied = copy.deepcopy(network)
    for layer in list(copied.modules()):
        for name, child in layer.named_children():
            if isinstance(child, AvgPool2):
                setattr(layer, name, nn.AvgPool2d(2))
    return copied


def plain_dm_loss(network: nn.Module, real: Batch, syn: Batch) -> Tensor:
    """Return the squared distance of the mean embeddings of one class (DM)."""
    with torch.no_grad():
        real_mean = network.embed(real.x).mean(0)  # type: ignore[operator]
    syn_mean = network.embed(syn.x).mean(0)  # type: ignore[operator]
    return ((real_mean - syn_mean) ** 2).sum()  # type: ignore[no-any-return]


def plain_dc_loss(network: nn.Module, real: Batch, syn: Batch) -> Tensor:
    """Return the filter-wise cosine distance of the weight gradients of one class (DC, DSA)."""
    total = torch.zeros((), dtype=syn.x.dtype)
    for real_gradient, syn_gradient in _weight_gradients(network, real, syn):
        u, v = real_gradient.flatten(1), syn_gradient.flatten(1)
        total = total + (1 - (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1) + 1e-6)).sum()
    return total


def plain_idc_loss(network: nn.Module, real: Batch, syn: Batch) -> Tensor:
    """Return the sum of absolute differences of the gradients of the convolutions, for one class (IDC)."""
    pairs = _weight_gradients(network, real, syn)
    return torch.stack([(u - v).abs().sum() for u, v in pairs if u.ndim == 4]).sum()


def _weight_gradients(network: nn.Module, real: Batch, syn: Batch) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of the weight gradients, the second one with graph."""
    # The authors too differentiate with respect to all parameters, and leave out the vectors afterwards.
    parameters = list(network.parameters())
    real_gradients = torch.autograd.grad(cross_entropy(network(real.x), real.y), parameters)
    syn_gradients = torch.autograd.grad(cross_entropy(network(syn.x), syn.y), parameters, create_graph=True)
    return [(u.detach(), v) for u, v in zip(real_gradients, syn_gradients, strict=True) if u.ndim > 1]


def plain_gradient(
    loss: ClassLoss, network: nn.Module, real: Iterable[Batch], syn: Iterable[Batch], stored: Sequence[Tensor]
) -> tuple[float, list[Tensor]]:
    """Return the sum of the loss over the classes and its gradients with respect to the stored images.

    As in the authors' code, the backward pass also gives the parameters of the network their gradients, if they
    require some.

    Args:
        loss: Loss of one class, such as `plain_dm_loss`.
        network: Student network, such as that of `plain_network`.
        real: Real batches, one for each class.
        syn: Synthetic batches, one for each class, with graph to `stored`.
        stored: Leaves of the graph, such as the images of each class.
    """
    network.zero_grad()
    for leaf in stored:
        leaf.grad = None
    total = torch.stack([loss(network, *batches) for batches in zip(real, syn, strict=True)]).sum()
    torch.autograd.backward(total)
    return float(total.detach()), [leaf.grad for leaf in stored if leaf.grad is not None]


def plain_tiles(canvases: Tensor, factor: int) -> Tensor:
    """Return the factor^2 tiles of each canvas, (M, C, H, W), enlarged to its size, (M*factor^2, C, H, W) (IDC)."""
    m, c, height, width = canvases.shape
    rows, columns = height // factor, width // factor
    tiles = canvases.view(m, c, factor, rows, factor, columns).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, rows, columns)
    return interpolate(tiles, (height, width), mode="bilinear", align_corners=False)


def plain_trajectory_loss(
    network: nn.Module, start: Tensor, target: Tensor, syn: Batch, rate: Tensor, steps: int
) -> Tensor:
    """Return the distance of the student's last weights from the target of the segment, with the whole graph (MTT).

    Args:
        network: Network whose parameters are replaced by slices of the weight vectors.
        start: Weights at the start of the segment, (P,).
        target: Weights at the end of the segment, (P,).
        syn: All images and label rows of the set.
        rate: Learning rate of the student, a scalar.
        steps: Number of training steps of the student, each on all images.
    """
    sizes = {name: p.shape for name, p in network.named_parameters()}
    weights = start.detach().requires_grad_()
    for _ in range(steps):
        parts = torch.split(weights, [shape.numel() for shape in sizes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(sizes.items(), parts, strict=True)}
        loss = cross_entropy(functional_call(network, named, (syn.x,)), syn.y)
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        weights = weights - rate * gradient
    return ((weights - target) ** 2).sum() / ((start - target) ** 2).sum()


def plain_ridge_loss(network: nn.Module, real: Batch, syn: Batch, ridge: float) -> Tensor:
    """Return the loss of kernel ridge regression on the features of the set, less the label term (FRePo).

    Args:
        network: Network of the pool, whose parameters require no gradients.
        real: Real batch with labels of all classes.
        syn: All images and label rows of the set.
        ridge: Ridge as a multiple of the mean of the diagonal.
    """
    with torch.no_grad():
        real_features = network.embed(real.x).double()  # type: ignore[operator]
    features = network.embed(syn.x).double()  # type: ignore[operator]
    gram, k = features @ features.T, syn.y.shape[1]
    ridged = gram + ridge * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)
    predictions = real_features @ features.T @ torch.linalg.solve(ridged, syn.y.double())
    first, second = syn.y.topk(2, dim=1).values.T
    loss: Tensor = 0.5 * ((predictions - (real.y.double() - 1 / k)) ** 2).sum(1).mean()
    lead: Tensor = (first - second).clamp_max(1 / k).mean()
    return loss - lead
