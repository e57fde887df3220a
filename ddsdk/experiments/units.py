"""Work units of a benchmark table: experts or teachers, distilled sets, and evaluated networks."""

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
from ddsdk.data import RealData, load_pair
from ddsdk.foundation import Compute, Unit, canonical_json, generator, require, strict_json
from ddsdk.judging import TrainingSet, in_space_of, network_accuracy, with_centred_labels
from ddsdk.networks import NetworkFactory, network_factory
from ddsdk.planning import method_from_parameters
from ddsdk.recipes import Recipe
from ddsdk.running import Run
from ddsdk.training import TrainingProtocol


@dataclass(frozen=True)
class WorkerContext:
    """Settings of a worker that are not part of a unit and do not determine its result.

    Attributes:
        root: Folder of the named data sets; None for ``~/.cache/ddsdk``.
        device: Torch device of all computations, such as ``"cpu"`` or ``"cuda"``.
    """

    root: str | None = None
    device: str = "cpu"


class TableEntry(NamedTuple):
    """Method of a table with its settings.

    Attributes:
        name: Name of the method, a key of `ddsdk.planning.METHODS`.
        method: Recipe or baseline with its parameters.
        network: Name of the student network, a key of `ddsdk.networks.NETWORKS`.
        options: Options of the network's builder, by name.
    """

    name: str
    method: Recipe
    network: str
    options: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return name, parameters and student network as plain values."""
        student = {"network": self.network, "options": dict(self.options)}
        return {"recipe": self.name, "parameters": dataclasses.asdict(self.method), "student": student}

    def factory(self, real: RealData) -> NetworkFactory:
        """Return the factory of the student networks for a data set."""
        return network_factory(self.network, real.image_shape, real.num_classes, **self.options)


@dataclass(frozen=True, kw_only=True)
class UnitFactory:
    """Factory of the units of one table.

    Attributes:
        data: Name or path of the data set under the key ``"data"``, and further options of `ddsdk.load_pair`.
        fingerprint: Fingerprint of the training data.
        seed: Seed of the first distilled set of each method; set number s has ``seed + s``.
        threads: Number of CPU threads of each unit.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> factory = UnitFactory(data={"data": "digits"}, fingerprint=real.fingerprint)
        >>> entry = TableEntry("random", ddsdk.BASELINES["random"](ipc=1), "convnet", {"width": 4})
        >>> distillation = factory.distil(entry, 0)
        >>> protocol = ddsdk.TrainingProtocol.published()
        >>> factory.judge(protocol, 0, distillation.id).needs == (distillation.id,)
        True
    """

    data: Mapping[str, Any]
    fingerprint: str
    seed: int = 0
    threads: int = 1

    def distil(self, entry: TableEntry, index: int, needs: tuple[str, ...] = ()) -> Unit:
        """Return the unit of distilled set number `index` of a method; `needs` are the ids of its expert units."""
        return Unit("distil", {**self._shared(), **entry.to_dict()}, (index,), needs)

    def networks(self, entry: TableEntry, index: int, count: int) -> list[Unit]:
        """Return the units of the `count` experts or teachers of distilled set number `index` of a method."""
        config = {**self._shared(), **entry.to_dict(), "count": count}
        return [Unit("network", config, (index, i)) for i in range(count)]

    def judge(self, protocol: TrainingProtocol, index: int, of: str | None, *, centred: bool = False) -> Unit:
        """Return the unit of one network that is trained on a set and tested.

        Args:
            protocol: Training protocol. Its name and its number of networks are not part of the unit.
            index: Number of the network, from 0.
            of: Id of the unit of the set; None for the full training set.
            centred: Whether class labels become centred rows, the targets of a regression.
        """
        plain = dataclasses.replace(protocol, name="", networks=1)
        config = {**self._shared(), "protocol": plain.to_dict(), "centred": centred}
        return Unit("judge", config, (index,), () if of is None else (of,))

    def _shared(self) -> dict[str, Any]:
        return {
            "data": dict(self.data),
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "threads": self.threads,
            "versions": package_versions(),
        }


def package_versions() -> dict[str, str]:
    """Return the versions of ddsdk and torch, which affect results."""
    return {"ddsdk": version("ddsdk"), "torch": torch.__version__}


def compute_in(place: WorkerContext) -> Compute:
    """Return the function that computes units of a table on the device of a worker."""
    return partial(_compute, place=place)


def _compute(unit: Unit, inputs: Mapping[str, bytes], *, place: WorkerContext) -> bytes:
    require(unit.kind in _KINDS, "kind", f"be among {', '.join(_KINDS)}", unit.kind)
    versions = unit.config.get("versions")
    require(versions == package_versions(), "versions", f"be those of this worker, {package_versions()}", versions)
    previous_threads = torch.get_num_threads()
    torch.set_num_threads(unit.config["threads"])
    try:
        return _KINDS[unit.kind](unit, inputs, place)
    finally:
        torch.set_num_threads(previous_threads)


def _network(unit: Unit, _: Mapping[str, bytes], place: WorkerContext) -> bytes:
    """Return a hash of the last weights of one expert or teacher, which is trained into the cache.

    Raises:
        ValueError: If the number of networks is not that of the method.
    """
    config = unit.config
    runs = _prepared(config, unit.key[0], place).runs
    if runs is None or len(runs) != config["count"]:
        raise ValueError(f"count must be the number of networks of the method, got {config['count']!r}")
    last = runs.weights(int(unit.key[1]), -1).cpu().contiguous()
    return canonical_json({"last": hashlib.sha256(last.numpy().tobytes()).hexdigest()})


def _distil(unit: Unit, _: Mapping[str, bytes], place: WorkerContext) -> bytes:
    distilled = _prepared(unit.config, unit.key[0], place).complete()
    # Without its times, the result has the same bytes on every machine. The store keeps the times separately.
    provenance = {name: value for name, value in distilled.provenance.items() if name not in ("seconds", "runs")}
    return dataclasses.replace(distilled, provenance=provenance).to_bytes()


def _judge(unit: Unit, inputs: Mapping[str, bytes], place: WorkerContext) -> bytes:
    config = unit.config
    train, test = _pair(json.dumps(config["data"], sort_keys=True), config["fingerprint"], place)
    protocol = TrainingProtocol.from_dict(config["protocol"])
    if unit.needs:
        (need,) = unit.needs
        distilled = Distilled.from_bytes(inputs[need])
        distilled = with_centred_labels(distilled) if config["centred"] else distilled
        test = in_space_of(distilled, test)
        training_set = TrainingSet.of(distilled, protocol, device=test.device)
    else:
        training_set = TrainingSet(train.batch(torch.arange(len(train))), protocol)
    accuracy = network_accuracy(training_set, test, int(unit.key[0]), rng=generator(config["seed"]))
    return canonical_json({"accuracy": accuracy})


_KINDS: dict[str, Callable[[Unit, Mapping[str, bytes], WorkerContext], bytes]] = {
    "network": _network,
    "distil": _distil,
    "judge": _judge,
}


def _prepared(config: Mapping[str, Any], index: int | str, place: WorkerContext) -> Run[RealData]:
    train, _ = _pair(json.dumps(config["data"], sort_keys=True), config["fingerprint"], place)
    method, student = method_from_parameters(config["recipe"], config["parameters"]), config["student"]
    make = network_factory(student["network"], train.image_shape, train.num_classes, **student["options"])
    return Run(method, train, make_student=make, seed=config["seed"] + int(index))


@lru_cache(maxsize=2)
def _pair(data: str, fingerprint: str, place: WorkerContext) -> tuple[RealData, RealData]:
    options = json.loads(data)
    train, test = load_pair(options.pop("data"), root=place.root, **options)
    require(
        train.fingerprint == fingerprint, "fingerprint", f"be that of the loaded data, {train.fingerprint}", fingerprint
    )
    return train.to(place.device), test.to(place.device)


def set_of(result: bytes, seconds: float | None) -> Distilled:
    """Return the distilled set in the result of a unit; `seconds` of its distillation are added to its provenance."""
    distilled = Distilled.from_bytes(result)
    if seconds is None:
        return distilled
    return dataclasses.replace(distilled, provenance={**distilled.provenance, "seconds": round(seconds, 3)})


def accuracy_of(result: bytes) -> float:
    """Return the test accuracy in the result of a unit, in 0..1."""
    return float(strict_json(result)["accuracy"])
