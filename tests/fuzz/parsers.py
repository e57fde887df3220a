"""Feed a parser what a coverage-guided fuzzer makes up: python parsers.py NAME [libFuzzer options] [CORPUS ...]

Whatever a file holds, a parser may only return or refuse it with its own error.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ddsdk", "ddsdk_integrations"]):
    from ddsdk.artefact.distilled import Distilled
    from ddsdk.artefact.folder import unpack_artifact
    from ddsdk.artefact.header import header_length, parse_header
    from ddsdk.artefact.manifest import decode_manifest
    from ddsdk.data.archives import read_numpy
    from ddsdk.data.parquet import read_parquet
    from ddsdk.data.pictures import UnreadablePictureError, decode, decode_all
    from ddsdk.data.tars import read_tars
    from ddsdk.data.texts import read_csv
    from ddsdk.foundation.errors import ArtifactError, ResumeError
    from ddsdk.foundation.files import strict_json
    from ddsdk.foundation.unit import Unit, open_result
    from ddsdk.running.checkpoint import read_checkpoint
    from ddsdk.training.protocol import TrainingProtocol
    from ddsdk_integrations.privacy import Budget, Ledger

FOLDER = Path(tempfile.mkdtemp())


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


def written(name, data):
    """Return a file with the fuzzer's bytes."""
    path = FOLDER / name
    path.write_bytes(data)
    return path


def picture(data):
    with contextlib.suppress(UnreadablePictureError):
        decode(data, "picture")


def npz(data):
    refused_or(lambda: read_numpy(written("data.npz", data), "train"))


def parquet(data):
    refused_or(lambda: decode_all(read_parquet(written("data.parquet", data), "train").images, split="train"))


def tar(data):
    refused_or(lambda: decode_all(read_tars(written("data.tar", data), "train").images, split="train"))


def csv(data):
    refused_or(lambda: read_csv(written("data.csv", data), "train", None, None))


def checkpoint(data):
    with contextlib.suppress(ResumeError):
        read_checkpoint(written("checkpoint.safetensors", data), {})


def ledger(data):
    refused_or(lambda: Ledger(Budget(epsilon=1.0, delta=1e-5), written("ledger.json", data)).epsilon)


def folder(data):
    """The folder of an artefact: manifest and tensors, split at the first zero byte."""
    text, _, tensors = data.partition(b"\0")
    written("manifest.json", text)
    written("set.safetensors", tensors)
    Distilled.load(FOLDER)


def refused_or(read):
    """A reader of data refuses with ValueError or TypeError, both with a text of ours."""
    try:
        read()
    except (ValueError, TypeError) as error:
        if not str(error):
            raise


PARSERS = {
    f.__name__: f
    for f in (manifest, header, config, packed, unit, picture, npz, parquet, tar, csv, checkpoint, ledger, folder)
}


def main():
    parse = PARSERS[sys.argv.pop(1)]
    logging.getLogger("ddsdk").setLevel(logging.WARNING)

    def one_input(data):
        with contextlib.suppress(ArtifactError):
            parse(data)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
