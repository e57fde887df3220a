"""Byproducts: functions of a student and a batch by which real and synthetic images are compared.

Most are means over the batch, so that pieces of a batch add up with their sizes as weights (`in_pieces`). Others have a
row for each image, and pieces are stacked (`stacked`).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ddsdk.data import NO_DRAW, Batch, Draw
from ddsdk.foundation import require
from ddsdk.objectives.base import embedding, require_network
from ddsdk.training import micro_batch, pieces


class Byproduct(Protocol):
    """A function of a student and a batch."""

    def __call__(self, student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
        """Return the byproduct, differentiable with respect to the batch when `graph` is true."""
        ...


class Gather(Protocol):
    """Computes the byproduct of a batch without a graph, in micro-batches: `in_pieces` or `stacked`."""

    def __call__(self, byproduct: Byproduct, student: nn.Module, batch: Batch, draw: Draw = ...) -> tuple[Tensor, ...]:
        """Return the byproduct of the whole augmented batch."""
        ...


def mean_embedding(student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
    """Return the mean embedding, (F,): the mean over the batch of `student.embed(x)`.

    Args:
        student: Network with a method `embed`: (B, C, H, W) -> (B, F).
        batch: Images; their labels are not read.
        graph: Whether the graph to the images is kept.

    References:
        Zhao and Bilen, WACV 2023, arXiv:2110.04181, eq. 5.
    """
    embed = embedding(student)
    with torch.set_grad_enabled(graph):
        return (embed(batch.x).mean(0),)


def weight_gradients(student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
    """Return the gradient of the mean cross-entropy by each weight that is not a vector.

    Biases and normalisation parameters are left out, as in the paper's code: the distance works on filters.

    Args:
        student: Network from (B, C, H, W) to logits (B, K). Frozen parameters have gradients here too.
        batch: Images and label probabilities.
        graph: Whether the graph to the images and labels is kept, for a second derivative.

    References:
        Zhao, Mopuri and Bilen, ICLR 2021, arXiv:2006.05929, eq. 9.
    """
    return _gradients(student, batch, _weight_names(student), graph=graph)


def body_gradients(student: nn.Module, batch: Batch, *, graph: bool) -> tuple[Tensor, ...]:
    """Return `weight_gradients` without those of the last weight that is not a vector, the linear head.

    Raises:
        ValueError: If the student has no weight beside its head.

    References:
        Kim et al., ICML 2022, arXiv:2205.14959: the head is left out of the matching.
    """
    body = _weight_names(student)[:-1]
    require(len(body) > 0, "student", "have a weight beside its linear head", type(student).__name__)
    return _gradients(student, batch, body, graph=graph)


def _weight_names(student: nn.Module) -> list[str]:
    require_network(student)
    return [name for name, p in student.named_parameters() if p.ndim > 1]


def _gradients(student: nn.Module, batch: Batch, names: list[str], *, graph: bool) -> tuple[Tensor, ...]:
    parameters = {name: p.detach() for name, p in student.named_parameters()}
    weights = [parameters[name].requires_grad_() for name in names]
    with torch.enable_grad():
        loss = cross_entropy(functional_call(student, parameters, (batch.x,)), batch.y)
        return torch.autograd.grad(loss, weights, create_graph=graph)


def in_pieces(byproduct: Byproduct, student: nn.Module, batch: Batch, draw: Draw = NO_DRAW) -> tuple[Tensor, ...]:
    """Return a byproduct that is a mean over the batch, of the whole augmented batch without a graph.

    Args:
        byproduct: Mean over the batch, computed in micro-batches.
        student: Network.
        batch: Whole batch, not augmented yet.
        draw: Siamese augmentation, applied piece by piece.
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
    """Return a byproduct with a row for each image, of the whole augmented batch without a graph; see `in_pieces`."""
    require_network(student)
    n = len(batch.x)
    found = [
        byproduct(student, Batch(draw(batch.x[part]), batch.y[part]), graph=False)
        for part in pieces(n, micro_batch(student, batch.x.device, n))
    ]
    return tuple(torch.cat(rows).detach() for rows in zip(*found, strict=True))
