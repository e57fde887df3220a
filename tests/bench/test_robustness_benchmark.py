"""The benchmark of robust sets: what every row is made of, its order, its warnings, and the matrix of transfer."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.kit import RunConfig, RunGroup

pytest.importorskip("pyautoattack")

import ddsdk as dd
from benchmarks import attack_transfer, robustness
from benchmarks.robustness import BENCHMARK, METHODS, ExperimentConfig, Method, about, measure
from ddsdk_integrations.robustness import AdversarialLearning, RobustMatching

QUICK = {"width": 4, "attacked": 10, "teacher_images": 6, "teacher_epochs": 1}
TINY = ExperimentConfig(
    radii=(0.05, 0.1), train_radius=0.1, auto_attacked=1, square_queries=5, restarts=1, networks=1, **QUICK
)


def dm(ipc, threat=None):
    return dd.DM(ipc=ipc, steps=2, real_batch=4, augmentation="")


def kip(ipc, threat):
    return dd.KIP(ipc=ipc, steps=2, real_batch=10)


def one_hot_rows(kind, recipe, **more):
    return lambda ipc, threat: kind(recipe=recipe(ipc, threat), threat=threat, attack_steps=1, **more)


ROWS = {
    "set": Method(make=dm),
    "adversarial": Method(make=dm, adversarial=True),
    "labels": Method(make=dm, robust_labels=True),
    "matching": Method(make=one_hot_rows(RobustMatching, dm, network_images=5, network_epochs=1, networks=1)),
    "kernel": Method(make=one_hot_rows(AdversarialLearning, kip), kernel=True),
    "real": Method(make=None, adversarial=True, sizes=(0,)),
}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(robustness, "METHODS", ROWS)
    monkeypatch.setattr(robustness, "STEPS", 4)


@pytest.fixture
def parts(digits):
    return digits[0].split(0.1, dd.generator("part"))[1], digits[1]


@pytest.mark.parametrize("name", ROWS)
def test_every_kind_of_row_is_measured(quick, parts, name):
    config = dataclasses.replace(TINY, auto_attacked=int(name == "set"))
    found = measure(RunConfig(name, 0, {"ipc": 1 if ROWS[name].make else 0}), config, *parts)
    assert len(found["clean"]) == 1
    assert found["worst"] == [[0.05, found["linf 0.05"]], [0.1, found["linf 0.1"]]]
    assert 0 <= found["linf 0.1"][0] <= found["linf 0.05"][0] <= found["clean"][0]
    assert found["auto"] in ([0.0], [1.0]) if name == "set" else found["auto"] is None


def test_a_set_is_made_once_for_the_rows_that_train_on_it(quick, parts, monkeypatch):
    made = []
    distill = dd.distill
    monkeypatch.setattr(dd, "distill", lambda *given, **more: made.append(given[0]) or distill(*given, **more))
    for name in ("set", "adversarial", "labels"):
        measure(RunConfig(name, 3, {"ipc": 1}), TINY, *parts)
    assert len(made) == 1


def test_every_row_of_the_table_can_be_made():
    known = {
        (name, size): about(RunConfig(name, 0, {"ipc": size}), ExperimentConfig())
        for name, m in METHODS.items()
        for size in m.sizes
    }
    assert known["real images", 0] == {"class": "real"}
    assert known["robust matching of dm", 10]["threat"] == {"norm": "linf", "radius": 0.05}
    assert known["guard", 10]["teacher_curvature"] == 10 and known["sre2l", 10]["teacher_curvature"] == 0
    assert all(told["ipc"] == size for (_, size), told in known.items() if size)


def group(name, ipc, clean, worst, warnings=()):
    return RunGroup(
        name,
        {"ipc": ipc},
        [
            {
                "clean": [clean, clean - 0.1],
                "worst": [[0.1, worst]],
                "linf 0.1": worst,
                "auto": None,
                "warnings": list(warnings),
                **dict.fromkeys(("seconds", "seconds_train", "seconds_distil"), 1.0),
            }
        ],
    )


def test_rows_stand_by_size_and_by_what_attacks_leave():
    groups = [
        group("real images", 0, 0.9, [0.4, 0.4]),
        group("dm", 1, 0.8, [0.1, 0.2], ["masking"]),
        group("random images", 1, 0.7, [0.2, 0.4]),
    ]
    table = BENCHMARK.table(BENCHMARK.rows(groups), groups).splitlines()
    assert table[0] == "| method | ipc | clean, % | linf 0.1, % | s to distil | s to train | s to attack | warnings |"
    assert [line.split(" | ")[:4] for line in table[2:5]] == [
        ["| random images", "1", "65.0 ± 7.1", "30.0 ± 14.1"],
        ["| dm", "1", "75.0 ± 7.1", "15.0 ± 7.1"],
        ["| real images", "0", "85.0 ± 7.1", "40.0 ± 0.0"],
    ]
    assert table[5:] == ["", "- dm, 1: masking"]
    assert BENCHMARK.plot.points(groups[1]) == [(0.0, pytest.approx(75)), (0.1, pytest.approx(15))]
    assert [BENCHMARK.plot.file(one) for one in groups] == ["radii-real.png", "radii-1.png", "radii-1.png"]


def test_the_transfer_matrix_has_a_row_for_each_attacked_network(quick, parts):
    config = attack_transfer.ExperimentConfig(rows="set,kernel,real", radius=0.1, **QUICK)
    found = attack_transfer.measure(RunConfig("PGD-50", 0, {"ipc": 1}), config, *parts)
    groups = [RunGroup("PGD-50", {"ipc": 1}, [found])]
    (clean, *attacked) = found["accuracy"]
    assert all(attacked[i][i] <= clean[i] for i in range(3))
    table = attack_transfer.BENCHMARK.table(attack_transfer.BENCHMARK.rows(groups), groups)
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert lines[0] == ["method", "ipc", "set", "kernel", "real"]
    assert [line[0] for line in lines[2:]] == ["none", "set", "kernel", "real"]
    assert lines[3][2:] == [f"{100 * value:.1f}" for value in attacked[0]]


@pytest.mark.parametrize(
    ("benchmark", "more", "words"),
    [
        (BENCHMARK, ("--methods", "nothing"), "methods must be among"),
        (BENCHMARK, ("--train-radius", "0.3"), "train_radius must be one of"),
        (BENCHMARK, ("--radii", "0.1", "0.05"), "radii must rise"),
        (BENCHMARK, ("--networks", "0"), "networks must be at least 1"),
        (attack_transfer.BENCHMARK, ("--rows", "nothing"), "rows must be among"),
        (attack_transfer.BENCHMARK, ("--radius", "0"), "train_radius must be positive"),
    ],
)
def test_bad_options_are_refused(tmp_path, capsys, benchmark, more, words):
    assert benchmark.run(["--data", "digits", "--out", str(tmp_path), *more]) == 2
    assert words in capsys.readouterr().err
