"""`ddsdk merge`, `ddsdk select` and `ddsdk leaderboard`: unions, parts and comparisons of distilled sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ddsdk import artefact, experiments
from ddsdk.cli.console import out
from ddsdk.cli.distill import announce_set
from ddsdk.foundation import require, require_count, write_atomic


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Merge distilled sets of the same classes and value space, with the protocol of the first one.

    Attributes:
        sets: Folders of two or more artefacts.
        out: Folder of the union.
    """

    sets: tyro.conf.Positional[tuple[Path, ...]]
    out: Path

    def run(self) -> int:
        """Return exit code 0 after saving the union."""
        require(len(self.sets) >= 2, "sets", "be two or more folders", len(self.sets))
        first, *others = (artefact.Distilled.load(folder) for folder in self.sets)
        union = first.concat(*others)
        union.save(self.out)
        out(f"{len(union)} images of {len(self.sets)} sets, {union.ipc} per class")
        announce_set(self.out)
        return 0


@dataclass(frozen=True, kw_only=True)
class Select:
    """Select the first images of each class of a distilled set.

    Attributes:
        set: Folder of the artefact.
        per_class: Number of images of each class to keep.
        out: Folder of the part.
    """

    set: tyro.conf.Positional[Path]
    per_class: int
    out: Path

    def run(self) -> int:
        """Return exit code 0 after saving the part."""
        require_count("per_class", self.per_class)
        whole = artefact.Distilled.load(self.set)
        part = whole.first_of_classes([self.per_class] * whole.num_classes)
        part.save(self.out)
        out(f"{len(part)} of {len(whole)} images; --start-from {self.out} continues from them with any recipe")
        announce_set(self.out)
        return 0


@dataclass(frozen=True, kw_only=True)
class SetLeaderboard:
    """Write an HTML page that compares all distilled sets of a folder: sortable, with filters, pictures and commands.

    Attributes:
        folder: Folder with the folders of the sets, down to three levels.
        html: HTML file to write.
        results: Folders of scores from `ddsdk evaluate`. The folder beside each set (`SET-results`) is always read.
    """

    folder: tyro.conf.Positional[Path]
    html: Path
    results: tuple[Path, ...] = ()

    def run(self) -> int:
        """Return exit code 0 after writing the page."""
        entries = experiments.read_sets(self.folder, self.results)
        require(bool(entries), "folder", "hold distilled sets", str(self.folder))
        write_atomic(
            self.html, experiments.sets_page(entries, title=f"Distilled sets in {self.folder.resolve().name}").encode()
        )
        scored = sum(bool(entry.scores) for entry in entries)
        out(f"{self.html}: {len(entries)} sets, {scored} of them with scores")
        return 0
