"""Nested states as one safe file: tensors in safetensors, everything else as JSON in its metadata.

No pickle: a checkpoint is data. Dictionaries with string or integer keys, lists, tuples, tensors, numbers, strings,
booleans and None go in and come out as they were.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from ddsdk.foundation import ResumeError, write_atomic


def pack(tree: Any) -> tuple[Any, dict[str, Tensor]]:  # noqa: ANN401
    """Split a nested state into JSON values and the tensors that they refer to."""
    tensors: dict[str, Tensor] = {}

    def walk(node: Any) -> Any:  # noqa: ANN401
        if isinstance(node, Tensor):
            name = str(len(tensors))
            # A copy of its own: safetensors refuses tensors that share memory.
            tensors[name] = node.detach().cpu().contiguous().clone()
            return {"tensor": name}
        if isinstance(node, dict):
            for key in node:
                if not isinstance(key, str | int):
                    raise TypeError(f"keys of a state must be strings or integers, got {key!r}")
            return {"dict": [[key, walk(value)] for key, value in node.items()]}
        if isinstance(node, list | tuple):
            # Named tuples and sizes come back as tuples.
            return {"list" if isinstance(node, list) else "tuple": [walk(item) for item in node]}
        if node is None or isinstance(node, bool | int | float | str):
            return {"value": node}
        raise TypeError(f"state must hold tensors and plain values, got {type(node).__name__}")

    return walk(tree), tensors


def unpack(tree: Any, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401
    """Return the nested state that `pack` split."""
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unpack(value, tensors) for key, value in content}
    if kind in ("list", "tuple"):
        items = [unpack(item, tensors) for item in content]
        return tuple(items) if kind == "tuple" else items
    return content


def write_checkpoint(path: Path, config: dict[str, Any], state: Any) -> None:  # noqa: ANN401
    """Write `state` with the configuration that it belongs to, atomically."""
    tree, tensors = pack(state)
    note = json.dumps({"format": 1, "config": config, "tree": tree})
    write_atomic(path, save(tensors, metadata={"ddsdk": note}))


def read_checkpoint(path: Path, config: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return the state in `path`.

    Raises:
        ResumeError: If there is none, it cannot be read, or it belongs to another configuration; the message
            names the keys that differ.
    """
    found, state = _read(path)
    check_config(path, found, config)
    return state


def read_config(path: Path) -> dict[str, Any]:
    """Return the configuration that a checkpoint was made under."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Any], Any]:
    if not path.is_file():
        raise ResumeError(f"nothing to resume: {path} does not exist")
    data = path.read_bytes()
    try:
        length = int.from_bytes(data[:8], "little")
        # Python's own reader: it takes back the NaN, infinities and long integers that its writer wrote.
        note = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["ddsdk"])
        tensors = load(data)
        return dict(note["config"]), unpack(note["tree"], tensors)
    except Exception as error:
        raise ResumeError(f"checkpoint {path} cannot be read: {error}") from error


def check_config(path: Path, found: dict[str, Any], config: dict[str, Any]) -> None:
    """Raise ResumeError, naming the keys that differ, unless `path` was made under the same configuration."""
    config = json.loads(json.dumps(config))  # a tuple was written as a list
    differing = [
        f"{key} (was {found.get(key)!r}, now {config.get(key)!r})"
        for key in sorted({*found, *config})
        if found.get(key) != config.get(key)
    ]
    if differing:
        raise ResumeError(f"{path} belongs to another configuration; differing: {'; '.join(differing)}")
