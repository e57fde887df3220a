"""The errors that ddsdk raises, beside plain `ValueError` and `TypeError` for bad arguments."""

from __future__ import annotations

import math


class ArtifactError(ValueError):
    """A file or folder is not a distilled set that may be opened.

    Attributes:
        reason: A short stable code, such as ``"hash"`` or ``"header"``, for programs to branch on.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{message} [{reason}]")
        self.reason = reason


class DivergedError(RuntimeError):
    """Distillation met non-finite values again after every allowed step-size reduction.

    Attributes:
        syn: The last finite `ddsdk.SyntheticSet`, or None where the error comes without one.
    """

    def __init__(self, message: str, syn: object = None) -> None:
        super().__init__(message)
        self.syn = syn


class FolderBusyError(RuntimeError):
    """Another process is writing to the same output folder."""


class MissingExtraError(ImportError):
    """A feature needs an optional package that is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs the package {package!r}: pip install 'ddsdk[{extra}]'")


class ResumeError(ValueError):
    """A run cannot be resumed: no checkpoint, or one made under another configuration."""


class StorageError(OSError):
    """A file could not be written; what stood there before still stands."""


def require(ok: bool, name: str, rule: str, value: object) -> None:
    """Raise ``ValueError("name must rule, got value")`` unless `ok`."""
    if not ok:
        raise ValueError(f"{name} must {rule}, got {value!r}")


def require_count(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless `value` is an integer that is not below `least`."""
    # True is an int to Python, and no count.
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    require(value >= least, name, f"be at least {least}", value)


def require_rate(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a positive finite number."""
    ok = isinstance(value, int | float) and math.isfinite(value) and value > 0
    require(ok, name, "be positive and finite", value)


def require_momentum(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a number in 0 <= value < 1."""
    require(isinstance(value, int | float) and 0 <= value < 1, name, "lie in 0 <= value < 1", value)


def require_rng(rng: object) -> None:
    """Raise TypeError unless `rng` is a generator; a plain seed is the usual mistake."""
    # By its method and not by its type: recipes are read where torch is not imported.
    if not hasattr(rng, "initial_seed"):
        raise TypeError(f"rng must be a torch.Generator such as ddsdk.generator(0), got {rng!r}")
