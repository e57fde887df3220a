"""Command line `ddsdk`: names, defaults and help of its options come from Python dataclasses."""

from ddsdk.cli.main import main

__all__ = ["main"]
