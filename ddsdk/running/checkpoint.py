"""Checkpoint files: tensors in safetensors, and all other values as JSON in the metadata of the same file.

Nothing is pickled, so that opening a checkpoint runs no code. Dictionaries with string or integer keys, lists, tuples,
tensors, numbers, strings, booleans and None are restored as they were written. The header holds a SHA-256 of the whole
file. The last two checkpoints of a path are kept, and the older one is read in the place of a damaged one.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from ddsdk.foundation import ResumeError, note, write_atomic

_FORMAT = 2
_MARK = rb"\"sha256\": \""  # JSON within JSON, of which the first entry is written first
_BLANK = b"0" * 64


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
    """Write a checkpoint in one atomic step, and keep the one before under the name of `previous_checkpoint`.

    Args:
        path: File of the checkpoint; an existing file is renamed.
        config: Configuration of the run, JSON values, which `read_checkpoint` compares.
        state: Nested state of the run, such as `ddsdk.running.Run.state_dict`.

    Examples:
        >>> from pathlib import Path
        >>> from ddsdk.running import read_checkpoint, write_checkpoint
        >>> write_checkpoint(Path("state.safetensors"), {"ipc": 1}, {"step": 20})
        >>> read_checkpoint(Path("state.safetensors"), {"ipc": 1})
        {'step': 20}
    """
    tree, tensors = pack(state)
    header = json.dumps({"sha256": _BLANK.decode(), "format": _FORMAT, "config": config, "tree": tree})
    data = save(tensors, metadata={"ddsdk": header})
    start = data.index(_MARK) + len(_MARK)
    digest = hashlib.sha256(data).hexdigest().encode()
    write_atomic(path, data[:start] + digest + data[start + len(digest) :], previous=previous_checkpoint(path))


def previous_checkpoint(path: Path) -> Path:
    """Return the file of the checkpoint before the last one.

    Examples:
        >>> from pathlib import Path
        >>> from ddsdk.running import previous_checkpoint
        >>> previous_checkpoint(Path("checkpoint.safetensors")).name
        'checkpoint.previous.safetensors'
    """
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def has_checkpoint(path: Path) -> bool:
    """Return whether there is a last checkpoint or the one before it."""
    return path.exists() or previous_checkpoint(path).exists()


def remove_checkpoint(path: Path) -> None:
    """Remove both checkpoints; the last one goes last, so that an interruption leaves it."""
    previous_checkpoint(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def read_checkpoint(path: Path, config: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return the state in a checkpoint, or in the one before if it is missing or damaged, with a note.

    A missing file, a damaged file and a checkpoint of another configuration give a `ResumeError`; for another
    configuration, the message names the keys that differ.

    Args:
        path: File of the checkpoint to read.
        config: Configuration of the run, which must equal the stored one.

    Examples:
        >>> from pathlib import Path
        >>> from ddsdk.running import read_checkpoint
        >>> read_checkpoint(Path("no-such-checkpoint"), {})
        Traceback (most recent call last):
        ddsdk.foundation.errors.ResumeError: nothing to resume: no-such-checkpoint does not exist
    """
    stored_config, state = _read_either(path)
    check_config(path, stored_config, config)
    return state


def read_config(path: Path) -> dict[str, Any]:
    """Return the configuration that is stored in a checkpoint, or in the one before if it is missing or damaged."""
    return _read_either(path)[0]


def _read_either(path: Path) -> tuple[dict[str, Any], Any]:
    try:
        return _read(path)
    except ResumeError as error:
        try:
            found = _read(previous_checkpoint(path))
        except ResumeError:
            raise error from None
        note(f"{error}; going on with the checkpoint before it, {previous_checkpoint(path).name}")
        return found


def _read(path: Path) -> tuple[dict[str, Any], Any]:
    if not path.is_file():
        raise ResumeError(f"nothing to resume: {path} does not exist")
    try:
        data = path.read_bytes()
        _check_digest(data)
        length = int.from_bytes(data[:8], "little")
        # The header is parsed with Python's own JSON reader, because `json.dumps` above also writes NaN, infinities and
        # long integers, which strict readers refuse.
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["ddsdk"])
        if header["format"] != _FORMAT:
            raise ValueError(f"its format is {header['format']}, and this version of ddsdk reads format {_FORMAT}")
        tensors = load(data)
        for name, tensor in tensors.items():
            # Infinities are valid, such as those of an attention mask.
            if tensor.is_floating_point() and bool(tensor.isnan().any()):
                raise ValueError(f"tensor {name} holds NaN")
        return dict(header["config"]), unpack(header["tree"], tensors)
    except Exception as error:
        raise ResumeError(f"checkpoint {path} cannot be read: {error}") from error


def _check_digest(data: bytes) -> None:
    start = data.find(_MARK) + len(_MARK)
    if start < len(_MARK):
        raise ValueError("it has no checksum: it is damaged, or of a version of ddsdk before 0.1.0")
    end = start + len(_BLANK)
    if hashlib.sha256(data[:start] + _BLANK + data[end:]).hexdigest().encode() != data[start:end]:
        raise ValueError("it does not have the SHA-256 in its header")


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
