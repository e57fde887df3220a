"""`ddsdk curve`: accuracy against CPU seconds of distillation; `ddsdk winners`: the best methods for a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import tyro

from ddsdk import networks
from ddsdk.cli.console import err, out, table
from ddsdk.cli.options import DataOptions, NetworkOptions, names
from ddsdk.foundation import escape_terminal, readable_json, require, require_count, write_atomic
from ddsdk.planning import METHODS, Board, LabelKind, chosen_methods, reached, read_boards, standings

if TYPE_CHECKING:
    from ddsdk.experiments import CurvePoint, CurveTask, RecipeCurve


@dataclass(frozen=True, kw_only=True)
class Curve(NetworkOptions, DataOptions):
    """Plot what methods reach against the CPU seconds that they distil, on held-out training images.

    Each method is paused at some marks, and what it has so far is judged: under the published protocol with a class for
    each image, and under its own protocol where that is another one. Preparation, such as experts, counts; judging does
    not. Methods that are finished are not run again by the same command.

    Attributes:
        out: Folder of the plot (curves.png, curves.svg), the table (curves.md), the figures (curves.json), and of a
            folder for each method with the set of every point.
        recipes: Methods, separated by commas; those with settings for a small machine if empty.
        ipc: Images per class.
        seconds: CPU seconds of distillation at which a method is paused, rising, separated by commas.
        set: A parameter of a method, such as `dm.image_lr=0.5`, above the settings for a small machine. Repeat it for
            others.
        paper: Leave out the settings for a small machine: what is not set stays as the paper has it.
        network: Network of the students; empty for the one that the protocol of each method names, with its options.
            --width, --depth and --norm go above these.
        held_out: Part of the training images that judges, and is not distilled.
        judge_networks: Fresh networks for each judgement.
        judge_epochs: Epochs under the published protocol where that has more; None for all of them. A method's own
            protocol keeps its epochs.
        judge_width: Width of the judging network; None for the protocol's.
        plot: Draw the plot, which needs the extra `bench`.
        seed: Root of every random number.
    """

    out: Path
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
        """Measure what is missing, and write table and plot after each method."""
        from ddsdk.experiments import CurveTask, need_plotting

        require_count("ipc", self.ipc)
        names(self.network, "network", networks.NETWORKS)
        marks = _positive("seconds", self.seconds)
        methods = chosen_methods(names(self.recipes), self.ipc, self.set, paper=self.paper)
        if self.plot:
            need_plotting()
        shared = ("network", "held_out", "seed", "judge_networks", "judge_epochs", "judge_width")
        task = CurveTask(
            train=self.train(),
            seconds=tuple(marks),
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

    def _measure(self, name: str, method: Any, task: CurveTask) -> RecipeCurve:  # noqa: ANN401
        from ddsdk.experiments import measuring

        for progress in measuring(self.out, name, method, task):
            if progress.point is not None:
                out(f"{name}: {_told(progress.point)}")
            curve = progress.curve
        assert curve is not None  # the last progress of every method has it
        if progress.kept:
            out(f"{name}: measured before")
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


def _positive(name: str, text: str) -> list[float]:
    found = []
    for part in names(text):
        try:
            found.append(float(part))
        except ValueError:
            found.append(math.nan)
        require(0 < found[-1] < math.inf, name, "be positive numbers, separated by commas", part)
    return found


def _told(point: CurvePoint) -> str:
    parts: Mapping[str, Any] = {"published": point.published, "own protocol": point.own}
    scores = ", ".join(f"{100 * s.mean:.1f} ({name})" for name, s in parts.items() if s is not None)
    return f"{point.seconds:.1f} s, step {point.step}: {scores}"


@dataclass(frozen=True, kw_only=True)
class Winners:
    """List the choices of `ddsdk distill`: accuracy of each method after so many CPU seconds, the best one first.

    Attributes:
        curves: Files curves.json of `ddsdk curve`; those of the package if not given. The data of the first one stands
            for all that was not measured.
        reach: Accuracy in percent: list the CPU seconds after which each method had a set that is as good.
        out: File to write them to, for `ddsdk distill --measured`.
    """

    curves: tyro.conf.Positional[tuple[Path, ...]] = ()
    reach: float | None = None
    out: Path | None = None

    def run(self) -> int:
        """Print a table for each data set, number of images per class and kind of labels."""
        if self.reach is not None:
            require(0 < self.reach < 100, "reach", "be a percentage between 0 and 100", self.reach)
        boards = read_boards()
        if self.curves:
            from ddsdk.experiments import boards_of, read_curves

            boards = boards_of([curve for path in self.curves for curve in read_curves(path)], METHODS)
        for board in boards:
            for kind in get_args(LabelKind):
                if self.reach is None:
                    _show(board, kind)
                else:
                    _show_times(board, kind, self.reach)
        if self.out is not None:
            write_atomic(self.out, readable_json({"boards": [dataclasses.asdict(board) for board in boards]}))
            out(str(self.out))
        return 0


def _show(board: Board, kind: LabelKind) -> None:
    columns = [{id(entry): accuracy for accuracy, _, entry in standings(board, kind, mark)} for mark in board.marks]
    # By the last mark; a method that has nothing there by the one before, and so on.
    ranked = {id(entry): entry for mark in reversed(board.marks) for _, _, entry in standings(board, kind, mark)}
    rows = [
        (
            escape_terminal(entry.recipe),
            *(f"{100 * column[key]:.1f}" if key in column else "–" for column in columns),
            escape_terminal(", ".join(f"{k}={v}" for k, v in entry.settings.items()), 200),
        )
        for key, entry in ranked.items()
    ]
    title = escape_terminal(f"{board.data}, ipc {board.ipc}, {kind} labels, % on held-out training images")
    table(title, ("method", *(f"{mark:g} s" for mark in board.marks), "settings"), rows)


def _show_times(board: Board, kind: LabelKind, percent: float) -> None:
    rows = [(escape_terminal(entry.recipe), f"{seconds:.0f}") for seconds, entry in reached(board, kind, percent / 100)]
    title = f"{board.data}, ipc {board.ipc}, {kind} labels: {percent:g} % of held-out training images"
    table(escape_terminal(title), ("method", "CPU seconds"), rows)
