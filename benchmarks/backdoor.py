"""`python -m benchmarks.backdoor`: survival of backdoor triggers in distilled sets, and detection rates of scans.

The sets of `SCANNED` are scanned with all seeds. Clean sets with seeds from `CALIBRATION` on give the thresholds and
are not reported. Other sets use only the seeds below `FEW`, and methods other than DM only the white trigger.
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
from benchmarks.kit import Axis, Benchmark, Column, Plot, Result, RunConfig, RunGroup
from ddsdk.experiments import markdown_table
from ddsdk.foundation import derive, require, require_count
from ddsdk.judging import trained_networks
from ddsdk.recipes import IterativeRecipe
from ddsdk.training import accuracy
from ddsdk_integrations.robustness.backdoor import (
    TESTS,
    DoorpingSettings,
    InversionSettings,
    TrainedVictims,
    Trigger,
    attack_success,
    distil_doorping,
    poison,
    scan,
)

TARGET = 0
"""Target class of all attacks."""

WORKING = 0.1
"""Net success rate from which a backdoor counts as working."""

SCANNED = {("dm", "none", 0.0), ("dm", "white", 0.05)}
CALIBRATION, FEW = 10, 2


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of all runs.

    Attributes:
        ipc: Images per class of the distilled sets.
        steps: Number of image steps of each recipe.
        width: Width of the student ConvNets.
        judge_width: Width of the ConvNets that are trained on the distilled sets.
        networks: Number of networks trained on each set.
        size: Side of the square trigger in pixels.
        real_batch: Number of real images of each class per step.
        inversion_steps: Number of steps of trigger inversion.
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
        for setting in dataclasses.fields(self):
            require_count(setting.name, getattr(self, setting.name))

    @property
    def inversion(self) -> InversionSettings:
        """Settings of trigger inversion."""
        return InversionSettings(steps=self.inversion_steps, lr=0.2, batch=16)


Make = Callable[[ExperimentConfig], IterativeRecipe]


def _gradient_matching(method: type[dd.DC] | type[dd.DSA], augmentation: str) -> Make:
    return lambda config: method(
        ipc=config.ipc,
        students=max(1, config.steps // 10),
        steps_per_student=10,
        student_epochs=10,
        real_batch=config.real_batch,
        start="real",
        augmentation=augmentation,
    )


def _distribution_matching(augmentation: str) -> Make:
    return lambda config: dd.DM(
        ipc=config.ipc, steps=config.steps, real_batch=config.real_batch, augmentation=augmentation
    )


METHODS: Mapping[str, Make] = {
    "dm": _distribution_matching(""),
    "dm with cutout": _distribution_matching("cutout"),
    "dc": _gradient_matching(dd.DC, ""),
    "dsa without cutout": _gradient_matching(dd.DSA, "color_crop_scale_rotate"),
    "dsa with cutout": _gradient_matching(dd.DSA, "cutout"),
}
"""Recipes, all initialised with real images. Evaluation networks use the augmentation of the recipe."""

ATTACKS: Mapping[str, DoorpingSettings | None] = {
    "none": None,
    "white": None,
    "random colours": None,
    "doorping": DoorpingSettings(aim="neuron", steps=10, every=10, images=64),
    "to the label": DoorpingSettings(aim="label", stop_below=0.0, steps=10, every=10, images=64),
}
"""Attacks: a white corner, a corner of random colours, or a corner that Doorping optimises during the run."""

_TRUSTED = 0.1
_ROUNDS = 2


def _attack(word: str) -> str:
    require(word in ATTACKS, "attack", f"be among {', '.join(ATTACKS)}", word)
    return word


def _fraction(word: str) -> float:
    require(0 < float(word) < 1, "fraction", "lie strictly between 0 and 1", word)
    return float(word)


def _values(method: str, axis: str, values: Sequence[Any]) -> Sequence[Any]:  # noqa: ARG001
    return [0.0, *values] if axis == "fraction" else values


def _is_scanned(run: RunConfig) -> bool:
    return (run.method, run["attack"], run["fraction"]) in SCANNED


def _keep(run: RunConfig) -> bool:
    """Return whether a run is measured. Runs without an attack, with a poisoned fraction of 0, give the thresholds."""
    if (run["attack"] == "none") != (run["fraction"] == 0):
        return False
    if _is_scanned(run):
        return run["attack"] == "none" or run.seed < CALIBRATION
    white = run["attack"] == "white" and ("dm", "white", run["fraction"]) in SCANNED
    return run.seed < FEW and (run.method == "dm" or white)


def _about(run: RunConfig, config: ExperimentConfig) -> dict[str, Any]:
    """Return the parameters of the method, the attack and the scan of a run."""
    settings = ATTACKS[run["attack"]]
    return {
        "recipe": dataclasses.asdict(METHODS[run.method](config)),
        "attack": None if settings is None else dataclasses.asdict(settings),
        "rounds": None if settings is None else _ROUNDS,
        "trusted": _TRUSTED,
        "scanned": _is_scanned(run),
    }


def measure(run: RunConfig, config: ExperimentConfig, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return accuracy, success rates of the trigger, its colours, the highest scores of the scan, and seconds.

    A tenth of the training images is not distilled and serves as the scanner's trusted clean images.
    """
    began, rng = time.perf_counter(), dd.generator("backdoor", run.seed)
    distilled_part, trusted = train.split(_TRUSTED, dd.generator("trusted"))
    distilled, trigger = _distilled(run, config, distilled_part, rng)
    judge = dataclasses.replace(
        dd.TrainingProtocol.quick(METHODS[run.method](config).protocol(distilled_part).augmentation),
        network_options={"width": config.judge_width},
        epochs=100,
    )
    nets = trained_networks(distilled, judge, config.networks, derive(rng, "judge"))
    test_images = test.batch(torch.arange(len(test))).x
    success = attack_success(nets, test, trigger, TARGET)
    scores = flagged_classes = None
    if _is_scanned(run):
        key = derive(rng, "scan")
        report = scan(distilled, clean=trusted, networks=nets, images=100, inversion=config.inversion, seed=key)
        scores = {name: report.score(name) for name in TESTS}
        flagged_classes = {name: report.highest(name).label for name in TESTS}
    return {
        "calibrates": run.seed >= CALIBRATION,
        "accuracy": sum(accuracy(n, test_images, test.labels) for n in nets) / len(nets),
        "stamped": success.stamped,
        "plain": success.plain,
        "net": success.net,
        "patch": trigger.patch.flatten().tolist(),
        "scores": scores,
        "pointed": flagged_classes,
        "seconds": time.perf_counter() - began,
    }


def _distilled(
    run: RunConfig, config: ExperimentConfig, real: dd.RealData, rng: torch.Generator
) -> tuple[dd.Distilled, Trigger]:
    """Return the distilled set and the trigger for its evaluation, a white corner for a set without an attack."""
    recipe, attack = METHODS[run.method](config), run["attack"]
    make = dd.network_factory("convnet", real.image_shape, real.num_classes, width=config.width)
    colours = None if attack in ("none", "white") else derive(rng, "colours")
    trigger = Trigger.corner(real.image_shape, config.size, colours)
    distillation_rng = derive(rng, "run")
    if attack == "none":
        return dd.distill(recipe, real, make_student=make, seed=distillation_rng), trigger
    poisoned = poison(real, trigger, target=TARGET, fraction=run["fraction"], rng=derive(rng, "poison"))
    settings = ATTACKS[attack]
    if settings is None:
        return dd.distill(recipe, poisoned.data, make_student=make, seed=distillation_rng), trigger
    attacked = distil_doorping(
        recipe,
        poisoned,
        trigger,
        settings=settings,
        make_student=make,
        seed=distillation_rng,
        victims=TrainedVictims(make_student=make),
        rounds=_ROUNDS,
    )
    return attacked.distilled, attacked.trigger


def _reported(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Return the groups without the sets for calibration of thresholds, sorted by method and axes."""
    reported = [group._replace(results=[r for r in group.results if not r["calibrates"]]) for group in groups]
    return sorted((group for group in reported if group.results), key=lambda g: (g.method, *g.at.values()))


def _mean_percent(head: str, key: str) -> Column:
    return Column(head, lambda group: f"{100 * statistics.fmean(r[key] for r in group.results):.1f}")


def _net(group: RunGroup) -> str:
    net = [100 * result["net"] for result in group.results]
    return f"{statistics.fmean(net):.1f}" + (f" ({min(net):.0f} to {max(net):.0f})" if len(net) > 1 else "")


def _points(group: RunGroup) -> list[tuple[float | None, float]]:
    if not group.at["fraction"]:
        return []
    return [(100 * group.at["fraction"], 100 * statistics.fmean(r["net"] for r in group.results))]


HEADS = [
    *("method", "attack", "test", "area under the ROC", "threshold", "found", "found of those that work"),
    *("right class", "honest sets flagged"),
]


def _scans(groups: Sequence[RunGroup]) -> str:
    """Return the table of detection rates of each test of the scan."""
    scanned = [group for group in groups if group.results[0]["scores"] is not None]
    lines = []
    for method in dict.fromkeys(group.method for group in scanned):
        clean = [r for g in scanned if g.method == method and g.at["attack"] == "none" for r in g.results]
        calibration, reported = ([r for r in clean if r["calibrates"] == use] for use in (True, False))
        for group in scanned if calibration and reported else []:
            if group.method == method and group.at["attack"] != "none":
                lines += [
                    [method, group.at["attack"], test, *detection(test, calibration, reported, group.results)]
                    for test in TESTS
                ]
    return markdown_table(HEADS, lines) if lines else ""


def detection(
    test: str, tuned: Sequence[Result], honest: Sequence[Result], attacked: Sequence[Result]
) -> tuple[str, ...]:
    """Return the detection rates of one test as the cells of a table row: ROC AUC, threshold and counts.

    Args:
        test: Name of a test of the scan, one of `TESTS`.
        tuned: Results of clean sets for calibration; their highest score is the threshold.
        honest: Results of the reported clean sets.
        attacked: Results of the sets with an attack.
    """
    clean_scores, attack_scores = ([result["scores"][test] for result in sets] for sets in (honest, attacked))
    threshold = max(result["scores"][test] for result in tuned)
    detected = [result for result in attacked if result["scores"][test] > threshold]
    working, detected_working = (sum(result["net"] >= WORKING for result in sets) for sets in (attacked, detected))
    truth = [0] * len(clean_scores) + [1] * len(attack_scores)
    return (
        f"{roc_auc_score(truth, [*clean_scores, *attack_scores]):.2f}",
        f"{threshold:.2f}",
        f"{len(detected)} of {len(attacked)}",
        f"{detected_working} of {working}",
        str(sum(result["pointed"][test] == TARGET for result in detected)),
        f"{sum(score > threshold for score in clean_scores)} of {len(honest)}",
    )


BENCHMARK = Benchmark(
    prog="python -m benchmarks.backdoor",
    text="Distil poisoned data sets; print success rates of the backdoor triggers and detection rates of scans.",
    config=ExperimentConfig,
    methods=METHODS,
    axes={
        "attack": Axis(",".join(ATTACKS), "Attacks, separated by commas.", _attack),
        "fraction": Axis("0.01,0.05,0.2", "Fractions of poisoned images in 0..1, separated by commas.", _fraction),
    },
    values=_values,
    keep=_keep,
    about=_about,
    measure=measure,
    rows=_reported,
    columns=[
        _mean_percent("accuracy, %", "accuracy"),
        _mean_percent("under the trigger, %", "stamped"),
        _mean_percent("without, %", "plain"),
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
