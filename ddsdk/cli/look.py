"""The verbs that train nothing: they look at sets and list the methods."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from ddsdk import artefact, judging
from ddsdk.artefact import fact_rows, flatten, read_artifact
from ddsdk.baselines import BASELINES
from ddsdk.cli.console import out, table
from ddsdk.foundation import escape_terminal, require, write_atomic
from ddsdk.recipes import RECIPES


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Open a set with every check, and list its facts, protocol and provenance.

    Attributes:
        set: Folder of the artefact.
    """

    set: tyro.conf.Positional[Path]

    def run(self) -> int:
        """Print facts, evaluation and provenance."""
        manifest = read_artifact(self.set).manifest
        rows = [*fact_rows(manifest)]
        for part in ("evaluation", "provenance"):
            rows += [(f"{part}.{k}", v) for k, v in flatten(getattr(manifest, part))]
        safe = [(escape_terminal(k), escape_terminal(v, 200)) for k, v in rows]
        table(escape_terminal(str(self.set), 200), ("what", "value"), safe)
        return 0


@dataclass(frozen=True, kw_only=True)
class Show:
    """Write the contact sheet of a set as a PNG, or several sets side by side.

    Attributes:
        sets: Folder of the artefact, or several folders; each of several has a row.
        out: File to write; for one set, `sheet.png` in its folder if not given.
        per_class: Images of each class at most. None takes 10, or 1 for several sets.
    """

    sets: tyro.conf.Positional[tuple[Path, ...]]
    out: Path | None = None
    per_class: int | None = None

    def run(self) -> int:
        """Write the picture and print its path."""
        from ddsdk.artefact import contact_sheet, png_bytes, side_by_side

        require(len(self.sets) > 0, "sets", "name at least one artefact", self.sets)
        require(len(self.sets) == 1 or self.out is not None, "out", "be given for several sets", None)
        path = self.sets[0] / "sheet.png" if self.out is None else self.out
        opened = [(set_.name, artefact.Distilled.load(set_)) for set_ in self.sets]
        one = len(opened) == 1
        per_class = (10 if one else 1) if self.per_class is None else self.per_class
        sheet = contact_sheet(opened[0][1], per_class=per_class) if one else side_by_side(opened, per_class=per_class)
        write_atomic(path, png_bytes(sheet))
        out(str(path))
        for name, distilled in opened:
            kind, space = distilled.manifest.storage.labels, distilled.label_space
            out(f"{escape_terminal(name)}: {kind} labels, label space {space}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a set in a form that other programs read.

    Attributes:
        set: Folder of the artefact.
        to: parquet: one file in the layout of data set hubs. images: a PNG for each image, in class folders.
            npz: the exact numbers.
        out: File, or folder for images.
    """

    set: tyro.conf.Positional[Path]
    to: Literal["parquet", "images", "npz"]
    out: Path

    def run(self) -> int:
        """Write it and print its path."""
        writers = {"parquet": artefact.to_parquet, "images": artefact.to_image_folder, "npz": artefact.to_npz}
        writers[self.to](artefact.Distilled.load(self.set), self.out)
        out(str(self.out))
        return 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """Put sets and their scores on one self-contained HTML page, and into a table beside the published figures.

    Attributes:
        sets: Folders of artefacts.
        html: HTML file to write, if any.
        markdown: Markdown file to write, if any: one row for each score, beside the published figure.
        results: Folders of scores; those beside the sets (`SET-results`) if not given.
    """

    sets: tyro.conf.Positional[tuple[Path, ...]]
    html: Path | None = None
    markdown: Path | None = None
    results: tuple[Path, ...] = ()

    def run(self) -> int:
        """Write the files and say where they are."""
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
    """Write the page; a score counts for a set if it was computed on that very content, or for a baseline."""
    from ddsdk.artefact import html_report

    opened = [(str(path), artefact.Distilled.load(path)) for path in sets]
    titles = {distilled.content_id: title for title, distilled in opened}
    scores: dict[str, Any] = {}
    for record in _records(results):
        score = dict(record["score"])
        own = titles.get(record["conditions"]["set"])
        if own is None and score["name"] not in BASELINES:
            continue
        score["name"] = own or score["name"]
        scores[str((score["name"], record["conditions"]))] = score
    write_atomic(html, html_report(opened, list(scores.values())).encode())


@dataclass(frozen=True, kw_only=True)
class Recipes:
    """List the methods with what they do and their main defaults."""

    def run(self) -> int:
        """Print the table."""
        rows = []
        for kind, methods in (("recipe", RECIPES), ("baseline", BASELINES)):
            for name, method in methods.items():
                first = (method.__doc__ or "").strip().splitlines()[0]
                changed = [f"{f.name}={f.default}" for f in dataclasses.fields(method) if f.default != ""]
                rows.append((name, kind, first, ", ".join(changed)))
        table("methods", ("name", "kind", "what it does", "defaults"), rows)
        return 0
