"""A table in markdown and a picture of measured curves."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ddsdk.experiments.curve import CurvePoint, RecipeCurve
from ddsdk.experiments.pages import empty_figure, markdown_table, mean_text, need_plotting
from ddsdk.foundation import escape_markdown, require
from ddsdk.training import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_COLUMNS: dict[str, Callable[[CurvePoint], Score]] = {
    "published protocol, a class for each image": lambda point: point.published,
    "the method's own protocol and labels": lambda point: point.own or point.published,
}
# Hues tell families apart, shades and markers the methods of one; both go round where there are more.
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
    """Return a markdown table with a row for each method and protocol, and a column for each mark.

    A method that was done before a mark has there what it had at its end.
    """
    marks = _marks(curves)
    head = ["method", "family", "judge", "protocol", "labels", *(f"{m:g} s" for m in marks), "prepared in", "note"]
    rows = []
    for curve in curves:
        for judged, column in zip(("published", "own"), _columns(curve).values(), strict=False):
            scores = [None if point is None else column(point) for point in map(curve.at, marks)]
            known = next(filter(None, scores), None)
            about = ["–", "–"] if known is None else [known.protocol, known.labels or "as stored"]
            accuracies = [mean_text(() if score is None else score.accuracies, scale=100) for score in scores]
            cells = [curve.recipe, curve.family, judged, *about, *accuracies]
            rows.append([escape_markdown(c) for c in [*cells, f"{curve.prepared:.0f} s", curve.note]])
    return markdown_table(head, rows)


def curve_picture(curves: Sequence[RecipeCurve], form: str = "png") -> bytes:
    """Draw accuracy against CPU seconds, one line for each method with its name at the end.

    There is a panel for each protocol where some method has one of its own. A dotted line holds the last set of a
    method that was done before the last mark. A set that took less than a quarter of the first mark stands at the left
    edge.

    Args:
        curves: Curves with the same marks, at least one of them with a point.
        form: png or svg.
    """
    need_plotting()
    import matplotlib

    marks, drawn = _marks(curves), [curve for curve in curves if curve.points]
    require(bool(drawn), "curves", "have a point between them", [curve.recipe for curve in curves])
    columns = _columns(*drawn)
    # A fixed salt, and no date: the same curves give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "ddsdk", "font.size": 10, "svg.fonttype": "none"}):
        figure = empty_figure(8.5 * len(columns), 6.5)
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, (title, column) in zip(panels, columns.items(), strict=True):
            _panel(axes, title, column, drawn, marks)
        figure.draw_without_rendering()
        for axes, column in zip(panels, columns.values(), strict=True):
            _name_ends(axes, column, drawn, _right(drawn, marks))
        panels[0].set_ylabel("accuracy on held-out training images, %")
        figure.suptitle(f"{_title(drawn[0])}\n{_key(drawn)}", fontsize=11)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=form, dpi=130, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def _marks(curves: Sequence[RecipeCurve]) -> list[float]:
    require(bool(curves), "curves", "hold at least one curve", list(curves))
    marks = [list(curve.conditions["seconds"]) for curve in curves]
    require(all(m == marks[0] for m in marks), "curves", "have the same marks", marks)
    return marks[0]


def _columns(*curves: RecipeCurve) -> dict[str, Callable[[CurvePoint], Score]]:
    differ = any(point.own for curve in curves for point in curve.points)
    return dict(list(_COLUMNS.items())[: 2 if differ else 1])


def _title(curve: RecipeCurve) -> str:
    about, ipc = curve.conditions, curve.conditions["parameters"].get("ipc")
    images = "" if ipc is None else f", {ipc} image{'s' if ipc != 1 else ''} per class"
    options = "".join(f", {k} {v}" for k, v in about["network_options"].items())
    return f"{about['data']['name']}{images}; students: {about['network'] or 'the network of each protocol'}{options}"


def _key(curves: Sequence[RecipeCurve]) -> str:
    lines = {"matching": "solid, cool", "meta-learning": "dashed, warm", "selection": "grey"}
    return "; ".join(f"{lines[name]}: {name}" for name in lines if name in {c.family for c in curves})


def _style(curve: RecipeCurve, curves: Sequence[RecipeCurve]) -> dict[str, Any]:
    place = [c.recipe for c in curves if c.family == curve.family].index(curve.recipe)
    shades, sizes = _SHADES[curve.family], {"markersize": 6.5, "linewidth": 1.7}
    color, marker = shades[place % len(shades)], _MARKERS[place % len(_MARKERS)]
    return {"color": color, "marker": marker, "linestyle": _LINES[curve.family], **sizes}


def _panel(
    axes: Axes, title: str, column: Callable[[CurvePoint], Score], curves: Sequence[RecipeCurve], marks: Sequence[float]
) -> None:
    from matplotlib.ticker import NullLocator

    seconds = [point.seconds for curve in curves for point in curve.points]
    left, right = max(marks[0] / 4, min(marks[0], *seconds)), _right(curves, marks)
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
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
    axes.set_title(title, fontsize=11)
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _right(curves: Sequence[RecipeCurve], marks: Sequence[float]) -> float:
    return max(marks[-1], *(point.seconds for curve in curves for point in curve.points))


def _name_ends(axes: Axes, column: Callable[[CurvePoint], Score], curves: Sequence[RecipeCurve], right: float) -> None:
    """Write the name of each method behind the right edge, at the height of its end or near it."""
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
    """Return rising heights, moved as little as it takes to lie `gap` apart: groups that touch share their mean.

    The highest is 1 at most, and the others make room for it.
    """
    groups: list[tuple[float, int]] = []
    for height in heights:
        middle, count = height, 1
        while groups and middle - groups[-1][0] < gap * (count + groups[-1][1]) / 2:
            below, others = groups.pop()
            middle, count = (below * others + middle * count) / (others + count), others + count
        groups.append((middle, count))
    apart = [middle + gap * (i - (count - 1) / 2) for middle, count in groups for i in range(count)]
    return [min(height, 1 - gap * above) for above, height in enumerate(reversed(apart))][::-1]
