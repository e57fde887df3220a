"""Exceptions of ddsdk, and checks of arguments that raise `ValueError` or `TypeError`."""

from __future__ import annotations

import math


class ArtifactError(ValueError):
    """A file or folder is damaged, or is not a distilled set of this format.

    Attributes:
        reason: Short stable code, such as ``"hash"`` or ``"header"``, on which programs can branch.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{message} [{reason}]")
        self.reason = reason


class DivergedError(RuntimeError):
    """Distillation diverged: values became non-finite again after the last allowed reduction of the step size.

    Attributes:
        syn: Last finite `ddsdk.SyntheticSet`; None if no such set is available.
    """

    def __init__(self, message: str, syn: object = None) -> None:
        super().__init__(message)
        self.syn = syn


class FolderBusyError(RuntimeError):
    """Another process or thread is writing to the same output folder."""


class MissingExtraError(ImportError):
    """An optional package that a feature needs is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs the package {package!r}: pip install 'ddsdk[{extra}]'")


class ResumeError(ValueError):
    """A run cannot be resumed: it has no checkpoint, or its checkpoint belongs to another configuration."""


class StorageError(OSError):
    """A file or folder could not be written; an earlier file of that name stays whole."""


def require(ok: bool, name: str, rule: str, value: object) -> None:
    """Raise ``ValueError("name must rule, got value")`` unless a condition holds.

    Args:
        ok: Condition that must hold.
        name: Name of the checked argument.
        rule: Rule in words, which complete the sentence "name must …".
        value: Rejected value, whose ``repr`` ends the message.

    Raises:
        ValueError: If `ok` is False.

    Examples:
        >>> require(False, "ipc", "be at least 1", 0)
        Traceback (most recent call last):
        ValueError: ipc must be at least 1, got 0
    """
    if not ok:
        raise ValueError(f"{name} must {rule}, got {value!r}")


def require_count(name: str, value: object, least: int = 1) -> None:
    """Check that an argument is an integer and not below a minimum.

    Raises:
        ValueError: If `value` is not an integer, or is below `least`.
    """
    # bool is a subclass of int in Python, but True is not a meaningful count.
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    require(value >= least, name, f"be at least {least}", value)


def require_positive(name: str, value: object) -> None:
    """Check that an argument is a positive finite number, else raise ValueError."""
    valid = isinstance(value, int | float) and math.isfinite(value) and value > 0
    require(valid, name, "be positive and finite", value)


def require_momentum(name: str, value: object) -> None:
    """Check that an argument is a number in 0 <= value < 1, else raise ValueError."""
    require(isinstance(value, int | float) and 0 <= value < 1, name, "lie in 0 <= value < 1", value)


def require_rng(rng: object) -> None:
    """Check that an argument is a random generator and not a plain seed, which is the usual mistake.

    Raises:
        TypeError: If `rng` is not a `torch.Generator`.
    """
    # The method is checked instead of the type, because recipes are imported before torch.
    if not hasattr(rng, "initial_seed"):
        raise TypeError(f"rng must be a torch.Generator such as ddsdk.generator(0), got {rng!r}")
