"""Entry point of the command line: parses a subcommand, runs it and converts errors to exit codes."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from ddsdk.cli.console import err, out
from ddsdk.foundation import DivergedError, MissingExtraError

EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 3
EXIT_INTERRUPTED = 75
"""EX_TEMPFAIL of sysexits.h: batch systems restart a job that ends with it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of `ddsdk`.

    An expected error is printed as one line. With the environment variable ``DDSDK_TRACEBACK`` set, it is raised.

    Args:
        argv: Arguments behind the program name; None for those of the process.

    Returns:
        Exit code: 0 for success, 2 for bad input, 3 for a diverged run, 75 for a stopped run that can be resumed.

    Raises:
        ValueError: If the input is bad and ``DDSDK_TRACEBACK`` is set.
        TypeError: If a value has a wrong type and ``DDSDK_TRACEBACK`` is set.
        OSError: If a file cannot be read or written and ``DDSDK_TRACEBACK`` is set.
        MissingExtraError: If an optional package is missing and ``DDSDK_TRACEBACK`` is set.
        RuntimeError: If the computation fails and ``DDSDK_TRACEBACK`` is set.
        MemoryError: If memory runs out and ``DDSDK_TRACEBACK`` is set.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"]:
        out(f"ddsdk {version('ddsdk')}, torch {version('torch')}, Python {platform.python_version()}")
        return 0
    try:
        command = _parse(args)
        return int(command.run() or 0)
    except (ValueError, TypeError, OSError, MissingExtraError, RuntimeError, MemoryError) as error:
        if os.environ.get("DDSDK_TRACEBACK"):
            raise
        err(f"ddsdk: {_message(error)}")
        return EXIT_DIVERGED if isinstance(error, DivergedError) else EXIT_BAD_INPUT
    except KeyboardInterrupt:
        err("ddsdk: stopped")
        return EXIT_INTERRUPTED


def _message(error: Exception) -> str:
    if isinstance(error, NotADirectoryError | FileExistsError) and error.filename is not None:
        return f"path must not contain a file in place of a folder or the reverse, got {str(error.filename)!r}"
    return str(error)


def _parse(args: list[str]) -> Any:  # noqa: ANN401
    import tyro

    from ddsdk.cli.compression import Compress
    from ddsdk.cli.curve import Curve, Winners
    from ddsdk.cli.demo import Demo
    from ddsdk.cli.distill_command import distill_verb
    from ddsdk.cli.evaluate import Evaluate
    from ddsdk.cli.hub import Pull, Push
    from ddsdk.cli.importing import Import
    from ddsdk.cli.inspection import Export, Inspect, Recipes, Report, Show
    from ddsdk.cli.sets import Merge, Select, SetLeaderboard
    from ddsdk.cli.tables import TableBench, Worker

    commands: dict[str, Any] = {
        "distill": distill_verb(args),
        "evaluate": Evaluate,
        "inspect": Inspect,
        "show": Show,
        "export": Export,
        "import": Import,
        "push": Push,
        "pull": Pull,
        "merge": Merge,
        "select": Select,
        "compress": Compress,
        "leaderboard": SetLeaderboard,
        "report": Report,
        "recipes": Recipes,
        "bench": TableBench,
        "curve": Curve,
        "winners": Winners,
        "worker": Worker,
        "demo": Demo,
    }
    return tyro.extras.subcommand_cli_from_dict(
        commands,
        args=args,
        prog="ddsdk",
        description="Distil data sets, evaluate and export the distilled sets. Version: ddsdk --version",
    )
