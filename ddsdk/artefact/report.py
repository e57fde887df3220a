"""One self-contained HTML page about distilled sets and their scores."""

from __future__ import annotations

import base64
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from ddsdk.artefact.card import fact_rows, flatten, page_template
from ddsdk.artefact.distilled import Distilled
from ddsdk.artefact.sheet import sheet_png
from ddsdk.foundation import clean, require


class Result(TypedDict):
    """One evaluation, in plain values.

    Attributes:
        name: Title of a set, or name of a baseline such as ``"random real images"``.
        protocol: Name of the evaluation protocol.
        network: Network with its options.
        accuracies: Test accuracy of each repeat, in 0..1.
        images: Training images.
        stored_floats: Floats stored for them.
        seconds: Wall-clock time of all repeats.
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
    """Return one HTML page that needs no other file and runs no script.

    Each set gets its contact sheet, facts, protocol, provenance, and a table of results. A result whose name is the
    title of a set belongs to that set; every other one is a baseline and stands beside each of them.

    Args:
        sets: Pairs (title, set) with different titles.
        results: Results of sets and baselines.
        title: Title of the page.

    Raises:
        ValueError: If two titles are the same, or a result holds no accuracy or one outside 0..1.
    """
    titles = [name for name, _ in sets]
    require(len(set(titles)) == len(titles), "titles", "differ", titles)
    for result in results:
        ok = len(result["accuracies"]) > 0 and all(0 <= a <= 1 for a in result["accuracies"])
        require(ok, "accuracies", "be one or more numbers in 0..1", result["accuracies"])
    baselines = [_row(r, own=False) for r in results if r["name"] not in titles]
    own = {name: [_row(r, own=True) for r in results if r["name"] == name] for name in titles}
    sections = [_section(name, distilled, [*own[name], *baselines]) for name, distilled in sets]
    everything = [*(row for rows in own.values() for row in rows), *baselines]
    return page_template("report.html").render(
        title=clean(title), sections=sections, overview=everything if len(sets) != 1 else []
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
        "facts": [(what, clean(text, 400)) for what, text in fact_rows(manifest)],
        "classes": ", ".join(names) + (", …" if len(manifest.class_names) > len(names) else ""),
        "evaluation": _leaves(manifest.evaluation),
        "provenance": _leaves(manifest.provenance),
        "rows": rows,
    }


def _leaves(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(clean(name, 80), clean(text)) for name, text in list(flatten(values))[:80]]
