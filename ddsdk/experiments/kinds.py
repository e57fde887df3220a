"""Kinds of units of a table: trained networks, distilled sets, and networks that judge them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Any, NamedTuple

import torch

from ddsdk.artefact import Distilled
from ddsdk.data import Batch, RealData, load_pair
from ddsdk.foundation import Compute, Unit, canonical_json, generator, require, strict_json
from ddsdk.judging import network_accuracy
from ddsdk.networks import NetworkFactory, network_factory
from ddsdk.planning import made_of
from ddsdk.recipes import Recipe
from ddsdk.running import Run
from ddsdk.synthetic import centred_labels
from ddsdk.training import Evaluation, Pace


@dataclass(frozen=True)
class Place:
    """Data folder and device of a worker, which units do not carry with them.

    Attributes:
        root: Folder of named data sets.
        device: Device of all computations.
    """

    root: str | None = None
    device: str = "cpu"


class Entry(NamedTuple):
    """A method of a table, with its settings.

    Attributes:
        name: Name of the method.
        method: A recipe or baseline.
        network: Network of its students.
        options: Options of the network's builder.
    """

    name: str
    method: Recipe
    network: str
    options: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        student = {"network": self.network, "options": dict(self.options)}
        return {"recipe": self.name, "parameters": dataclasses.asdict(self.method), "student": student}

    def factory(self, real: RealData) -> NetworkFactory:
        """Return the factory of its students."""
        return network_factory(self.network, real.image_shape, real.num_classes, **self.options)


@dataclass(frozen=True, kw_only=True)
class Task:
    """Settings of the units of one table.

    Attributes:
        data: Options of `ddsdk.load_pair` that say which data, and ``"data"``, its name or path.
        fingerprint: Fingerprint of the training data.
        seed: Set s of a method has the seed seed + s, as ``ddsdk distill --seed`` has it.
        threads: CPU threads of a unit.
    """

    data: Mapping[str, Any]
    fingerprint: str
    seed: int = 0
    threads: int = 1

    def distil(self, entry: Entry, index: int, needs: tuple[str, ...] = ()) -> Unit:
        """Return the unit of one set of a method, behind those of the networks that it needs."""
        return Unit("distil", {**self._shared(), **entry.to_dict()}, (index,), needs)

    def networks(self, entry: Entry, index: int, count: int) -> list[Unit]:
        """Return the units of the networks that set `index` of a method needs, one for each."""
        config = {**self._shared(), **entry.to_dict(), "count": count}
        return [Unit("network", config, (index, i)) for i in range(count)]

    def judge(self, evaluation: Evaluation, index: int, of: str | None, *, centred: bool = False) -> Unit:
        """Return the unit of one network that is trained and tested.

        Args:
            evaluation: The protocol. Its name and the number of its networks do not count.
            index: Number of the network.
            of: Id of the unit of the set; None for all of the training data.
            centred: Whether class labels are read as centred rows, as a regression wants them.
        """
        plain = dataclasses.replace(evaluation, protocol="", networks=1)
        config = {**self._shared(), "evaluation": plain.to_dict(), "centred": centred}
        return Unit("judge", config, (index,), () if of is None else (of,))

    def _shared(self) -> dict[str, Any]:
        return {
            "data": dict(self.data),
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "threads": self.threads,
            "versions": here(),
        }


def here() -> dict[str, str]:
    """Return the versions of ddsdk and torch, which results depend on."""
    return {"ddsdk": version("ddsdk"), "torch": torch.__version__}


def compute_in(place: Place) -> Compute:
    """Return the function that computes the benchmark's units in a place."""
    return partial(_compute, place=place)


def _compute(unit: Unit, inputs: Mapping[str, bytes], *, place: Place) -> bytes:
    require(unit.kind in _KINDS, "kind", f"be among {', '.join(_KINDS)}", unit.kind)
    found = unit.config.get("versions")
    require(found == here(), "versions", f"be those of this worker, {here()}", found)
    before = torch.get_num_threads()
    torch.set_num_threads(unit.config["threads"])
    try:
        return _KINDS[unit.kind](unit, inputs, place)
    finally:
        torch.set_num_threads(before)


def _network(unit: Unit, _: Mapping[str, bytes], place: Place) -> bytes:
    """Train one of the networks that a method needs, into the cache; the result says which weights came out."""
    config = unit.config
    runs = _prepared(config, unit.key[0], place).runs
    if runs is None or len(runs) != config["count"]:
        raise ValueError(f"count must be that of the method, got {config['count']!r}")
    last = runs.weights(int(unit.key[1]), -1).cpu().contiguous()
    return canonical_json({"last": hashlib.sha256(last.numpy().tobytes()).hexdigest()})


def _distil(unit: Unit, _: Mapping[str, bytes], place: Place) -> bytes:
    made = _prepared(unit.config, unit.key[0], place).complete()
    # A result is the same wherever it is computed; the store keeps what it took.
    told = {name: value for name, value in made.provenance.items() if name not in ("seconds", "runs")}
    return dataclasses.replace(made, provenance=told).to_bytes()


def _judge(unit: Unit, inputs: Mapping[str, bytes], place: Place) -> bytes:
    config = unit.config
    train, test = _pair(json.dumps(config["data"], sort_keys=True), config["fingerprint"], place)
    evaluation = Evaluation.from_dict(config["evaluation"])
    pace = Pace()
    if unit.needs:
        (need,) = unit.needs
        distilled = Distilled.from_bytes(inputs[need])
        test = test.with_preprocess(distilled.preprocess)
        images, labels = distilled.images.to(test.device), distilled.labels.to(test.device)
        evaluation, pace = evaluation.with_learned(distilled.learned_lr, distilled.learned_momentum)
        if config["centred"]:
            labels = centred_labels(distilled.owner, distilled.num_classes).to(images)
    else:
        images, labels = train.batch(torch.arange(len(train)))
    batch, index, rng = Batch(images, labels), int(unit.key[0]), generator(config["seed"])
    return canonical_json({"accuracy": network_accuracy(batch, test, evaluation, index, rng=rng, pace=pace)})


_KINDS: dict[str, Callable[[Unit, Mapping[str, bytes], Place], bytes]] = {
    "network": _network,
    "distil": _distil,
    "judge": _judge,
}


def _prepared(config: Mapping[str, Any], index: int | str, place: Place) -> Run[RealData]:
    train, _ = _pair(json.dumps(config["data"], sort_keys=True), config["fingerprint"], place)
    method, student = made_of(config["recipe"], config["parameters"]), config["student"]
    make = network_factory(student["network"], train.image_shape, train.num_classes, **student["options"])
    return Run(method, train, make_student=make, seed=config["seed"] + int(index))


@lru_cache(maxsize=2)
def _pair(data: str, fingerprint: str, place: Place) -> tuple[RealData, RealData]:
    options = json.loads(data)
    train, test = load_pair(options.pop("data"), root=place.root, **options)
    require(
        train.fingerprint == fingerprint, "fingerprint", f"be that of the data here, {train.fingerprint}", fingerprint
    )
    return train.to(place.device), test.to(place.device)


def set_of(result: bytes, seconds: float | None) -> Distilled:
    """Return the set in the result of a unit, with its seconds, networks included."""
    made = Distilled.from_bytes(result)
    if seconds is None:
        return made
    return dataclasses.replace(made, provenance={**made.provenance, "seconds": round(seconds, 3)})


def accuracy_of(result: bytes) -> float:
    """Return the accuracy in the result of a unit, in 0..1."""
    return float(strict_json(result)["accuracy"])
