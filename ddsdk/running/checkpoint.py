"""Checkpoint files: tensors in safetensors, and all other values as JSON in the metadata of the same file.

Nothing is pickled, so that opening a checkpoint runs no code. Dictionaries with string or integer keys, lists, tuples,
tensors, numbers, strings, booleans and None are restored as they were written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from ddsdk.foundation import ResumeError, write_atomic


def pack(tree: Any) -> tuple[Any, dict[str, Tensor]]:  # noqa: ANN401
    """Return a nested state as JSON values and the tensors that these refer to by name."""
    tensors: dict[str, Tensor] = {}

    def walk(node: Any) -> Any:  # noqa: ANN401
        if isinstance(node, Tensor):
            name = str(len(tensors))
            # A copy, because safetensors refuses tensors that share memory.
            tensors[name] = node.detach().cpu().contiguous().clone()
            return {"tensor": name}
        if isinstance(node, dict):
            for key in node:
                if not isinstance(key, str | int):
                    raise TypeError(f"keys of a state must be strings or integers, got {key!r}")
            return {"dict": [[key, walk(value)] for key, value in node.items()]}
        if isinstance(node, list | tuple):
            # Named tuples and torch.Size are restored as plain tuples.
            return {"list" if isinstance(node, list) else "tuple": [walk(item) for item in node]}
        if node is None or isinstance(node, bool | int | float | str):
            return {"value": node}
        raise TypeError(f"state must hold tensors and plain values, got {type(node).__name__}")

    return walk(tree), tensors


def unpack(tree: Any, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401
    """Return the nested state of which `pack` made `tree` and `tensors`."""
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
    """Write a checkpoint in one atomic step.

    Args:
        path: File of the checkpoint; an existing file is replaced.
        config: Configuration of the run, JSON values, which `read_checkpoint` compares.
        state: Nested state of the run, such as `ddsdk.running.Run.state_dict`.

    Example:
        >>> from pathlib import Path
        >>> from ddsdk.running import read_checkpoint, write_checkpoint
        >>> write_checkpoint(Path("state.safetensors"), {"ipc": 1}, {"step": 20})
        >>> read_checkpoint(Path("state.safetensors"), {"ipc": 1})
        {'step': 20}
    """
    tree, tensors = pack(state)
    note = json.dumps({"format": 1, "config": config, "tree": tree})
    write_atomic(path, save(tensors, metadata={"ddsdk": note}))


def read_checkpoint(path: Path, config: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return the state in a checkpoint.

    A missing file, a damaged file and a checkpoint of another configuration give a `ResumeError`; for another
    configuration, the message names the keys that differ.

    Args:
        path: File of the checkpoint to read.
        config: Configuration of the run, which must equal the stored one.

    Example:
        >>> from pathlib import Path
        >>> from ddsdk.running import read_checkpoint
        >>> read_checkpoint(Path("no-such-checkpoint"), {})
        Traceback (most recent call last):
        ddsdk.foundation.errors.ResumeError: nothing to resume: no-such-checkpoint does not exist
    """
    stored_config, state = _read(path)
    check_config(path, stored_config, config)
    return state


def read_config(path: Path) -> dict[str, Any]:
    """Return the configuration that is stored in a checkpoint."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Any], Any]:
    if not path.is_file():
        raise ResumeError(f"nothing to resume: {path} does not exist")
    data = path.read_bytes()
    try:
        length = int.from_bytes(data[:8], "little")
        # The header is parsed with Python's own JSON reader, because `json.dumps` above also writes NaN, infinities and
        # long integers, which strict readers refuse.
        note = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["ddsdk"])
        tensors = load(data)
        return dict(note["config"]), unpack(note["tree"], tensors)
    except Exception as error:
        raise ResumeError(f"checkpoint {path} cannot be read: {error}") from error


def check_config(path: Path, stored_config: dict[str, Any], config: dict[str, Any]) -> None:
    """Compare the configuration stored in `path` with that of the current run.

    Raises:
        ResumeError: If they differ; the message names the keys with both values.
    """
    config = json.loads(json.dumps(config))  # JSON has stored tuples as lists
    differing = [
        f"{key} (was {stored_config.get(key)!r}, now {config.get(key)!r})"
        for key in sorted({*stored_config, *config})
        if stored_config.get(key) != config.get(key)
    ]
    if differing:
        raise ResumeError(f"{path} belongs to another configuration; differing: {'; '.join(differing)}")
