"""One error message for every missing optional library."""

from __future__ import annotations

from importlib import import_module

from ddsdk.foundation import MissingExtraError


def require_library(module: str, *, feature: str, package: str, extra: str) -> None:
    """Import the library of an integration, or explain how to install it.

    Args:
        module: Name of the module to import.
        feature: Feature that needs the library; it begins the error message.
        package: Name of the package on PyPI.
        extra: Extra of ddsdk that installs the package.

    Raises:
        MissingExtraError: If the library is not installed.
        ModuleNotFoundError: If the library is installed and one of its own imports fails.
    """
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        # Only the library itself counts as missing: a broken installation must show its own error.
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(feature, package, extra) from None
