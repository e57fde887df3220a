"""Regression with a linearised network, with the implicit gradient of its solution (RCIG)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddsdk.data import Source
from ddsdk.foundation import CheckedDataclass, NonNegativeFloat, PositiveInt, derive, require
from ddsdk.objectives.base import embedding, require_network
from ddsdk.objectives.ridge import label_margin
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

_EQUATIONS, _JACOBIAN, _STEPS = 1000, 2**30, 20
"""Largest number of equations and largest Jacobian in bytes of the exact solution; conjugate gradient steps else."""


@final
class Linearised:
    """The linearisation J t of a network in a change t of the weights of its body, at its present weights.

    The output at t = 0 is left out. The head stays as it is; the regression on the features is added by the caller.

    Args:
        network: Network with `body` and `head`, see `ddsdk.networks.Network`.

    Raises:
        TypeError: If the network has no body or no method `embed`.
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
        """Return J t, (B, K), at images x, (B, C, H, W), for t of shape (P,), with graph to both."""
        padded = torch.cat([tangent, tangent.new_zeros(len(self._weights) - self.size)])
        outputs: Tensor = torch.func.jvp(lambda weights: self._flat(weights, x), (self._weights,), (padded,))[1]
        return outputs

    def backward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Return J^T rows, (P,), at images x, (B, C, H, W), for rows (B, K), without graph."""
        with torch.enable_grad():
            weights = self._weights.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self._flat(weights, x), weights, rows)
        return gradient[: self.size]

    def jacobian(self, x: Tensor) -> Tensor:
        """Return J at images x, (B, C, H, W), as (B K, P) with the outputs of an image one after another."""
        rows = []
        with torch.enable_grad():
            for image in torch.split(x, 1):
                weights = self._weights.clone().requires_grad_()
                outputs = self._flat(weights, image)[0]
                rows += [torch.autograd.grad(o, weights, retain_graph=True)[0][: self.size] for o in outputs]
        return torch.stack(rows)

    def features(self, x: Tensor) -> Tensor:
        """Return the features of images, (B, F) float64, with graph."""
        return embedding(self.network)(x).double()


@final
@dataclass(frozen=True, kw_only=True)
class ImplicitRegression(CheckedDataclass):
    """Cross-entropy of real images under a linearised network that is fitted to the set, with the implicit gradient.

    The model is x -> J(x) t + h(x) w, with J the gradients of a frozen network by the weights of its body, h its
    features, and (t, w) the minimum of (||Y - J t - h w||^2 + r ||t||^2 + r ||w||^2) / 2 on the whole set (X, Y). For
    given t the head w is ridge regression; t solves (J^T M J + I) t = J^T M Y with M = (h h^T + r I)^-1. For n images
    of K classes, t = J^T a with (J J^T + h h^T + r I) a = Y, a system of n K equations that Cholesky solves exactly.

    The loss on a real batch is the cross-entropy of scale times the predictions, minus the margin term of `FitAndTest`.
    With g its gradient by t and v = (J^T M J + I)^-1 g, the gradient by X and Y is the direct one at constant t, plus
    that of tr((J v)^T M (Y - J t)) at constant v and t, by the implicit function theorem.

    Attributes:
        ridge: Ridge r of the regression.
        real_batch: Real images in one step.
        solve_steps: Number of conjugate gradient steps for t. None for the exact solution of both systems if n K is at
            most 1000 and J takes at most 1 GiB, and for 20 steps otherwise.
        implicit_steps: Number of conjugate gradient steps for v; None for as many as `solve_steps`.
        margin: Margin of the label term; 0 for no such term.
        cap: Largest ratio of the norm of the implicit gradient to that of the direct one, for images and for labels;
            infinity for no bound.

    Cost: for each conjugate gradient step, two forward passes and one backward pass over the set, or one backward pass
    for each output of the set; and some passes over the real batch.

    References:
        Loo, Hasani, Lechner and Rus, "Dataset Distillation with Convexified Implicit Gradients", ICML 2023,
        arXiv:2302.06755.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.objectives import ImplicitRegression
        >>> objective = ImplicitRegression(ridge=ddsdk.training.Ridge(), real_batch=16, solve_steps=2, implicit_steps=2)
        >>> swap = lambda plan: dataclasses.replace(plan, objective=objective)
        >>> len(ddsdk.distill(ddsdk.RCIG(ipc=1, steps=1, pool=1), ddsdk.load("digits"), transform=swap))
        10
    """

    ridge: Ridge
    real_batch: PositiveInt
    solve_steps: PositiveInt | None = None
    implicit_steps: PositiveInt | None = None
    margin: NonNegativeFloat = 0.0
    cap: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.cap >= 0, "cap", "not be negative", self.cap)

    def __call__(self, student: nn.Module, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the loss; its gradient is the sum of the direct and the capped implicit gradient.

        A student without body raises TypeError, and a set without a learned scale ValueError.
        """
        linear = Linearised(student)
        images, labels = syn.whole(derive(rng, "decode"))
        real_images, real_labels = real.mixed(self.real_batch, derive(rng, "real"))
        solved, adjoint_of = self._solutions(linear, images.detach(), labels.detach())
        change = solved.requires_grad_()

        features = linear.features(images)
        with torch.no_grad():
            parts = list(pieces(len(real_images), micro_batch(linear.network, real_images.device, len(real_images))))
            body_outputs = torch.cat([linear.forward(real_images[part], change) for part in parts]).double()
            real_features = embeddings(linear.network, real_images).double()
        body_outputs.requires_grad_()
        residual = labels.double() - linear.forward(images, change).double()
        head = solve(features @ features.T, residual, self.ridge).values
        predictions = body_outputs + real_features @ (features.T @ head)
        loss = cross_entropy(syn.scale * predictions, real_labels.double())
        if self.margin:
            loss = loss - label_margin(labels, self.margin)

        # The real batch has a gradient by t in two ways: through the head, by autograd, and through J t, by J^T.
        by_change, by_outputs = torch.autograd.grad(loss, [change, body_outputs], retain_graph=True)
        rows = by_outputs.to(real_images.dtype)
        gradient = sum((linear.backward(real_images[part], rows[part]) for part in parts), by_change)
        adjoint = adjoint_of(gradient)
        # tr((J v)^T M (Y - J t)) with v = adjoint and M (Y - J t) = head; both t and v are constants.
        implicit = (linear.forward(images, adjoint).double() * head).sum()
        yield self._joined(loss, implicit, [t for t in (images, labels) if t.requires_grad])

    def _solutions(
        self, linear: Linearised, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return t, and the function from a gradient g by t to v = (J^T M J + I)^-1 g."""
        with torch.no_grad():
            features = linear.features(images)
            gram = features @ features.T
        exact = labels.numel() <= _EQUATIONS and labels.numel() * linear.size * images.element_size() <= _JACOBIAN
        if self.solve_steps is None and exact:
            return self._exact(linear.jacobian(images), gram, labels)

        def weighted_backward(rows: Tensor) -> Tensor:
            return linear.backward(images, solve(gram, rows, self.ridge).values.to(images.dtype))

        def product(t: Tensor) -> Tensor:
            return weighted_backward(linear.forward(images, t)) + t

        steps = self.solve_steps or _STEPS
        return (
            conjugate_gradients(product, weighted_backward(labels), steps),
            lambda gradient: conjugate_gradients(product, gradient, self.implicit_steps or steps),
        )

    def _exact(self, rows: Tensor, gram: Tensor, labels: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the solutions of `_solutions` from the Jacobian, (n K, P), and the Gram matrix of the features."""
        classes = torch.eye(labels.shape[1], dtype=gram.dtype, device=gram.device)
        kernel = (rows @ rows.T).double() + torch.kron(gram, classes)
        ridge = Ridge(rule="absolute", strength=float(self.ridge.amount(gram)))

        def combined(values: Tensor) -> Tensor:
            coefficients = solve(kernel, values[:, None], ridge).values[:, 0]
            return rows.T @ coefficients.to(rows.dtype)

        # (J^T M J + I)^-1 = I - J^T (J J^T + M^-1)^-1 J
        return combined(labels.flatten()), lambda gradient: gradient - combined(rows @ gradient)

    def _joined(self, loss: Tensor, implicit: Tensor, leaves: Sequence[Tensor]) -> Tensor:
        """Return the loss, with the capped gradient of `implicit` added to its gradient."""
        if not leaves:
            return loss
        direct_gradients = torch.autograd.grad(loss, leaves, retain_graph=True)
        implicit_gradients = torch.autograd.grad(implicit, leaves, retain_graph=True)
        for leaf, direct, further in zip(leaves, direct_gradients, implicit_gradients, strict=True):
            tiny = torch.finfo(further.dtype).tiny
            factor = (self.cap * direct.norm() / further.norm().clamp_min(tiny)).clamp_max(1)
            term = (leaf * (factor * further)).sum()
            # The term adds its gradient and leaves the value of the loss.
            loss = loss + (term - term.detach())
        return loss
