"""The benchmark of attacks: the cost is that against the same honest clients, and attacks run."""

from __future__ import annotations

import json

import pytest
import torch
from flwr.app import Context, RecordDict

import ddsdk as dd
from benchmarks import federated_loopback
from benchmarks.attacked_federation import AttackedFederation, ExperimentConfig
from benchmarks.federated_attacks import ATTACKS, BENCHMARK, rows, stamped
from benchmarks.kit import RunGroup

FLIP = "1 of 7 flips labels with 50 images"


def group(method, clean, *accuracies):
    return RunGroup(method, {"clean": clean}, [{"accuracy": accuracy} for accuracy in accuracies])


def test_the_cost_is_that_against_the_same_honest_clients():
    groups = [
        group("6 honest alone", 0, 0.9, 0.8),
        group("6 honest alone", 5, 0.7, 0.7),
        group("3 honest alone", 0, 0.1, 0.1),
        group(FLIP, 0, 0.5, 0.6),
        group("1 of 4 flips labels with 50 images", 0, 0.1, 0.0),
    ]
    cost = {(g.method, g.at["clean"]): [r["cost"] for r in g.results] for g in rows(groups)}
    assert cost[FLIP, 0] == pytest.approx([0.4, 0.2])
    assert cost["1 of 4 flips labels with 50 images", 0] == pytest.approx([0.0, 0.1])
    assert cost["6 honest alone", 5] == [0.0, 0.0]
    # Without the honest clients alone there is nothing to compare with.
    assert rows(groups[3:4])[0].results[0]["cost"] is None


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.poison is not None])
def test_a_poison_is_what_its_name_says(name):
    images, labels = torch.rand(100, 1, 8, 8), torch.arange(10).repeat(10)
    given = images.clone()
    poisoned, ids = ATTACKS[name].poison(images, labels)
    assert torch.equal(images, given)
    assert len(poisoned) == len(ids)
    if "flip" in name:
        assert torch.equal(poisoned, images) and not (ids == labels).any()
    if "exchange" in name:
        assert ids[labels == 3].unique().tolist() == [8] and ids[labels == 8].unique().tolist() == [3]
        assert int((ids != labels).sum()) == 20
    if "backdoor" in name and "right" not in name:
        added = poisoned[100:]
        assert torch.equal(added, stamped(added)) and ids[100:].unique().tolist() == [0]
        assert len(added) == (4 if "hidden" in name else 10)
    if "right" in name:
        assert torch.equal(ids, labels) and torch.equal(poisoned[labels > 0], images[labels > 0])


@pytest.mark.slow
def test_attacks_run(tmp_path):
    small = ["--data", "digits", "--steps", "1", "--width", "4", "--rounds", "1", "--threads", "1", "--no-plots"]
    methods = f"6 honest alone,{FLIP},1 of 7 copies and flips,1 of 7 has a backdoor"
    assert BENCHMARK.run([*small, "--methods", methods, "--clean", "0", "--out", str(tmp_path)]) == 0
    cells = {cell["cell"]["method"]: cell for cell in json.loads((tmp_path / "cells.json").read_text())["cells"]}
    assert cells[FLIP]["hostile"] == 1.0
    # The copy arrives later, with a lower partition id: the copier is refused, and no one else.
    copier = cells["1 of 7 copies and flips"]
    assert (copier["hostile"], copier["honest"]) == (1.0, 0.0)
    assert [refusal["name"] for refusal in copier["reports"][0]["refused"]] == ["duplicate"]
    assert 0 <= cells["1 of 7 has a backdoor"]["backdoor"] <= 1


def test_processes_read_the_federation_that_was_written(tmp_path):
    federation = AttackedFederation.of(FLIP, 3, ExperimentConfig(steps=1, width=4), dd.load("digits"))
    federated_loopback._write(federation, tmp_path)
    found, folder = federated_loopback._read(Context(1, 1, {}, RecordDict(), {"out": str(tmp_path)}))
    assert folder == tmp_path
    assert (found.method, found.seed, found.config) == (federation.method, 3, federation.config)
    assert found.task.digest == federation.task.digest
    assert torch.equal(found.images, federation.images) and torch.equal(found.labels, federation.labels)
    assert [found.app(i) is found.hostile for i in range(found.clients)] == [True] + [False] * 6


def test_loopback_has_no_clean_images(tmp_path):
    options = BENCHMARK.command()(data="digits", out=tmp_path, where="process,loopback", methods=FLIP)
    found = [(run["clean"], run["where"]) for run in BENCHMARK.cells(options)]
    assert found == [(0, "process"), (0, "loopback"), (5, "process")]


@pytest.mark.slow
@pytest.mark.timeout(590)
def test_real_processes_have_the_accuracy_of_one_process(tmp_path):
    small = ["--data", "digits", "--steps", "1", "--width", "4", "--rounds", "1", "--threads", "1", "--no-plots"]
    words = ["--methods", "1 of 4 flips labels with 50 images", "--clean", "0", "--where", "process,loopback"]
    assert BENCHMARK.run([*small, *words, "--out", str(tmp_path)]) == 0
    here, there = json.loads((tmp_path / "cells.json").read_text())["cells"]
    assert here["accuracy"] == there["accuracy"]
    assert here["hostile"] == there["hostile"] == 1.0
