"""Find the verb, build its options, run it, and turn errors into messages and exit codes."""

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
"""Code that batch systems read as "run me again"."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line on arguments, those of the process if not given, and return the exit code.

    It is 0, or 2 for bad input, 3 for a run that diverged, 75 for a run that was stopped and can be resumed.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if args == ["--version"]:
        out(f"ddsdk {version('ddsdk')}, torch {version('torch')}, Python {platform.python_version()}")
        return 0
    try:
        verb = _parse(args)
        return int(verb.run() or 0)
    except (ValueError, TypeError, OSError, MissingExtraError, RuntimeError) as error:
        if os.environ.get("DDSDK_TRACEBACK"):
            raise
        err(f"ddsdk: {_message(error)}")
        return EXIT_DIVERGED if isinstance(error, DivergedError) else EXIT_BAD_INPUT
    except KeyboardInterrupt:
        err("ddsdk: stopped")
        return EXIT_INTERRUPTED


def _message(error: Exception) -> str:
    if isinstance(error, NotADirectoryError | FileExistsError) and error.filename is not None:
        return f"path must lie below folders, and name no file of another kind, got {str(error.filename)!r}"
    return str(error)


def _parse(args: list[str]) -> Any:  # noqa: ANN401
    import tyro

    from ddsdk.cli.curve import Curve, Winners
    from ddsdk.cli.demo import Demo
    from ddsdk.cli.distill import distill_verb
    from ddsdk.cli.evaluate import Evaluate
    from ddsdk.cli.look import Export, Inspect, Recipes, Report, Show
    from ddsdk.cli.tables import TableBench, Worker

    verbs: dict[str, Any] = {
        "distill": distill_verb(args),
        "evaluate": Evaluate,
        "inspect": Inspect,
        "show": Show,
        "export": Export,
        "report": Report,
        "recipes": Recipes,
        "bench": TableBench,
        "curve": Curve,
        "winners": Winners,
        "worker": Worker,
        "demo": Demo,
    }
    return tyro.extras.subcommand_cli_from_dict(
        verbs, args=args, prog="ddsdk", description="Make, judge and use distilled data. Version: ddsdk --version"
    )
