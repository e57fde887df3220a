"""A self-contained HTML report on distilled sets and their scores."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from ddsdk.artefact.card import flatten, main_facts, page_template
from ddsdk.artefact.distilled import Distilled
from ddsdk.artefact.sheet import sheet_png
from ddsdk.foundation import clean, require


class Result(TypedDict):
    """Result of one evaluation, as plain values.

    Attributes:
        name: Title of a set, or name of a baseline such as ``"random real images"``.
        protocol: Name of the training protocol.
        network: Name of the network with its options.
        accuracies: Test accuracy of each network, in 0..1.
        images: Number of training images.
        stored_floats: Storage budget of the training images, in floats.
        seconds: Wall-clock time of all networks, in seconds.
        labels: Kind of the labels, see `ddsdk.Score`; may be left out.
        loss: Loss of the training; may be left out.
    """

    name: str
    protocol: str
    network: str
    accuracies: Sequence[float]
    images: int
    stored_floats: int
    seconds: float
    labels: NotRequired[str]
    loss: NotRequired[str]


def html_report(
    sets: Sequence[tuple[str, Distilled]], results: Sequence[Result], *, title: str = "Distilled sets"
) -> str:
    """Return a report on distilled sets as one HTML page without scripts or further files.

    For each set, the page shows contact sheet, results, facts, protocol and provenance. A result with the title of a
    set belongs to this set. All other results are baselines, which are listed with each set. Equal titles, and results
    without accuracies in 0..1, give a ValueError.

    Args:
        sets: Pairs (title, set) with different titles.
        results: Results of the sets and of baselines.
        title: Title of the page, plain text.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.artefact import html_report
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), ddsdk.load("digits"))
        >>> html_report([("random images", distilled)], []).splitlines()[0]
        '<!doctype html>'
    """
    titles = [name for name, _ in sets]
    require(len(set(titles)) == len(titles), "titles", "differ", titles)
    for result in results:
        ok = len(result["accuracies"]) > 0 and all(0 <= a <= 1 for a in result["accuracies"])
        require(ok, "accuracies", "be one or more numbers in 0..1", result["accuracies"])
    baselines = [_row(r, own=False) for r in results if r["name"] not in titles]
    set_rows = {name: [_row(r, own=True) for r in results if r["name"] == name] for name in titles}
    sections = [_section(name, distilled, [*set_rows[name], *baselines]) for name, distilled in sets]
    all_rows = [*(row for rows in set_rows.values() for row in rows), *baselines]
    return page_template("report.html").render(
        title=clean(title), sections=sections, overview=all_rows if len(sets) != 1 else []
    )


def _row(result: Result, *, own: bool) -> dict[str, Any]:
    accuracies = [100 * a for a in result["accuracies"]]
    mean = statistics.fmean(accuracies)
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else None
    return {
        "own": own,
        "name": clean(result["name"], 80),
        "mean": f"{mean:.1f}",
        "spread": "" if spread is None else f"± {spread:.1f}",
        "repeats": len(accuracies),
        "bar": f"{mean:.1f}",
        "images": f"{result['images']:,}",
        "floats": f"{result['stored_floats']:,}",
        "network": clean(result["network"], 80),
        "protocol": clean(result["protocol"], 80),
        "labels": clean(", ".join(filter(None, (result.get("labels"), result.get("loss")))), 80),
        "seconds": f"{result['seconds']:,.1f}",
    }


def _section(title: str, distilled: Distilled, rows: list[dict[str, Any]]) -> dict[str, Any]:
    manifest = distilled.manifest
    names = [clean(name, 60) for name in manifest.class_names[:100]]
    return {
        "title": clean(title, 80),
        "sheet": base64.b64encode(sheet_png(distilled)).decode(),
        "facts": [(name, clean(text, 400)) for name, text in main_facts(manifest)],
        "classes": ", ".join(names) + (", …" if len(manifest.class_names) > len(names) else ""),
        "evaluation": _leaves(manifest.protocol),
        "provenance": _leaves(manifest.provenance),
        "rows": rows,
    }


def _leaves(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(clean(name, 80), clean(text)) for name, text in list(flatten(values))[:80]]
