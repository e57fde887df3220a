"""Predictions of kernel ridge regression as sums of contributions of synthetic images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import require, require_count
from ddsdk.objectives import targets
from ddsdk.training import KernelMachine, embeddings, kernel_machine, solve


@final
@dataclass(frozen=True)
class NetworkKernel:
    """The linear kernel on a network's features: k(x, z) = <f(x), f(z)> / F.

    Explanations with it are those of ridge regression on these features, not of the network's own head.

    Attributes:
        network: Network in eval mode with a method `embed` from images (B, C, H, W) to features (B, F).

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.explain import NetworkKernel
        >>> network = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)(ddsdk.generator(0)).eval()
        >>> NetworkKernel(network)(torch.rand(3, 1, 8, 8), torch.rand(2, 1, 8, 8)).shape
        torch.Size([3, 2])
    """

    network: nn.Module

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel values, (B, B') float64, without gradient."""
        of_x, of_z = (embeddings(self.network, images).double() for images in (x, z))
        return of_x @ of_z.T / of_x.shape[1]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """Predictions for B images as sums of contributions of the M synthetic images.

    Attributes:
        weights: Signed weights a(x) = k(x, S) (k(S, S) + r I)^-1 of the synthetic images, (B, M) float64.
        contributions: Weight times label, the part of each synthetic image in the score of each class, (B, M, K).
        prediction: Scores of the classes, the sum of the contributions, (B, K).
    """

    weights: Tensor
    contributions: Tensor
    prediction: Tensor

    @property
    def classes(self) -> Tensor:
        """Predicted classes, (B,) int64."""
        return self.prediction.argmax(1)

    @property
    def own(self) -> Tensor:
        """Contribution of each synthetic image to the score of the predicted class, (B, M)."""
        index = self.classes[:, None, None].expand(-1, self.weights.shape[1], 1)
        return self.contributions.gather(2, index)[:, :, 0]

    def top(self, count: int) -> Tensor:
        """Return the synthetic images with the largest contributions to the predicted class, (B, count), descending."""
        require_count("count", count)
        m = self.weights.shape[1]
        require(count <= m, "count", f"not exceed the {m} images of the set", count)
        return self.own.topk(count, dim=1).indices


@final
class Explainer:
    """Explain predictions of kernel ridge regression on a distilled set by its synthetic images.

    A prediction is f(x) = a(x)^T Y with a(x) = k(x, S) (k(S, S) + r I)^-1. So M signed weights explain it, instead of
    one for each training image. They explain this regression, not a network that trains on the set. Labels that are
    probabilities are centred, y - 1/K, as in the regression; labels that are scores stay unchanged.

    Similar synthetic images share their weight. If `condition` is large, a single weight has little meaning.

    Args:
        distilled: Distilled set with M images.
        machine: Kernel and ridge of the regression. None takes those of the set's protocol; a set for networks has
            none and needs them here.

    Cost: M^3 multiplications once; M kernel values for each explanation, independent of the size of the real data.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.explain import Explainer
        >>> real = ddsdk.load("digits")
        >>> explainer = Explainer(ddsdk.distill(ddsdk.KIP(ipc=1, steps=2, real_batch=50), real))
        >>> explainer.explain(real.batch(real.index_of_class(3)[:2]).x).contributions.shape
        torch.Size([2, 10, 10])

    References:
        Loo, Hasani, Amini and Rus, NeurIPS 2022, arXiv:2210.12067.
    """

    def __init__(self, distilled: dd.Distilled, machine: KernelMachine | None = None) -> None:
        if machine is None:
            protocol = dd.TrainingProtocol.from_dict(distilled.protocol)
            rule = "be given for a set that is made for networks: explanations are of kernel ridge regression"
            require(protocol.learner == "kernel", "machine", rule, None)
            machine = kernel_machine(protocol.network, **protocol.network_options)
        self.machine, self.images = machine, distilled.images
        scores = distilled.label_space == "scores"
        self.labels: Tensor = distilled.labels.double() if scores else targets(distilled.labels)
        gram, self.inverse = gram_and_inverse(machine, self.images)
        """Inverse of the ridged Gram matrix, (k(S, S) + r I)^-1, (M, M) float64."""
        self.amount = float(self.machine.ridge.amount(gram))
        """Ridge r, the number on the diagonal."""
        self.unit = float(gram.diagonal().mean())
        """Mean of the diagonal of k(S, S)."""
        spectrum = torch.linalg.eigvalsh(gram) + self.amount
        self.condition = float(spectrum[-1] / spectrum[0].clamp_min(torch.finfo(gram.dtype).tiny))
        """Condition number of k(S, S) + r I, largest over smallest eigenvalue."""
        values, vectors = torch.linalg.eigh((self.inverse + self.inverse.T) / 2)
        self._root: Tensor = vectors * values.clamp_min(0).sqrt()

    def __len__(self) -> int:
        """Return the number of synthetic images M."""
        return len(self.images)

    def features(self, x: Tensor) -> Tensor:
        """Return features phi(x) = k(x, S) L, (B, M) float64, where L L^T is the inverse of the ridged Gram matrix.

        The product phi(x) . phi(s) is the kernel k(x, s), up to the ridge.
        """
        shape = tuple(self.images.shape[1:])
        require(tuple(x.shape[1:]) == shape, "x", f"have shape (B, {shape})", tuple(x.shape))
        return self.machine.kernel(x, self.images) @ self._root

    def weights(self, x: Tensor) -> Tensor:
        """Return the weights a(x), (B, M) float64, for images (B, C, H, W) in the value space of the set."""
        return self.features(x) @ self._root.T

    def explain(self, x: Tensor) -> Explanation:
        """Return the explanation of the predictions for images (B, C, H, W) in the value space of the set."""
        weights = self.weights(x)
        parts = weights[:, :, None] * self.labels
        return Explanation(weights=weights, contributions=parts, prediction=parts.sum(1))

    def without(self, x: Tensor, removed: Tensor) -> Tensor:
        """Return the predictions, (B, K), of the regression that is fitted without some synthetic images.

        Row i of `removed`, (B, k) int64, are the k different images that are removed for image i of `x`. With the
        inverse P, alpha = P Y and such a row R, f_-R(x) = f(x) - a_R(x)^T P_RR^-1 alpha_R. This is exact and solves
        systems of size k only. The ridge r stays fixed.
        """
        weights, alpha = self.weights(x), self.inverse @ self.labels
        blocks = self.inverse[removed[:, :, None], removed[:, None, :]]
        drop = weights.gather(1, removed)[:, None] @ torch.linalg.solve(blocks, alpha[removed])
        predictions: Tensor = weights @ self.labels - drop[:, 0]
        return predictions


def gram_and_inverse(machine: KernelMachine, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Gram matrix k(X, X) and the inverse (k(X, X) + r I)^-1, (N, N) each."""
    gram = machine.kernel(x, x)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return gram, solve(gram, identity, machine.ridge).values
