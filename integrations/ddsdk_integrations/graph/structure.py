"""Nodes of a small graph as a parametrization: free features, and edges from a structure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ddsdk.foundation import require, require_count, require_rate
from ddsdk.networks import initialise
from ddsdk.synthetic import Parametrization, SyntheticSet
from ddsdk.training import Ridge, solve
from ddsdk_integrations.graph.propagation import dense_normalised, propagated


class Structure(nn.Module, ABC):
    """The edges of a small graph; without a structure, no node has a neighbour."""

    @abstractmethod
    def adjacency(self, x: Tensor, rng: torch.Generator | None) -> Tensor:
        """Return the weights of all edges, (M, M), in 0..1 and without loops, with graph to features and parameters.

        Weights are symmetric to the last bit, but for the directed edges of a real graph.

        Args:
            x: Features, (M, D).
            rng: Generator of edges that are drawn; None for the edges of an export.
        """

    @torch.no_grad()
    def edges(self, x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """Return the edges of an export that weigh at least `threshold`: index (2, E) and weight (E,), on the CPU.

        Edges of weight 0 are never there.
        """
        weights = self.adjacency(x, None).cpu()
        index = torch.nonzero(weights >= max(threshold, 1e-12)).T
        return index.contiguous(), weights[index[0], index[1]].float()


def symmetric(scores: Tensor) -> Tensor:
    """Return (S + S^T) / 2 of scores (..., M, M)."""
    return (scores + scores.mT) / 2


def mirrored(weights: Tensor) -> Tensor:
    """Return the weights above the diagonal, (..., M, M), with their mirror images below it and zeros on it.

    The last bit of a sigmoid depends on the place of a number in a vector register: the weights of symmetric logits are
    symmetric only when one of both is taken twice.
    """
    upper = weights.triu(1)
    return upper + upper.mT


@final
class KeptEdges(Structure):
    """Edges (2, E) of a real graph, in their own order and direction, each with weight 1."""

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)
        self.index: Tensor

    def adjacency(self, x: Tensor, rng: torch.Generator | None) -> Tensor:  # noqa: ARG002
        """Return the edges as a matrix whose row is the target; it is symmetric where the real graph is."""
        source, target = self.index
        one = x.new_ones(len(source))
        return x.new_zeros(len(x), len(x)).index_put((target, source), one, accumulate=True)

    def edges(self, x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return all edges."""
        return self.index.cpu(), torch.ones(self.index.shape[1])


@final
class PairwiseMLP(Structure):
    """GCond's structure: a perceptron on the features of each pair, whose mean over both orders is the logit.

    The first layer is factored: W [x_i, x_j] = U x_i + V x_j, so that it costs M and not M^2 products of length D. Two
    hidden layers with batch normalisation over the pairs, whose statistics are those of the graph itself, at training
    and at export alike.

    Args:
        features: Features of a node, D.
        width: Units of the hidden layers.
        bias: Mean of the logits at the start: -3 begins with few and weak edges, 0 with a graph in which
            everything is half connected to everything.
        rng: Generator of the weights.

    References:
        Jin et al., ICLR 2022, arXiv:2110.07580, eq. 8.
    """

    def __init__(self, features: int, *, width: int = 128, bias: float = -3.0, rng: torch.Generator) -> None:
        super().__init__()
        require_count("features", features)
        require_count("width", width)
        self.first = nn.Linear(features, width)
        self.second = nn.Linear(features, width, bias=False)
        norm = partial(nn.BatchNorm1d, width, track_running_stats=False)
        self.rest = nn.Sequential(norm(), nn.ReLU(), nn.Linear(width, width), norm(), nn.ReLU())
        self.last = nn.Linear(width, 1)
        initialise(self, rng)
        nn.init.constant_(self.last.bias, bias)

    def adjacency(self, x: Tensor, rng: torch.Generator | None) -> Tensor:  # noqa: ARG002
        """Return sigmoid((f(x_i, x_j) + f(x_j, x_i)) / 2)."""
        m = len(x)
        pairs = (self.first(x)[:, None] + self.second(x)[None]).flatten(0, 1)
        return mirrored(symmetric(self.last(self.rest(pairs)).view(m, m)).sigmoid())


@final
class BernoulliEdges(Structure):
    """DosCond's structure: each edge has a probability of its own and is drawn anew in every step.

    A draw is relaxed so that it has a gradient: sigmoid((logit + logistic noise) / temperature). An export takes the
    edges that are more likely than not.

    Args:
        logits: Logits at the start, (M, M), or (B, M, M) for several graphs; their symmetric part counts.
        temperature: Temperature of a draw, > 0; a draw tends to 0 and 1 as it falls.

    References:
        Jin et al., KDD 2022, arXiv:2206.07746.
    """

    def __init__(self, logits: Tensor, *, temperature: float = 0.5) -> None:
        super().__init__()
        square = logits.ndim in (2, 3) and logits.shape[-1] == logits.shape[-2]
        require(square, "logits", "have shape (M, M) or (B, M, M)", tuple(logits.shape))
        require_rate("temperature", temperature)
        self.logits = nn.Parameter(logits.detach().clone())
        self._temperature = temperature

    @classmethod
    def scaled(cls, adjacency: Tensor, *, logit: float = 5.0, temperature: float = 0.5) -> BernoulliEdges:
        """Return edges that start next to those of `adjacency`, 0 or 1: with logits of -`logit` and `logit`."""
        return cls((2 * adjacency - 1) * logit, temperature=temperature)

    @property
    def probabilities(self) -> Tensor:
        """The probability of each edge, in the shape of the logits, with graph."""
        return mirrored(symmetric(self.logits).sigmoid())

    def adjacency(self, x: Tensor, rng: torch.Generator | None) -> Tensor:  # noqa: ARG002
        """Return a relaxed draw, or with no generator the likely edges, as 0 and 1."""
        if rng is None:
            return (self.probabilities > 0.5).float()
        uniform = torch.rand(self.logits.shape, generator=rng).clamp(1e-6, 1 - 1e-6)
        noise = uniform.logit().to(self.logits.device)
        return mirrored(((symmetric(self.logits) + noise) / self._temperature).sigmoid())

    def excess(self, density: float) -> Tensor:
        """Return the excess of the mean probability of an edge over `density`, at least 0: DosCond's penalty."""
        m = self.logits.shape[-1]
        return (self.probabilities.mean() * m / max(1, m - 1) - density).clamp_min(0)


@final
class SelfExpressive(Structure):
    """GCSR's structure: coefficients of the ridge regression of the nodes on each other, in closed form.

    C = (G + r I)^-1 G for the Gram matrix G of the features at unit length; the edge has the positive part of
    (C + C^T) / 2. Nothing is stored but the features.

    Args:
        ridge: Ridge r of the regression; None for 1 in units of the mean of the diagonal.

    Differences from the published algorithm: no prior of propagated features and no moving average.

    References:
        Liu et al., "Graph Data Condensation via Self-expressive Graph Structure Reconstruction", KDD 2024,
        arXiv:2403.07294.
    """

    def __init__(self, ridge: Ridge | None = None) -> None:
        super().__init__()
        self._ridge = Ridge(rule="trace", strength=1.0) if ridge is None else ridge

    def adjacency(self, x: Tensor, rng: torch.Generator | None) -> Tensor:  # noqa: ARG002
        """Return the positive part of the symmetric coefficients."""
        unit = normalize(x, dim=1)
        gram = unit @ unit.T
        return mirrored(symmetric(solve(gram, gram, self._ridge).values).to(x).clamp(0, 1))


@final
class SyntheticNodes(Parametrization):
    """The nodes of a condensed graph: each slot is a node, and decodes to its features after the propagation.

    With a structure A' = g(X'), what decodes is operator(A')^hops X', as `GraphData.rows` has it of the real graph. So
    objectives and students see rows on both sides. Without a structure the operator is the identity.

    Args:
        x: Features at the start, (M, D).
        structure: Edges between the nodes; None for none.
        hops: Number of propagations.
    """

    joint: ClassVar[bool] = True

    def __init__(self, x: Tensor, structure: Structure | None = None, *, hops: int = 2) -> None:
        super().__init__()
        require(x.ndim == 2 and x.numel() > 0, "x", "have shape (M, D)", tuple(x.shape))
        require_count("hops", hops, least=0)
        self.x = nn.Parameter(torch.empty_like(x, memory_format=torch.contiguous_format))
        self.structure, self._hops = structure, hops
        self.encode(x)

    def encode(self, images: Tensor) -> None:
        """Set the features, (M, D) or (M, 1, 1, D); edges stay."""
        require(bool(torch.isfinite(images).all()), "x", "be finite", "NaN or infinity")
        with torch.no_grad():
            self.x.copy_(images.flatten(1))

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return propagated features of `slots`, (B, 1, 1, D)."""
        x: Tensor = self.x
        if self.structure is not None:
            x = propagated(dense_normalised(self.structure.adjacency(x, rng)), x, self._hops)
        return x[slots][:, None, None], slots

    @property
    def edge_parameters(self) -> list[nn.Parameter]:
        """Parameters of the structure."""
        return [p for p in self.parameters() if p is not self.x]

    def project_(self) -> None:
        """Do nothing: features are free."""

    def stored_floats(self) -> int:
        """Return M D; the edges of an export are counted by themselves."""
        return self.x.numel()

    def edges(self, threshold: float) -> tuple[Tensor, Tensor]:
        """Return the edges of an export, see `Structure.edges`."""
        if self.structure is None:
            return torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0)
        return self.structure.edges(self.x, threshold)


def nodes_of(syn: SyntheticSet) -> SyntheticNodes:
    """Return the nodes of a set; TypeError if its items are no nodes."""
    if not isinstance(syn.parametrization, SyntheticNodes):
        raise TypeError(f"syn must be a set of SyntheticNodes, got {type(syn.parametrization).__name__}")
    return syn.parametrization
