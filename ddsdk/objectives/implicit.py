"""Regression with a linearised network: its solution depends on the set, and the gradient passes through that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddsdk.data import Source
from ddsdk.foundation import Checked, NonNegativeFloat, PositiveInt, derive, require
from ddsdk.objectives.base import embedding, require_network
from ddsdk.objectives.ridge import label_lead
from ddsdk.synthetic import SyntheticView
from ddsdk.training import (
    FlatNetwork,
    Ridge,
    conjugate_gradients,
    embeddings,
    micro_batch,
    pieces,
    solve,
    weight_vector,
)


@final
class Linearised:
    """A network as a linear function of a change t of the weights of its body: J t, at the weights that it has.

    The output at t = 0 is dropped. The head maps features as it is; regression on the features comes on top.

    Args:
        network: Network with `body` and `head`, see `ddsdk.networks.Network`.

    Raises:
        TypeError: If it has no body and head.
    """

    def __init__(self, network: nn.Module) -> None:
        require_network(network)
        body = getattr(network, "body", None)
        if not isinstance(body, nn.Module) or not hasattr(network, "embed"):
            raise TypeError(f"student must have a body and a method embed, got {type(network).__name__}")
        self.network = network
        self._flat, self._weights = FlatNetwork(network), weight_vector(network)
        self.size = sum(p.numel() for p in body.parameters())

    def forward(self, x: Tensor, tangent: Tensor) -> Tensor:
        """Return J t at images (B, C, H, W), (B, K), with graph to both."""
        whole = torch.cat([tangent, tangent.new_zeros(len(self._weights) - self.size)])
        moved: Tensor = torch.func.jvp(lambda weights: self._flat(weights, x), (self._weights,), (whole,))[1]
        return moved

    def backward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return J^T rows, (P,), of rows (B, K), without a graph."""
        with torch.enable_grad():
            weights = self._weights.clone().requires_grad_()
            (found,) = torch.autograd.grad(self._flat(weights, x), weights, rows)
        return found[: self.size]

    def features(self, x: Tensor) -> Tensor:
        """Return the features of images, (B, F) float64, with graph."""
        return embedding(self.network)(x).double()


@final
@dataclass(frozen=True, kw_only=True)
class ImplicitRegression(Checked):
    """Cross-entropy of real images under a network that is linearised and solved for, with the implicit gradient.

    The learner is x -> J(x) t + h(x) w, where J are the gradients of a frozen network in the weights of its body, h
    its features, and (t, w) minimise (||Y - J t - h w||^2 + r ||t||^2 + r ||w||^2) / 2 on the whole set (X, Y). For
    given t the head w is ridge regression; t solves (J^T M J + I) t = J^T M Y with M = (h h^T + r I)^-1.

    The loss on a real batch is the cross-entropy of scale times the predictions, less the lead of labels, see
    `FitAndTest`. With g its gradient in t and v = (J^T M J + I)^-1 g, the gradient in X and Y is the direct one at
    constant t, plus that of tr((J v)^T M (Y - J t)) at constant v and t: the implicit function theorem.

    Attributes:
        ridge: Ridge r.
        real_batch: Real images of a step.
        solve_steps: Conjugate gradient steps for t.
        implicit_steps: Conjugate gradient steps for v.
        margin: Margin of the labels; 0 for none.
        cap: Largest ratio of the implicit gradient to the direct one, for images and for labels; infinity for none.

    Cost: for each of these steps, two passes forward and one backward over the set; and some passes over the batch.

    References:
        Loo, Hasani, Lechner and Rus, "Dataset Distillation with Convexified Implicit Gradients", ICML 2023,
        arXiv:2302.06755.
    """

    ridge: Ridge
    real_batch: PositiveInt
    solve_steps: PositiveInt = 20
    implicit_steps: PositiveInt = 20
    margin: NonNegativeFloat = 0.0
    cap: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.cap >= 0, "cap", "not be negative", self.cap)

    def __call__(self, student: nn.Module, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the loss; its gradient is the sum of the direct and the capped implicit one.

        Raises:
            TypeError: If the student has no body and head.
            ValueError: If `syn` has no learned scale.
        """
        linear = Linearised(student)
        images, labels = syn.whole(derive(rng, "decode"))
        new, truth = real.mixed(self.real_batch, derive(rng, "real"))
        product, right = self._system(linear, images.detach(), labels.detach())
        change = conjugate_gradients(product, right, self.solve_steps).requires_grad_()

        features = linear.features(images)
        with torch.no_grad():
            parts = list(pieces(len(new), micro_batch(linear.network, new.device, len(new))))
            moved = torch.cat([linear.forward(new[part], change) for part in parts]).double()
            seen = embeddings(linear.network, new).double()
        moved.requires_grad_()
        residual = labels.double() - linear.forward(images, change).double()
        head = solve(features @ features.T, residual, self.ridge).values
        found = moved + seen @ (features.T @ head)
        loss = cross_entropy(syn.scale * found, truth.double())
        if self.margin:
            loss = loss - label_lead(labels, self.margin)

        by_change, by_moved = torch.autograd.grad(loss, [change, moved], retain_graph=True)
        rows = by_moved.to(new.dtype)
        gradient = sum((linear.backward(new[part], rows[part]) for part in parts), by_change)
        answer = conjugate_gradients(product, gradient, self.implicit_steps)
        # The head is M times the residual. Neither t nor v depends on the set here.
        implicit = (linear.forward(images, answer).double() * head).sum()
        yield self._joined(loss, implicit, [t for t in (images, labels) if t.requires_grad])

    def _system(self, linear: Linearised, images: Tensor, labels: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return the product with J^T M J + I, and J^T M Y."""
        with torch.no_grad():
            features = linear.features(images)
            gram = features @ features.T

        def pulled(rows: Tensor) -> Tensor:
            return linear.backward(images, solve(gram, rows, self.ridge).values.to(images.dtype))

        return lambda t: pulled(linear.forward(images, t)) + t, pulled(labels)

    def _joined(self, loss: Tensor, implicit: Tensor, leaves: Sequence[Tensor]) -> Tensor:
        """Return the loss with the capped gradient of `implicit` beside its own."""
        if not leaves:
            return loss
        direct = torch.autograd.grad(loss, leaves, retain_graph=True)
        further = torch.autograd.grad(implicit, leaves, retain_graph=True)
        for leaf, own, more in zip(leaves, direct, further, strict=True):
            share = (self.cap * own.norm() / more.norm().clamp_min(torch.finfo(more.dtype).tiny)).clamp_max(1)
            added = (leaf * (share * more)).sum()
            # No change of the value: only its gradient counts.
            loss = loss + (added - added.detach())
        return loss
