"""The benchmark of back doors: which sets are made and scanned, thresholds of other sets, and what tables say."""

from __future__ import annotations

import pytest

from benchmarks.kit import RunConfig, RunGroup

pytest.importorskip("pyautoattack")

from benchmarks.backdoor import ATTACKS, BENCHMARK, METHODS, TESTS, ExperimentConfig, detection, measure


def cells_of(tmp_path, **more):
    return BENCHMARK.cells(BENCHMARK.command()(data="digits", out=tmp_path, **more))


def test_thresholds_have_seeds_of_their_own_and_what_is_not_scanned_has_few(tmp_path):
    cells = cells_of(tmp_path, seeds=",".join(map(str, range(20))))
    assert len(cells) == len(set(map(str, cells)))
    seeds = {}
    for cell in cells:
        seeds.setdefault((cell.method, cell["attack"], cell["fraction"]), []).append(cell.seed)
    assert seeds.pop(("dm", "none", 0.0)) == list(range(20))
    assert seeds.pop(("dm", "white", 0.05)) == list(range(10))
    assert all(few == [0, 1] for few in seeds.values())
    assert set(seeds) == {
        *(
            ("dm", attack, share)
            for attack in ATTACKS
            for share in (0.01, 0.05, 0.2)
            if attack not in ("none", "white")
        ),
        *(("dm", "white", share) for share in (0.01, 0.2)),
        *((method, "white", 0.05) for method in METHODS if method != "dm"),
    }


def test_every_method_and_attack_of_the_table_can_be_made(tmp_path):
    assert all(make(ExperimentConfig()).ipc == 10 for make in METHODS.values())
    told = [BENCHMARK.about(cell, ExperimentConfig()) for cell in cells_of(tmp_path, methods="dm", fraction="0.05")]
    assert sum(one["attack"] is not None for one in told) == 2


def result(score, *, net=0.0, pointed=0, calibrates=False, scanned=True):
    return {
        "calibrates": calibrates,
        "accuracy": 0.9,
        "stamped": net + 0.01,
        "plain": 0.01,
        "net": net,
        "scores": dict.fromkeys(TESTS, score) if scanned else None,
        "pointed": dict.fromkeys(TESTS, pointed) if scanned else None,
    }


TUNED = [result(1.0, calibrates=True), result(2.0, calibrates=True)]
HONEST = [result(0.5), result(2.5)]
ATTACKED = [result(3.0, net=0.4), result(1.5, net=0.2), result(2.2, pointed=4)]
GROUPS = [
    RunGroup("dm", {"attack": "white", "fraction": 0.05}, ATTACKED),
    RunGroup("dm", {"attack": "none", "fraction": 0.0}, [*HONEST, *TUNED]),
    RunGroup("dm", {"attack": "white", "fraction": 0.2}, [result(0.0, net=0.3, scanned=False)]),
]


def test_thresholds_come_from_sets_that_are_not_reported():
    auc, threshold, found, working, right, alarms = detection("pasting", TUNED, HONEST, ATTACKED)
    # Six pairs of an attacked and an honest set; the attacked one is higher in four.
    assert (auc, threshold) == (f"{4 / 6:.2f}", "2.00")
    assert (found, working, right, alarms) == ("2 of 3", "1 of 2", "1", "1 of 2")


def test_the_table_has_a_row_for_each_attack_and_test():
    table = BENCHMARK.table(BENCHMARK.rows(GROUPS), GROUPS)
    assert "| dm | none | 0.0 | 90.0 | 1.0 | 1.0 | 0.0 (0 to 0) | 2 |" in table
    assert "| dm | white | 0.05 | 90.0 | 21.0 | 1.0 | 20.0 (0 to 40) | 3 |" in table
    assert "| dm | white | 0.2 | 90.0 | 31.0 | 1.0 | 30.0 | 1 |" in table
    assert "| dm | white | pasting | 0.67 | 2.00 | 2 of 3 | 1 of 2 | 1 | 1 of 2 |" in table
    assert table.count("| dm | white | ") == 2 + len(TESTS)
    # Without sets of their own there are no thresholds.
    assert "threshold" not in BENCHMARK.table(GROUPS, [GROUPS[0], GROUPS[1]._replace(results=HONEST)])


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        (("--attack", "sneaky"), "attack must be among none, white"),
        (("--fraction", "2"), "fraction must lie strictly between 0 and 1"),
        (("--methods", "mtt"), "methods must be among"),
        (("--steps", "0"), "steps must be at least 1"),
    ],
)
def test_bad_options_are_refused(tmp_path, capsys, more, rule):
    assert BENCHMARK.run(["--data", "digits", "--out", str(tmp_path), *more]) == 2
    assert rule in capsys.readouterr().err


@pytest.mark.parametrize("attack", ["none", "white", "to the label"])
def test_the_trigger_that_is_tried_is_that_of_the_attack(digits, attack):
    config = ExperimentConfig(ipc=1, steps=10, width=2, judge_width=2, networks=1, inversion_steps=2)
    cell = RunConfig("dm", 0, {"attack": attack, "fraction": 0.0 if attack == "none" else 0.2})
    found = measure(cell, config, *digits)
    assert (found["patch"] == [1.0] * 4) == (attack in ("none", "white"))
    assert (found["scores"] is None) == (attack != "none")
    assert found["net"] == pytest.approx(found["stamped"] - found["plain"])
