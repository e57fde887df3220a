"""`python -m benchmarks.federated_attacks`: hostile and silent clients beside honest ones, and what they cost."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import torch
from flwr.app import ArrayRecord

import ddsdk as dd
from benchmarks.attacked_federation import ATTACKS, TARGET, AttackedFederation, AttackedGrid, ExperimentConfig, stamped
from benchmarks.federated_loopback import deployed
from benchmarks.kit import Axis, Benchmark, RunConfig, RunGroup, known_words, mean_of, percent_of
from ddsdk_integrations.federated import FederatedTask, InProcessGrid, RoundReport, accuracy_of

__all__ = ["ATTACKS", "BENCHMARK", "rows", "stamped"]

_TIMEOUT = 20.0
_PLACES = ("process", "loopback")


def measure(run: RunConfig, config: ExperimentConfig, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return accuracy, success of the backdoor and refusals after the last round of an attacked federation."""
    federation = AttackedFederation.of(run.method, run.seed, config, train)
    attack, task = federation.attack, federation.task
    if run["where"] == "loopback":
        arrays, reports, nodes = deployed(federation)
    else:
        arrays, reports, nodes = _in_process(federation, _clean(run["clean"], train))
    refused = {(report.round_number, r.node) for report in reports for r in report.refused if r.name != "quota"}
    hostile_sets = sum(node in nodes for _, node in refused)
    return {
        "accuracy": accuracy_of(task, test)(0, arrays)["accuracy"],
        "backdoor": _backdoor_success(task, arrays, test) if "backdoor" in run.method else None,
        "hostile": hostile_sets / (attack.attackers * config.rounds) if attack.attackers else None,
        "honest": (len(refused) - hostile_sets) / (attack.honest * config.rounds),
        "last_round": reports[-1].seconds if attack.silent else None,
        "first_round": reports[0].seconds if attack.silent else None,
        "reports": [report.to_json() for report in reports],
    }


def _clean(images: int, train: dd.RealData) -> dict[str, Any]:
    """Return the options of a server with clean images of each class, of which 0 is none."""
    rows_of_classes = [train.index_of_class(c)[:images] for c in range(train.num_classes)]
    return {"clean": train.subset(torch.cat(rows_of_classes))} if images else {}


def _in_process(
    federation: AttackedFederation, options: dict[str, Any]
) -> tuple[ArrayRecord, list[RoundReport], frozenset[int]]:
    """Return the final weights, the reports of the rounds and the nodes of the attackers."""
    attack = federation.attack
    clients = InProcessGrid(
        [federation.app(i) for i in range(federation.clients)], federation.clients, seed=federation.seed
    )
    nodes = frozenset(list(clients.contexts)[: attack.attackers])
    grid = AttackedGrid(clients, late=nodes if attack.copies else (), silent=nodes if attack.silent else ())
    strategy = federation.strategy(**options)
    timeout = _TIMEOUT if attack.silent else 600.0
    weights = federation.task.initial_arrays(federation.seed)
    result = strategy.start(grid, weights, federation.config.rounds, timeout=timeout)
    return result.arrays, strategy.reports, nodes


@torch.no_grad()
def _backdoor_success(task: FederatedTask, arrays: ArrayRecord, test: dd.RealData) -> float:
    """Return the share of stamped test images of other classes that are assigned to the target class."""
    others = torch.nonzero(test.labels != TARGET).flatten()
    x = task.preprocess(stamped(task.preprocess.inverse(test.batch(others).x)))
    return float((task.loaded(arrays).eval()(x).argmax(1) == TARGET).float().mean())


def rows(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Return the groups, with the accuracy that is lost against the same honest clients without an attack."""
    unharmed = {
        (ATTACKS[group.method].honest, group.at["clean"]): group.results
        for group in groups
        if not ATTACKS[group.method].attackers and group.at.get("where", "process") == "process"
    }
    changed = []
    for group in groups:
        # Every group has the same seeds, in the same order.
        before = unharmed.get((ATTACKS[group.method].honest, group.at["clean"]), [])
        results = [{**result, "cost": None} for result in group.results]
        for result, other in zip(results, before, strict=False):
            result["cost"] = other["accuracy"] - result["accuracy"]
        changed.append(group._replace(results=results))
    return changed


def _place(word: str) -> str:
    return known_words("where", word, _PLACES)[0]


BENCHMARK = Benchmark(
    prog="python -m benchmarks.federated_attacks",
    text="Put hostile and silent clients beside honest ones; measure the accuracy that they cost.",
    config=ExperimentConfig,
    methods=ATTACKS,
    measure=measure,
    axes={
        "clean": Axis("0,5", "Clean images of each class at the server, at most 5, separated by commas."),
        "where": Axis(
            "process",
            "Processes of the federation: process for one, loopback for a SuperLink and SuperNodes on this machine, "
            "without clean images and copiers; separated by commas.",
            _place,
        ),
    },
    # Real processes have no order of arrival, in which copiers come last.
    keep=lambda run: run["where"] == "process" or not (run["clean"] or ATTACKS[run.method].copies),
    rows=rows,
    columns=[
        percent_of("accuracy, %", "accuracy"),
        mean_of("cost, points", "cost", scale=100),
        percent_of("backdoor works, %", "backdoor"),
        percent_of("hostile sets refused, %", "hostile"),
        percent_of("honest sets refused, %", "honest"),
        mean_of("seconds of the first round", "first_round", digits=0),
        mean_of("seconds of the last round", "last_round", digits=0),
    ],
    line=lambda r: f"{100 * r['accuracy']:.1f} %",
)

if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(BENCHMARK.run())
