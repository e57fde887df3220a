"""Candidates, spaces of all their combinations, and the 720 ConvNets of the condensation papers."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from ddsdk.foundation import derive, require, require_count
from ddsdk.networks import NORMS, NetworkFactory, network_factory
from ddsdk.students import MakeStudent


@final
@dataclass(frozen=True)
class Candidate:
    """An architecture with a name.

    Attributes:
        name: Name, unique among those that are ranked together.
        make: Factory of a network whose weights come from the generator alone; other processes must be able to
            unpickle it where they are to share the work.
    """

    name: str
    make: MakeStudent


def named(candidates: Iterable[Candidate | tuple[str, MakeStudent] | MakeStudent]) -> tuple[Candidate, ...]:
    """Return named candidates.

    Args:
        candidates: Candidates, pairs of a name and a factory, or factories: those of `ddsdk.network_factory`, whose
            options are the name, or functions.
    """
    found = tuple(_named(one) for one in candidates)
    require(len(found) > 0, "candidates", "hold at least one", len(found))
    seen: set[str] = set()
    for one in found:
        require(one.name not in seen, "candidates", "have different names", one.name)
        seen.add(one.name)
    return found


def _named(one: Candidate | tuple[str, MakeStudent] | MakeStudent) -> Candidate:
    if isinstance(one, Candidate):
        return one
    if isinstance(one, tuple):
        name, make = one
        return Candidate(str(name), make)
    if isinstance(one, NetworkFactory):
        options = ", ".join(f"{k} {v}" for k, v in one.options.items())
        return Candidate(f"{one.name} ({options})", one)
    name = getattr(one, "__name__", "")
    require(bool(name) and name != "<lambda>", "candidates", "have names: give (name, factory) pairs", one)
    return Candidate(name, one)


class Space(ABC):
    """All combinations of some choices, in a fixed order."""

    @property
    @abstractmethod
    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        """The levels of each factor, in the order of the names of candidates."""

    @abstractmethod
    def candidate(self, **choice: Any) -> Candidate:  # noqa: ANN401
        """Return the candidate of one level of each factor.

        Raises:
            ValueError: If a factor is missing or unknown, or has no such level.
        """

    @final
    def __len__(self) -> int:
        """Return the number of combinations."""
        return math.prod(len(levels) for levels in self.choices.values())

    @final
    def combinations(self) -> Iterator[dict[str, Any]]:
        """Give one level of each factor, in all ways, the last factor quickest."""
        choices = self.choices
        for levels in itertools.product(*choices.values()):
            yield dict(zip(choices, levels, strict=True))

    @final
    def __iter__(self) -> Iterator[Candidate]:
        """Give all candidates in the order of `combinations`."""
        for choice in self.combinations():
            yield self.candidate(**choice)

    @final
    def sample(self, count: int, rng: torch.Generator) -> tuple[Candidate, ...]:
        """Draw different candidates in which all levels of each factor are equally frequent, or differ by one.

        Args:
            count: Number of candidates.
            rng: Generator of the order of the levels.
        """
        require_count("count", count)
        require(count <= len(self), "count", f"be at most {len(self)}", count)
        if 2 * count > len(self):
            # The rest of a balanced sample is balanced, and swaps would take long to find the last free places.
            rest = {one.name for one in self.sample(len(self) - count, rng)} if count < len(self) else set()
            return tuple(one for one in self if one.name not in rest)
        columns = {name: _dealt(levels, count, derive(rng, "factor", name)) for name, levels in self.choices.items()}
        drawn = [tuple(column[i] for column in columns.values()) for i in range(count)]
        _part_twins(drawn, derive(rng, "twins"))
        return tuple(self.candidate(**dict(zip(columns, one, strict=True))) for one in drawn)

    @final
    def check(self, choice: Mapping[str, Any]) -> None:
        """Raise ValueError unless there is one known level for each factor."""
        require(set(choice) == set(self.choices), "choice", f"name {list(self.choices)}", sorted(choice))
        for name, levels in self.choices.items():
            require(choice[name] in levels, name, f"be one of {list(levels)}", choice[name])


def _dealt(levels: tuple[Any, ...], count: int, rng: torch.Generator) -> list[Any]:
    """Return each level equally often, in random order; which ones come once more is random."""
    first = torch.randperm(len(levels), generator=rng).tolist()
    order = torch.randperm(count, generator=rng).tolist()
    return [levels[first[i % len(levels)]] for i in order]


def _part_twins(drawn: list[tuple[Any, ...]], rng: torch.Generator) -> None:
    """Exchange one factor of each repeated draw with that of another one, until all differ; counts stay."""
    factors, seen = len(drawn[0]), set[tuple[Any, ...]]()
    twins = [i for i, one in enumerate(drawn) if one in seen or seen.add(one)]  # type: ignore[func-returns-value]
    while twins:
        i = twins.pop()
        if drawn.count(drawn[i]) == 1:
            continue
        j = int(torch.randint(len(drawn), (), generator=rng))
        f = int(torch.randint(factors, (), generator=rng))
        one, other = list(drawn[i]), list(drawn[j])
        one[f], other[f] = other[f], one[f]
        swapped = tuple(one), tuple(other)
        if not any(s in drawn for s in swapped):
            drawn[i], drawn[j] = swapped
        twins.append(i)


@final
@dataclass(frozen=True)
class AnyOf:
    """A factory that draws one of several architectures each time: students of many kinds for a recipe.

    Attributes:
        factories: Factories of networks, at least one.
    """

    factories: tuple[Callable[[torch.Generator], nn.Module], ...]

    def __post_init__(self) -> None:
        require(len(self.factories) >= 1, "factories", "hold at least one", len(self.factories))

    def __call__(self, rng: torch.Generator) -> nn.Module:
        """Return a network of one of them; which one, and its weights, come from `rng`."""
        which = int(torch.randint(len(self.factories), (), generator=derive(rng, "which")))
        return self.factories[which](derive(rng, "weights"))


@final
@dataclass(frozen=True, kw_only=True)
class ConvNetSpace(Space):
    """ConvNets of depth {1, 2, 3, 4} x width x activation x norm x pooling: 720 of them.

    Each block is a 3x3 convolution, the norm, the activation and the pooling; then one linear layer, as in
    `ddsdk.NETWORKS["convnet"]`. With width 4, four groups are one for each channel: "group" is then "instance".

    Attributes:
        image_shape: Shape of the images, (C, H, W); 16 pixels or more, for the deepest have four poolings.
        num_classes: Number of classes K.
        widths: Channels. The paper's are 32, 64, 128 and 256.

    References:
        Zhao et al., ICLR 2021, arXiv 2006.05929, section 4.3 and appendix.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    widths: tuple[int, ...] = (32, 64, 128, 256)

    @property
    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        """Depth, width, activation, norm and pooling."""
        return {
            "depth": (1, 2, 3, 4),
            "width": tuple(self.widths),
            "activation": ("sigmoid", "relu", "leaky-relu"),
            "norm": tuple(sorted(NORMS)),
            "pooling": ("none", "max", "avg"),
        }

    def candidate(self, **choice: Any) -> Candidate:  # noqa: ANN401
        """Return a ConvNet, named such as ``"d3-w128-relu-instance-avg"``."""
        self.check(choice)
        name = f"d{choice['depth']}-w{choice['width']}-{choice['activation']}-{choice['norm']}-{choice['pooling']}"
        return Candidate(name, network_factory("convnet", self.image_shape, self.num_classes, **choice))
