"""Scores that were computed once and kept: one small file for each, named by everything that it depends on."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import torch

from ddsdk.artefact import Distilled
from ddsdk.data import RealData
from ddsdk.foundation import ArtifactError, Store, Timing, Unit, clean, generator, readable_json, require, strict_json
from ddsdk.judging.judge import Progress, evaluating, last_score
from ddsdk.training import Evaluation, Score


class _Conditions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    set: str
    test: str
    evaluation: dict[str, Any]
    seed: int
    device: str
    versions: dict[str, str]


class _Record(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    score: Score
    data: str
    ipc: int
    distil_seconds: float | None = None


def results_folder(folder: Path) -> Path:
    """Return where the scores of the set in `folder` go: beside it, so that a set from elsewhere brings none."""
    whole = folder if folder.name not in ("", "..") else folder.resolve()
    return whole.with_name(f"{whole.name}-results")


def kept_score(
    folder: Path,
    name: str,
    distilled: Distilled,
    test: RealData,
    evaluation: Evaluation,
    seed: int,
    *,
    fresh: bool = False,
) -> Score:
    """Return the score of a set, from `folder` if it was computed under the same conditions before.

    Args:
        folder: Folder of the scores, made if it does not exist. Its files are believed, so it should be yours.
        name: Name of the set in tables.
        distilled: The set.
        test: Real data in the set's value space, with the set's classes.
        evaluation: Protocol of the training. A learning rate or a momentum that was learned with the set replaces its
            own; one for each step holds where the images come in their stored order.
        seed: Root of every random number.
        fresh: Whether a score that is there is computed again.

    Raises:
        ValueError: If the set does not fit `test`.
        ArtifactError: ``"score"``, if the file in `folder` is no score.
    """
    return last_score(scoring(folder, name, distilled, test, evaluation, seed, fresh=fresh))


def scoring(
    folder: Path,
    name: str,
    distilled: Distilled,
    test: RealData,
    evaluation: Evaluation,
    seed: int,
    *,
    fresh: bool = False,
) -> Iterator[Progress]:
    """Do what `kept_score` does, giving control back after each epoch."""
    names = tuple(map(clean, test.class_names))
    rule = f"be those of the set, {list(distilled.class_names)}"
    require(names == distilled.class_names, "class names of test", rule, list(names))
    evaluation, pace = evaluation.with_learned(distilled.learned_lr, distilled.learned_momentum)
    if distilled.manifest.storage.labels == "hard":
        # Every reading of one-hot rows is the same, and so is its score.
        evaluation = dataclasses.replace(evaluation, labels="stored")
    conditions: dict[str, Any] = {
        "set": distilled.content_id,
        "test": test.fingerprint,
        "evaluation": evaluation.to_dict(),
        "seed": seed,
        "device": test.device.type,
        "versions": {"ddsdk": version("ddsdk"), "torch": torch.__version__},
    }
    # The name tells rows of a table apart whose sets are the same, such as those of two baselines.
    store, unit = Store(folder), Unit("score", conditions, (name,))
    kept = store.read(unit.id)
    if kept is not None and not fresh:
        yield Progress(evaluation.rounds, evaluation.rounds, _read(unit, kept).score, kept=True)
        return
    store.make()
    wall, cpu = time.perf_counter(), time.process_time()
    images, labels = distilled.images.to(test.device), distilled.labels.to(test.device)
    for step in evaluating((images, labels), test, evaluation, rng=generator(seed), name=name, pace=pace):
        if step.score is None:
            yield step
            continue
        score, seconds = step.score, distilled.provenance.get("seconds")
        score = dataclasses.replace(score, stored_floats=distilled.manifest.storage.floats)
        record = {
            "score": dataclasses.asdict(score),
            "data": test.name,
            "ipc": distilled.stored_ipc,
            "distil_seconds": seconds if isinstance(seconds, int | float) else None,
        }
        store.publish(unit, readable_json(record), Timing.since(wall, cpu), replace=fresh)
        yield step._replace(score=score)


def read_scores(folder: Path) -> list[dict[str, Any]]:
    """Return the scores that `kept_score` has kept in `folder`, each with its conditions."""
    return [
        {**msgspec.to_builtins(_read(unit, result)), "conditions": dict(unit.config)}
        for unit, result in Store(folder).results("score")
    ]


def _read(unit: Unit, result: bytes) -> _Record:
    try:
        msgspec.convert(unit.config, _Conditions, strict=True)
        Evaluation.from_dict(unit.config["evaluation"])
        record = msgspec.convert(strict_json(result), _Record, strict=True)
    except (ValueError, msgspec.ValidationError) as error:
        raise ArtifactError("score", f"unit {unit.id} must hold a score, got: {clean(str(error))}") from None
    accuracies = record.score.accuracies
    if not accuracies or not all(0 <= a <= 1 for a in accuracies):
        raise ArtifactError("score", f"unit {unit.id} must hold accuracies in 0..1, got {accuracies!r}")
    return record
