"""The benchmark's cells as tables and plots: success against the poisoned share, and detection rates."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from sklearn.metrics import roc_auc_score, roc_curve

from ddsdk.experiments import markdown_table
from ddsdk.foundation import MissingExtraError
from ddsdk_integrations.robustness.backdoor.benchmark import TARGET
from ddsdk_integrations.robustness.backdoor.scan import TESTS

Found = Mapping[str, Any]
WORKING = 0.1
"""Net success from which a back door counts as one that works."""

_SUCCESS = (
    "method",
    "attack",
    "poisoned, %",
    "accuracy, %",
    "under the trigger, %",
    "without, %",
    "net success, %",
    "runs",
)
_SCANS = (
    "method",
    "attack",
    "test",
    "area under the ROC",
    "threshold",
    "found",
    "found of those that work",
    "right class",
    "honest sets flagged",
)


@final
@dataclass(frozen=True, kw_only=True)
class Detection:
    """How one test tells sets with an attack from honest ones.

    Attributes:
        method: Of the sets.
        attack: Which one.
        test: Of the scan.
        auc: Area under the ROC of reported sets.
        threshold: The highest score of an honest calibration set.
        found: Reported attacked sets above it.
        attacked: How many of these there are.
        found_working: Of those whose trigger works, how many are above it.
        working: How many of these there are.
        right: Attacked sets above it whose highest score is that of the target.
        false_alarms: Reported honest sets above it.
        honest: How many of these there are.
    """

    method: str
    attack: str
    test: str
    auc: float
    threshold: float
    found: int
    attacked: int
    found_working: int
    working: int
    right: int
    false_alarms: int
    honest: int


def detections(cells: Sequence[Found], calibration: Collection[int]) -> list[Detection]:
    """Return a row for each method, attack and test that was scanned.

    Args:
        cells: What `measure` returned.
        calibration: Seeds of honest sets that give thresholds and are reported nowhere else.
    """
    scanned = [cell for cell in cells if cell["scores"] is not None]
    rows = dict.fromkeys((c["cell"]["method"], c["cell"]["attack"]) for c in scanned)
    found = []
    for method, attack in rows:
        honest = _of(scanned, method, "none")
        tuned = [c for c in honest if c["cell"]["seed"] in calibration]
        reported = [c for c in honest if c["cell"]["seed"] not in calibration]
        if attack == "none" or not tuned or not reported:
            continue
        attacked = _of(scanned, method, attack)
        found += [_detection(method, attack, test, tuned, reported, attacked) for test in TESTS]
    return found


def _of(cells: Sequence[Found], method: str, attack: str) -> list[Found]:
    return [c for c in cells if (c["cell"]["method"], c["cell"]["attack"]) == (method, attack)]


def _detection(
    method: str, attack: str, test: str, tuned: Sequence[Found], honest: Sequence[Found], attacked: Sequence[Found]
) -> Detection:
    threshold = max(cell["scores"][test] for cell in tuned)
    above = [cell for cell in attacked if cell["scores"][test] > threshold]
    return Detection(
        method=method,
        attack=attack,
        test=test,
        auc=float(roc_auc_score(*_truth_and_scores(test, honest, attacked))),
        threshold=threshold,
        found=len(above),
        attacked=len(attacked),
        found_working=sum(cell["net"] >= WORKING for cell in above),
        working=sum(cell["net"] >= WORKING for cell in attacked),
        right=sum(cell["pointed"][test] == TARGET for cell in above),
        false_alarms=sum(cell["scores"][test] > threshold for cell in honest),
        honest=len(honest),
    )


def _truth_and_scores(test: str, honest: Sequence[Found], attacked: Sequence[Found]) -> tuple[list[int], list[float]]:
    scores = [cell["scores"][test] for cell in [*honest, *attacked]]
    return [0] * len(honest) + [1] * len(attacked), scores


def markdown(cells: Sequence[Found], calibration: Collection[int]) -> str:
    """Return both tables.

    Args:
        cells: What `measure` returned.
        calibration: See `detections`.
    """
    shown = [cell for cell in cells if cell["cell"]["seed"] not in calibration]
    keys = sorted(dict.fromkeys(_key(cell) for cell in shown))
    rows = [_success_row(key, [cell for cell in shown if _key(cell) == key]) for key in keys]
    found = detections(cells, calibration)
    scans = "\n" + markdown_table(_SCANS, map(_scan_row, found)) if found else ""
    return markdown_table(_SUCCESS, rows) + scans


def _key(cell: Found) -> tuple[str, str, float]:
    one = cell["cell"]
    return one["method"], one["attack"], one["fraction"]


def _success_row(key: tuple[str, str, float], group: Sequence[Found]) -> list[str]:
    method, attack, fraction = key
    net = [100 * cell["net"] for cell in group]
    spread = f" ({min(net):.0f} to {max(net):.0f})" if len(net) > 1 else ""
    means = [100 * statistics.mean(cell[name] for cell in group) for name in ("accuracy", "stamped", "plain")]
    return [
        *(method, attack, f"{100 * fraction:g}"),
        *(f"{mean:.1f}" for mean in means),
        f"{statistics.mean(net):.1f}{spread}",
        str(len(group)),
    ]


def _scan_row(one: Detection) -> list[str]:
    return [
        *(one.method, one.attack, one.test),
        f"{one.auc:.2f}",
        f"{one.threshold:.2f}",
        f"{one.found} of {one.attacked}",
        f"{one.found_working} of {one.working}",
        str(one.right),
        f"{one.false_alarms} of {one.honest}",
    ]


def plot_success(cells: Sequence[Found], path: Path) -> None:
    """Draw net success against the poisoned share, a line for each method and attack with several shares.

    Args:
        cells: What `measure` returned.
        path: The picture, such as of .png or .svg.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, axes = _axes()
    rows = dict.fromkeys(_key(cell)[:2] for cell in cells if cell["cell"]["fraction"])
    for method, attack in rows:
        group = _of(cells, method, attack)
        shares = sorted({cell["cell"]["fraction"] for cell in group})
        if len(shares) < 2:
            continue
        means = [
            100 * statistics.mean(cell["net"] for cell in group if cell["cell"]["fraction"] == share)
            for share in shares
        ]
        axes.plot([100 * share for share in shares], means, marker="o", label=f"{method}, {attack}")
    axes.set(xscale="log", xlabel="poisoned images, %", ylabel="net success, %")
    _save(figure, axes, path)


def plot_roc(cells: Sequence[Found], calibration: Collection[int], path: Path) -> None:
    """Draw the ROC of each test of a scan, a line for each method, attack and test; calibration sets are left out.

    Args:
        cells: What `measure` returned.
        calibration: See `detections`.
        path: The picture, such as of .png or .svg.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    figure, axes = _axes()
    scanned = [cell for cell in cells if cell["scores"] is not None]
    for one in detections(cells, calibration):
        honest = [c for c in _of(scanned, one.method, "none") if c["cell"]["seed"] not in calibration]
        truth, scores = _truth_and_scores(one.test, honest, _of(scanned, one.method, one.attack))
        false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
        axes.plot(false, true, marker=".", label=f"{one.method}, {one.attack}: {one.test} ({one.auc:.2f})")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.set(xlabel="honest sets flagged", ylabel="attacked sets flagged")
    _save(figure, axes, path)


def _axes() -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtraError("a picture of the benchmark", "matplotlib", "bench") from None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    return figure, figure.subplots()


def _save(figure: Any, axes: Any, path: Path) -> None:  # noqa: ANN401
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
