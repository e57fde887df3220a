"""The spaces: how many there are, their parameters to the last one, and what a cell computes."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

import ddsdk as dd
from ddsdk_integrations.nas import (
    Candidate,
    Cell,
    CellSpace,
    ConvNetSpace,
    RandomArchitecture,
    cell_network,
    equivalence_classes,
    named_candidates,
    read_accuracies,
)
from ddsdk_integrations.nas.cells import EDGES, OPERATIONS

CIFAR = ConvNetSpace(image_shape=(3, 32, 32), num_classes=10)
CELLS = [Cell(ops) for ops in itertools.product(OPERATIONS, repeat=6)]
ZEROS = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
ONES = ZEROS.replace("none", "nor_conv_3x3")
# The cell of the example on the project page of NAS-Bench-201.
EXAMPLE = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"


def size(network):
    return sum(p.numel() for p in network.parameters())


def expected_size(depth, width, norm, pooling, channels=3, side=32, classes=10):
    """Weights and biases of the convolutions, two numbers per channel for a norm, and the linear layer."""
    total = 0
    for level in range(depth):
        inputs = channels if level == 0 else width
        total += 9 * inputs * width + width + (0 if norm == "none" else 2 * width)
    last = side if pooling == "none" else side // 2**depth
    return total + width * last * last * classes + classes


def test_the_720_convnets_have_the_parameters_of_their_formula():
    assert len(CIFAR) == 720
    seen = set()
    for choice in CIFAR.combinations():
        candidate = CIFAR.candidate(**choice)
        seen.add(candidate.name)
        with torch.device("meta"):
            made = candidate.make
            network = dd.NETWORKS[made.name](made.image_shape, made.num_classes, **made.options)
        told = {k: choice[k] for k in ("depth", "width", "norm", "pooling")}
        assert size(network) == expected_size(**told), candidate.name
    assert len(seen) == 720


def test_the_convnet_of_the_papers_has_its_320010_parameters():
    make = CIFAR.candidate(depth=3, width=128, activation="relu", norm="instance", pooling="avg").make
    assert size(make(dd.generator(0))) == 320_010


@pytest.mark.parametrize("count", [1, 7, 100, 500])
def test_a_sample_is_balanced_and_has_no_twins(count):
    found = CIFAR.sample(count, dd.generator("sample"))
    assert len({one.name for one in found}) == count
    options = [one.make.options for one in found]
    for factor, levels in CIFAR.choices.items():
        counts = Counter(one[factor] for one in options)
        often = [counts[level] for level in levels]
        assert max(often) - min(often) <= 1, (factor, often)
    assert found == CIFAR.sample(count, dd.generator("sample"))
    if 1 < count < 720:
        assert found != CIFAR.sample(count, dd.generator("another"))


@pytest.mark.parametrize("count", [0, 721, True, 2.0])
def test_a_sample_of_a_wrong_size_is_refused(count):
    with pytest.raises(ValueError, match="count must"):
        CIFAR.sample(count, dd.generator(0))


def test_bad_choices_are_refused():
    good = {"depth": 1, "width": 32, "activation": "relu", "norm": "none", "pooling": "max"}
    with pytest.raises(ValueError, match="width must be one of"):
        CIFAR.candidate(**{**good, "width": 31})
    with pytest.raises(ValueError, match="choice must name"):
        CIFAR.candidate(depth=1)
    with pytest.raises(ValueError, match="large enough"):
        ConvNetSpace(image_shape=(1, 8, 8), num_classes=10).candidate(**{**good, "depth": 4})


def test_candidates_get_names_or_are_refused():
    factory = dd.network_factory("mlp", (1, 8, 8), 10, width=4)

    def tiny(rng):
        return factory(rng)

    names = [one.name for one in named_candidates([factory, ("other", factory), Candidate("third", factory), tiny])]
    assert names[0].startswith("mlp (width 4")
    assert names[1:] == ["other", "third", "tiny"]
    with pytest.raises(ValueError, match="different names"):
        named_candidates([factory, factory])
    with pytest.raises(ValueError, match="at least one"):
        named_candidates([])
    with pytest.raises(ValueError, match="have names"):
        named_candidates([lambda rng: factory(rng)])


def test_students_of_many_kinds_come_from_the_generator_alone():
    makers = tuple(dd.network_factory("mlp", (1, 8, 8), 10, width=width) for width in (3, 4, 5))
    many = RandomArchitecture(makers)
    sizes = [size(many(dd.generator(i))) for i in range(20)]
    assert set(sizes) == {size(make(dd.generator(0))) for make in makers}
    first, again = (many(dd.generator(3)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    with pytest.raises(ValueError, match="at least one"):
        RandomArchitecture(())


@pytest.mark.parametrize(("text", "published"), [(ZEROS, 0.073), (EXAMPLE, 0.802), (ONES, 1.531)])
def test_cells_have_the_published_parameters(text, published):
    network = CellSpace(image_shape=(3, 32, 32), num_classes=10).of(Cell.parse(text)).make(dd.generator(0))
    assert int(size(network) / 1e3) == round(1e3 * published)


def test_the_size_of_a_cell_is_its_formula():
    rng = dd.generator("cells")
    for i in torch.randperm(len(CELLS), generator=rng)[:20].tolist():
        cell = CELLS[i]
        with torch.device("meta"):
            network = cell_network(cell, (3, 32, 32), 100, channels=8, cells=2)
        per_channel = {"nor_conv_1x1": 1, "nor_conv_3x3": 9}
        total = 27 * 8 + 16 + 2 * 32 + 32 * 100 + 100
        for width in (8, 16, 32):
            for name in cell.operations:
                total += 2 * (per_channel[name] * width**2 + 2 * width) if name in per_channel else 0
            if width > 8:
                half = width // 2
                total += 9 * half * width + 9 * width**2 + half * width + 4 * width
        assert size(network) == total


def test_strings_go_there_and_back():
    assert len({str(cell) for cell in CELLS}) == 15_625
    assert all(Cell.parse(str(cell)) == cell for cell in CELLS[::7])
    assert str(Cell.parse(EXAMPLE)) == EXAMPLE
    for bad in ("", EXAMPLE[:-1], EXAMPLE.replace("avg_pool_3x3", "max_pool_3x3"), EXAMPLE + "+|none~0|"):
        with pytest.raises(ValueError, match="must be"):
            Cell.parse(bad)


def values_of(cell, draws):
    """What a cell computes on numbers, where operations are functions that keep zero."""
    functions = {
        "none": lambda x: 0 * x,
        "skip_connect": lambda x: x,
        "nor_conv_1x1": lambda x: draws[0] * x + draws[1] * x**2,
        "nor_conv_3x3": lambda x: draws[2] * x + draws[3] * x**2,
        "avg_pool_3x3": lambda x: draws[4] * x + draws[5] * x**2,
    }
    nodes = [draws[6]]
    for node in (1, 2, 3):
        terms = [functions[op](nodes[of]) for op, (to, of) in zip(cell.operations, EDGES, strict=True) if to == node]
        nodes.append(sum(terms))
    return nodes[-1]


def test_cells_that_compute_the_same_are_found_by_computing():
    draws = (torch.rand(7, generator=dd.generator("functions"), dtype=torch.float64) + 0.5).tolist()
    groups = {}
    for cell in CELLS:
        groups.setdefault(round(values_of(cell, draws), 9), set()).add(cell)
    ours = {}
    for cell in CELLS:
        ours.setdefault(cell.computation, set()).add(cell)
    assert set(map(frozenset, ours.values())) == set(map(frozenset, groups.values()))
    assert len(ours) == 4930


def test_structures_are_as_many_as_published():
    twins = equivalence_classes(CELLS, key=lambda cell: cell.structure)
    assert len(twins) == 6466
    assert sum(map(len, twins.values())) == 15_625
    # Whatever NAS-Bench-201 takes for the same does compute the same.
    assert all(len({one.computation for one in same}) == 1 for same in twins.values())
    assert len(equivalence_classes(CELLS)) == 4930


def test_a_network_of_cells_computes_what_its_string_says():
    cell = Cell(("nor_conv_3x3", "avg_pool_3x3", "none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3"))
    space = CellSpace(image_shape=(1, 8, 12), num_classes=3, channels=2, cells=1)
    network = space.of(cell).make(dd.generator(1)).eval()
    x = torch.randn(2, 1, 8, 12, generator=dd.generator("x"))
    stem, first, second, third, last = network.body

    def slow(module, x):
        ops = module.operations
        one = ops[0](x)
        two = torch.nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return x + ops[4](one) + ops[5](two)

    def reduced(module, x):
        small = torch.nn.functional.conv2d(torch.nn.functional.avg_pool2d(x, 2), module.shortcut[1].weight)
        return small + module.second(module.first(x))

    with torch.no_grad():
        z = slow(first[0], stem(x))
        z = slow(second[1], reduced(second[0], z))
        z = slow(third[1], reduced(third[0], z))
        z = torch.relu(last[0](z)).mean((2, 3))
        assert torch.allclose(network.head(z), network(x), atol=1e-6)
        assert network.embed(x).shape == (2, 8)


def test_bad_cells_are_refused():
    with pytest.raises(ValueError, match="operations must be 6"):
        Cell(("none",))
    with pytest.raises(ValueError, match="multiples of 4"):
        cell_network(CELLS[0], (3, 30, 32), 10)
    with pytest.raises(ValueError, match="channels"):
        CellSpace(image_shape=(3, 32, 32), num_classes=10, channels=0).of(CELLS[0])


def test_a_table_of_accuracies_is_read(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(f"arch,cifar10\n{ZEROS},10.0\n{ONES},94.37\n")
    assert read_accuracies(path, "cifar10") == {Cell.parse(ZEROS): 0.1, Cell.parse(ONES): pytest.approx(0.9437)}


@pytest.mark.parametrize(
    ("rows", "column", "match"),
    [
        (f"{ZEROS},10", "cifar100", "data must be a column"),
        (f"{ZEROS},10\n{ZEROS},11", "cifar10", "each cell once"),
        (f"{ZEROS},101", "cifar10", "in percent"),
        (f"{ZEROS},nan", "cifar10", "in percent"),
        (f"{ZEROS},", "cifar10", "in percent"),
        (f"{ZEROS}", "cifar10", "row 0 of .* must have 2 cells"),
        (f"{ZEROS},10,11", "cifar10", "row 0 of .* must have 2 cells"),
        ("something,10", "cifar10", "cell of NAS-Bench-201"),
        ("", "cifar10", "at least one cell"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, rows, column, match):
    path = tmp_path / "table.csv"
    path.write_text(f"arch,cifar10\n{rows}\n")
    with pytest.raises(ValueError, match=match):
        read_accuracies(path, column)


def test_the_table_of_nats_is_read_whole():
    root = os.environ.get("DDSDK_DATA")
    path = None if root is None else Path(root) / "NATS" / "nats_tss_200.csv"
    if path is None or not path.is_file():
        pytest.skip("set DDSDK_DATA to a folder with NATS/nats_tss_200.csv")
    table = read_accuracies(path, "cifar10")
    assert set(table) == set(CELLS)
    assert max(table.values()) == pytest.approx(0.9437)
