"""`python -m benchmarks.backdoor`: how often triggers survive distillation, and how often a scan finds them.

Sets of `SCANNED` are scanned, with all seeds; seeds from `CALIBRATION` on are of honest sets that give the thresholds
and are reported nowhere else. Other sets have the seeds below `FEW`; other methods meet the white corner alone.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.metrics import roc_auc_score

import ddsdk as dd
from benchmarks.kit import Axis, Benchmark, Cell, Column, Group, Plot, Result
from ddsdk.experiments import markdown_table
from ddsdk.foundation import derive, require, require_count
from ddsdk.judging import trained_networks
from ddsdk.recipes import IterativeRecipe
from ddsdk.training import accuracy
from ddsdk_integrations.robustness.backdoor import (
    TESTS,
    Doorping,
    Inversion,
    TrainedVictims,
    Trigger,
    attack_success,
    distil_doorping,
    poison,
    scan,
)

TARGET = 0
"""Class that attackers want to see."""

WORKING = 0.1
"""Net success from which a back door counts as one that works."""

SCANNED = {("dm", "none", 0.0), ("dm", "white", 0.05)}
CALIBRATION, FEW = 10, 2


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Values that all cells share.

    Attributes:
        ipc: Images per class.
        steps: Image steps of each recipe.
        width: Width of the ConvNets of recipes.
        judge_width: Width of the ConvNets that train on the sets.
        networks: Networks that train on each set.
        size: Side of the trigger in pixels.
        real_batch: Real images of each class in a step.
        inversion_steps: Steps of the inversion of triggers.
    """

    ipc: int = 10
    steps: int = 60
    width: int = 8
    judge_width: int = 16
    networks: int = 2
    size: int = 2
    real_batch: int = 32
    inversion_steps: int = 100

    def __post_init__(self) -> None:
        for known in dataclasses.fields(self):
            require_count(known.name, getattr(self, known.name))

    @property
    def inversion(self) -> Inversion:
        """Settings of the inversion of triggers."""
        return Inversion(steps=self.inversion_steps, lr=0.2, batch=16)


Make = Callable[[Setting], IterativeRecipe]


def _matching(method: type[dd.DC] | type[dd.DSA], augmentation: str) -> Make:
    return lambda setting: method(
        ipc=setting.ipc,
        students=max(1, setting.steps // 10),
        steps_per_student=10,
        student_epochs=10,
        real_batch=setting.real_batch,
        start="real",
        augmentation=augmentation,
    )


def _means(augmentation: str) -> Make:
    return lambda setting: dd.DM(
        ipc=setting.ipc, steps=setting.steps, real_batch=setting.real_batch, augmentation=augmentation
    )


METHODS: Mapping[str, Make] = {
    "dm": _means(""),
    "dm with cutout": _means("cutout"),
    "dc": _matching(dd.DC, ""),
    "dsa without cutout": _matching(dd.DSA, "color_crop_scale_rotate"),
    "dsa with cutout": _matching(dd.DSA, "cutout"),
}
"""All start from real images; networks that train on a set have the augmentation that it was made with."""

ATTACKS: Mapping[str, Doorping | None] = {
    "none": None,
    "white": None,
    "random colours": None,
    "doorping": Doorping(aim="neuron", steps=10, every=10, images=64),
    "to the label": Doorping(aim="label", stop_below=0.0, steps=10, every=10, images=64),
}
"""A white corner, a corner of random colours, or one that starts so and follows networks of the run."""

_TRUSTED = 0.1
_ROUNDS = 2


def _attack(word: str) -> str:
    require(word in ATTACKS, "attack", f"be among {', '.join(ATTACKS)}", word)
    return word


def _share(word: str) -> float:
    require(0 < float(word) < 1, "fraction", "lie strictly between 0 and 1", word)
    return float(word)


def _values(method: str, axis: str, values: Sequence[Any]) -> Sequence[Any]:  # noqa: ARG001
    return [0.0, *values] if axis == "fraction" else values


def _is_scanned(cell: Cell) -> bool:
    return (cell.method, cell["attack"], cell["fraction"]) in SCANNED


def _keep(cell: Cell) -> bool:
    """Tell whether a cell is measured: a share of 0 is that of an honest set, which thresholds are taken from."""
    if (cell["attack"] == "none") != (cell["fraction"] == 0):
        return False
    if _is_scanned(cell):
        return cell["attack"] == "none" or cell.seed < CALIBRATION
    white = cell["attack"] == "white" and ("dm", "white", cell["fraction"]) in SCANNED
    return cell.seed < FEW and (cell.method == "dm" or white)


def _about(cell: Cell, setting: Setting) -> dict[str, Any]:
    """Return the parameters of a cell's method and attack, and what the scan has."""
    settings = ATTACKS[cell["attack"]]
    return {
        "recipe": dataclasses.asdict(METHODS[cell.method](setting)),
        "attack": None if settings is None else dataclasses.asdict(settings),
        "rounds": None if settings is None else _ROUNDS,
        "trusted": _TRUSTED,
        "scanned": _is_scanned(cell),
    }


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return accuracy, successes of the trigger, its colours, the highest scores of a scan, and seconds.

    A tenth of the training images is kept apart as the scanner's trusted images.
    """
    began, rng = time.perf_counter(), dd.generator("backdoor", cell.seed)
    rest, trusted = train.split(_TRUSTED, dd.generator("trusted"))
    distilled, trigger = _distilled(cell, setting, rest, rng)
    judge = dataclasses.replace(
        dd.Evaluation.quick(METHODS[cell.method](setting).evaluation(rest).augmentation),
        network_options={"width": setting.judge_width},
        epochs=100,
    )
    nets = trained_networks(distilled, judge, setting.networks, derive(rng, "judge"))
    whole = test.batch(torch.arange(len(test))).x
    success = attack_success(nets, test, trigger, TARGET)
    scores = pointed = None
    if _is_scanned(cell):
        key = derive(rng, "scan")
        seen = scan(distilled, clean=trusted, networks=nets, images=100, inversion=setting.inversion, seed=key)
        scores = {name: seen.score(name) for name in TESTS}
        pointed = {name: seen.highest(name).label for name in TESTS}
    return {
        "calibrates": cell.seed >= CALIBRATION,
        "accuracy": sum(accuracy(n, whole, test.labels) for n in nets) / len(nets),
        "stamped": success.stamped,
        "plain": success.plain,
        "net": success.net,
        "patch": trigger.patch.flatten().tolist(),
        "scores": scores,
        "pointed": pointed,
        "seconds": time.perf_counter() - began,
    }


def _distilled(cell: Cell, setting: Setting, real: dd.RealData, rng: torch.Generator) -> tuple[dd.Distilled, Trigger]:
    """Return the set, and the trigger that is tried on it; a set without an attack is tried with a white corner."""
    recipe, attack = METHODS[cell.method](setting), cell["attack"]
    make = dd.network_factory("convnet", real.image_shape, real.num_classes, width=setting.width)
    colours = None if attack in ("none", "white") else derive(rng, "colours")
    trigger = Trigger.corner(real.image_shape, setting.size, colours)
    run = derive(rng, "run")
    if attack == "none":
        return dd.distill(recipe, real, make_student=make, seed=run), trigger
    poisoned = poison(real, trigger, target=TARGET, fraction=cell["fraction"], rng=derive(rng, "poison"))
    settings = ATTACKS[attack]
    if settings is None:
        return dd.distill(recipe, poisoned.data, make_student=make, seed=run), trigger
    opened = distil_doorping(
        recipe,
        poisoned,
        trigger,
        settings=settings,
        make_student=make,
        seed=run,
        victims=TrainedVictims(make_student=make),
        rounds=_ROUNDS,
    )
    return opened.distilled, opened.trigger


def _reported(groups: Sequence[Group]) -> list[Group]:
    """Return the groups without the sets that give thresholds."""
    kept = [group._replace(results=[r for r in group.results if not r["calibrates"]]) for group in groups]
    return sorted((group for group in kept if group.results), key=lambda g: (g.method, *g.at.values()))


def _mean(head: str, key: str) -> Column:
    return Column(head, lambda group: f"{100 * statistics.fmean(r[key] for r in group.results):.1f}")


def _net(group: Group) -> str:
    net = [100 * result["net"] for result in group.results]
    return f"{statistics.fmean(net):.1f}" + (f" ({min(net):.0f} to {max(net):.0f})" if len(net) > 1 else "")


def _points(group: Group) -> list[tuple[float | None, float]]:
    if not group.at["fraction"]:
        return []
    return [(100 * group.at["fraction"], 100 * statistics.fmean(r["net"] for r in group.results))]


HEADS = [
    *("method", "attack", "test", "area under the ROC", "threshold", "found", "found of those that work"),
    *("right class", "honest sets flagged"),
]


def _scans(groups: Sequence[Group]) -> str:
    """Return the table of how each test tells sets with an attack from honest ones."""
    scanned = [group for group in groups if group.results[0]["scores"] is not None]
    lines = []
    for method in dict.fromkeys(group.method for group in scanned):
        honest = [r for g in scanned if g.method == method and g.at["attack"] == "none" for r in g.results]
        tuned, reported = ([r for r in honest if r["calibrates"] == side] for side in (True, False))
        for group in scanned if tuned and reported else []:
            if group.method == method and group.at["attack"] != "none":
                lines += [
                    [method, group.at["attack"], test, *detection(test, tuned, reported, group.results)]
                    for test in TESTS
                ]
    return markdown_table(HEADS, lines) if lines else ""


def detection(
    test: str, tuned: Sequence[Result], honest: Sequence[Result], attacked: Sequence[Result]
) -> tuple[str, ...]:
    """Return how one test tells sets with an attack from honest ones, the cells of a line.

    Args:
        test: Test of the scan.
        tuned: Honest sets; their highest score is the threshold.
        honest: Honest sets that are reported.
        attacked: Sets with an attack.
    """
    known, found = ([result["scores"][test] for result in sets] for sets in (honest, attacked))
    threshold = max(result["scores"][test] for result in tuned)
    above = [result for result in attacked if result["scores"][test] > threshold]
    working, found_working = (sum(result["net"] >= WORKING for result in sets) for sets in (attacked, above))
    return (
        f"{roc_auc_score([0] * len(known) + [1] * len(found), [*known, *found]):.2f}",
        f"{threshold:.2f}",
        f"{len(above)} of {len(attacked)}",
        f"{found_working} of {working}",
        str(sum(result["pointed"][test] == TARGET for result in above)),
        f"{sum(score > threshold for score in known)} of {len(honest)}",
    )


BENCHMARK = Benchmark(
    prog="python -m benchmarks.backdoor",
    text="Poison, distil, count successes, and scan; print success by method, attack and share, and detection rates.",
    setting=Setting,
    methods=METHODS,
    axes={
        "attack": Axis(",".join(ATTACKS), "Attacks, separated by commas.", _attack),
        "fraction": Axis("0.01,0.05,0.2", "Shares of poisoned images, separated by commas.", _share),
    },
    values=_values,
    keep=_keep,
    about=_about,
    measure=measure,
    rows=_reported,
    columns=[
        _mean("accuracy, %", "accuracy"),
        _mean("under the trigger, %", "stamped"),
        _mean("without, %", "plain"),
        Column("net success, %", _net),
        Column("runs", lambda group: str(len(group.results))),
    ],
    notes=_scans,
    line=lambda r: f"net {100 * r['net']:.1f} %, {r['scores']}, {r['seconds']:.0f} s",
    plot=Plot(
        "success.png",
        _points,
        "poisoned images, %",
        "net success, %",
        log_x=True,
        name=lambda group: f"{group.method}, {group.at['attack']}",
    ),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
