"""Parsers of single files: sets, checkpoints, ledgers, results, pictures, tables and archives."""

from __future__ import annotations

import contextlib

import atheris
from inputs import FOLDER, refused_or, written

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
    from ddsdk.foundation.errors import ResumeError
    from ddsdk.foundation.files import strict_json
    from ddsdk.foundation.unit import Unit, open_result
    from ddsdk.running.checkpoint import read_checkpoint
    from ddsdk.training.protocol import TrainingProtocol
    from ddsdk_integrations.privacy import Budget, Ledger


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
