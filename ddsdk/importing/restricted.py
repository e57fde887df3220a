"""Reading of files of strangers in a child process with limits of memory and time, without running their code."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError
from safetensors.torch import load_file

from ddsdk.foundation import ArtifactError, machine_memory, require_positive
from ddsdk.importing import child

_FACTOR, _LEAST = 8, 2**29
"""Memory of the reading: a multiple of the size of the file, and at least 512 MiB."""


def refuse(reason: str, message: str) -> NoReturn:
    """Raise the error of a file of a stranger.

    Args:
        reason: Short stable code of the error.
        message: Text with the rule, the value and the way out.

    Raises:
        ArtifactError: Always.
    """
    raise ArtifactError(reason, message)


def file_records(files: Sequence[Path]) -> list[dict[str, str]]:
    """Return name and SHA-256 of files, for the provenance of a set.

    Args:
        files: Files from which the set was read.

    Examples:
        >>> from pathlib import Path
        >>> from ddsdk.importing import file_records
        >>> _ = Path("set.pt").write_bytes(b"")
        >>> file_records([Path("set.pt")])[0]["sha256"][:8]
        'e3b0c442'
    """
    return [{"name": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()} for file in files]


def read_trees(paths: Sequence[Path], *, seconds: float = 120.0) -> list[Any]:
    """Return the content of files as lists, dicts, numbers, texts and CPU tensors.

    Files of `torch.save`, `numpy.savez`, safetensors and flax (MessagePack) are read, by their content and not by their
    name. Pickled objects are refused, as `torch.load(weights_only=True)` and `numpy.load(allow_pickle=False)` do, and
    so are sparse tensors. One child process reads all files. Its memory is bounded by eight times their size and by
    half of the machine's memory. A file that cannot be read is an `ArtifactError` with the reason.

    Args:
        paths: Files to read, in any of these forms.
        seconds: Largest time of the reading in seconds.

    Examples:
        >>> import numpy
        >>> from pathlib import Path
        >>> from ddsdk.importing import read_trees
        >>> numpy.savez("pair.npz", images=numpy.zeros((2, 1, 4, 4)), labels=numpy.arange(2))
        >>> sorted(read_trees([Path("pair.npz")])[0])
        ['images', 'labels']
    """
    require_positive("seconds", seconds)
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        refuse("missing", f"path must be a file that exists, got {missing[0]!r}")
    machine = machine_memory()
    memory = max(_LEAST, _FACTOR * sum(path.stat().st_size for path in paths))
    memory = memory if machine is None else min(memory, machine // 2)
    with tempfile.TemporaryDirectory(prefix="ddsdk-import-") as name:
        folder = Path(name)
        code = _read_in_child([path.resolve() for path in paths], folder, memory, seconds)
        if code is None:
            refuse("time", f"{paths[0].name} was not read within {seconds:g} s")
        tree = _json(folder / "tree.json")
        if code == 0 and tree is not None:
            try:
                return _restored(tree, load_file(folder / "tensors.safetensors"))  # type: ignore[no-any-return]
            except (OSError, SafetensorError, KeyError, TypeError):
                tree = None
        reason = tree["refused"] if isinstance(tree, dict) and "refused" in tree else "the reading ended early"
        refuse("unreadable", f"the set cannot be read without running its code: {reason}")


def _read_in_child(paths: Sequence[Path], folder: Path, memory: int, seconds: float) -> int | None:
    """Return the exit code of the child process; None if it took too long."""
    # The file itself, without the present folder on the path, in which a stranger may have left modules.
    command = [sys.executable, "-P", child.__file__, str(folder), str(memory), *map(str, paths)]
    try:
        return subprocess.run(command, capture_output=True, timeout=seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        return None


def _json(path: Path) -> Any:  # noqa: ANN401
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _restored(tree: dict[str, Any], tensors: dict[str, Any]) -> Any:  # noqa: ANN401
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    if "list" in tree:
        return [_restored(item, tensors) for item in tree["list"]]
    if "dict" in tree:
        return {key: _restored(item, tensors) for key, item in tree["dict"].items()}
    return tree["value"]
