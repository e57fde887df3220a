"""Commands without training: inspect, show, export and report distilled sets; list the methods."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ddsdk import artefact, judging
from ddsdk.artefact import flatten, main_facts, read_artifact
from ddsdk.baselines import BASELINES
from ddsdk.cli.console import out, table
from ddsdk.foundation import escape_terminal, require, write_atomic
from ddsdk.recipes import RECIPES


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Check an artefact and print its size, labels, protocol and provenance.

    Attributes:
        set: Folder of the artefact.
    """

    set: tyro.conf.Positional[Path]

    def run(self) -> int:
        """Return exit code 0 after printing facts, protocol and provenance."""
        manifest = read_artifact(self.set).manifest
        rows = [*main_facts(manifest)]
        for part in ("protocol", "provenance"):
            rows += [(f"{part}.{k}", v) for k, v in flatten(getattr(manifest, part))]
        cells = [(escape_terminal(k), escape_terminal(v, 200)) for k, v in rows]
        table(escape_terminal(str(self.set), 200), ("field", "value"), cells)
        return 0


@dataclass(frozen=True, kw_only=True)
class Show:
    """Write a PNG with the images of a distilled set, or of several sets for comparison.

    Attributes:
        sets: Folder of an artefact, or several folders. Several sets have one row each.
        out: PNG file to write. Default for one set: `sheet.png` in its folder; required for several sets.
        per_class: Maximum number of images of each class. None: 10 for one set, 1 for several.
    """

    sets: tyro.conf.Positional[tuple[Path, ...]]
    out: Path | None = None
    per_class: int | None = None

    def run(self) -> int:
        """Return exit code 0 after writing the picture."""
        from ddsdk.artefact import contact_sheet, png_bytes, side_by_side

        require(len(self.sets) > 0, "sets", "name at least one artefact", self.sets)
        require(len(self.sets) == 1 or self.out is not None, "out", "be given for several sets", None)
        path = self.sets[0] / "sheet.png" if self.out is None else self.out
        opened = [(set_.name, artefact.Distilled.load(set_)) for set_ in self.sets]
        single = len(opened) == 1
        per_class = (10 if single else 1) if self.per_class is None else self.per_class
        image = (
            contact_sheet(opened[0][1], per_class=per_class) if single else side_by_side(opened, per_class=per_class)
        )
        write_atomic(path, png_bytes(image))
        out(str(path))
        for name, distilled in opened:
            kind, space = distilled.manifest.storage.labels, distilled.label_space
            out(f"{escape_terminal(name)}: {kind} labels, label space {space}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Export:
    """Convert a distilled set to parquet, PNG images, NumPy arrays or a folder for the Hugging Face hub.

    Attributes:
        set: Folder of the artefact.
        to: Format of the export. parquet: one file in the layout of the Hugging Face hub. images: one PNG per image in
            class folders. npz: NumPy arrays with the exact values. hub: the artefact with pictures and metadata, which
            `datasets.load_dataset` reads.
        out: File to write, or folder for --to images and --to hub.
    """

    set: tyro.conf.Positional[Path]
    to: Literal["parquet", "images", "npz", "hub"]
    out: Path

    def run(self) -> int:
        """Return exit code 0 after writing the export."""
        distilled = artefact.Distilled.load(self.set)
        if self.to == "parquet":
            artefact.to_parquet(distilled, self.out)
        elif self.to == "images":
            artefact.to_image_folder(distilled, self.out)
        elif self.to == "npz":
            artefact.to_npz(distilled, self.out)
        else:
            artefact.hub_folder(distilled, self.out)
        out(str(self.out))
        return 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """Report distilled sets and their scores as an HTML page or as a table with published accuracies.

    Attributes:
        sets: Folders of the artefacts to report.
        html: HTML file to write, with images and scores of all sets. None: no page.
        markdown: Markdown file to write, with a row per score and the published accuracy. None: no table.
        results: Folders of scores from `ddsdk evaluate`. Default: the folders beside the sets (`SET-results`).
    """

    sets: tyro.conf.Positional[tuple[Path, ...]]
    html: Path | None = None
    markdown: Path | None = None
    results: tuple[Path, ...] = ()

    def run(self) -> int:
        """Return exit code 0 after writing the report."""
        from ddsdk.judging import results_folder

        require(len(self.sets) > 0, "sets", "name at least one artefact", self.sets)
        require(bool(self.html or self.markdown), "html", "be given, or markdown", None)
        results = self.results or tuple(map(results_folder, self.sets))
        if self.html:
            write_report(self.sets, self.html, results)
            out(str(self.html))
        if self.markdown:
            from ddsdk.experiments import score_table

            opened = [artefact.Distilled.load(path) for path in self.sets]
            write_atomic(self.markdown, score_table(_records(results), opened).encode())
            out(str(self.markdown))
        return 0


def _records(results: tuple[Path, ...]) -> list[dict[str, Any]]:
    return [record for folder in results for record in judging.read_scores(folder)]


def write_report(sets: tuple[Path, ...], html: Path, results: tuple[Path, ...]) -> None:
    """Write the HTML page of distilled sets and their scores.

    Args:
        sets: Folders of the artefacts.
        html: HTML file to write.
        results: Folders of scores. Scores of baselines and of the contents (content ids) of `sets` are reported.
    """
    from ddsdk.artefact import html_report

    opened = [(str(path), artefact.Distilled.load(path)) for path in sets]
    titles = {distilled.content_id: title for title, distilled in opened}
    scores: dict[str, Any] = {}
    for record in _records(results):
        score = dict(record["score"])
        title = titles.get(record["conditions"]["set"])
        if title is None and score["name"] not in BASELINES:
            continue
        score["name"] = title or score["name"]
        scores[str((score["name"], record["conditions"]))] = score
    write_atomic(html, html_report(opened, list(scores.values())).encode())


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List all recipes and baselines with a description and their default parameters."""

    def run(self) -> int:
        """Return exit code 0 after printing the table of methods."""
        rows = []
        for kind, methods in (("recipe", RECIPES), ("baseline", BASELINES)):
            for name, method in methods.items():
                summary = (method.__doc__ or "").strip().splitlines()[0]
                defaults = [f"{f.name}={f.default}" for f in dataclasses.fields(method) if f.default != ""]
                rows.append((name, kind, summary, ", ".join(defaults)))
        table("methods", ("name", "kind", "description", "defaults"), rows)
        return 0
