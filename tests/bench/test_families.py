"""A contract of all benchmarks: a small run measures every row once, and writes the table and the picture."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tyro

import benchmarks
from benchmarks.cells import CellsBenchmark
from benchmarks.kit import Benchmark
from benchmarks.machine.__main__ import MachineBenchmark
from benchmarks.scale.__main__ import ScaleBenchmark
from benchmarks.scale.files import PictureFolder
from ddsdk.foundation import MissingExtraError

HOME = Path(benchmarks.__file__).parent


class Small(NamedTuple):
    """Words of a small run, the texts that its table has with their numbers, and its picture."""

    words: str
    counted: dict[str, int]
    picture: str | None = None


SMALL = {
    # A canvas stores as many floats as four images.
    "texture": Small(
        "--data digits --images 10 --steps 2 --width 4 --networks 1 --epochs 2 --windows 2",
        {"| 2560 |": 5},
        "texture.png",
    ),
    "continual": Small(
        "--data digits --images 30 --ipc 1,2 --learners mlp --seconds 0.1 --methods 'naive,reservoir,random'",
        {"| naive | – | mlp |": 1, "| random | ": 2, " | 660 | ": 2, " | 1320 | ": 2},
        "replay-mlp.png",
    ),
    "federated": Small(
        "--data digits --images 60 --clients 3 --width 4 --alpha 1.0 --methods 'fedprox,one-shot real images'",
        {"| fedprox | 1.0 | 20 |": 1, "| one-shot real images | 1.0 | 1 |": 1},
        "bytes-1.0.png",
    ),
    "federated_attacks": Small(
        "--data digits --steps 1 --width 4 --rounds 1 --clean 0"
        " --methods '3 honest alone,1 of 4 flips labels with 50 images'",
        {"| 3 honest alone |": 1, "| 1 of 4 flips labels with 50 images |": 1},
    ),
    "explain": Small(
        "--data digits --images 8 --ipc 1 --steps 3 --queries 10 --subsets 4",
        {"| through ": 3, "| leave-one-out itself | 1.00 | 1.00 | 100 |": 1, "| KIP | ": 0, "| k-means images | ": 2},
        "explain.png",
    ),
    "finetune": Small(
        "--data digits --images 10 --steps 2 --width 4 --networks 1 --epochs 2 --pretraining 1",
        {"| 320 |": 5, "| all real images |": 1},
        "finetune.png",
    ),
    "recommend": Small(
        "--data simulated --people 40 --items 30 --users 5 --steps 2 --draws 4",
        {"| autoencoder on all users |": 1, "| sparse Distill-CF |": 1, "| 1.00 |": 2},
        "recommend.png",
    ),
    "share": Small(
        "--data digits --images 20 --ipc 1 --steps 2 --width 4 --per-patient 4 --networks 1 --epochs 2",
        {"| patient |": 4, "| image |": 4, "| random real images | patient |": 1},
        "share.png",
    ),
    "graph": Small(
        "--data sbm-300 --nodes 8,9 --networks 1 --epochs 2 --width 4 --others mlp"
        " --methods 'propagated,random,whole graph'",
        {"| propagated | ": 2, "| whole graph | – |": 1},
        "seconds.png",
    ),
    "whole_graphs": Small(
        f"--data rings_and_paths.txt --root '{Path(__file__).parent}' --networks 1 --epochs 2 --steps 2 --nodes 5"
        " --ipc 1,2",
        {"| random | ": 2, "| doscond | ": 2, "| all graphs | – |": 1},
        "seconds.png",
    ),
    "privacy": Small(
        "--data digits --images 10 --held-out 0.3 --ipc 10 --epsilon 1,2 --width 2 --judge-width 2 --networks 1"
        " --methods 'dp-sgd,random images'",
        {"| dp-sgd | 0 | ": 2, "| random images | 10 | – |": 1},
        "epsilon.png",
    ),
    "robustness": Small(
        "--data digits --images 10 --held-out 0.3 --ipc 1 --width 2 --networks 1 --attacked 10 --auto-attacked 0"
        " --square-queries 5 --restarts 1 --teacher-images 6 --teacher-epochs 1 --radii 0.05"
        " --methods 'random images,real images'",
        {"| random images | 1 |": 1, "| real images | 0 |": 1, "| linf 0.05, % |": 1},
        "radii-1.png",
    ),
    "attack_transfer": Small(
        "--data digits --images 10 --held-out 0.3 --ipc 1 --width 2 --attacked 10 --teacher-images 6"
        " --teacher-epochs 1 --rows 'random images,real images'",
        {"| none | 1 |": 1, "| real images | 1 |": 1, "| method | ipc | random images | real images |": 1},
    ),
    "backdoor": Small(
        "--data digits --images 20 --held-out 0.3 --steps 2 --ipc 2 --width 2 --judge-width 2 --networks 1"
        " --inversion-steps 2 --methods dm --attack none,white --fraction 0.05 --seeds 0,10",
        {"| dm | none | 0.0 |": 1, "| dm | white | 0.05 |": 1, "| dm | white | pasting |": 1},
        "success.png",
    ),
    "nas": Small(
        "--data digits --candidates 4 --train 10 --validation 5 --epochs 1 --ipc 2 --steps 2 --early 1,2"
        " --methods 'parameters,synflow,early stopping,whole training,random'",
        {"| early stopping |": 2, "| whole training |": 1, "| random | 2 | – | 2 | – | 0 |": 1},
        "cost.png",
    ),
}


def benchmark(name: str) -> Benchmark:
    try:
        return importlib.import_module(f"benchmarks.{name}").BENCHMARK
    except MissingExtraError as error:
        pytest.skip(str(error))


def test_every_benchmark_has_a_small_run():
    files = {p.relative_to(HOME).with_suffix("").as_posix().replace("/", ".") for p in HOME.rglob("*.py")}
    declared = {f for f in files if "BENCHMARK = " in (HOME / f"{f.replace('.', '/')}.py").read_text()}
    assert declared == set(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_small_run_measures_every_row_once(name, tmp_path, capsys):
    words, counted, picture = SMALL[name]
    asked = [*shlex.split(words), "--out", str(tmp_path)]
    assert benchmark(name).prog == f"python -m benchmarks.{name}"
    assert benchmark(name).run(asked) == 0
    table = (tmp_path / "table.md").read_text()
    assert {text: table.count(text) for text in counted} == counted
    cells = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert {cell["cell"]["method"] for cell in cells} <= set(benchmark(name).methods)
    if picture is not None:
        assert (tmp_path / picture).stat().st_size > 5000
    capsys.readouterr()
    assert benchmark(name).run(asked) == 0
    assert capsys.readouterr().out == table + "\n"


def documented():
    """Return the words of each command of a benchmark that stands in README or docs."""
    pages = [HOME.parent / "README.md", *sorted((HOME.parent / "docs").rglob("*.md"))]
    found = []
    for page in pages:
        text = page.read_text().replace("\\\n", " ")
        found += [shlex.split(line) for line in re.findall(r"python -m (benchmarks\.[^`\n]*)", text)]
    return found


def test_the_documented_commands_are_those_of_today():
    """Every benchmark is documented, with options and methods that it has."""
    commands = documented()
    others: dict[str, Any] = {"machine": MachineBenchmark, "scale": ScaleBenchmark, "scale.files": PictureFolder}
    others["cells"] = CellsBenchmark
    assert {words[0].removeprefix("benchmarks.") for words in commands} == {*SMALL, *others}
    for module, *words in commands:
        name = module.removeprefix("benchmarks.")
        if name in others:
            tyro.cli(others[name], args=words)
            continue
        benchmark = importlib.import_module(module).BENCHMARK
        options = tyro.cli(benchmark.command(), args=words)
        assert benchmark.cells(options), words
        assert options.threads in (None, 1)
