"""`python -m ddsdk_integrations.robustness.backdoor`: success of triggers, and detection rates of scans."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import ddsdk as dd
from ddsdk.experiments import CellBenchmark, Question, known_words, numbers, run_command, words
from ddsdk.foundation import require
from ddsdk_integrations.robustness.backdoor.benchmark import ATTACKS, METHODS, Cell, Setting, described, measure
from ddsdk_integrations.robustness.backdoor.table import markdown, plot_roc, plot_success

_ELSEWHERE = "white"


@final
@dataclass(frozen=True, kw_only=True)
class Benchmark(CellBenchmark):
    """Poison, distil, count successes, and scan; print success by method, attack and share, and detection rates.

    Sets of the methods in `scanned` at `roc_fraction` are scanned, with `seeds`; thresholds come from scans of honest
    sets with the seeds of `calibration`, which are reported nowhere else. Everything else has the first seeds of
    `seeds`, `few` of them; methods that are not scanned meet the white corner alone. A cell that was measured is kept
    in OUT/cells.

    Attributes:
        attacks: Rows, separated by commas; all if empty.
        fractions: Shares of poisoned images, separated by commas, for the methods in `scanned`.
        roc_fraction: Share of poisoned images for scans, and for all other methods.
        scanned: Methods whose sets are scanned, separated by commas.
        scanned_attacks: Attacks whose sets are scanned, separated by commas.
        calibration: Seeds of honest sets from which thresholds come, separated by commas.
        few: Seeds of a cell that is not scanned.
        ipc: Images per class.
        steps: Image steps of each recipe.
        width: Of the ConvNets that recipes use.
        judge_width: Of the ConvNets that train on the sets.
        networks: Trained on each set.
        size: Pixels of a side of the trigger.
        real_batch: Real images of each class in a step.
    """

    seeds: str = "0,1,2,3,4,5,6,7,8,9"
    attacks: str = ""
    fractions: str = "0.01,0.05,0.2"
    roc_fraction: float = 0.05
    scanned: str = "dm"
    scanned_attacks: str = "none,white"
    calibration: str = "10,11,12,13,14,15,16,17,18,19"
    few: int = 2
    ipc: int = 10
    steps: int = 60
    width: int = 8
    judge_width: int = 16
    networks: int = 2
    size: int = 2
    real_batch: int = 32

    def questions(self, train: dd.RealData) -> list[Question]:  # noqa: ARG002
        """Return the cells, those that are scanned first."""
        setting = self.shared(Setting)
        cells = [*self._scans(), *self._successes()]
        return [_question(cell, setting) for cell in dict.fromkeys(cells)]

    def table(self, found: Sequence[dict[str, Any]]) -> str:
        """Return the tables."""
        return markdown(found, numbers("calibration", self.calibration, 0))

    def draw(self, found: Sequence[dict[str, Any]]) -> None:
        """Draw success against the share of poisoned images, and the ROC."""
        plot_success(found, self.out / "success.png")
        plot_roc(found, numbers("calibration", self.calibration, 0), self.out / "roc.png")

    def _scans(self) -> list[Cell]:
        report, calibration = numbers("seeds", self.seeds, 0), numbers("calibration", self.calibration, 0)
        require(not {*report} & {*calibration}, "calibration", "share no seed with seeds", self.calibration)
        named = set(known_words("attacks", self.attacks, ATTACKS))
        wanted = [a for a in known_words("scanned_attacks", self.scanned_attacks, ATTACKS) if a in named]
        cells = []
        for seed in [*report, *calibration]:
            for method in self._methods(scanned=True):
                for attack in wanted:
                    if attack == "none" or seed in report:
                        cells.append(self._cell(method, attack, self.roc_fraction, seed, scanned=True))
        return cells

    def _successes(self) -> list[Cell]:
        """Return the cells of other methods, and those of other shares; what is scanned anyway is left out."""
        attacks = known_words("attacks", self.attacks, ATTACKS)
        swept, shares = self._methods(scanned=True), [float(word) for word in words(self.fractions)]
        rows = [
            (method, attack, self.roc_fraction)
            for method in self._methods()
            for attack in (attacks if method in swept else [a for a in attacks if a == _ELSEWHERE])
        ]
        rows += [(m, a, share) for share in shares for m in swept for a in attacks]
        known = {dataclasses.replace(cell, scanned=False) for cell in self._scans()}
        seeds = numbers("seeds", self.seeds, 0)[: self.few]
        cells = [self._cell(*row, seed, scanned=False) for row in rows for seed in seeds]
        return [cell for cell in cells if cell not in known]

    def _methods(self, *, scanned: bool = False) -> list[str]:
        found = known_words("methods", self.methods, METHODS)
        return [m for m in found if m in known_words("scanned", self.scanned, METHODS)] if scanned else found

    def _cell(self, method: str, attack: str, fraction: float, seed: int, *, scanned: bool) -> Cell:
        share = 0.0 if attack == "none" else fraction
        return Cell(method=method, attack=attack, fraction=share, seed=seed, scanned=scanned)


def _question(cell: Cell, setting: Setting) -> Question:
    return Question(
        cell=cell,
        setting=setting,
        about=described(cell, setting),
        measure=measure,
        line=lambda found: f"net {100 * found['net']:.1f} %, {found['scores']}, {found['seconds']:.0f} s",
    )


def main() -> int:
    """Run the benchmark of the command line."""
    return run_command(Benchmark, "python -m ddsdk_integrations.robustness.backdoor")


if __name__ == "__main__":
    sys.exit(main())
