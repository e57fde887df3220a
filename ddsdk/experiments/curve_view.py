"""Accuracy-time curves as a markdown table and as a plot."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ddsdk.experiments.curve import CurvePoint, RecipeCurve
from ddsdk.experiments.rendering import empty_figure, markdown_table, mean_text, need_plotting
from ddsdk.foundation import escape_markdown, require
from ddsdk.training import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_COLUMNS: dict[str, Callable[[CurvePoint], Score]] = {
    "published protocol, hard labels": lambda point: point.published,
    "the method's own protocol and labels": lambda point: point.own or point.published,
}
# Hue and line style show the family of a method; shade and marker show the method, and repeat in large families.
_SHADES = {
    "matching": ("#1f4e9c", "#0e8fb0", "#2a9d6f", "#7a6fd0", "#4c9be8", "#0b6b5d", "#5a3d9a", "#6aaa2b"),
    "meta-learning": ("#b5172f", "#e07a1f", "#c2388f", "#8c4a1d", "#d39b00", "#f0615a", "#7c1f57"),
    "selection": ("#555555", "#8a8a8a", "#333333"),
}
_MARKERS = "osD^vPX*<>hp"
_LINES = {"matching": "-", "meta-learning": (0, (5, 1.5)), "selection": ":"}
_SMALLEST_GAP = 0.042
_POINTER = {"arrowstyle": "-", "alpha": 0.4, "linewidth": 0.7, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 5}


def curve_table(curves: Sequence[RecipeCurve]) -> str:
    """Return a markdown table of accuracies, with a row for each method and protocol and a column for each time budget.

    A method that finished early has its last accuracy at all larger time budgets.

    Args:
        curves: Curves with the same time budgets, at least one.
    """
    time_budgets = _time_budgets(curves)
    head = [
        "method",
        "family",
        "judge",
        "protocol",
        "labels",
        *(f"{m:g} s" for m in time_budgets),
        "prepared in",
        "note",
    ]
    rows = []
    for curve in curves:
        for judge, column in zip(("published", "own"), _columns(curve).values(), strict=False):
            scores = [None if point is None else column(point) for point in map(curve.at, time_budgets)]
            first = next(filter(None, scores), None)
            conditions = ["–", "–"] if first is None else [first.protocol, first.labels or "as stored"]
            accuracies = [mean_text(() if score is None else score.accuracies, scale=100) for score in scores]
            cells = [curve.recipe, curve.family, judge, *conditions, *accuracies]
            rows.append([escape_markdown(c) for c in [*cells, f"{curve.prepared:.0f} s", curve.note]])
    return markdown_table(head, rows)


def curve_picture(curves: Sequence[RecipeCurve], form: str = "png") -> bytes:
    """Return a plot of accuracy against CPU seconds, with a line for each method and its name at the end.

    If a method has its own protocol, each protocol has a panel. A dotted line continues the last accuracy of a method
    that finished early. Sets that took less than a quarter of the first time budget are drawn at the left edge.

    Args:
        curves: Curves with the same time budgets, at least one of them with a point.
        form: File format of the plot, ``"png"`` or ``"svg"``.

    Returns:
        Content of the file. The same curves give the same SVG bytes.
    """
    need_plotting()
    import matplotlib

    time_budgets, drawn = _time_budgets(curves), [curve for curve in curves if curve.points]
    require(bool(drawn), "curves", "have a point in at least one curve", [curve.recipe for curve in curves])
    columns = _columns(*drawn)
    # Without a fixed salt and with a date, each SVG of the same curves would be a different file.
    with matplotlib.rc_context({"svg.hashsalt": "ddsdk", "font.size": 10, "svg.fonttype": "none"}):
        figure = empty_figure(8.5 * len(columns), 6.5)
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, (title, column) in zip(panels, columns.items(), strict=True):
            _panel(axes, title, column, drawn, time_budgets)
        figure.draw_without_rendering()
        for axes, column in zip(panels, columns.values(), strict=True):
            _label_ends(axes, column, drawn, _last_second(drawn, time_budgets))
        panels[0].set_ylabel("accuracy on held-out training images, %")
        figure.suptitle(f"{_title(drawn[0])}\n{_legend(drawn)}", fontsize=11)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, dpi=130, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def _time_budgets(curves: Sequence[RecipeCurve]) -> list[float]:
    require(bool(curves), "curves", "hold at least one curve", list(curves))
    time_budgets = [list(curve.conditions["seconds"]) for curve in curves]
    require(all(b == time_budgets[0] for b in time_budgets), "curves", "have the same time budgets", time_budgets)
    return time_budgets[0]


def _columns(*curves: RecipeCurve) -> dict[str, Callable[[CurvePoint], Score]]:
    own_protocols = any(point.own for curve in curves for point in curve.points)
    return dict(list(_COLUMNS.items())[: 2 if own_protocols else 1])


def _title(curve: RecipeCurve) -> str:
    conditions, ipc = curve.conditions, curve.conditions["parameters"].get("ipc")
    images = "" if ipc is None else f", {ipc} image{'s' if ipc != 1 else ''} per class"
    options = "".join(f", {k} {v}" for k, v in conditions["network_options"].items())
    network = conditions["network"] or "network of each protocol"
    return f"{conditions['data']['name']}{images}; students: {network}{options}"


def _legend(curves: Sequence[RecipeCurve]) -> str:
    lines = {"matching": "solid, cool", "meta-learning": "dashed, warm", "selection": "grey"}
    return "; ".join(f"{lines[name]}: {name}" for name in lines if name in {c.family for c in curves})


def _style(curve: RecipeCurve, curves: Sequence[RecipeCurve]) -> dict[str, Any]:
    index = [c.recipe for c in curves if c.family == curve.family].index(curve.recipe)
    shades, sizes = _SHADES[curve.family], {"markersize": 6.5, "linewidth": 1.7}
    color, marker = shades[index % len(shades)], _MARKERS[index % len(_MARKERS)]
    return {"color": color, "marker": marker, "linestyle": _LINES[curve.family], **sizes}


def _panel(
    axes: Axes,
    title: str,
    column: Callable[[CurvePoint], Score],
    curves: Sequence[RecipeCurve],
    time_budgets: Sequence[float],
) -> None:
    from matplotlib.ticker import NullLocator

    seconds = [point.seconds for curve in curves for point in curve.points]
    left, right = max(time_budgets[0] / 4, min(time_budgets[0], *seconds)), _last_second(curves, time_budgets)
    for curve in curves:
        x = [max(point.seconds, left) for point in curve.points]
        y = [100 * column(point).mean for point in curve.points]
        spread = [100 * column(point).std for point in curve.points]
        style = _style(curve, curves)
        axes.plot(x, y, **style)
        axes.errorbar(x, y, spread, fmt="none", ecolor=style["color"], elinewidth=1, alpha=0.4)
        if curve.ended:
            axes.plot([x[-1], right], [y[-1]] * 2, color=style["color"], linestyle=(0, (1, 3)), linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("CPU seconds of distillation")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(time_budgets, [f"{time_budget:g}" for time_budget in time_budgets])
    axes.set_title(title, fontsize=11)
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _last_second(curves: Sequence[RecipeCurve], time_budgets: Sequence[float]) -> float:
    return max(time_budgets[-1], *(point.seconds for curve in curves for point in curve.points))


def _label_ends(axes: Axes, column: Callable[[CurvePoint], Score], curves: Sequence[RecipeCurve], right: float) -> None:
    """Write the name and the last accuracy of each method beside the right edge, close to the end of its line."""
    low, high = axes.get_ylim()
    ends = sorted((100 * column(curve.points[-1]).mean, i) for i, curve in enumerate(curves))
    heights = spread_out([(end - low) / (high - low) for end, _ in ends], _SMALLEST_GAP)
    for (end, i), height in zip(ends, heights, strict=True):
        curve, style = curves[i], _style(curves[i], curves)
        last = right if curve.ended else curve.points[-1].seconds
        axes.annotate(
            f"{curve.recipe}  {end:.1f}",
            xy=(last, end),
            xytext=(1.03, height),
            textcoords="axes fraction",
            color=style["color"],
            verticalalignment="center",
            annotation_clip=False,
            arrowprops={**_POINTER, "color": style["color"]},
        )


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """Return label positions that are at least `gap` apart and close to the given heights.

    Labels that would overlap are centred on their mean height. The highest position is at most 1; labels below it move
    down if necessary.

    Args:
        heights: Wanted positions in increasing order, as fractions of the axis.
        gap: Smallest distance of two labels, as a fraction of the axis.
    """
    groups: list[tuple[float, int]] = []
    for height in heights:
        middle, count = height, 1
        while groups and middle - groups[-1][0] < gap * (count + groups[-1][1]) / 2:
            lower_middle, lower_count = groups.pop()
            total = lower_count + count
            middle, count = (lower_middle * lower_count + middle * count) / total, total
        groups.append((middle, count))
    positions = [middle + gap * (i - (count - 1) / 2) for middle, count in groups for i in range(count)]
    return [min(position, 1 - gap * above) for above, position in enumerate(reversed(positions))][::-1]
