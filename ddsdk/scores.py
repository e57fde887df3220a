"""Scores that were computed once and kept: one small file for each, named by everything that it depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from ddsdk.data.sources import RealData
from ddsdk.distilled import Distilled
from ddsdk.evaluation import Evaluation, Score
from ddsdk.files import canonical_json, readable_json, write_atomic
from ddsdk.judge import evaluate
from ddsdk.rng import generator

__all__ = ["kept_score", "read_scores"]


def kept_score(
    folder: Path, name: str, distilled: Distilled, test: RealData, evaluation: Evaluation, seed: int
) -> Score:
    """Return the score of a set, from `folder` if it was computed under the same conditions before.

    Args:
        folder: Where the files are; made if it does not exist.
        name: For tables.
        distilled: The set.
        test: Real data in the set's value space.
        evaluation: The protocol.
        seed: Root of every random number.
    """
    conditions: dict[str, Any] = {
        "set": distilled.content_id,
        "test": test.fingerprint,
        "evaluation": evaluation.to_dict(),
        "seed": seed,
        "device": test.device.type,
    }
    key = hashlib.sha256(canonical_json(conditions)).hexdigest()[:16]
    path = folder / f"{name}-{key}.json"
    if path.is_file():
        return _score(json.loads(path.read_text()))
    images, labels = distilled.images.to(test.device), distilled.labels.to(test.device)
    score = evaluate((images, labels), test, evaluation, rng=generator(seed), name=name)
    score = dataclasses.replace(score, stored_floats=distilled.manifest.storage.floats)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "score": dataclasses.asdict(score),
        "data": test.name,
        "ipc": distilled.ipc,
        "distil_seconds": distilled.provenance.get("seconds"),
        "conditions": conditions,
    }
    write_atomic(path, readable_json(record))
    return score


def read_scores(folder: Path) -> list[dict[str, Any]]:
    """Return the records that `kept_score` wrote to `folder`, by file name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def _score(record: dict[str, Any]) -> Score:
    values = dict(record["score"])
    values["accuracies"] = tuple(values["accuracies"])
    return Score(**values)
