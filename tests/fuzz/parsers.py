"""Feed a parser what a coverage-guided fuzzer makes up: python parsers.py NAME [libFuzzer options] [CORPUS ...]

Whatever a file holds, a parser may only return or refuse it with its own error. NAME may also be that of a module: its
parsers then take turns by the first byte of an input.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys

import atheris

# Only the module of the parser is imported, because the libraries of the others take seconds.
PARSERS = {
    "files": "manifest header config packed unit picture npz parquet tar csv checkpoint ledger folder",
    "folders": "idx tree decoded store runs",
    "records": "results cells ratings graphs",
    "federation": "reply request rounds",
}


def in_turn(parsers):
    """Return a parser that gives its input without the first byte to the parser of that number."""
    return lambda data: parsers[data[0] % len(parsers)](data[1:]) if data else None


def parser(name):
    if name in PARSERS:
        module = importlib.import_module(name)
        return in_turn([getattr(module, inner) for inner in PARSERS[name].split()])
    module = importlib.import_module(next(m for m, names in PARSERS.items() if name in names.split()))
    return getattr(module, name)


def main():
    parse = parser(sys.argv.pop(1))
    from ddsdk.foundation.errors import ArtifactError

    logging.getLogger("ddsdk").setLevel(logging.WARNING)

    def one_input(data):
        with contextlib.suppress(ArtifactError):
            parse(data)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
