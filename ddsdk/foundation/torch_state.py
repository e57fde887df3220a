"""Settings of torch under which the library computes, whatever the application has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch

from ddsdk.foundation.heap import keep_freed_memory

T = TypeVar("T")


@contextmanager
def plain_torch() -> Iterator[None]:
    """Set torch's default settings, and restore the application's settings on exit.

    The settings are float32 as the default dtype, the CPU as the default device, gradients, and neither inference mode
    nor autocast. A notebook that has changed one of them gets the same results, bit for bit. The C library keeps freed
    memory from then on, see `keep_freed_memory`. The context is also a decorator: ``@plain_torch()``.

    Examples:
        >>> import torch
        >>> from ddsdk.foundation import plain_torch
        >>> with torch.no_grad(), plain_torch():
        ...     torch.is_grad_enabled(), torch.get_default_dtype()
        (True, torch.float32)
    """
    keep_freed_memory()
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        # A default device costs time at every call of torch, so it is only set against another one.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        yield


def steps_in_plain_torch(steps: Iterator[T]) -> Iterator[T]:
    """Yield the values of an iterator, each of which is computed in `plain_torch`.

    Between two values the application has its own settings.

    Args:
        steps: Iterator whose values are computed on request.

    Examples:
        >>> import torch
        >>> from ddsdk.foundation import steps_in_plain_torch
        >>> with torch.no_grad():
        ...     [torch.is_grad_enabled() for _ in steps_in_plain_torch(iter([1]))]
        [False]
    """
    end = object()
    while True:
        with plain_torch():
            step = next(steps, end)
        if step is end:
            return
        yield step  # type: ignore[misc]
