"""Checkpoints of a continual run between two pieces of a stream, as tensors and JSON that execute no code.

Avalanche's own checkpoint is a pickle of the whole strategy. This one stores the state on which the next piece depends:
weights, optimizer, clock, memory with its queue, and the global random generators of Avalanche's training loops.
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
    """Write a checkpoint between two pieces of a stream, atomically.

    A file that cannot be written raises a `ddsdk.foundation.StorageError`.

    Args:
        path: Path of the checkpoint file; an existing file is replaced once the new one is complete.
        strategy: Avalanche strategy, between two calls of ``train``.
        memory: Storage policy of the strategy.
        pieces: Number of completed experiences or pieces of the stream.

    Examples:
        >>> import ddsdk, torch
        >>> from avalanche.training.supervised import Naive
        >>> from ddsdk_integrations.continual import DistilledBuffer, resume_run, save_run
        >>> net, memory = torch.nn.Linear(4, 2), DistilledBuffer(100, ddsdk.DM(steps=200))
        >>> strategy = Naive(model=net, optimizer=torch.optim.SGD(net.parameters(), lr=0.1), evaluator=None)
        >>> save_run("run.ckpt", strategy, memory, pieces=3)
        >>> resume_run("run.ckpt", strategy, memory)
        3
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
    """Restore a checkpoint of `save_run` into a new strategy and its memory; see `save_run` for an example.

    The remaining stream gives bit-identical results to an uninterrupted run, on a CPU with the same library versions.
    A missing file raises a `ResumeError` as well. After an error, network and memory are unchanged.

    Args:
        path: Path of the checkpoint file.
        strategy: Avalanche strategy with the same network and optimizer as the saved one.
        memory: Storage policy of the strategy with the same settings as the saved one.

    Returns:
        The number of completed pieces of the stream.

    Raises:
        ResumeError: If the checkpoint belongs to another network, optimizer or memory, or its memory is damaged.
    """
    state = read_checkpoint(Path(path), {"kind": "continual run"})
    network, optimizer = strategy.model.state_dict(), state["optimizer"]
    shapes = {name: tuple(tensor.shape) for name, tensor in network.items()}
    saved_shapes = {name: tuple(tensor.shape) for name, tensor in state["model"].items()}
    if shapes != saved_shapes:
        differing = sorted({name for name, _ in shapes.items() ^ saved_shapes.items()})
        raise ResumeError(f"{str(path)!r} belongs to another network: {', '.join(differing)} differ")
    saved_groups = [len(group["params"]) for group in optimizer["param_groups"]]
    groups = [len(group["params"]) for group in strategy.optimizer.param_groups]
    if saved_groups != groups:
        raise ResumeError(f"{str(path)!r} belongs to an optimizer of {saved_groups} parameters, this one has {groups}")
    _load_memory(path, memory, state["memory"])
    strategy.model.load_state_dict(state["model"])
    # Without this entry Avalanche resets the optimizer state before the next experience.
    strategy.optimized_param_id = dict(strategy.model.named_parameters())
    strategy.optimizer.load_state_dict(optimizer)
    for name, value in state["clock"].items():
        setattr(strategy.clock, name, value)
    _set_generators(state["random"])
    pieces: int = state["pieces"]
    return pieces


def _load_memory(path: str | os.PathLike[str], memory: DistilledBuffer, state: dict[str, Any]) -> None:
    try:
        memory.load_state(state)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ResumeError):
            raise
        raise ResumeError(f"the memory in {str(path)!r} is damaged: {error}") from None


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
