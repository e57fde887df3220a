"""The command line: the same names, options and help as the Python dataclasses."""

from ddsdk.cli.main import main

__all__ = ["main"]
