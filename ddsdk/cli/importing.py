"""`ddsdk import`: converts a set that other code has saved to an artefact."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ddsdk import importing
from ddsdk.cli.console import out
from ddsdk.cli.distill import announce_set
from ddsdk.cli.options import DataOptions


@dataclass(frozen=True, kw_only=True)
class Import(DataOptions):
    """Convert a distilled set that other code has saved to an artefact.

    Files are read without running their code, in a process with limits of memory and time.

    Attributes:
        path: File or folder of the set.
        out: Folder of the artefact.
        layout: Layout of the files, see the page "Sets of other code". auto: found by the names of the files.
        space: Value space of the images: unit, normalised, zca (trajectory matching), zca-standardised (FRePo, RCIG) or
            zca-uncentred (RFAD). auto: the only one of the layout that fits the statistics of the real data.
        labels: Origin of the labels. stored: in the files. class-major: equally many images of each class, in the order
            of the classes.
        method: Recipe whose protocol the artefact gets. None: that of the layout.
        experiment: Number of the set in a file with several, from 0. None: the last one.
        factor: Tiles along each side of a stored image, for layout idc. None: the number in the name of the folder.
        learned_lr: Learning rate that was learned with the set, where no file has it. None: none.
    """

    path: tyro.conf.Positional[Path]
    out: Path
    layout: str = "auto"
    space: str = "auto"
    labels: Literal["stored", "class-major"] = "stored"
    method: str | None = None
    experiment: int | None = None
    factor: int | None = None
    learned_lr: float | None = None

    def run(self) -> int:
        """Return exit code 0 after reading the set and saving the artefact."""
        distilled = importing.import_set(
            self.path,
            self.train(),
            layout=self.layout,
            space=self.space,
            labels=self.labels,
            method=self.method,
            experiment=self.experiment,
            factor=self.factor,
            learned_lr=self.learned_lr,
        )
        distilled.save(self.out)
        imported = distilled.provenance.get("imported")
        if imported is not None:
            out(f"layout {imported['layout']}, value space {imported['space']}: {imported['space_is']}")
            shares = f"{imported['outside_of_unit_range']:.1%} of the pixels lie outside of the unit range"
            out(f"standard deviation {imported['standard_deviation_ratio']} times that of the real data; {shares}")
        recipe, rate = distilled.provenance.get("recipe"), distilled.learned_lr
        out(f"{len(distilled)} images, protocol of {recipe}, learned rate {rate}")
        announce_set(self.out)
        return 0
