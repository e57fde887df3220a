"""A prediction of kernel ridge regression as signed weights of synthetic images."""

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
    """The kernel of a network's last features: k(x, z) = <f(x), f(z)> / F.

    With it, explanations are those of ridge regression on the features of *that* network, not of its own head.

    Attributes:
        network: Network with `embed`: (B, C, H, W) -> (B, F), in eval mode.
    """

    network: nn.Module

    def __call__(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the kernel values, (B, B') float64, without graph."""
        of_x, of_z = (embeddings(self.network, images).double() for images in (x, z))
        return of_x @ of_z.T / of_x.shape[1]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """Predictions for B images, taken apart.

    Attributes:
        weights: Signed a(x) = k(x, S) (k(S, S) + r I)^-1 of each synthetic image, (B, M) float64.
        contributions: Weight times label, (B, M, K): the part of each synthetic image in the score of each class.
        prediction: Sum of the contributions over the synthetic images, (B, K).
    """

    weights: Tensor
    contributions: Tensor
    prediction: Tensor

    @property
    def classes(self) -> Tensor:
        """The predicted classes, (B,) int64."""
        return self.prediction.argmax(1)

    @property
    def own(self) -> Tensor:
        """Contribution of each synthetic image to the class that is predicted, (B, M)."""
        index = self.classes[:, None, None].expand(-1, self.weights.shape[1], 1)
        return self.contributions.gather(2, index)[:, :, 0]

    def top(self, count: int) -> Tensor:
        """Return the synthetic images that add most to the predicted class, (B, count) int64, the first first."""
        require_count("count", count)
        m = self.weights.shape[1]
        require(count <= m, "count", f"not exceed the {m} images of the set", count)
        return self.own.topk(count, dim=1).indices


@final
class Explainer:
    """Kernel ridge regression on a set, ready to take its predictions apart.

    f(x) = a(x)^T Y with a(x) = k(x, S) (k(S, S) + r I)^-1: the weights name the synthetic images that carry a
    prediction, M numbers in place of one for each training image. They explain *this regression*, not a network that
    trains on the set. Labels that are probabilities are centred, y - 1/K, as regression has them; scores stay.

    Weights are signed, and share credit among images that the kernel finds alike: where `condition` is large, one
    weight by itself has little meaning.

    Args:
        distilled: Set of images.
        machine: Kernel and ridge. None takes those that the set was made for; a set for networks has none.

    Cost: M^3 multiplications once; for each explanation a row of M kernel values, however large the real data are.

    References:
        Loo, Hasani, Amini and Rus, NeurIPS 2022, arXiv:2210.12067.
    """

    def __init__(self, distilled: dd.Distilled, machine: KernelMachine | None = None) -> None:
        if machine is None:
            own = dd.Evaluation.from_dict(distilled.evaluation)
            rule = "be given for a set that is made for networks: explanations are of kernel ridge regression"
            require(own.learner == "kernel", "machine", rule, None)
            machine = kernel_machine(own.network, **own.network_options)
        self.machine, self.images = machine, distilled.images
        scores = distilled.label_space == "scores"
        self.labels: Tensor = distilled.labels.double() if scores else targets(distilled.labels)
        gram, self.inverse = gram_and_inverse(machine, self.images)
        """(k(S, S) + r I)^-1, (M, M) float64."""
        self.amount = float(self.machine.ridge.amount(gram))
        """Ridge r that was added to the diagonal."""
        self.unit = float(gram.diagonal().mean())
        """Mean of the diagonal of k(S, S)."""
        spectrum = torch.linalg.eigvalsh(gram) + self.amount
        self.condition = float(spectrum[-1] / spectrum[0].clamp_min(torch.finfo(gram.dtype).tiny))
        """Largest over smallest eigenvalue of the system."""
        values, vectors = torch.linalg.eigh((self.inverse + self.inverse.T) / 2)
        self._root: Tensor = vectors * values.clamp_min(0).sqrt()

    def __len__(self) -> int:
        """Return the number of synthetic images M."""
        return len(self.images)

    def features(self, x: Tensor) -> Tensor:
        """Return phi(x) = k(x, S) L, (B, M) float64, with L L^T the inverse: phi(x) . phi(s) is k up to the ridge."""
        shape = tuple(self.images.shape[1:])
        require(tuple(x.shape[1:]) == shape, "x", f"have shape (B, {shape})", tuple(x.shape))
        return self.machine.kernel(x, self.images) @ self._root

    def weights(self, x: Tensor) -> Tensor:
        """Return a(x), (B, M) float64, for images (B, C, H, W) in the value space of the set."""
        return self.features(x) @ self._root.T

    def explain(self, x: Tensor) -> Explanation:
        """Return the predictions for images (B, C, H, W) in the value space of the set, taken apart."""
        weights = self.weights(x)
        parts = weights[:, :, None] * self.labels
        return Explanation(weights=weights, contributions=parts, prediction=parts.sum(1))

    def without(self, x: Tensor, removed: Tensor) -> Tensor:
        """Return the predictions, (B, K), of the regression that is solved again without images of the set, by row.

        With P the inverse, alpha = P Y and R the k different images of a row of `removed`, (B, k) int64, f_-R(x) =
        f(x) - a_R(x)^T P_RR^-1 alpha_R: exact, and no system of size M is solved. The amount of the ridge stays.
        """
        weights, alpha = self.weights(x), self.inverse @ self.labels
        blocks = self.inverse[removed[:, :, None], removed[:, None, :]]
        fall = weights.gather(1, removed)[:, None] @ torch.linalg.solve(blocks, alpha[removed])
        found: Tensor = weights @ self.labels - fall[:, 0]
        return found


def gram_and_inverse(machine: KernelMachine, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return k(X, X) and (k(X, X) + r I)^-1, (N, N) each."""
    gram = machine.kernel(x, x)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return gram, solve(gram, identity, machine.ridge).values
