"""Commands that make a distilled set of a folder again, and repeat its scores."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from ddsdk.baselines import BASELINES
from ddsdk.experiments.set_comparison import labelled_name
from ddsdk.experiments.set_scores import SetEntry, set_accuracies
from ddsdk.judging import stored_protocol
from ddsdk.planning import METHODS
from ddsdk.training import TrainingProtocol

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
_SHAPE = ("width", "depth", "norm")


def repeat_commands(entry: SetEntry) -> tuple[str, ...]:
    """Return the commands that make a set again, or import it, and evaluate it as it was evaluated.

    A set without scores has the command of an evaluation under both protocols.

    Args:
        entry: Set with its provenance and its scores.
    """
    provenance, folder = entry.distilled.provenance, shlex.quote(entry.path.name)
    data = shlex.quote(str(part_of(provenance, "data", "name") or "DATA"))
    imported = provenance.get("imported")
    if isinstance(imported, Mapping):
        made = f"ddsdk import {_file(imported)} --data {data}{_import_options(entry, imported)} --out {folder}"
    else:
        made = f"ddsdk distill --data {data} --recipe {provenance.get('recipe')}{_options(provenance)} --out {folder}"
    return made, f"ddsdk evaluate {folder} --data {data}{_scoring(entry)}"


def part_of(values: Mapping[str, Any], *names: str) -> Any:  # noqa: ANN401
    """Return an entry of nested mappings; None if it is missing or empty.

    Args:
        values: Mapping, such as the provenance of a set.
        *names: Keys from the outermost mapping inwards.
    """
    for name in names:
        values = values.get(name, {}) if isinstance(values, Mapping) else {}
    return values or None


def _file(imported: Mapping[str, Any]) -> str:
    files = imported.get("files") or [{"name": "FILE"}]
    name = str(files[0]["name"])
    return "FOLDER" if imported.get("layout") == "pictures" and len(files) > 1 else shlex.quote(name)


def _import_options(entry: SetEntry, imported: Mapping[str, Any]) -> str:
    words = ["--layout", str(imported.get("layout")), "--space", str(imported.get("space"))]
    recipe = entry.distilled.provenance.get("recipe")
    words += ["--method", str(recipe)] if recipe in METHODS else []
    words += ["--labels", "class-major"] if imported.get("labels") == "class-major" else []
    words += ["--experiment", str(imported["experiment"])] if imported.get("experiments", 1) > 1 else []
    words += ["--factor", str(imported["factor"])] if imported.get("factor") else []
    words += ["--learned-lr", str(entry.distilled.learned_lr)] if imported.get("learned_lr") == "user" else []
    return _joined(words)


def _options(provenance: Mapping[str, Any]) -> str:
    """Return the options of the parameters that differ from the defaults of the method, and of the network."""
    method = METHODS.get(str(provenance.get("recipe")))
    defaults = {} if method is None else {f.name: f.default for f in dataclasses.fields(method)}
    words: list[str] = []
    for name, value in {**(part_of(provenance, "parameters") or {})}.items():
        if value is None or (name != "ipc" and defaults.get(name) == value):
            continue
        switch = f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
        words += [switch] if isinstance(value, bool) else [switch, str(value)]
    for name, value in (part_of(provenance, "student", "options") or {}).items():
        words += [f"--{name}", str(value)] if name in _SHAPE else []
    configuration = part_of(provenance, "configuration") or {}
    for name in _SETTINGS:
        words += [f"--{name.replace('_', '-')}", str(configuration[name])] if configuration.get(name) else []
    words += ["--zca"] if configuration.get("zca") else []
    return _joined(words)


def _scoring(entry: SetEntry) -> str:
    """Return the options of the evaluation whose scores the set has."""
    (found,) = set_accuracies([entry])
    if found.protocol is None:
        return " --protocol both"
    protocol, published = found.protocol, TrainingProtocol.published(found.protocol.augmentation)
    compared = _was_compared(entry)
    words = ["--compare"] if compared else ["--protocol", "both"]
    words += ["--epochs", str(protocol.epochs)] if protocol.epochs != published.epochs else []
    words += ["--repeats", str(protocol.networks)] if protocol.networks != published.networks else []
    for name in _SHAPE:
        value = protocol.network_options.get(name)
        words += [f"--{name}", str(value)] if value not in (None, published.network_options.get(name)) else []
    networks = {record["conditions"]["protocol"]["network"] for record in entry.scores}
    others = sorted(networks - {protocol.network, stored_protocol(entry.distilled).network})
    words += ["--networks", ",".join(others)] if others else []
    names = {record["score"]["name"] for record in entry.baselines}
    words += ["--baselines", ",".join(name for name in BASELINES if name in names)] if names else []
    seeds = {record["conditions"]["seed"] for record in entry.scores}
    words += ["--seed", str(min(seeds))] if min(seeds) else []
    words += ["--seeds", str(len(seeds))] if compared and len(seeds) > 1 else []
    words += ["--full-epochs", str(entry.full_epochs)] if compared and entry.full_epochs else []
    return _joined(words)


def _was_compared(entry: SetEntry) -> bool:
    """Return whether scores of `ddsdk evaluate --compare` are among those of a set."""
    names = {record["score"]["name"] for record in entry.baselines}
    plain = any(str(record["score"]["protocol"]).endswith(", no augmentation") for record in entry.scores)
    return plain or labelled_name(entry.distilled) in names or entry.full_epochs is not None


def _joined(words: list[str]) -> str:
    return "".join(f" {shlex.quote(word)}" for word in words)
