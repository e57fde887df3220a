"""A page that compares the distilled sets of a folder: pictures, storage, accuracies and commands."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddsdk.artefact import Distilled, page_template, png_bytes, to_pixels
from ddsdk.baselines import BASELINES
from ddsdk.foundation import ArtifactError, clean, note, require
from ddsdk.judging import read_scores, results_folder, stored_protocol
from ddsdk.planning import METHODS

_DEPTH, _SHOWN = 3, 10
_GAP = ((0, 0), (0, 1), (0, 0))
"""Padding of a picture of a strip: one column of pixels at its right."""
_SETTINGS = (
    "seed",
    "threads",
    "validation",
    "validate_every",
    "validation_epochs",
    "validation_width",
    "small_classes",
)
"""Options of the command line that determine a set, beside those of the method and of the network."""


@dataclass(frozen=True)
class SetEntry:
    """One distilled set of a folder with its scores.

    Attributes:
        path: Folder of the set.
        distilled: Distilled set in the folder.
        scores: Records of `ddsdk.read_scores` of the set.
        baselines: Records of real images that were evaluated beside it, of equal storage.
    """

    path: Path
    distilled: Distilled
    scores: tuple[Mapping[str, Any], ...]
    baselines: tuple[Mapping[str, Any], ...]


def read_sets(folder: Path, results: Sequence[Path] = ()) -> list[SetEntry]:
    """Return the distilled sets in a folder and its subfolders, down to three levels, with their scores.

    Folders that are no valid set are left out with a note.

    Args:
        folder: Folder of folders of sets.
        results: Further folders of scores. The folder beside each set is always read.

    Examples:
        >>> import ddsdk
        >>> from pathlib import Path
        >>> from ddsdk.experiments import read_sets
        >>> _ = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), ddsdk.load("digits")).save("board/random-1")
        >>> [entry.path.name for entry in read_sets(Path("board"))]
        ['random-1']
    """
    require(folder.is_dir(), "folder", "be a folder that exists", str(folder))
    shared = [record for path in results for record in read_scores(path)]
    entries = []
    for manifest in sorted(folder.rglob("manifest.json")):
        path = manifest.parent
        if len(path.relative_to(folder).parts) > _DEPTH:
            continue
        try:
            distilled = Distilled.load(path)
        except ArtifactError as error:
            note(f"{path} is left out: {error}")
            continue
        records = [*read_scores(results_folder(path)), *shared]
        own = tuple(r for r in records if r["conditions"]["set"] == distilled.content_id)
        size = distilled.num_classes * distilled.stored_ipc
        real = tuple(r for r in records if r["score"]["name"] in BASELINES and r["score"]["images"] == size)
        entries.append(SetEntry(path, distilled, own, real))
    return entries


def repeat_commands(entry: SetEntry) -> tuple[str, ...]:
    """Return the commands that make a set again, or import it, and evaluate it under both protocols.

    Args:
        entry: Set with its provenance.
    """
    provenance, folder = entry.distilled.provenance, shlex.quote(entry.path.name)
    data = shlex.quote(str(_part(provenance, "data", "name") or "DATA"))
    imported = provenance.get("imported")
    if isinstance(imported, Mapping):
        files = imported.get("files") or [{"name": "FILE"}]
        made = f"ddsdk import {shlex.quote(str(files[0]['name']))} --layout {imported.get('layout')} --data {data}"
        made += f" --space {imported.get('space')} --out {folder}"
    else:
        made = f"ddsdk distill --data {data} --recipe {provenance.get('recipe')}{_options(provenance)} --out {folder}"
    return made, f"ddsdk evaluate {folder} --data {data} --protocol both"


def _part(values: Mapping[str, Any], *names: str) -> Any:  # noqa: ANN401
    for name in names:
        values = values.get(name, {}) if isinstance(values, Mapping) else {}
    return values or None


def _options(provenance: Mapping[str, Any]) -> str:
    """Return the options of the parameters that differ from the defaults of the method, and of the network."""
    method = METHODS.get(str(provenance.get("recipe")))
    defaults = {} if method is None else {f.name: f.default for f in dataclasses.fields(method)}
    words: list[str] = []
    for name, value in {**(_part(provenance, "parameters") or {})}.items():
        if value is None or (name != "ipc" and defaults.get(name) == value):
            continue
        switch = f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
        words += [switch] if isinstance(value, bool) else [switch, str(value)]
    for name, value in (_part(provenance, "student", "options") or {}).items():
        words += [f"--{name}", str(value)] if name in ("width", "depth", "norm") else []
    configuration = _part(provenance, "configuration") or {}
    for name in _SETTINGS:
        words += [f"--{name.replace('_', '-')}", str(configuration[name])] if configuration.get(name) else []
    words += ["--zca"] if configuration.get("zca") else []
    return "".join(f" {shlex.quote(word)}" for word in words)


def sets_page(entries: Sequence[SetEntry], *, title: str = "Distilled sets") -> str:
    """Return one HTML page with a sortable table of sets, filters, their pictures and their commands.

    The page loads no other file. Its script sorts and filters the table, and nothing else. For each set, the table has
    the accuracy with hard labels under the published protocol, the gain over random real images of equal storage under
    the same protocol, and the accuracy under the set's own protocol.

    Args:
        entries: Sets with their scores, as from `read_sets`.
        title: Title of the page, plain text.

    Examples:
        >>> from pathlib import Path
        >>> from ddsdk.experiments import read_sets, sets_page
        >>> import ddsdk
        >>> _ = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), ddsdk.load("digits")).save("board/random-1")
        >>> sets_page(read_sets(Path("board"))).count("ddsdk evaluate")
        1
    """
    rows = [_row(entry) for entry in entries]
    script = _SCRIPT.strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page_template("sets.html").render(
        title=clean(title),
        rows=sorted(rows, key=lambda row: -(row["hard"] or -1)),
        data=sorted({row["data"] for row in rows}),
        labels=sorted({row["labels"] for row in rows}),
        script=script,
        script_hash=f"'sha256-{digest}'",
    )


def _row(entry: SetEntry) -> dict[str, Any]:
    distilled, manifest = entry.distilled, entry.distilled.manifest
    own_name = stored_protocol(distilled).name
    hard, random, best = _published(entry)
    # Where the set's own protocol is the published one with hard labels, both columns have the same score.
    own = _mean([r for r in entry.scores if r["score"]["protocol"] == own_name])
    return {
        "name": clean(entry.path.name, 60),
        "recipe": clean(str(distilled.provenance.get("recipe", "unknown")), 40),
        "imported": "imported" in distilled.provenance,
        "data": clean(str(_part(distilled.provenance, "data", "name") or "unknown"), 40),
        "images": len(distilled),
        "bytes": manifest.storage.bytes,
        "labels": manifest.storage.labels if distilled.label_space == "probabilities" else "scores",
        "hard": hard,
        "gain": None if hard is None or random is None else hard - random,
        "real": best,
        "own": own,
        "protocol": clean(own_name, 60),
        "seconds": distilled.provenance.get("seconds"),
        "sheet": base64.b64encode(_strip(distilled)).decode(),
        "alt": f"First images of {clean(entry.path.name, 60)}, one of each class, at most {_SHOWN}",
        "commands": repeat_commands(entry),
    }


def _strip(distilled: Distilled) -> bytes:
    """Return a PNG with the first image of each class, side by side, at most ten."""
    owners = distilled.owner.tolist()
    first = [owners.index(c) for c in sorted(set(owners))[:_SHOWN]]
    tiles = np.stack([np.pad(tile, _GAP[: tile.ndim]) for tile in to_pixels(distilled.unit_images()[first])])
    return png_bytes(Image.fromarray(np.concatenate(tiles, axis=1)))


def _published(entry: SetEntry) -> tuple[float | None, float | None, float | None]:
    """Return the accuracies in percent of the set, of random and of the best real images under one common protocol."""
    common = [r for r in entry.scores if str(r["score"]["protocol"]).startswith("published")]
    hard = [r for r in common if r["score"]["labels"] in ("hard", "soft as hard", "scores as hard", "")]
    if not hard:
        return None, None, None
    conditions = json.dumps(hard[0]["conditions"]["protocol"], sort_keys=True)
    same = [r for r in hard if json.dumps(r["conditions"]["protocol"], sort_keys=True) == conditions]
    network, name = hard[0]["score"]["network"], hard[0]["score"]["protocol"]
    real = [r for r in entry.baselines if (r["score"]["network"], r["score"]["protocol"]) == (network, name)]
    by_name = {r["score"]["name"]: _mean([r]) for r in real}
    best = max((value for value in by_name.values() if value is not None), default=None)
    return _mean(same), by_name.get("random"), best


def _mean(records: Sequence[Mapping[str, Any]]) -> float | None:
    accuracies = [accuracy for record in records for accuracy in record["score"]["accuracies"]]
    return 100 * statistics.fmean(accuracies) if accuracies else None


_SCRIPT = """
const body = document.querySelector("tbody");
const rows = Array.from(body.rows);
function value(row, column) {
  const text = row.cells[column].dataset.value;
  const number = Number.parseFloat(text);
  return Number.isNaN(number) ? text : number;
}
document.querySelectorAll("thead button").forEach((button) => {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const rising = head.getAttribute("aria-sort") === "descending";
    document.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const order = rising ? 1 : -1;
    rows.sort((a, b) => {
      const [x, y] = [value(a, head.cellIndex), value(b, head.cellIndex)];
      if (x === "" || y === "") return x === y ? 0 : x === "" ? 1 : -1;
      return x < y ? -order : x > y ? order : 0;
    });
    rows.forEach((row) => body.append(row));
  });
});
function filter() {
  const data = document.querySelector("#data").value;
  const labels = document.querySelector("#labels").value;
  const bytes = Number.parseFloat(document.querySelector("#bytes").value) || Infinity;
  let shown = 0;
  rows.forEach((row) => {
    const hidden = (data && row.dataset.data !== data) || (labels && row.dataset.labels !== labels)
      || Number(row.dataset.bytes) > bytes;
    row.hidden = hidden;
    shown += hidden ? 0 : 1;
  });
  document.querySelector("#shown").textContent = `${shown} of ${rows.length} sets`;
}
document.querySelectorAll("select, input").forEach((field) => field.addEventListener("input", filter));
filter();
"""
