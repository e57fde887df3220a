"""`python -m benchmarks.nas`: rank correlation and cost of proxies for architecture search."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import ddsdk as dd
from benchmarks.kit import (
    Axis,
    Benchmark,
    Column,
    Loaded,
    Options,
    Plot,
    Result,
    RunConfig,
    RunGroup,
    image_data,
    value_of,
)
from benchmarks.nas_setting import ExperimentConfig, Parts
from ddsdk.foundation import canonical_json, inner_folder, readable_json, require, strict_json, write_atomic
from ddsdk_integrations.nas import (
    GradientNorm,
    NasWot,
    ParameterCount,
    Proxy,
    RandomArchitecture,
    Ranking,
    SynFlow,
    correlation_gain,
    distilled_proxy,
    early_stopping,
    judge_ranking,
    rank_average,
)

_POOL = 24
_IMAGES = 64
LEARNED = 2.0
"""Multiple of the chance accuracy above which a candidate counts as having learned."""


class Work(NamedTuple):
    """Stored work and ground truth.

    Attributes:
        folder: Folder of work units and distilled sets.
        truth: Ground truth, with validation accuracies as scores and, if measured, test accuracies.
    """

    folder: Path
    truth: Ranking


@dataclass(frozen=True, kw_only=True)
class Method:
    """Kind of ranking.

    Attributes:
        make: Function from images per class to the recipe or baseline of a training set; None for no set.
        untrained: Function from the images to a training-free proxy; None for a proxy with training.
        early: Function from the numbers of steps of early stopping to the measured ones; None without early stopping.
        largest: Largest number of images per class for each kind of students; the key None is for no students.
    """

    make: Callable[[int], Any] | None = None
    untrained: Callable[[Parts], Proxy] | None = None
    early: Callable[[Sequence[int]], Sequence[int]] | None = None
    largest: Mapping[str | None, int] = field(default_factory=dict)


def _batch(parts: Parts) -> dd.Batch:
    return parts.train.mixed(_IMAGES, dd.generator("nas", "untrained"))


def _dm(ipc: int) -> dd.DM:
    return dd.DM(ipc=ipc, steps=300, real_batch=64, augmentation="", image_lr=0.1 * ipc)


def _dsa(ipc: int) -> dd.DSA:
    return dd.DSA(ipc=ipc, students=20, steps_per_student=10, student_epochs=2, real_batch=64, augmentation="")


def _bptt(ipc: int) -> dd.RaTBPTT:
    return dd.RaTBPTT(
        ipc=ipc, steps=150, student_steps=20, window=5, student_lr=3e-3, image_lr=0.01, real_batch=256, augmentation=""
    )


EARLY, WHOLE, OTHER_SEED, JOINED = (
    "early stopping",
    "whole training",
    "truth of another seed",
    "early stopping + synflow",
)

CURVE = (EARLY, WHOLE)
PARTS = ("all", "learned")

METHODS: Mapping[str, Method] = {
    # The agreement of two seeds of the ground truth is an upper bound: test accuracies against test accuracies, and
    # test accuracies against validation accuracies, which is early stopping after the whole training.
    OTHER_SEED: Method(),
    "parameters": Method(untrained=lambda _: ParameterCount()),
    "synflow": Method(untrained=lambda parts: SynFlow(parts.train.image_shape)),
    "naswot": Method(untrained=lambda parts: NasWot(_batch(parts).x)),
    "gradient norm": Method(untrained=lambda parts: GradientNorm(_batch(parts))),
    EARLY: Method(early=lambda steps: steps),
    WHOLE: Method(),
    "random": Method(make=lambda ipc: dd.BASELINES["random"](ipc=ipc), largest={None: 50}),
    "herding": Method(make=lambda ipc: dd.BASELINES["herding"](ipc=ipc), largest={None: 10}),
    "dm": Method(make=_dm, largest={"one": 50, "many": 10}),
    # The bound is about the initial gradient norm of the usual ConvNet-3.
    "dm-clipped": Method(make=lambda ipc: dataclasses.replace(_dm(ipc), clip_norm=2.0), largest={"many": 50}),
    "dsa": Method(make=_dsa, largest={"one": 10, "many": 10}),
    "rat-bptt": Method(make=_bptt, largest={"one": 10, "many": 10}),
    # Mean of the ranks of two cheap and different proxies.
    JOINED: Method(early=lambda steps: [min(steps)]),
}
"""Rankings by name. Recipes have few steps and no augmentation, because candidates train without augmentation."""

STUDENTS: Mapping[str, Callable[[ExperimentConfig, dd.RealData], Any]] = {
    "one": lambda config, data: dd.network_factory(
        "convnet", data.image_shape, data.num_classes, width=config.widths[-2]
    ),
    "many": lambda config, data: RandomArchitecture(
        tuple(candidate.make for candidate in config.drawn(data, _POOL, "pool"))
    ),
}
"""Students: the usual ConvNet-3 with instance norm and average pooling, or 24 architectures of the search space."""


def _students(word: str) -> str:
    require(word in STUDENTS, "students", f"be among {', '.join(STUDENTS)}", word)
    return word


def _values(method: str, axis: str, values: Sequence[Any]) -> Sequence[Any]:
    ranking = METHODS[method]
    if axis == "early":
        return [None] if ranking.early is None else ranking.early(values)
    if ranking.make is None or (axis == "students" and None in ranking.largest):
        return [None]
    return values


def _keep(run: RunConfig) -> bool:
    method = METHODS[run.method]
    return method.make is None or run["ipc"] <= method.largest.get(run["students"], 0)


def _about(run: RunConfig, config: ExperimentConfig) -> dict[str, Any]:  # noqa: ARG001
    make = METHODS[run.method].make
    if make is None:
        return {}
    recipe = make(run["ipc"])
    return {"class": type(recipe).__name__, **dataclasses.asdict(recipe)}


def _load(options: Options) -> Loaded:
    """Return the parts of the images and the ground truth, which is measured first if it is missing."""
    train, test = image_data(options).given
    config = ExperimentConfig(
        **{setting.name: getattr(options, setting.name) for setting in dataclasses.fields(ExperimentConfig)}
    )
    parts = config.parts(train, test)
    truth = config.truth(train, test, parts, options.out)
    truth_hash = hashlib.sha256(canonical_json({"scores": truth.scores, "extra": truth.extra})).hexdigest()
    identity = {"train": train.fingerprint, "test": test.fingerprint, "truth": truth_hash}
    return Loaded((parts, Work(options.out, truth)), identity)


def measure(run: RunConfig, config: ExperimentConfig, parts: Parts, work: Work) -> dict[str, Any]:
    """Return a ranking and its rank correlations with the ground truth, for all candidates and for those that learned.

    Proxies score by validation images and the ground truth has test images, so that they share no images.
    """
    held_out = work.truth
    truth = held_out.by("test", "truth") if "test" in held_out.extra else held_out
    pair = _pair(run, config, parts, work, truth)
    if pair is None:
        return {"all": None, "learned": None}
    truth, ranking = pair
    steps, baseline = run["steps"] or run["early"], None
    if steps and run.method != EARLY:
        baseline = _stopped(steps, config, parts, work)
    floor = LEARNED / parts.train.num_classes
    learned = sum(value > floor for value in truth.means.values())
    return {
        "seed": run.seed if run["ipc"] else None,
        "ranking": ranking.to_dict(),
        "all": _verdict(truth, ranking, baseline, None),
        "learned": _verdict(truth, ranking, baseline, floor) if 3 <= learned < len(truth.scores) else None,
    }


def _pair(
    run: RunConfig, config: ExperimentConfig, parts: Parts, work: Work, truth: Ranking
) -> tuple[Ranking, Ranking] | None:
    """Return a ground truth and the ranking to compare; None if the ground truth lacks a second seed for it."""
    if run.method in (OTHER_SEED, WHOLE):
        if truth.seeds < 2:
            return None
        return truth.seed(0), (truth if run.method == OTHER_SEED else work.truth).seed(1)
    if run.method == EARLY:
        return truth, _stopped(run["early"], config, parts, work)
    if run.method == JOINED:
        synflow = config.ranked(SynFlow(parts.train.image_shape), parts, work.folder, "synflow", config.repeats)
        return truth, rank_average([_stopped(run["early"], config, parts, work), synflow])
    untrained = METHODS[run.method].untrained
    proxy = _set_proxy(run, config, parts, work.folder) if untrained is None else untrained(parts)
    return truth, config.ranked(proxy, parts, work.folder, run.method, config.repeats)


def _stopped(steps: int, config: ExperimentConfig, parts: Parts, work: Work) -> Ranking:
    proxy = early_stopping(parts.train, parts.held_out, protocol=config.protocol, steps=steps)
    return config.ranked(proxy, parts, work.folder, EARLY, config.repeats)


def _verdict(truth: Ranking, ranking: Ranking, baseline: Ranking | None, above: float | None) -> dict[str, Any]:
    rng = dd.generator("nas", "bootstrap")
    verdict = judge_ranking(truth, ranking, seed=rng, above=above)
    gain = None if baseline is None else correlation_gain(truth, ranking, baseline, seed=rng, above=above)
    return {**verdict.to_dict(), "total": verdict.total, "edge": None if gain is None or math.isnan(gain[0]) else gain}


def _set_proxy(run: RunConfig, config: ExperimentConfig, parts: Parts, folder: Path) -> Proxy:
    distilled, seconds = _cached_set(run, config, parts.train, folder)
    return distilled_proxy(
        distilled,
        parts.held_out,
        protocol=config.protocol,
        steps=run["steps"],
        statistics=parts.train,
        seconds=seconds,
        seed=dd.generator("nas", "statistics"),
    )


def _cached_set(
    run: RunConfig, config: ExperimentConfig, train: dd.RealData, folder: Path
) -> tuple[dd.Distilled, float]:
    """Return the distilled set of a run and the seconds of its distillation, cached for runs with an equal set."""
    make = METHODS[run.method].make
    assert make is not None  # runs with images per class have a recipe
    students = run["students"] or "one"
    conditions = {**_about(run, config), "students": students, "seed": run.seed, "widths": config.widths}
    conditions |= {"space": config.space, "device": config.device, "train": train.fingerprint}
    set_folder = inner_folder(folder, "sets", hashlib.sha256(canonical_json(conditions)).hexdigest()[:24])
    if not (set_folder / "took.json").is_file():
        clock = time.process_time if config.device == "cpu" else time.perf_counter
        began = clock()
        rng = dd.generator("nas", "set", run.seed)
        distilled = dd.distill(make(run["ipc"]), train, make_student=STUDENTS[students](config, train), seed=rng)
        seconds = round(clock() - began, 3)
        distilled.save(set_folder)
        write_atomic(set_folder / "took.json", readable_json({"seconds": seconds}))
    return dd.Distilled.load(set_folder), float(strict_json((set_folder / "took.json").read_bytes())["seconds"])


def at_cost(curve: Sequence[tuple[float, float]], seconds: float) -> float | None:
    """Return the value of a curve at a cost by linear interpolation in the logarithm of the cost; None outside of it.

    Args:
        curve: Points (seconds, value) of the curve, in any order.
        seconds: Cost in seconds to interpolate at.
    """
    points = sorted(curve)
    for (low, first), (high, second) in itertools.pairwise(points):
        if low <= seconds <= high:
            weight = (math.log(seconds) - math.log(low)) / (math.log(high) - math.log(low)) if high > low else 0.0
            return first + weight * (second - first)
    return None


def _compared(groups: Sequence[RunGroup]) -> list[RunGroup]:
    """Return a row for each set and proxy, with the correlation of early stopping at equal cost."""
    rows = [
        RunGroup(group.method, group.at, [result])
        for group in groups
        for result in {r.get("seed"): r for r in group.results}.values()
        if result["all"] is not None
    ]
    curves = {
        part: [_cost(row, part) for row in rows if row.method in CURVE and row.results[0][part]] for part in PARTS
    }
    return [row._replace(results=[{**row.results[0], **_at_costs(row, curves)}]) for row in rows]


def _cost(row: RunGroup, part: str) -> tuple[float, float]:
    verdict = row.results[0][part]
    return verdict["total"], verdict["spearman"][0]


def _at_costs(row: RunGroup, curves: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Any]:
    """Return the verdicts of a row, with the correlation of early stopping at its cost except for upper bounds."""
    verdicts = {part: row.results[0][part] for part in PARTS if row.results[0][part]}
    if row.method in (*CURVE, OTHER_SEED):
        return verdicts
    return {part: {**v, "at cost": at_cost(curves[part], v["total"])} for part, v in verdicts.items()}


def _columns(part: str) -> list[Column]:
    """Return the columns for the part ``"all"`` or ``"learned"`` of the candidates."""

    def column(head: str, text: Callable[[Result], str]) -> Column:
        return Column(head, lambda row: text(row.results[0][part]))

    return [
        value_of("seed", "seed"),
        column("Spearman, all", lambda v: _interval(v["spearman"])),
        column("Kendall, all", lambda v: _interval(v["kendall"])),
        column("Spearman, top", lambda v: _interval(v["top_spearman"])),
        column("Kendall, top", lambda v: _interval(v["top_kendall"])),
        column("regret", lambda v: f"{100 * v['regret']:.2f}"),
        column("regret of 5", lambda v: f"{100 * v['regret_of_five']:.2f}"),
        column("seconds", lambda v: f"{v['seconds']:.0f}"),
        column("set, s", lambda v: f"{v['before']:.0f}" if v["before"] else "–"),
        column("early stopping at that cost", lambda v: "–" if v.get("at cost") is None else f"{v['at cost']:.2f}"),
        column("edge over as many steps", lambda v: _interval(v["edge"], sign="+")),
    ]


def _interval(value: Sequence[float] | None, sign: str = "") -> str:
    if value is None or value[0] is None:
        return "–"
    middle, low, high = value
    return f"{middle:{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f})"


def _notes(groups: Sequence[RunGroup]) -> str:
    """Return the number of candidates and the table for the candidates that learned."""
    rows = _compared(groups)
    verdict = rows[0].results[0]["all"]
    text = f"{verdict['candidates']} candidates, {verdict['top']} of them in the top group\n"
    learned = [row for row in rows if row.results[0]["learned"] is not None]
    if not learned:
        return text
    benchmark = dataclasses.replace(BENCHMARK, columns=_columns("learned"), notes=None)
    count = learned[-1].results[0]["learned"]["candidates"]
    title = f"{count} candidates with a true accuracy above {LEARNED:g} times chance"
    return f"{text}\n{title}\n\n{benchmark.table(learned, [])}"


def _points(row: RunGroup) -> list[tuple[float | None, float]]:
    # The logarithmic axis starts at a tenth of a second.
    return [(max(row.results[0]["all"]["total"], 0.1), row.results[0]["all"]["spearman"][0])]


BENCHMARK = Benchmark(
    prog="python -m benchmarks.nas",
    text="Rank architectures by proxies; compare the rankings with the test accuracies after the whole training.",
    config=ExperimentConfig,
    methods=METHODS,
    axes={
        "ipc": Axis("10,50", "Images per class, separated by commas; slow recipes and herding have at most 10."),
        "students": Axis("one,many", "Students of recipes: one ConvNet, or many architectures.", _students),
        "steps": Axis("20", "Numbers of training steps on distilled sets, separated by commas."),
        "early": Axis("5,20,80", "Numbers of training steps of early stopping, separated by commas."),
    },
    values=_values,
    keep=_keep,
    about=_about,
    load=_load,
    measure=measure,
    rows=_compared,
    columns=_columns("all"),
    notes=_notes,
    line=lambda r: "no second seed" if r["all"] is None else _interval(r["all"]["spearman"]),
    plot=Plot(
        "cost.png",
        _points,
        "seconds of all candidates, with those of the set",
        "Spearman's correlation with the truth",
        log_x=True,
        joined=False,
        name=lambda row: EARLY if row.method == WHOLE else ", ".join(filter(None, [row.method, row.at["students"]])),
    ),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
