"""The cells of NAS-Bench-201: strings, networks, twins, and tables of accuracies."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from ddsdk.foundation import require, require_count
from ddsdk.networks import Network, check_request, initialise
from ddsdk_integrations.nas.space import Candidate, Space

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
"""(node, the node that it reads) of the six operations, in the order of the strings."""

_TEXT = re.compile(r"\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|\+\|(\w+)~0\|(\w+)~1\|(\w+)~2\|")


@final
@dataclass(frozen=True)
class Cell:
    """Four nodes; each is the sum of an operation of every node before it.

    Attributes:
        operations: Operation of each of `EDGES`, of `OPERATIONS`.
    """

    operations: tuple[str, ...]

    def __post_init__(self) -> None:
        require(len(self.operations) == len(EDGES), "operations", f"be {len(EDGES)}", len(self.operations))
        for one in self.operations:
            require(one in OPERATIONS, "operations", f"be among {', '.join(OPERATIONS)}", one)

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Return the cell of a string of NAS-Bench-201, such as ``"|none~0|+|none~0|none~1|+|…|"``."""
        found = _TEXT.fullmatch(text.strip())
        require(found is not None, "text", "be a cell of NAS-Bench-201", text)
        assert found is not None
        return cls(found.groups())

    def __str__(self) -> str:
        """Return the string of NAS-Bench-201."""
        nodes = []
        for node in (1, 2, 3):
            nodes.append("|" + "|".join(f"{op}~{of}" for op, of in self._reads(node)) + "|")
        return "+".join(nodes)

    @property
    def structure(self) -> str:
        """The cell as NAS-Bench-201 counts cells: 6,466 structures.

        Terms of a sum have no order, an identity is what it reads, and an operation on the zero of one edge is zero. A
        sum of zeros, or with a zero, is one of its own.
        """
        nodes = ["x"]
        for node in (1, 2, 3):
            terms = [_term(op, nodes[of], zero="#") for op, of in self._reads(node)]
            nodes.append("+".join(sorted(terms)))
        return nodes[-1]

    @property
    def computation(self) -> str:
        """What the cell computes: 4,930 different ones, for zeros vanish from sums, and sums of sums are flat.

        An operation on zero is taken as zero, as in `structure`; in a network the offset of its batch norm may make it
        a constant.
        """
        nodes: list[list[str]] = [["x"]]
        for node in (1, 2, 3):
            terms: list[str] = []
            for op, of in self._reads(node):
                if op == "skip_connect":
                    terms += nodes[of]
                else:
                    terms.append(_term(op, "+".join(nodes[of]), zero=""))
            nodes.append(sorted(filter(None, terms)))
        return "+".join(nodes[-1])

    def _reads(self, node: int) -> list[tuple[str, int]]:
        """Return the operations of a node, and the nodes that they read."""
        return [(op, of) for op, (to, of) in zip(self.operations, EDGES, strict=True) if to == node]


def _term(operation: str, of: str, zero: str) -> str:
    if operation == "none" or of == zero:
        return zero
    return of if operation == "skip_connect" else f"({of})@{operation}"


def unique(
    cells: Iterable[Cell], key: Callable[[Cell], str] = lambda cell: cell.computation
) -> dict[Cell, tuple[Cell, ...]]:
    """Return the first cell of each kind, and all that share it.

    Twins in a ranking are one network with two names: they make ties, and leak between parts of a split.

    Args:
        cells: Cells in their order.
        key: Function to the text that twins share: `Cell.computation`, or `Cell.structure` for the published count.
    """
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(key(cell), []).append(cell)
    return {twins[0]: tuple(twins) for twins in found.values()}


class _Convolution(nn.Sequential):
    """ReLU, convolution without bias, batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        super().__init__(nn.ReLU(), convolution, nn.BatchNorm2d(outputs))


class _Zero(nn.Module):
    """Nothing, in the shape of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(x)


def _operation(name: str, channels: int) -> nn.Module:
    if name.startswith("nor_conv"):
        return _Convolution(channels, channels, int(name[-1]))
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return _Zero() if name == "none" else nn.Identity()


class _CellModule(nn.Module):
    def __init__(self, cell: Cell, channels: int) -> None:
        super().__init__()
        self.operations = nn.ModuleList([_operation(name, channels) for name in cell.operations])

    def forward(self, x: Tensor) -> Tensor:
        """Return the last node."""
        nodes = [x]
        for node in (1, 2, 3):
            edges = zip(self.operations, EDGES, strict=True)
            terms = [operation(nodes[of]) for operation, (to, of) in edges if to == node]
            nodes.append(torch.stack(terms).sum(0))
        return nodes[-1]


class _Reduction(nn.Module):
    """The residual block with stride 2 that stands between stages."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = _Convolution(inputs, outputs, 3, 2)
        self.second = _Convolution(outputs, outputs, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways."""
        y: Tensor = self.shortcut(x) + self.second(self.first(x))
        return y


def cell_network(
    cell: Cell, image_shape: tuple[int, int, int], num_classes: int, *, channels: int = 16, cells: int = 5
) -> Network:
    """Build the network of NAS-Bench-201 from a cell, with PyTorch's own initial weights.

    A 3x3 convolution, three stages of cells with C, 2C and 4C channels and a residual block with stride 2 before the
    second and the third, batch norm, ReLU, the mean over pixels, and a linear layer. All parameters of the cell are
    there, those of parts that reach nothing, too, as in the published counts: with 16 channels, 5 cells and 10 classes
    0.073 to 1.532 million.

    Args:
        cell: Cell that stands in all places.
        image_shape: Shape of the images, (C, H, W), with sides of 4 pixels or more and multiples of 4.
        num_classes: Number of classes K.
        channels: Channels C of the first stage. Paper: 16.
        cells: Cells of each stage. Paper: 5.

    References:
        Dong and Yang, NAS-Bench-201, ICLR 2020, arXiv 2001.00326.
    """
    check_request(image_shape, num_classes)
    require_count("channels", channels)
    require_count("cells", cells)
    sides = image_shape[1:]
    require(all(n % 4 == 0 for n in sides), "image_shape", "have sides that are multiples of 4", image_shape)
    stem = nn.Sequential(nn.Conv2d(image_shape[0], channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
    stages = [stem]
    for stage in range(3):
        width = channels << stage
        reduction = [_Reduction(width // 2, width)] if stage else []
        stages.append(nn.Sequential(*reduction, *(_CellModule(cell, width) for _ in range(cells))))
    last = nn.Sequential(nn.BatchNorm2d(4 * channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return Network(nn.Sequential(*stages, last), nn.Linear(4 * channels, num_classes))


def _made(rng: torch.Generator, build: partial[Network]) -> Network:
    with torch.device("meta"):
        network = build()
    return initialise(network, rng)


@final
@dataclass(frozen=True, kw_only=True)
class CellSpace(Space):
    """All 15,625 cells of NAS-Bench-201, many of them twins; see `unique`.

    Attributes:
        image_shape: Shape of the images, (C, H, W).
        num_classes: Number of classes K.
        channels: Channels of the first stage. Paper: 16.
        cells: Cells of each stage. Paper: 5.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    channels: int = 16
    cells: int = 5

    @property
    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        """An operation for each edge, named such as ``"2<1"``."""
        return {f"{to}<{of}": OPERATIONS for to, of in EDGES}

    def candidate(self, **choice: Any) -> Candidate:  # noqa: ANN401
        """Return the network of the cell with these operations; see `of`."""
        self.check(choice)
        return self.of(Cell(tuple(choice[name] for name in self.choices)))

    def of(self, cell: Cell) -> Candidate:
        """Return the network of a cell, named by its string."""
        build = partial(
            cell_network, cell, self.image_shape, self.num_classes, channels=self.channels, cells=self.cells
        )
        build()  # a wrong size is refused now, and not in a worker
        return Candidate(str(cell), partial(_made, build=build))


def read_accuracies(path: str | os.PathLike[str], data: str) -> dict[Cell, float]:
    """Read a table of cells and their accuracies in per cent: CSV with a column ``arch`` and one for each data set.

    Args:
        path: Path of the file, such as one of NATS-Bench's topology space.
        data: Name of the column, such as ``"cifar10"``.

    Returns:
        Accuracies in 0..1 by cell.
    """
    found: dict[Cell, float] = {}
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        known = rows.fieldnames or []
        require({"arch", data} <= set(known), "data", f"be a column of {known}, beside 'arch'", data)
        for row in rows:
            cell = Cell.parse(row["arch"])
            require(cell not in found, "path", "name each cell once", row["arch"])
            found[cell] = _fraction(row[data])
    require(bool(found), "path", "hold at least one cell", os.fspath(path))
    return found


def _fraction(text: str) -> float:
    try:
        value = float(text) / 100
    except (TypeError, ValueError):
        value = float("nan")
    require(0 <= value <= 1, "path", "hold accuracies in per cent", text)
    return value
