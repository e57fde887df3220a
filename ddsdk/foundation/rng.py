"""Random generators that are seeded by a key, so that any random draw can be repeated on its own.

ddsdk neither reads nor changes the global random state; layers such as dropout, which draw from it, draw from a state
that `seeded_layers` sets and restores. A generator is seeded by the hash of a key such as
``(seed, step, "students")``. The random numbers of step 20 therefore do not depend on the order in which steps
0 to 19 were computed, or on the worker that computed them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator(*key: int | str) -> torch.Generator:
    """Return a new CPU generator whose seed is a hash of the key.

    Random numbers are drawn on the CPU and then moved, so that all devices get the same numbers.

    Args:
        key: Integers and strings, such as ``(seed, "step", 20, "augmentation")``.

    Examples:
        >>> import ddsdk
        >>> ddsdk.generator(0).initial_seed() == ddsdk.generator(0).initial_seed()
        True
        >>> ddsdk.generator(0).initial_seed() == ddsdk.generator(1).initial_seed()
        False
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    # torch accepts seeds in the signed 64-bit range; 63 bits keep them non-negative.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def derive(rng: torch.Generator, *key: int | str) -> torch.Generator:
    """Return a new generator, seeded by the seed of `rng` and a key, without advancing `rng`.

    Examples:
        >>> import ddsdk
        >>> rng = ddsdk.generator(0)
        >>> ddsdk.foundation.derive(rng, "step", 20).initial_seed() == rng.initial_seed()
        False
    """
    return generator(rng.initial_seed(), *key)


def as_generator(seed: int | torch.Generator) -> torch.Generator:
    """Return the generator of an integer seed; a generator is returned unchanged and is not advanced.

    Raises:
        TypeError: If `seed` is neither an integer nor a generator.
    """
    if isinstance(seed, torch.Generator):
        return seed
    # bool is a subclass of int in Python, but True is not a meaningful seed.
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer or a torch.Generator, got {seed!r}")
    return generator(seed)


@contextmanager
def seeded_layers(rng: torch.Generator) -> Iterator[None]:
    """Seed torch's global generators from `rng`, and restore their states on exit.

    Layers such as dropout, and the default initial weights of PyTorch, draw from the global generators of the CPU and
    of CUDA devices. Inside this context their draws depend on the seed of `rng` alone. `rng` is not advanced.

    Args:
        rng: Generator that gives the seed.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> from ddsdk.foundation import seeded_layers
        >>> with seeded_layers(ddsdk.generator(0)):
        ...     first = torch.rand(3)
        >>> with seeded_layers(ddsdk.generator(0)):
        ...     bool((torch.rand(3) == first).all())
        True
    """
    # torch.manual_seed would also seed devices whose states are not restored here.
    states = [(torch.default_generator, torch.default_generator.get_state())]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += [(device, device.get_state()) for device in torch.cuda.default_generators]
    try:
        for device_generator, _ in states:
            device_generator.manual_seed(rng.initial_seed())
        yield
    finally:
        for device_generator, state in states:
            device_generator.set_state(state)
