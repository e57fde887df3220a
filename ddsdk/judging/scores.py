"""A cache of scores: one small file for each score, named by the hash of all its conditions."""

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
from ddsdk.foundation import (
    ArtifactError,
    Store,
    Timing,
    Unit,
    as_generator,
    clean,
    generator,
    inner_folder,
    readable_json,
    strict_json,
)
from ddsdk.judging.judge import EvaluationProgress, evaluation_steps, last_score
from ddsdk.judging.training_set import TrainingSet, in_space_of
from ddsdk.networks import Backbone, NetworkSpec, function_digest
from ddsdk.training import Score, TrainingProtocol


class _Conditions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    function: str = ""
    stopping: str = ""
    set: str
    test: str
    protocol: dict[str, Any]
    seed: int
    device: str
    versions: dict[str, str]


class _Record(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    score: Score
    data: str
    ipc: int
    distil_seconds: float | None = None


def results_folder(folder: Path) -> Path:
    """Return the folder for the scores of a set: beside the folder of the set, so that sets are shared without scores.

    A link in its place, which may have come with the set, gives a `StorageError`.

    Examples:
        >>> from pathlib import Path
        >>> from ddsdk.judging import results_folder
        >>> results_folder(Path("sets/dm-digits")).name
        'dm-digits-results'
    """
    named = folder if folder.name not in ("", "..") else folder.resolve()
    return inner_folder(named.parent, f"{named.name}-results")


def cached_score(
    folder: Path,
    name: str,
    distilled: Distilled,
    test: RealData,
    protocol: TrainingProtocol,
    seed: int,
    *,
    fresh: bool = False,
    stopping: RealData | None = None,
) -> Score:
    """Return the score of a set, from the cache if it was already computed under the same conditions.

    A set that does not fit `test` gives a ValueError. A cached file without a valid score gives an `ArtifactError` with
    the reason ``"score"``.

    Args:
        folder: Folder of the scores, which is made if it does not exist. Its files are trusted.
        name: Name of the set in tables.
        distilled: Distilled set to be evaluated.
        test: Held-out real data with the classes of the set, in any value space.
        protocol: Protocol of training networks. A rate or momentum that was learned with the set replaces that of the
            protocol; values for single steps are used if the protocol has the stored order.
        seed: Root of all random numbers, an integer.
        fresh: Whether the score is computed again even if it is cached.
        stopping: Real training images for a protocol with early stopping, see `TrainingSet`. None for other protocols.

    Examples:
        >>> import ddsdk
        >>> from pathlib import Path
        >>> from ddsdk.judging import cached_score
        >>> train, test = ddsdk.load_pair("digits")
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), train)
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=1, networks=1).changed(options={"width": 4})
        >>> folder = Path("digits-scores")
        >>> first = cached_score(folder, "means", distilled, test, protocol, seed=0)
        >>> first == cached_score(folder, "means", distilled, test, protocol, seed=0)
        True
    """
    return last_score(cached_score_steps(folder, name, distilled, test, protocol, seed, fresh=fresh, stopping=stopping))


def cached_score_steps(
    folder: Path | None,
    name: str,
    distilled: Distilled,
    test: RealData,
    protocol: TrainingProtocol,
    seed: int | torch.Generator,
    *,
    fresh: bool = False,
    network: NetworkSpec | None = None,
    stopping: RealData | None = None,
    learned: bool = True,
    backbone: Backbone | None = None,
) -> Iterator[EvaluationProgress]:
    """Yield the progress of `cached_score` after each epoch; the last progress has the score.

    The arguments are those of `cached_score`, and `network`, `learned` and `backbone`, see `TrainingSet.of`. Without a
    folder no score is stored, and the seed may be a generator.

    Examples:
        >>> import ddsdk
        >>> from pathlib import Path
        >>> from ddsdk.judging import cached_score_steps
        >>> train, test = ddsdk.load_pair("digits")
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), train)
        >>> protocol = ddsdk.TrainingProtocol(name="short", epochs=1, networks=1).changed(options={"width": 4})
        >>> *_, last = cached_score_steps(Path("digits-scores"), "class means", distilled, test, protocol, seed=0)
        >>> last.score.name, last.kept
        ('class means', False)
    """
    test = in_space_of(distilled, test)
    options: dict[str, Any] = {"device": test.device, "network": network, "stopping": stopping, "learned": learned}
    training_set = TrainingSet.of(distilled, protocol, **options, backbone=backbone)
    if distilled.manifest.storage.labels == "hard":
        # All forms of one-hot labels are equal, so that one cached score serves for all of them.
        protocol = dataclasses.replace(training_set.protocol, labels="stored")
        training_set = dataclasses.replace(training_set, protocol=protocol)
    rng = as_generator(seed)
    if folder is None:
        for step in evaluation_steps(training_set, test, rng=rng, name=name):
            yield _with_stored_floats(step, distilled)
        return
    conditions: dict[str, Any] = {
        "set": distilled.content_id,
        "test": test.fingerprint,
        "protocol": training_set.protocol.to_dict(),
        "seed": seed,
        "device": test.device.type,
        "versions": {"ddsdk": version("ddsdk"), "torch": torch.__version__},
    }
    if stopping is not None:
        conditions["stopping"] = stopping.fingerprint
    if network is not None and not isinstance(network, str):
        # A network of one's own may change under its name.
        conditions["function"] = function_digest(training_set.factory(generator("identity")), test.image_shape)
    # The name is part of the key, because two rows of a table can have equal sets, such as those of two baselines.
    store, unit = Store(folder), Unit("score", conditions, (name,))
    cached = store.read(unit.id)
    if cached is not None and not fresh:
        yield EvaluationProgress(protocol.rounds, protocol.rounds, _read(unit, cached).score, kept=True, name=name)
        return
    store.make()
    wall, cpu = time.perf_counter(), time.process_time()
    for progress in evaluation_steps(training_set, test, rng=rng, name=name):
        step = _with_stored_floats(progress, distilled)
        if step.score is not None:
            seconds = distilled.provenance.get("seconds")
            record = {
                "score": dataclasses.asdict(step.score),
                "data": test.name,
                "ipc": distilled.stored_ipc,
                "distil_seconds": seconds if isinstance(seconds, int | float) else None,
            }
            store.publish(unit, readable_json(record), Timing.since(wall, cpu), replace=fresh)
        yield step


def _with_stored_floats(step: EvaluationProgress, distilled: Distilled) -> EvaluationProgress:
    if step.score is None:
        return step
    floats = distilled.manifest.storage.floats
    return step._replace(score=dataclasses.replace(step.score, stored_floats=floats))


def read_scores(folder: Path) -> list[dict[str, Any]]:
    """Return the scores that `cached_score` has stored in a folder, each with its conditions, as plain values.

    Args:
        folder: Folder of the scores; an empty or missing one gives an empty list.

    Examples:
        >>> import ddsdk
        >>> from pathlib import Path
        >>> ddsdk.read_scores(Path("no-scores"))
        []
    """
    return [
        {**msgspec.to_builtins(_read(unit, result)), "conditions": dict(unit.config)}
        for unit, result in Store(folder).results("score")
    ]


def _read(unit: Unit, result: bytes) -> _Record:
    try:
        msgspec.convert(unit.config, _Conditions, strict=True)
        TrainingProtocol.from_dict(unit.config["protocol"])
        record = msgspec.convert(strict_json(result), _Record, strict=True)
    except (ValueError, msgspec.ValidationError) as error:
        raise ArtifactError("score", f"unit {unit.id} must hold a score, got: {clean(str(error))}") from None
    accuracies = record.score.accuracies
    if not accuracies or not all(0 <= a <= 1 for a in accuracies):
        raise ArtifactError("score", f"unit {unit.id} must hold accuracies in 0..1, got {accuracies!r}")
    return record
