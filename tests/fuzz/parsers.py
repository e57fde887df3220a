"""Feed a parser what a coverage-guided fuzzer makes up: python parsers.py NAME [libFuzzer options] [CORPUS ...]

Whatever a file holds, a parser may only return or refuse it with its own error.
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
NAMES = [name for names in PARSERS.values() for name in names.split()]


def main():
    name = sys.argv.pop(1)
    module = importlib.import_module(next(m for m, names in PARSERS.items() if name in names.split()))
    parse = getattr(module, name)
    from ddsdk.foundation.errors import ArtifactError

    logging.getLogger("ddsdk").setLevel(logging.WARNING)

    def one_input(data):
        with contextlib.suppress(ArtifactError):
            parse(data)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
