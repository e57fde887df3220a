"""Save a run between two pieces of a stream, and go on from there: a file of tensors and JSON that runs no code.

Avalanche's own checkpoint is a pickle of the whole strategy. This one keeps what the next piece depends on: the
weights, the optimizer, the clock, the memory with its queue, and the global random generators from which the loops of
Avalanche draw.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddsdk.foundation import ResumeError, require_count
from ddsdk.running import read_checkpoint, write_checkpoint
from ddsdk_integrations.continual.buffer import DistilledBuffer

_CLOCK = (
    *("train_iterations", "train_exp_counter", "train_exp_epochs"),
    *("train_exp_iterations", "train_epoch_iterations", "total_iterations"),
)


def save_run(path: str | os.PathLike[str], strategy: Any, memory: DistilledBuffer, *, pieces: int) -> None:  # noqa: ANN401
    """Write the state of which the next piece of the stream depends, atomically.

    Args:
        path: File; an older one stands until the new one is whole.
        strategy: Avalanche strategy, between two calls of ``train``.
        memory: Storage policy of the strategy.
        pieces: Number of experiences, or pieces of a stream, that are done.

    Raises:
        StorageError: If the file cannot be written.
    """
    require_count("pieces", pieces, 0)
    state = {
        "pieces": pieces,
        "model": dict(strategy.model.state_dict()),
        "optimizer": strategy.optimizer.state_dict(),
        "clock": {name: getattr(strategy.clock, name) for name in _CLOCK},
        "memory": memory.to_state(),
        "random": _generators(),
    }
    write_checkpoint(Path(path), {"kind": "continual run"}, state)


def resume_run(path: str | os.PathLike[str], strategy: Any, memory: DistilledBuffer) -> int:  # noqa: ANN401
    """Put the state of `save_run` into a strategy and its memory, made as before; return the number of pieces done.

    The rest of the stream then gives the same bits as a run that was never stopped, on a CPU with the same versions.

    Raises:
        ResumeError: If there is no such file, or it belongs to another network, optimizer or memory. Memory and network
            are then as they were.
    """
    state = read_checkpoint(Path(path), {"kind": "continual run"})
    network, optimizer = strategy.model.state_dict(), state["optimizer"]
    shapes = {name: tuple(tensor.shape) for name, tensor in network.items()}
    kept = {name: tuple(tensor.shape) for name, tensor in state["model"].items()}
    if shapes != kept:
        other = sorted({name for name, _ in shapes.items() ^ kept.items()})
        raise ResumeError(f"{str(path)!r} belongs to another network: {', '.join(other)} differ")
    groups = [len(group["params"]) for group in optimizer["param_groups"]]
    mine = [len(group["params"]) for group in strategy.optimizer.param_groups]
    if groups != mine:
        raise ResumeError(f"{str(path)!r} belongs to an optimizer of {groups} parameters, this one has {mine}")
    try:
        memory.load_state(state["memory"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ResumeError):
            raise
        raise ResumeError(f"the memory in {str(path)!r} is damaged: {error}") from None
    strategy.model.load_state_dict(state["model"])
    # Without this entry a strategy empties its optimizer before the next experience.
    strategy.optimized_param_id = dict(strategy.model.named_parameters())
    strategy.optimizer.load_state_dict(optimizer)
    for name, value in state["clock"].items():
        setattr(strategy.clock, name, value)
    _set_generators(state["random"])
    pieces: int = state["pieces"]
    return pieces


def _generators() -> dict[str, Any]:
    state: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    kind, keys, position, has_gauss, gauss = state
    return {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": random.getstate(),
    }


def _set_generators(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    random.setstate(state["python"])
