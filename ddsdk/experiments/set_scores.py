"""Accuracies of the sets of a folder that can stand in one table: the same protocol for all sets of the same data."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ddsdk.artefact import Distilled
from ddsdk.baselines import BASELINES, Selection
from ddsdk.experiments.set_comparison import RANDOM, labelled_name
from ddsdk.judging import stored_protocol
from ddsdk.training import TrainingProtocol

_HARD = ("hard", "soft as hard", "scores as hard", "")
# Names, and fields whose changes give no other protocol: labels of sets with hard labels, and precision.
_FREE = ("protocol", "labels", "networks", "order")
# Fields that options of the command line change, or that are learned with the set.
_CHANGED = (*_FREE, "network_options", "epochs", "lr", "momentum")


@dataclass(frozen=True)
class SetEntry:
    """One distilled set of a folder with its scores.

    Attributes:
        path: Folder of the set.
        distilled: Distilled set in the folder.
        scores: Records of `ddsdk.read_scores` of the set.
        baselines: Records of real images that were evaluated beside it, of equal storage.
        full_epochs: Epochs of networks on the full training set in the folder of the scores; None without them.
    """

    path: Path
    distilled: Distilled
    scores: tuple[Mapping[str, Any], ...]
    baselines: tuple[Mapping[str, Any], ...]
    full_epochs: int | None = None


class SetAccuracies(NamedTuple):
    """Mean accuracies of a set and of real images in percent; None for those without a score.

    Attributes:
        hard: Accuracy with hard labels under the common protocol.
        random: Accuracy of random images there.
        best: Best accuracy of real images there.
        own: Accuracy under the protocol and with the labels of the set.
        own_random: Accuracy of random images with labels of the same kind under the protocol of the set.
        common: Whether the common protocol is that of most sets of the same data.
        protocol: Conditions of the accuracy with hard labels; None without it.
    """

    hard: float | None
    random: float | None
    best: float | None
    own: float | None
    own_random: float | None
    common: bool
    protocol: TrainingProtocol | None


def is_real(record: Mapping[str, Any], distilled: Distilled) -> bool:
    """Return whether a record is one of real images of equal storage that belong beside a set.

    Args:
        record: Record of a score, as from `ddsdk.read_scores`.
        distilled: Set beside which the images stand.
    """
    score = record["score"]
    same_size = score["images"] == distilled.num_classes * distilled.stored_ipc
    # Means of clusters are a baseline, and no real images.
    selected = score["name"] in BASELINES and issubclass(BASELINES[score["name"]], Selection)
    return same_size and (selected or score["name"] == labelled_name(distilled))


def set_accuracies(entries: Sequence[SetEntry]) -> list[SetAccuracies]:
    """Return the accuracies of each set under the protocol that most sets of the same data share, and under its own.

    Args:
        entries: Sets with their scores, as from `ddsdk.experiments.read_sets`.

    Examples:
        >>> from ddsdk.experiments.set_scores import set_accuracies
        >>> set_accuracies([])
        []
    """
    sets: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    fields: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        for record in _hard_records(entry):
            key = _key(record, _FREE)
            sets[record["conditions"]["test"]][key].add(entry.distilled.content_id)
            fields[key] = record["conditions"]["protocol"]
    chosen = {test: max(found, key=lambda key: _rank(found[key], fields[key], key)) for test, found in sets.items()}
    return [_accuracies(entry, set(chosen.values())) for entry in entries]


def _rank(owners: set[str], protocol: Mapping[str, Any], key: str) -> tuple[Any, ...]:
    """Return the rank of a protocol: that of most sets, then the published network, augmentation and most epochs."""
    published = protocol["network"] == TrainingProtocol().network
    return len(owners), published, bool(protocol["augmentation"]), protocol["epochs"], key


def _hard_records(entry: SetEntry) -> list[Mapping[str, Any]]:
    return [
        record
        for record in entry.scores
        if str(record["score"]["protocol"]).startswith("published") and record["score"]["labels"] in _HARD
    ]


def _accuracies(entry: SetEntry, chosen: set[str]) -> SetAccuracies:
    hard = _hard_records(entry)
    keys = {_key(record, _FREE): record["conditions"]["protocol"] for record in hard}
    common = next((key for key in keys if key in chosen), None)
    key = common or max(keys, key=lambda key: _rank(set(), keys[key], key), default=None)
    same = [record for record in hard if _key(record, _FREE) == key]
    real = defaultdict(list)
    for record in entry.baselines:
        if _key(record, _FREE) == key and record["score"]["name"] in BASELINES:
            real[record["score"]["name"]].append(record)
    means = {name: _mean(records) for name, records in real.items()}
    best = max((mean for mean in means.values() if mean is not None), default=None)
    protocol = TrainingProtocol.from_dict(same[0]["conditions"]["protocol"]) if same else None
    own, own_random = _own(entry)
    return SetAccuracies(_mean(same), means.get(RANDOM), best, own, own_random, common is not None, protocol)


def _own(entry: SetEntry) -> tuple[float | None, float | None]:
    """Return the accuracies under the own protocol, of those with the most epochs: of the set and of random images."""
    distilled = entry.distilled
    own, hard = stored_protocol(distilled), distilled.manifest.storage.labels == "hard"
    wanted = _plain(own.to_dict())
    found = [
        record
        for record in entry.scores
        if _plain(record["conditions"]["protocol"]) == wanted
        and (hard or record["conditions"]["protocol"].get("labels", "stored") == own.labels)
    ]
    if not found:
        return None, None
    longest = max(found, key=lambda record: record["conditions"]["protocol"]["epochs"])
    key = _key(longest, _FREE)
    soft = not hard and own.labels in ("stored", "probabilities")
    name = labelled_name(distilled) if soft else RANDOM
    random = [r for r in entry.baselines if r["score"]["name"] == name and _key(r, _FREE) == key]
    return _mean([r for r in found if _key(r, _FREE) == key]), _mean(random)


def _key(record: Mapping[str, Any], free: Sequence[str]) -> str:
    conditions = record["conditions"]
    protocol = _without(conditions["protocol"], free)
    return json.dumps([protocol, conditions["test"], conditions.get("function", "")], sort_keys=True)


def _plain(protocol: Mapping[str, Any]) -> str:
    # Tuples are lists in files.
    return json.dumps(_without(protocol, _CHANGED), sort_keys=True)


def _without(protocol: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in protocol.items() if name not in names}


def _mean(records: Sequence[Mapping[str, Any]]) -> float | None:
    accuracies = [accuracy for record in records for accuracy in record["score"]["accuracies"]]
    return 100 * statistics.fmean(accuracies) if accuracies else None
