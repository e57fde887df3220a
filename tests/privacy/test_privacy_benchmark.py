"""The benchmark: every row runs, cells are kept, and the table says what was measured."""

from __future__ import annotations

import sys

import pytest

from ddsdk_integrations.privacy import __main__ as command
from ddsdk_integrations.privacy import benchmark
from ddsdk_integrations.privacy.benchmark import METHODS, Method
from ddsdk_integrations.privacy.dp_kip import DPKIP
from ddsdk_integrations.privacy.ndpdc import NDPDC
from ddsdk_integrations.privacy.psg import PSG

TINY = {
    "ndpdc": Method(make=lambda ipc: NDPDC(ipc=ipc, releases=2, steps=2)),
    "psg": Method(make=lambda ipc: PSG(ipc=ipc, students=1, steps_per_student=2), sizes=(10,)),
    "dp-kip": Method(make=lambda ipc: DPKIP(ipc=ipc, steps=1), sizes=(10,)),
    "dp-sgd": Method(make=lambda _: {"steps": 2}, classifier=True, sizes=(0,)),
    "ndpdc without noise": Method(make=lambda ipc: NDPDC(ipc=ipc, releases=2, steps=2), private=False),
    "random images": METHODS["random images"],
}


def run(monkeypatch, tmp_path, *more):
    asked = ["--data", "digits", "--out", str(tmp_path), "--width", "4", "--judge-width", "4", "--networks", "1"]
    monkeypatch.setattr(sys, "argv", ["x", *asked, *more])
    return command.main()


def test_every_row_is_measured_once(monkeypatch, tmp_path, capsys):
    for module in (benchmark, command):
        monkeypatch.setattr(module, "METHODS", TINY)
    more = ("--ipc", "10", "--epsilon", "2", "--held-out", "0.3", "--images", "30")
    assert run(monkeypatch, tmp_path, *more) == 0
    table = (tmp_path / "table.md").read_text()
    for name in TINY:
        assert f"| {name} |" in table
    assert "| a classifier | 2 |" in table
    assert "| random images | 10 | none |" in table
    assert len(list((tmp_path / "cells").iterdir())) == len(TINY)
    assert (tmp_path / "epsilon.png").stat().st_size > 10_000
    capsys.readouterr()
    assert run(monkeypatch, tmp_path, *more) == 0
    assert capsys.readouterr().out == table + "\n"


def test_every_method_of_the_table_can_be_made():
    for name, method in METHODS.items():
        for size in method.sizes:
            assert benchmark.described(benchmark.Cell(method=name, epsilon=1.0, ipc=size, seed=0))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--methods", "x"], "methods must be among ndpdc"),
        (["--epsilon", "0"], "epsilon must"),
        (["--ipc", "0"], "ipc must be whole numbers of at least 1"),
        (["--delta", "2"], "delta must lie strictly between 0 and 1"),
    ],
)
def test_bad_options_are_refused(monkeypatch, tmp_path, capsys, more, message):
    assert run(monkeypatch, tmp_path, *more) == 2
    assert message in capsys.readouterr().err
