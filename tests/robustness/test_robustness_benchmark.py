"""The benchmark: every row runs, cells are kept, and table and plot say what was measured."""

from __future__ import annotations

import sys

import pytest

from ddsdk_integrations.robustness import __main__ as command
from ddsdk_integrations.robustness import benchmark


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    import ddsdk as dd

    tiny = {
        "_dm": lambda ipc: dd.DM(ipc=ipc, steps=2, real_batch=4, augmentation=""),
        "_kip": lambda ipc: dd.KIP(ipc=ipc, steps=2, real_batch=10),
        "_bptt": lambda ipc: dd.RaTBPTT(ipc=ipc, steps=2, student_steps=2, window=1, real_batch=8),
        "_sre2l": lambda ipc, curvature: dd.SRe2L(
            ipc=ipc, steps=2, teacher_epochs=1, teacher_images=4, teacher_curvature=curvature
        ),
        "_STEPS": 4,
    }
    for name, value in tiny.items():
        monkeypatch.setattr(benchmark, name, value)


def run(monkeypatch, tmp_path, *more):
    asked = "--data digits --width 4 --networks 1 --attacked 10 --auto-attacked 0 --square-queries 5 --restarts 1"
    sizes = "--ipc 1,10 --radii 0.05,0.1 --train-radius 0.1 --teacher-images 6 --teacher-epochs 1"
    command_line = ["x", *asked.split(), *sizes.split(), "--out", str(tmp_path), *more]
    monkeypatch.setattr(sys, "argv", command_line)
    return command.main()


def test_every_row_is_measured_once(monkeypatch, tmp_path, capsys):
    more = ("--held-out", "0.3", "--images", "20")
    assert run(monkeypatch, tmp_path, *more) == 0
    table = (tmp_path / "table.md").read_text()
    for name, method in benchmark.METHODS.items():
        for ipc in {1, 10, 0} & set(method.sizes):
            assert f"| {name} | {ipc or 'real'} |" in table
    head = table.splitlines()[0]
    assert "| linf 0.05, % | linf 0.1, % | AutoAttack, % |" in head
    assert (tmp_path / "radii.png").stat().st_size > 10_000
    capsys.readouterr()
    assert run(monkeypatch, tmp_path, *more) == 0
    assert capsys.readouterr().out == table + "\n"
    more = (*more, "--methods", "random images", "--ipc", "1", "--auto-attacked", "1", "--no-plots")
    assert run(monkeypatch, tmp_path, *more) == 0
    row = (tmp_path / "table.md").read_text().splitlines()[2]
    assert row.split("|")[6].strip() in ("0.0", "100.0")


def test_the_transfer_matrix_is_measured_beside_the_rows(monkeypatch, tmp_path, capsys):
    more = ("--held-out", "0.3", "--images", "20", "--methods", "random images", "--ipc", "1", "--no-plots")
    crossed = ("--transfer", "random images,adversarial kip (kernel),real images")
    assert run(monkeypatch, tmp_path, *more, *crossed) == 0
    rows, matrix = (tmp_path / "table.md").read_text().split("\nTransfer, 1 images per class, seed 0:\n\n")
    assert "| random images | 1 |" in rows
    lines = [line.strip("| ").split(" | ") for line in matrix.splitlines()]
    names = ["random images", "adversarial kip (kernel)", "real images"]
    assert lines[0] == ["attacked (linf 0.1)", *names]
    assert [line[0] for line in lines[2:]] == ["none", *names]
    clean = [float(word) for word in lines[2][1:]]
    found = [[float(word) for word in line[1:]] for line in lines[3:]]
    assert all(found[i][i] <= clean[i] for i in range(3))
    capsys.readouterr()
    assert run(monkeypatch, tmp_path, *more, *crossed) == 0
    assert capsys.readouterr().out == (tmp_path / "table.md").read_text() + "\n"
    assert run(monkeypatch, tmp_path, *more, "--transfer", "nothing") == 2
    assert "transfer must be among" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--methods", "nothing"), "methods must be among"),
        (("--train-radius", "0.3"), "train_radius must be one of"),
        (("--radii", "0.1,0.05"), "radii must rise"),
        (("--networks", "0"), "networks must be at least 1"),
    ],
)
def test_bad_options_are_refused(monkeypatch, tmp_path, capsys, more, words):
    assert run(monkeypatch, tmp_path, *more) == 2
    assert words in capsys.readouterr().err
