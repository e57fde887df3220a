"""Byproducts: quantities of a student on a batch that matching compares, such as mean features or gradients.

Most are means over the batch, so that micro-batches add up with their sizes as weights (`in_micro_batches`). Others
have one row for each image, and the rows of micro-batches are concatenated (`stacked`).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ddsdk.data import NO_DRAW, Batch, Draw
from ddsdk.foundation import require
from ddsdk.networks import Network, last_layer
from ddsdk.objectives.base import embedding, require_network
from ddsdk.training import micro_batch, pieces


class Byproduct(Protocol):
    """A quantity of a student on a batch, as a tuple of tensors."""

    def __call__(self, student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
        """Return the byproduct, with graph to the batch if `graph` is true."""
        ...


class Gather(Protocol):
    """A way to compute the byproduct of a batch in micro-batches: `in_micro_batches` or `stacked`."""

    def __call__(self, byproduct: Byproduct, student: nn.Module, batch: Batch, draw: Draw = ...) -> tuple[Tensor, ...]:
        """Return the byproduct of the whole augmented batch, without graph."""
        ...


def mean_embedding(student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
    """Return the mean embedding of a batch, (F,): the byproduct of distribution matching.

    Args:
        student: Network with a method `embed`: (B, C, H, W) -> (B, F).
        batch: Images of the batch; their labels are not used.
        graph: True for a result with graph to the images.

    References:
        Zhao and Bilen, WACV 2023, arXiv:2110.04181, eq. 5.

    Examples:
        >>> import ddsdk, torch
        >>> real = ddsdk.load("digits")
        >>> student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> [t.shape for t in ddsdk.objectives.mean_embedding(student, real.batch(torch.arange(5)), graph=False)]
        [torch.Size([16])]
    """
    embed = embedding(student)
    with torch.set_grad_enabled(graph):
        return (embed(batch.x).mean(0),)


def weight_gradients(student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
    """Return the gradients of the mean cross-entropy by the weights: the byproduct of gradient matching.

    Biases and the parameters of normalisation layers, which are vectors, are left out as in the paper's code, because
    the distance compares filters.

    Args:
        student: Network from images (B, C, H, W) to logits (B, K). Frozen weights have gradients here too.
        batch: Images and label probabilities of the batch.
        graph: True for a result with graph to images and labels, through second derivatives.

    References:
        Zhao, Mopuri and Bilen, ICLR 2021, arXiv:2006.05929, eq. 9.

    Examples:
        >>> import ddsdk, torch
        >>> real = ddsdk.load("digits")
        >>> student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator(0))
        >>> gradients = ddsdk.objectives.weight_gradients(student, real.batch(torch.arange(5)), graph=False)
        >>> [tuple(g.shape) for g in gradients]
        [(4, 1, 3, 3), (4, 4, 3, 3), (10, 16)]
    """
    return _gradients(student, batch, _weight_names(student), graph=graph)


def body_gradients(student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
    """Return `weight_gradients` without the weight of the linear classifier, or the last weight without one.

    A student without other weights raises ValueError.

    References:
        Kim et al., ICML 2022, arXiv:2205.14959: the head is left out of the matching.
    """
    names = _weight_names(student)
    body = [name for name in names if name != _head_weight(student, batch, names[-1])]
    require(len(body) > 0, "student", "have a weight beside its linear head", type(student).__name__)
    return _gradients(student, batch, body, graph=graph)


def _head_weight(student: nn.Module, batch: Batch, last: str) -> str:
    """Return the name of the classifier's weight; the order of modules is that of the calls in a `Network` alone."""
    if isinstance(student, Network):
        return last
    try:
        with torch.no_grad():
            return f"{last_layer(student, batch.x[:2]).path}.weight"
    except TypeError:
        return last


def _weight_names(student: nn.Module) -> list[str]:
    require_network(student)
    return [name for name, p in student.named_parameters() if p.ndim > 1]


def _gradients(student: nn.Module, batch: Batch, names: list[str], *, graph: bool) -> tuple[Tensor, ...]:
    parameters = {name: p.detach() for name, p in student.named_parameters()}
    weights = [parameters[name].requires_grad_() for name in names]
    with torch.enable_grad():
        loss = cross_entropy(functional_call(student, parameters, (batch.x,)), batch.y)
        return torch.autograd.grad(loss, weights, create_graph=graph)


def in_micro_batches(
    byproduct: Byproduct, student: nn.Module, batch: Batch, draw: Draw = NO_DRAW
) -> tuple[Tensor, ...]:
    """Return a byproduct of the whole augmented batch without graph, for byproducts that are means over the batch.

    Args:
        byproduct: Byproduct that is a mean over the batch.
        student: Network of the present step.
        batch: Whole batch, before the augmentation.
        draw: Siamese augmentation, applied to each micro-batch.
    """
    require_network(student)
    n = len(batch.x)
    total: tuple[Tensor, ...] = ()
    for part in pieces(n, micro_batch(student, batch.x.device, n)):
        share = (part.stop - part.start) / n
        values = byproduct(student, Batch(draw(batch.x[part]), batch.y[part]), graph=False)
        scaled = tuple(v.detach() * share for v in values)
        total = tuple(t.add_(v) for t, v in zip(total, scaled, strict=True)) if total else scaled
    return total


def stacked(byproduct: Byproduct, student: nn.Module, batch: Batch, draw: Draw = NO_DRAW) -> tuple[Tensor, ...]:
    """Return a byproduct of the whole augmented batch without graph, for byproducts with one row for each image.

    The arguments are those of `in_micro_batches`.
    """
    require_network(student)
    n = len(batch.x)
    parts = [
        byproduct(student, Batch(draw(batch.x[part]), batch.y[part]), graph=False)
        for part in pieces(n, micro_batch(student, batch.x.device, n))
    ]
    return tuple(torch.cat(rows).detach() for rows in zip(*parts, strict=True))
