"""A page that compares the distilled sets of a folder: pictures, storage, accuracies and commands."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddsdk.artefact import Distilled, page_template, png_bytes, to_pixels
from ddsdk.experiments.set_commands import part_of, repeat_commands
from ddsdk.experiments.set_scores import SetAccuracies, SetEntry, is_real, set_accuracies
from ddsdk.foundation import ArtifactError, Store, Unit, clean, note, require
from ddsdk.judging import read_scores, results_folder, stored_protocol
from ddsdk.training import TrainingProtocol

_DEPTH, _SHOWN = 3, 10
_UNITS = ("kB", "MB", "GB")
_HEADS = (
    *("set", "hard labels", "over random", "best real", "own", "own − hard", "random, own"),
    *("bytes", "images", "labels", "data", "seconds", "repeat"),
)
_GAP = ((0, 0), (0, 1), (0, 0))
"""Padding of a picture of a strip: one column of pixels at its right."""


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
        beside = results_folder(path)
        records = [*read_scores(beside), *shared]
        own = tuple(r for r in records if r["conditions"]["set"] == distilled.content_id)
        tests = {r["conditions"]["test"] for r in own}
        real = tuple(r for r in records if is_real(r, distilled) and r["conditions"]["test"] in tests)
        epochs = [unit.config["protocol"]["epochs"] for folder in (beside, *results) for unit in _full_units(folder)]
        entries.append(SetEntry(path, distilled, own, real, max(epochs, default=None) if own else None))
    return entries


def _full_units(folder: Path) -> list[Unit]:
    return [unit for unit, _ in Store(folder).results("full")] if folder.is_dir() else []


def sets_page(entries: Sequence[SetEntry], *, title: str = "Distilled sets") -> str:
    """Return one HTML page with a sortable table of sets, filters, their pictures and their commands.

    The page loads no other file. Its script sorts and filters the table, and nothing else. For each set, the table has
    the accuracy with hard labels under the published protocol that most sets of the same data share, the gain over
    random real images of equal storage there, the accuracy under the set's own protocol with its labels, the difference
    of both, and the accuracy of random images with labels of the same kind under the own protocol.

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
    rows = [_row(entry, found) for entry, found in zip(entries, set_accuracies(entries), strict=True)]
    script = _SCRIPT.strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page_template("sets.html").render(
        title=clean(title),
        rows=sorted(rows, key=lambda row: -(row["hard"] or -1)),
        data=sorted({row["data"] for row in rows}),
        labels=sorted({row["labels"] for row in rows}),
        sizes=dict.fromkeys(row["size"] for row in sorted(rows, key=lambda row: row["bytes"])),
        heads=_HEADS,
        script=script,
        script_hash=f"'sha256-{digest}'",
    )


def _row(entry: SetEntry, found: SetAccuracies) -> dict[str, Any]:
    distilled, manifest = entry.distilled, entry.distilled.manifest
    storage = manifest.storage.bytes
    return {
        "name": clean(entry.path.name, 60),
        "recipe": clean(str(distilled.provenance.get("recipe", "unknown")), 40),
        "imported": "imported" in distilled.provenance,
        "data": clean(str(part_of(distilled.provenance, "data", "name") or "unknown"), 40),
        "images": len(distilled),
        "bytes": storage,
        "size": _size(storage),
        "labels": manifest.storage.labels if distilled.label_space == "probabilities" else "scores",
        "hard": found.hard,
        "other": "" if found.common or found.protocol is None else _conditions(found.protocol),
        "gain": _less(found.hard, found.random),
        "real": found.best,
        "own": found.own,
        "lead": _less(found.own, found.hard),
        "own_real": found.own_random,
        "protocol": clean(stored_protocol(distilled).name, 60),
        "seconds": distilled.provenance.get("seconds"),
        "sheet": base64.b64encode(_strip(distilled)).decode(),
        "alt": f"First images of {clean(entry.path.name, 60)}, one of each class, at most {_SHOWN}",
        "commands": repeat_commands(entry),
    }


def _less(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _conditions(protocol: TrainingProtocol) -> str:
    augmentation = protocol.augmentation.replace("_", " ") or "no augmentation"
    return clean(f"{protocol.network_label}, {protocol.epochs} epochs, rate {protocol.lr:g}, {augmentation}", 120)


def _size(storage: int) -> str:
    """Return the class of a storage in bytes: the next power of ten, such as "up to 10 kB"."""
    power = max(3, len(str(max(storage, 1) - 1)))
    unit, rest = min(power // 3, len(_UNITS)), 10 ** (power - 3 * min(power // 3, len(_UNITS)))
    return f"up to {rest} {_UNITS[unit - 1]}"


def _strip(distilled: Distilled) -> bytes:
    """Return a PNG with the first image of each class, side by side, at most ten."""
    owners = distilled.owner.tolist()
    first = [owners.index(c) for c in sorted(set(owners))[:_SHOWN]]
    tiles = np.stack([np.pad(tile, _GAP[: tile.ndim]) for tile in to_pixels(distilled.unit_images()[first])])
    return png_bytes(Image.fromarray(np.concatenate(tiles, axis=1)))


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
  const size = document.querySelector("#size").value;
  let shown = 0;
  rows.forEach((row) => {
    const hidden = (data && row.dataset.data !== data) || (labels && row.dataset.labels !== labels)
      || (size && row.dataset.size !== size);
    row.hidden = hidden;
    shown += hidden ? 0 : 1;
  });
  document.querySelector("#shown").textContent = `${shown} of ${rows.length} sets`;
}
document.querySelectorAll("select").forEach((field) => field.addEventListener("input", filter));
filter();
"""
