"""Script of a process with limits, which reads files of strangers and writes their tensors."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_DEPTH, _ENTRIES = 12, 100_000
_EXTENSION_ARRAY = 1
"""MessagePack extension of flax for an array: shape, name of the dtype, bytes."""


def limit_memory(nbytes: int) -> None:
    """Bound the memory that this process may take beyond the present one, where the system can."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + nbytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        return


def _torch_file(path: Path) -> Any:  # noqa: ANN401
    import numpy as np
    import torch

    # Numbers of numpy, under the module names of numpy 1 and 2. They hold bytes and run no code.
    scalar, kinds = np._core.multiarray.scalar, ("Float64", "Float32", "Int64", "Int32", "Bool")  # type: ignore[attr-defined]
    allowed: list[Any] = [np.dtype, *(getattr(np.dtypes, f"{kind}DType") for kind in kinds)]
    allowed += [(scalar, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)


def _npz_file(path: Path) -> Any:  # noqa: ANN401
    import numpy as np

    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _safetensors_file(path: Path) -> Any:  # noqa: ANN401
    from safetensors.torch import load_file

    return load_file(path)


def _flax_file(path: Path) -> Any:  # noqa: ANN401
    import msgspec
    import numpy as np

    def extension(code: int, data: memoryview) -> Any:  # noqa: ANN401
        if code != _EXTENSION_ARRAY:
            raise ValueError(f"a MessagePack extension of type {code}")
        shape, dtype, values = msgspec.msgpack.decode(bytes(data))
        kind = np.dtype(dtype.decode() if isinstance(dtype, bytes) else dtype)
        if kind.hasobject:
            raise ValueError(f"an array of {kind}")
        return np.frombuffer(values, dtype=kind).reshape(shape)

    return msgspec.msgpack.decode(path.read_bytes(), ext_hook=extension)


READERS: dict[str, Callable[[Path], Any]] = {
    "torch": _torch_file,
    "npz": _npz_file,
    "safetensors": _safetensors_file,
    "flax": _flax_file,
}


def kind_of(path: Path) -> str:
    """Return the kind of a file by its first bytes, a key of `READERS`.

    Raises:
        ValueError: If the file has another form.
    """
    with path.open("rb") as file:
        first = file.read(16)
    if first[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if names and all(name.endswith(".npy") for name in names):
            return "npz"
        if any(name.endswith("data.pkl") for name in names):
            return "torch"
        raise ValueError("a zip archive that is neither of torch.save nor of numpy.savez")
    if first[:1] == b"\x80" and first[1:2] in b"\x02\x03\x04\x05":
        return "torch"
    if first[8:9] == b"{":
        return "safetensors"
    if first[:1] and (0x81 <= first[0] <= 0x8F or first[0] in (0xDE, 0xDF)):
        return "flax"
    raise ValueError("a file that is not of torch.save, numpy.savez, safetensors or flax")


class _Written:
    """Tree of JSON values in which tensors are replaced by their numbers."""

    def __init__(self) -> None:
        self.tensors: dict[str, Any] = {}
        self._entries = 0

    def tree(self, value: Any, depth: int = 0) -> Any:  # noqa: ANN401
        import numpy as np
        import torch

        self._entries += 1
        if depth > _DEPTH or self._entries > _ENTRIES:
            raise ValueError(f"more than {_DEPTH} levels or {_ENTRIES} entries")
        if isinstance(value, np.ndarray) and value.dtype.kind in "US" and value.ndim == 0:
            value = str(value)
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "biuf":
                raise ValueError(f"an array of {value.dtype}")
            value = torch.from_numpy(np.ascontiguousarray(value.astype(value.dtype.newbyteorder("="))))
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str):
            return {"value": value}
        if isinstance(value, list | tuple):
            return {"list": [self.tree(item, depth + 1) for item in value]}
        if isinstance(value, Mapping):
            return {"dict": {str(key): self.tree(item, depth + 1) for key, item in value.items()}}
        raise ValueError(f"a value of type {type(value).__name__}")

    def _tensor(self, tensor: Any) -> dict[str, str]:  # noqa: ANN401
        import torch

        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
            raise ValueError(f"a tensor of layout {tensor.layout} and type {tensor.dtype}")
        name = str(len(self.tensors))
        self.tensors[name] = tensor.detach().clone().contiguous()
        return {"tensor": name}


def main(paths: Sequence[Path], folder: Path, memory: int) -> int:
    """Read files and write ``tensors.safetensors`` and ``tree.json``; an unreadable file writes the reason.

    Args:
        paths: Files of strangers to be read.
        folder: Folder of the results.
        memory: Memory in bytes that the reading may take.

    Returns:
        Exit code: 0 for files that were read, 3 for one that was refused.
    """
    import msgspec  # noqa: F401 - before the limit, as all libraries
    import numpy as np  # noqa: F401
    import torch  # noqa: F401
    from safetensors.torch import save_file

    limit_memory(memory)
    result, trees, path = _Written(), [], Path()
    try:
        for path in paths:
            trees.append(result.tree(READERS[kind_of(path)](path)))
    except MemoryError:
        reason = f"more than {memory} bytes of memory"
    except Exception as error:  # whatever a hostile file raises becomes its reason
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    else:
        save_file(result.tensors, folder / "tensors.safetensors")
        (folder / "tree.json").write_text(json.dumps({"list": trees}))
        return 0
    (folder / "tree.json").write_text(json.dumps({"refused": f"{path.name}: {reason}"}))
    return 3


if __name__ == "__main__":
    sys.exit(main([Path(name) for name in sys.argv[3:]], Path(sys.argv[1]), int(sys.argv[2])))
