"""The benchmark's cells as a table and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddsdk.experiments import empty_figure, markdown_table

Found = Mapping[str, Any]
_HEADS = (
    "set",
    "held out by",
    "balanced accuracy, %",
    "votes of a patient, %",
    "AUC by networks",
    "AUC by distance",
    "near-copies",
    "least distance",
    "bytes",
    "seconds",
    "default limits",
)


def markdown(cells: Sequence[Found]) -> str:
    """Return the table, a row for each method and split: the mean over runs.

    Args:
        cells: What `measure` returned.
    """
    keys = dict.fromkeys(_key(cell) for cell in cells)
    rows = [_row(key, [cell for cell in cells if _key(cell) == key]) for key in keys]
    return markdown_table(_HEADS, rows)


def _key(cell: Found) -> tuple[str, str]:
    return cell["cell"]["method"], cell["cell"]["split"]


def _mean(group: Sequence[Found], *path: str) -> float:
    return statistics.fmean(cell[path[0]][path[1]] if len(path) == 2 else cell[path[0]] for cell in group)


def _row(key: tuple[str, str], group: Sequence[Found]) -> list[str]:
    refused = sum(bool(cell["broken"]) for cell in group)
    votes = f"{100 * _mean(group, 'figures', 'groups'):.1f}" if key[1] == "patient" else "–"
    return [
        *key,
        f"{100 * _mean(group, 'figures', 'balanced'):.1f}",
        votes,
        f"{_mean(group, 'audit', 'membership_auc'):.3f}",
        f"{_mean(group, 'audit', 'distance_auc'):.3f}",
        f"{_mean(group, 'audit', 'near_copies'):.0f}",
        f"{_mean(group, 'audit', 'smallest_distance'):.3f}",
        f"{_mean(group, 'bytes'):.0f}",
        f"{_mean(group, 'seconds'):.0f}",
        f"refused {refused} of {len(group)}" if refused else f"let out {len(group)} of {len(group)}",
    ]


def plot(cells: Sequence[Found], path: Path) -> None:
    """Draw balanced accuracy against the area of the best attack, for splits by patient.

    Args:
        cells: What `measure` returned.
        path: The picture, such as of .png or .svg.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure = empty_figure(6.5, 3.6)
    axes = figure.subplots()
    for i, method in enumerate(dict.fromkeys(_key(cell)[0] for cell in cells)):
        group = [cell for cell in cells if _key(cell) == (method, "patient")]
        best = [max(c["audit"]["membership_auc"], c["audit"]["distance_auc"]) for c in group]
        axes.plot(best, [100 * c["figures"]["balanced"] for c in group], "os^D"[i % 4], label=method)
    axes.set_xlabel("area under the curve of the best attack (0.5 knows nothing)")
    axes.set_ylabel("balanced accuracy on held-out patients, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)
