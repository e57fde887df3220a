"""Feed a parser what a coverage-guided fuzzer makes up: python parsers.py NAME [libFuzzer options] [CORPUS ...]

Whatever a file holds, a parser may only return or refuse it with its own error.
"""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["ddsdk"]):
    from ddsdk.artefact.folder import unpack_artifact
    from ddsdk.artefact.header import header_length, parse_header
    from ddsdk.artefact.manifest import decode_manifest
    from ddsdk.foundation.errors import ArtifactError
    from ddsdk.foundation.files import strict_json
    from ddsdk.foundation.unit import Unit, open_result
    from ddsdk.training.protocol import TrainingProtocol


def manifest(data):
    decode_manifest(data)


def header(data):
    if len(data) >= 8:
        parse_header(data[8:], header_length(data[:8], len(data)))
    parse_header(data, len(data))


def config(data):
    try:
        values = strict_json(data)
    except ValueError:
        return
    if isinstance(values, dict):
        TrainingProtocol.from_dict(values)


def packed(data):
    unpack_artifact(data)


def unit(data):
    open_result("0" * 32, data)
    Unit.read(data)


PARSERS = {f.__name__: f for f in (manifest, header, config, packed, unit)}


def main():
    parse = PARSERS[sys.argv.pop(1)]

    def one_input(data):
        with contextlib.suppress(ArtifactError):
            parse(data)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
