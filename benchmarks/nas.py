"""`python -m benchmarks.nas`: how well proxies rank architectures, and what they cost."""

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
from benchmarks.kit import Axis, Benchmark, Cell, Column, Group, Loaded, Options, Plot, Result, image_data, value_of
from benchmarks.nas_setting import Parts, Setting
from ddsdk.foundation import canonical_json, readable_json, require, strict_json, write_atomic
from ddsdk_integrations.nas import (
    AnyOf,
    GradientNorm,
    NasWot,
    ParameterCount,
    Proxy,
    Ranking,
    SynFlow,
    distilled_proxy,
    early_stopping,
    edge,
    judge,
    rank_average,
)

_POOL = 24
_IMAGES = 64
LEARNED = 2.0
"""A candidate has learned something where its accuracy is above so many times chance."""


class Work(NamedTuple):
    """The folder of units and sets, and the truth with held-out and test accuracies."""

    folder: Path
    truth: Ranking


@dataclass(frozen=True, kw_only=True)
class Method:
    """A kind of ranking.

    Attributes:
        make: Function from images per class to the recipe or baseline of a set.
        untrained: Function from the images to a proxy that trains nothing.
        early: Function from steps of early stopping to those that are measured; None for none.
        largest: Images per class up to which it is measured with each kind of students, None for no students.
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
    # The truth has several seeds, which tell what is possible: test accuracies of one against those of another, and
    # the same with held-out accuracies, which is early stopping that never stops.
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
    # About the norm that the gradients of the field's ConvNet-3 have at the start.
    "dm-clipped": Method(make=lambda ipc: dataclasses.replace(_dm(ipc), clip_norm=2.0), largest={"many": 50}),
    "dsa": Method(make=_dsa, largest={"one": 10, "many": 10}),
    "rat-bptt": Method(make=_bptt, largest={"one": 10, "many": 10}),
    # Two cheap scores that differ in kind, joined by the mean of their ranks.
    JOINED: Method(early=lambda steps: [min(steps)]),
}
"""Recipes are short runs of what they are, and see no augmentation, for candidates see none."""

STUDENTS: Mapping[str, Callable[[Setting, dd.RealData], Any]] = {
    "one": lambda setting, data: dd.network_factory(
        "convnet", data.image_shape, data.num_classes, width=setting.widths[-2]
    ),
    "many": lambda setting, data: AnyOf(tuple(one.make for one in setting.drawn(data, _POOL, "pool"))),
}
"""The field's ConvNet-3 with instance norm and average pooling, or 24 architectures that are drawn from the space."""


def _students(word: str) -> str:
    require(word in STUDENTS, "students", f"be among {', '.join(STUDENTS)}", word)
    return word


def _values(method: str, axis: str, values: Sequence[Any]) -> Sequence[Any]:
    found = METHODS[method]
    if axis == "early":
        return [None] if found.early is None else found.early(values)
    if found.make is None or (axis == "students" and None in found.largest):
        return [None]
    return values


def _keep(cell: Cell) -> bool:
    method = METHODS[cell.method]
    return method.make is None or cell["ipc"] <= method.largest.get(cell["students"], 0)


def _about(cell: Cell, setting: Setting) -> dict[str, Any]:  # noqa: ARG001
    make = METHODS[cell.method].make
    if make is None:
        return {}
    made = make(cell["ipc"])
    return {"class": type(made).__name__, **dataclasses.asdict(made)}


def _load(options: Options) -> Loaded:
    """Return the parts of the images, and the truth, which is measured first where it is not known."""
    train, test = image_data(options).given
    setting = Setting(**{known.name: getattr(options, known.name) for known in dataclasses.fields(Setting)})
    parts = setting.parts(train, test)
    truth = setting.truth(train, test, parts, options.out)
    told = hashlib.sha256(canonical_json({"scores": truth.scores, "extra": truth.extra})).hexdigest()
    identity = {"train": train.fingerprint, "test": test.fingerprint, "truth": told}
    return Loaded((parts, Work(options.out, truth)), identity)


def measure(cell: Cell, setting: Setting, parts: Parts, work: Work) -> dict[str, Any]:
    """Return a ranking and its verdicts: on all candidates, and on those that learned something.

    Scores are of held-out images, the truth is of test images, so what a proxy and the truth share is the architecture
    alone.
    """
    held_out = work.truth
    truth = held_out.by("test", "truth") if "test" in held_out.extra else held_out
    pair = _pair(cell, setting, parts, work, truth)
    if pair is None:
        return {"all": None, "learned": None}
    by, ranking = pair
    steps, rival = cell["steps"] or cell["early"], None
    if steps and cell.method != EARLY:
        rival = _stopped(steps, setting, parts, work)
    floor = LEARNED / parts.train.num_classes
    learned = sum(value > floor for value in by.means.values())
    return {
        "seed": cell.seed if cell["ipc"] else None,
        "ranking": ranking.to_dict(),
        "all": _judged(by, ranking, rival, None),
        "learned": _judged(by, ranking, rival, floor) if 3 <= learned < len(by.scores) else None,
    }


def _pair(cell: Cell, setting: Setting, parts: Parts, work: Work, truth: Ranking) -> tuple[Ranking, Ranking] | None:
    """Return a truth and a ranking that is judged by it; None where the truth has one seed and two are asked for."""
    if cell.method in (OTHER_SEED, WHOLE):
        if truth.seeds < 2:
            return None
        return truth.seed(0), (truth if cell.method == OTHER_SEED else work.truth).seed(1)
    if cell.method == EARLY:
        return truth, _stopped(cell["early"], setting, parts, work)
    if cell.method == JOINED:
        flow = setting.ranked(SynFlow(parts.train.image_shape), parts, work.folder, "synflow", setting.repeats)
        return truth, rank_average([_stopped(cell["early"], setting, parts, work), flow])
    untrained = METHODS[cell.method].untrained
    proxy = _set_proxy(cell, setting, parts, work.folder) if untrained is None else untrained(parts)
    return truth, setting.ranked(proxy, parts, work.folder, cell.method, setting.repeats)


def _stopped(steps: int, setting: Setting, parts: Parts, work: Work) -> Ranking:
    proxy = early_stopping(parts.train, parts.held_out, evaluation=setting.evaluation, steps=steps)
    return setting.ranked(proxy, parts, work.folder, EARLY, setting.repeats)


def _judged(truth: Ranking, ranking: Ranking, rival: Ranking | None, above: float | None) -> dict[str, Any]:
    rng = dd.generator("nas", "bootstrap")
    verdict = judge(truth, ranking, seed=rng, above=above)
    gain = None if rival is None else edge(truth, ranking, rival, seed=rng, above=above)
    return {**verdict.to_dict(), "total": verdict.total, "edge": None if gain is None or math.isnan(gain[0]) else gain}


def _set_proxy(cell: Cell, setting: Setting, parts: Parts, folder: Path) -> Proxy:
    distilled, seconds = _kept_set(cell, setting, parts.train, folder)
    return distilled_proxy(
        distilled,
        parts.held_out,
        evaluation=setting.evaluation,
        steps=cell["steps"],
        statistics=parts.train,
        seconds=seconds,
        seed=dd.generator("nas", "statistics"),
    )


def _kept_set(cell: Cell, setting: Setting, train: dd.RealData, folder: Path) -> tuple[dd.Distilled, float]:
    """Return the set of a cell with the seconds that it took, made once for all cells that train on it."""
    make = METHODS[cell.method].make
    assert make is not None  # the cell has images per class
    students = cell["students"] or "one"
    told = {**_about(cell, setting), "students": students, "seed": cell.seed, "widths": setting.widths}
    told |= {"space": setting.space, "device": setting.device, "train": train.fingerprint}
    kept = folder / "sets" / hashlib.sha256(canonical_json(told)).hexdigest()[:24]
    if not (kept / "took.json").is_file():
        clock = time.process_time if setting.device == "cpu" else time.perf_counter
        began = clock()
        rng = dd.generator("nas", "set", cell.seed)
        made = dd.distill(make(cell["ipc"]), train, make_student=STUDENTS[students](setting, train), seed=rng)
        took = round(clock() - began, 3)
        made.save(kept)
        write_atomic(kept / "took.json", readable_json({"seconds": took}))
    return dd.Distilled.load(kept), float(strict_json((kept / "took.json").read_bytes())["seconds"])


def at_cost(curve: Sequence[tuple[float, float]], seconds: float) -> float | None:
    """Return the value of a curve at a cost, on lines between its points over the logarithm of the cost.

    Args:
        curve: Points (seconds, value), in any order.
        seconds: Cost.

    Returns:
        The value; None outside of the curve.
    """
    points = sorted(curve)
    for (low, first), (high, second) in itertools.pairwise(points):
        if low <= seconds <= high:
            share = (math.log(seconds) - math.log(low)) / (math.log(high) - math.log(low)) if high > low else 0.0
            return first + share * (second - first)
    return None


def _compared(groups: Sequence[Group]) -> list[Group]:
    """Return a row for each set and proxy, with what early stopping reaches for as many seconds."""
    rows = [
        Group(group.method, group.at, [result])
        for group in groups
        for result in {r.get("seed"): r for r in group.results}.values()
        if result["all"] is not None
    ]
    curves = {
        part: [_cost(row, part) for row in rows if row.method in CURVE and row.results[0][part]] for part in PARTS
    }
    return [row._replace(results=[{**row.results[0], **_at_costs(row, curves)}]) for row in rows]


def _cost(row: Group, part: str) -> tuple[float, float]:
    verdict = row.results[0][part]
    return verdict["total"], verdict["spearman"][0]


def _at_costs(row: Group, curves: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Any]:
    """Return the verdicts of a row with the value of early stopping at its cost, if it is to be compared with that."""
    verdicts = {part: row.results[0][part] for part in PARTS if row.results[0][part]}
    if row.method in (*CURVE, OTHER_SEED):
        return verdicts
    return {part: {**v, "at cost": at_cost(curves[part], v["total"])} for part, v in verdicts.items()}


def _columns(part: str) -> list[Column]:
    """Return the columns of the verdicts on all candidates, or on those that learned."""

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


def _notes(groups: Sequence[Group]) -> str:
    """Return the numbers of candidates, and the table without those that never learned."""
    rows = _compared(groups)
    verdict = rows[0].results[0]["all"]
    text = f"{verdict['candidates']} candidates, of which the top are {verdict['top']}\n"
    learned = [row for row in rows if row.results[0]["learned"] is not None]
    if not learned:
        return text
    of_these = dataclasses.replace(BENCHMARK, columns=_columns("learned"), notes=None)
    count = learned[-1].results[0]["learned"]["candidates"]
    return f"{text}\n{count} candidates whose truth is above {LEARNED:g} times chance\n\n{of_these.table(learned, [])}"


def _points(row: Group) -> list[tuple[float | None, float]]:
    # What costs less than a tenth of a second has no place on the axis.
    return [(max(row.results[0]["all"]["total"], 0.1), row.results[0]["all"]["spearman"][0])]


BENCHMARK = Benchmark(
    prog="python -m benchmarks.nas",
    text="Rank architectures by proxies of all kinds, and judge them by the truth: what networks reach in the end.",
    setting=Setting,
    methods=METHODS,
    axes={
        "ipc": Axis("10,50", "Images per class, separated by commas; slow recipes and herding take part up to 10."),
        "students": Axis("one,many", "Students of recipes: one ConvNet, or many architectures.", _students),
        "steps": Axis("20", "Steps of the training on sets, separated by commas."),
        "early": Axis("5,20,80", "Steps of early stopping, separated by commas."),
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
