"""Random generators that derive from a key, so that any draw can be replayed alone.

Nothing in ddsdk reads or changes the global random state. A generator is seeded by the hash of a key such
as ``(seed, step, "students")``: the numbers of step 20 do not depend on how steps 0 to 19 were computed, in
which order, or by which worker.
"""

from __future__ import annotations

import hashlib
import json

import torch


def generator(*key: int | str) -> torch.Generator:
    """Return a fresh CPU generator that is seeded by the key alone.

    Draws are made on the CPU and moved, so that all devices have the same draws.

    Args:
        key: Integers and strings, such as ``(seed, "step", 20, "augmentation")``.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    # torch accepts seeds in the signed 64-bit range; 63 bits keep them non-negative.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def derive(rng: torch.Generator, *key: int | str) -> torch.Generator:
    """Return a generator keyed by `rng`'s own seed and `key`, without advancing `rng`."""
    return generator(rng.initial_seed(), *key)


def root(seed: int | torch.Generator) -> torch.Generator:
    """Return the generator of a user's seed; a generator comes back as it is, and no draw advances it."""
    if isinstance(seed, torch.Generator):
        return seed
    # True is an int to Python, and no seed.
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer or a torch.Generator, got {seed!r}")
    return generator(seed)
