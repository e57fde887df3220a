"""`ddsdk curve`: accuracy against CPU seconds of distillation; `ddsdk winners`: ranking of methods by time budget."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro

from ddsdk.cli.console import err, out, table
from ddsdk.cli.options import DataOptions, NetworkOptions, chosen_networks, names
from ddsdk.foundation import escape_terminal, readable_json, require, require_count, write_atomic
from ddsdk.planning import (
    METHODS,
    LabelKind,
    Leaderboard,
    configured_methods,
    ranked_methods,
    read_leaderboards,
    times_to_accuracy,
)

if TYPE_CHECKING:
    from ddsdk.experiments import CurveConfig, CurvePoint, RecipeCurve


@dataclass(frozen=True, kw_only=True)
class Curve(NetworkOptions, DataOptions):
    """Plot the accuracy of methods against the CPU seconds of distillation, or of sets against bytes.

    Each method is paused at every time budget and its current set is evaluated on held-out training images: with hard
    labels under the published protocol, and under the method's own protocol if that is different. Training of experts
    or teachers counts as distillation, evaluation does not. A repeated command measures only missing methods.

    With --by bytes, distilled sets are compressed to several numbers of bytes as by `ddsdk compress`. One half of the
    held-out images chooses the codec, the other half measures. Sets of one method share a line.

    Attributes:
        out: Folder of the plot (curves.png, curves.svg), the table (curves.md), the measurements (curves.json) and the
            distilled sets of each method; with --by bytes of bytes.png, bytes.svg, bytes.md and bytes.json.
        by: Axis of the plot: seconds of distillation, or bytes of compressed sets.
        sets: Folders of distilled sets, for --by bytes.
        bytes: Numbers of bytes, increasing and separated by commas, for --by bytes.
        codecs: Codecs to try for --by bytes, separated by commas. Default: all of `ddsdk compress`.
        recipes: Names of the methods, separated by commas. Default: all methods with settings for a small machine.
        ipc: Images per class of the distilled sets.
        seconds: Time budgets in CPU seconds, increasing and separated by commas.
        set: Parameter of a method, such as `dm.image_lr=0.5`, that overrides the settings for a small machine. The
            option may be repeated.
        paper: Whether methods use their papers' default parameters instead of the settings for a small machine.
        network: Student network. Default: the network of each method's protocol, with its options. --width, --depth and
            --norm override these options.
        held_out: Fraction of the training images that is used for evaluation and not distilled.
        judge_networks: Number of networks trained for each accuracy.
        judge_epochs: Maximum number of epochs under the published protocol. None: all epochs of the protocol. A
            method's own protocol always keeps its number of epochs.
        judge_width: Width of the evaluation network. None: the width of the protocol.
        plot: Whether the plot is drawn; needs matplotlib (extra `bench`).
        seed: Seed of all random numbers.
    """

    out: Path
    by: Literal["seconds", "bytes"] = "seconds"
    sets: tuple[Path, ...] = ()
    bytes: str = "980,1960,3920,7840"
    codecs: str = ""
    recipes: str = ""
    ipc: int = 1
    seconds: str = "30,60,120,240"
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    paper: bool = False
    network: str = ""
    held_out: float = 0.1
    judge_networks: int = 1
    judge_epochs: int | None = 300
    judge_width: int | None = 64
    plot: bool = True
    seed: int = 0

    def run(self) -> int:
        """Return exit code 0 after measuring the missing methods. Table and plot are written after each method."""
        from ddsdk.experiments import CurveConfig, need_plotting

        require(
            bool(self.sets) == (self.by == "bytes"), "sets", "be given with --by bytes, and only with it", self.sets
        )
        if self.by == "bytes":
            return self._by_bytes()
        require_count("ipc", self.ipc)
        chosen_networks("network", self.network, imports=False)
        time_budgets = _positive_numbers("seconds", self.seconds)
        methods = configured_methods(names(self.recipes), self.ipc, self.set, paper=self.paper)
        if self.plot:
            need_plotting()
        shared = ("network", "held_out", "seed", "judge_networks", "judge_epochs", "judge_width")
        task = CurveConfig(
            train=self.train(),
            seconds=tuple(time_budgets),
            network_options=self.network_options(),
            **{name: getattr(self, name) for name in shared},
        )
        curves: list[RecipeCurve] = []
        for name, method in methods.items():
            curves.append(self._measure(name, method, task))
            self._write(curves)
        for suffix in ("json", "md", *(("png", "svg") if self.plot else ())):
            if (self.out / f"curves.{suffix}").exists():
                out(str(self.out / f"curves.{suffix}"))
        return 0

    def _by_bytes(self) -> int:
        from ddsdk import artefact, experiments, judging

        if self.plot:
            experiments.need_plotting()
        config = experiments.ByteCurveConfig(
            train=self.train(),
            budgets=tuple(int(number) for number in _positive_numbers("bytes", self.bytes)),
            held_out=self.held_out,
            seed=self.seed,
            families=tuple(names(self.codecs)) or judging.CODEC_FAMILIES,
            cost=experiments.EvaluationCost(
                networks=self.judge_networks, epochs=self.judge_epochs, width=self.judge_width
            ),
        )
        points = []
        for point in experiments.measure_bytes(self.out, [artefact.Distilled.load(s) for s in self.sets], config):
            accuracy = f"{100 * point.mean:.1f} %, {point.codec}" if point.accuracies else "no form is small enough"
            out(f"{escape_terminal(point.recipe)} in {point.budget} bytes: {accuracy}")
            points.append(point)
        values = {"points": [dataclasses.asdict(point) for point in points]}
        write_atomic(self.out / "bytes.json", readable_json(values))
        write_atomic(self.out / "bytes.md", experiments.byte_table(points).encode())
        if self.plot and any(point.accuracies for point in points):
            for form in ("png", "svg"):
                experiments.draw_byte_curves(points, self.out / f"bytes.{form}")
        out(str(self.out / "bytes.md"))
        return 0

    def _measure(self, name: str, method: Any, task: CurveConfig) -> RecipeCurve:  # noqa: ANN401
        from ddsdk.experiments import measure_curve

        for progress in measure_curve(self.out, name, method, task):
            if progress.point is not None:
                out(f"{name}: {_point_text(progress.point)}")
            curve = progress.curve
        assert curve is not None  # set in the last progress of every method
        if progress.kept:
            out(f"{name}: already measured")
        if curve.note:
            err(f"{name}: {curve.note}")
        return curve

    def _write(self, curves: Sequence[RecipeCurve]) -> None:
        from ddsdk.experiments import curve_picture, curve_table

        values = {"curves": [dataclasses.asdict(curve) for curve in curves]}
        write_atomic(self.out / "curves.json", readable_json(values))
        write_atomic(self.out / "curves.md", curve_table(curves).encode())
        if self.plot and any(curve.points for curve in curves):
            for form in ("png", "svg"):
                write_atomic(self.out / f"curves.{form}", curve_picture(curves, form))


def _positive_numbers(name: str, text: str) -> list[float]:
    numbers = []
    for part in names(text):
        try:
            numbers.append(float(part))
        except ValueError:
            numbers.append(math.nan)
        require(0 < numbers[-1] < math.inf, name, "be positive numbers, separated by commas", part)
    return numbers


def _point_text(point: CurvePoint) -> str:
    scores: Mapping[str, Any] = {"published protocol": point.published, "own protocol": point.own}
    accuracies = ", ".join(f"{100 * s.mean:.1f} % ({name})" for name, s in scores.items() if s is not None)
    return f"{point.seconds:.1f} s, step {point.step}: accuracy {accuracies}"


@dataclass(frozen=True, kw_only=True)
class Winners:
    """Rank the methods by their measured accuracy at each time budget. `ddsdk distill` chooses from this ranking.

    Attributes:
        curves: Files curves.json of `ddsdk curve`. Default: the measurements in the package. `ddsdk distill` takes the
            data set of the first file in place of one without measurements.
        reach: Accuracy in percent. The table then has the CPU seconds that each method needs to reach it.
        out: JSON file to write the ranking to, for `ddsdk distill --measured`. None: no file.
    """

    curves: tyro.conf.Positional[tuple[Path, ...]] = ()
    reach: float | None = None
    out: Path | None = None

    def run(self) -> int:
        """Return exit code 0 after printing a table for each data set, number of images per class and label kind."""
        if self.reach is not None:
            require(0 < self.reach < 100, "reach", "be a percentage between 0 and 100", self.reach)
        leaderboards = read_leaderboards()
        if self.curves:
            from ddsdk.experiments import leaderboards_of, read_curves

            leaderboards = leaderboards_of([curve for path in self.curves for curve in read_curves(path)], METHODS)
        for leaderboard in leaderboards:
            for kind in get_args(LabelKind):
                if self.reach is None:
                    _show_accuracies(leaderboard, kind)
                else:
                    _show_times(leaderboard, kind, self.reach)
        if self.out is not None:
            write_atomic(
                self.out,
                readable_json({"leaderboards": [dataclasses.asdict(leaderboard) for leaderboard in leaderboards]}),
            )
            out(str(self.out))
        return 0


def _show_accuracies(leaderboard: Leaderboard, kind: LabelKind) -> None:
    columns = [
        {id(entry): accuracy for accuracy, _, entry in ranked_methods(leaderboard, kind, time_budget)}
        for time_budget in leaderboard.time_budgets
    ]
    # Methods are ordered by their accuracy at the largest time budget at which they have one.
    ranked = {
        id(entry): entry
        for time_budget in reversed(leaderboard.time_budgets)
        for _, _, entry in ranked_methods(leaderboard, kind, time_budget)
    }
    rows = [
        (
            escape_terminal(entry.recipe),
            *(f"{100 * column[key]:.1f}" if key in column else "–" for column in columns),
            escape_terminal(", ".join(f"{k}={v}" for k, v in entry.settings.items()), 200),
        )
        for key, entry in ranked.items()
    ]
    title = escape_terminal(f"{leaderboard.data}, ipc {leaderboard.ipc}, {kind} labels, % on held-out training images")
    table(title, ("method", *(f"{time_budget:g} s" for time_budget in leaderboard.time_budgets), "settings"), rows)


def _show_times(leaderboard: Leaderboard, kind: LabelKind, percent: float) -> None:
    rows = [
        (escape_terminal(entry.recipe), f"{seconds:.0f}")
        for seconds, entry in times_to_accuracy(leaderboard, kind, percent / 100)
    ]
    title = f"{leaderboard.data}, ipc {leaderboard.ipc}, {kind} labels: {percent:g} % of held-out training images"
    table(escape_terminal(title), ("method", "CPU seconds"), rows)
