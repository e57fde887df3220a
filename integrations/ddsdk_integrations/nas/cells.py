"""The search space of NAS-Bench-201: cells, their networks, equivalent cells, and tables of accuracies."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from ddsdk.data import csv_rows
from ddsdk.foundation import require, require_count
from ddsdk.networks import Network, check_request, initialise
from ddsdk_integrations.nas.space import Candidate, Space

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2))
"""(node, input node) of the six operations, in the order of the architecture strings."""

_TEXT = re.compile(r"\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|\+\|(\w+)~0\|(\w+)~1\|(\w+)~2\|")


@final
@dataclass(frozen=True)
class Cell:
    """A cell of NAS-Bench-201: four nodes, each the sum of one operation on every earlier node.

    Attributes:
        operations: Names of the six operations, from `OPERATIONS`, in the order of `EDGES`.

    Examples:
        >>> from ddsdk_integrations.nas import Cell
        >>> str(Cell(("nor_conv_3x3",) + ("none",) * 4 + ("skip_connect",)))
        '|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|'
    """

    operations: tuple[str, ...]

    def __post_init__(self) -> None:
        rule = f"be {len(EDGES)} names of operations"
        require(len(self.operations) == len(EDGES), "operations", rule, len(self.operations))
        for operation in self.operations:
            require(operation in OPERATIONS, "operations", f"be among {', '.join(OPERATIONS)}", operation)

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Return the cell of an architecture string, such as ``"|none~0|+|none~0|none~1|+|…|"``."""
        match = _TEXT.fullmatch(text.strip())
        require(match is not None, "text", "be a cell of NAS-Bench-201", text)
        assert match is not None
        return cls(match.groups())

    def __str__(self) -> str:
        """Return the architecture string of NAS-Bench-201."""
        nodes = []
        for node in (1, 2, 3):
            nodes.append("|" + "|".join(f"{op}~{source}" for op, source in self._inputs(node)) + "|")
        return "+".join(nodes)

    @property
    def structure(self) -> str:
        """Text that is equal for the cells that NAS-Bench-201 counts as one: 6,466 structures.

        Terms of a sum have no order, a skip connection equals its input, and an operation on a single zero edge is
        zero. Zeros in sums are kept, so a sum of zeros differs from a zero edge.
        """
        nodes = ["x"]
        for node in (1, 2, 3):
            terms = [_term(op, nodes[source], zero="#") for op, source in self._inputs(node)]
            nodes.append("+".join(sorted(terms)))
        return nodes[-1]

    @property
    def computation(self) -> str:
        """Text that is equal for cells that compute the same function: 4,930 functions.

        Beyond the rules of `structure`, zeros vanish from sums and nested sums are flattened. An operation on zero
        counts as zero, although the bias of its batch norm can make it a constant in a trained network.
        """
        nodes: list[list[str]] = [["x"]]
        for node in (1, 2, 3):
            terms: list[str] = []
            for op, source in self._inputs(node):
                if op == "skip_connect":
                    terms += nodes[source]
                else:
                    terms.append(_term(op, "+".join(nodes[source]), zero=""))
            nodes.append(sorted(filter(None, terms)))
        return "+".join(nodes[-1])

    def _inputs(self, node: int) -> list[tuple[str, int]]:
        """Return the operations of a node, each with its input node."""
        return [(op, source) for op, (target, source) in zip(self.operations, EDGES, strict=True) if target == node]


def _term(operation: str, argument: str, zero: str) -> str:
    if operation == "none" or argument == zero:
        return zero
    return argument if operation == "skip_connect" else f"({argument})@{operation}"


def equivalence_classes(
    cells: Iterable[Cell], key: Callable[[Cell], str] = lambda cell: cell.computation
) -> dict[Cell, tuple[Cell, ...]]:
    """Return the first cell of each equivalence class, with all cells of its class.

    Equivalent cells in a ranking are one network with two names: they make ties, and they leak between the parts of a
    split.

    Args:
        cells: Cells in the order that decides which is first.
        key: Function from a cell to the text that equivalent cells share: `Cell.computation`, or `Cell.structure` for
            the published count.

    Examples:
        >>> from ddsdk_integrations.nas import Cell, equivalence_classes
        >>> zero, other = ("none",) * 6, ("nor_conv_3x3",) + ("none",) * 5
        >>> len(equivalence_classes([Cell(zero), Cell(other)]))  # the convolution has no path to the output
        1
    """
    classes: dict[str, list[Cell]] = {}
    for cell in cells:
        classes.setdefault(key(cell), []).append(cell)
    return {equivalent[0]: tuple(equivalent) for equivalent in classes.values()}


class _Convolution(nn.Sequential):
    """The block of NAS-Bench-201: ReLU, convolution without bias, batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        super().__init__(nn.ReLU(), convolution, nn.BatchNorm2d(outputs))


class _Zero(nn.Module):
    """The operation ``none``: zeros in the shape of the input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros of the shape of `x`."""
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
        """Return the last node of the cell."""
        nodes = [x]
        for node in (1, 2, 3):
            edges = zip(self.operations, EDGES, strict=True)
            terms = [operation(nodes[source]) for operation, (target, source) in edges if target == node]
            nodes.append(torch.stack(terms).sum(0))
        return nodes[-1]


class _Reduction(nn.Module):
    """The residual block with stride 2 between two stages."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = _Convolution(inputs, outputs, 3, 2)
        self.second = _Convolution(outputs, outputs, 3)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the shortcut and the convolutions."""
        y: Tensor = self.shortcut(x) + self.second(self.first(x))
        return y


def cell_network(
    cell: Cell, image_shape: tuple[int, int, int], num_classes: int, *, channels: int = 16, cells: int = 5
) -> Network:
    """Return the network of NAS-Bench-201 with a given cell, with PyTorch's initial weights.

    The network is a 3x3 convolution, three stages of cells with C, 2C and 4C channels, batch norm, ReLU, global average
    pooling and a linear layer; a residual block with stride 2 precedes the second and the third stage. Operations
    without a path to the output also have their parameters, as in the published counts: 0.073 to 1.532 million with 16
    channels, 5 cells and 10 classes.

    Args:
        cell: Cell of all stages.
        image_shape: Shape of the images, (channels, height, width), with sides that are multiples of 4.
        num_classes: Number of classes K.
        channels: Channels C of the first stage; 16 in the paper.
        cells: Cells of each stage; 5 in the paper.

    Examples:
        >>> from ddsdk_integrations.nas import Cell, cell_network
        >>> network = cell_network(Cell(("nor_conv_3x3",) * 6), (1, 8, 8), 10, channels=2, cells=1)
        >>> network.head
        Linear(in_features=8, out_features=10, bias=True)

    References:
        Dong and Yang, NAS-Bench-201, ICLR 2020, arXiv:2001.00326.
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


def _initialised(rng: torch.Generator, build: partial[Network]) -> Network:
    with torch.device("meta"):
        network = build()
    return initialise(network, rng)


@final
@dataclass(frozen=True, kw_only=True)
class CellSpace(Space):
    """The search space of NAS-Bench-201: 15,625 cells, many of them equivalent, see `equivalence_classes`.

    Attributes:
        image_shape: Shape of the images, (channels, height, width).
        num_classes: Number of classes K.
        channels: Channels of the first stage; 16 in the paper.
        cells: Cells of each stage; 5 in the paper.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.nas import CellSpace
        >>> space = CellSpace(image_shape=(1, 8, 8), num_classes=10, channels=2, cells=1)
        >>> len(space), len(space.sample(5, ddsdk.generator(0)))
        (15625, 5)
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    channels: int = 16
    cells: int = 5

    @property
    def choices(self) -> Mapping[str, tuple[Any, ...]]:
        """Possible operations of each edge; the edge from node 1 to node 2 is named ``"2<1"``."""
        return {f"{target}<{source}": OPERATIONS for target, source in EDGES}

    def candidate(self, **choice: Any) -> Candidate:  # noqa: ANN401
        """Return the candidate of the cell with these operations, see `of`."""
        self.check(choice)
        return self.of(Cell(tuple(choice[name] for name in self.choices)))

    def of(self, cell: Cell) -> Candidate:
        """Return the candidate of a cell, named by its architecture string."""
        build = partial(
            cell_network, cell, self.image_shape, self.num_classes, channels=self.channels, cells=self.cells
        )
        build()  # an impossible size raises its error here, before any worker starts
        return Candidate(str(cell), partial(_initialised, build=build))


def read_accuracies(path: str | os.PathLike[str], data: str) -> dict[Cell, float]:
    r"""Return the accuracies of cells, in 0..1, from a CSV file with accuracies in percent.

    The file has a column ``arch`` of architecture strings and a column for each data set.

    Args:
        path: Path of the file, such as an export of NATS-Bench's topology space.
        data: Name of the column of accuracies, such as ``"cifar10"``.

    Examples:
        >>> from pathlib import Path
        >>> from ddsdk_integrations.nas import Cell, read_accuracies
        >>> _ = Path("table.csv").write_text(f"arch,cifar10\n{Cell(('none',) * 6)},10.0\n")
        >>> list(read_accuracies("table.csv", "cifar10").values())
        [0.1]
    """
    accuracies: dict[Cell, float] = {}
    rows = csv_rows(Path(path))
    require(bool(rows), "path", "hold at least one cell", os.fspath(path))
    require({"arch", data} <= set(rows[0]), "data", f"be a column of {list(rows[0])}, beside 'arch'", data)
    for row in rows:
        cell = Cell.parse(row["arch"])
        require(cell not in accuracies, "path", "name each cell once", row["arch"])
        accuracies[cell] = _fraction(row[data])
    return accuracies


def _fraction(text: str) -> float:
    try:
        value = float(text) / 100
    except ValueError:
        value = float("nan")
    require(0 <= value <= 1, "path", "hold accuracies in percent, 0 to 100", text)
    return value
