"""One clear error for a library that is not installed."""

from __future__ import annotations

from importlib import import_module

from ddsdk.foundation import MissingExtraError


def require_library(module: str, *, feature: str, package: str, extra: str) -> None:
    """Import a library that an integration stands on.

    Args:
        module: What is imported.
        feature: What needs it, as the subject of a sentence.
        package: What is installed.
        extra: That of ddsdk which installs it.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(feature, package, extra) from None
