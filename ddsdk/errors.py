"""The errors that ddsdk raises, beside plain `ValueError` and `TypeError` for bad arguments."""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "DivergedError",
    "FolderBusyError",
    "MissingExtraError",
    "ResumeError",
    "StorageError",
    "require",
]


class ArtifactError(ValueError):
    """A file or folder is not a distilled set that may be opened.

    Attributes:
        reason: A short stable code, such as ``"hash"`` or ``"header"``, for programs to branch on.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{message} [{reason}]")
        self.reason = reason


class DivergedError(RuntimeError):
    """Distillation met non-finite values again after every allowed step-size reduction."""


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
