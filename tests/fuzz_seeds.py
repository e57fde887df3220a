"""Sound inputs for the fuzzer: small files of every kind that a parser reads, as bytes."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import struct
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from artefact_sets import make_set
from PIL import Image
from quick_units import echo

import ddsdk as dd
from ddsdk.artefact import Half, LowRank, Uint8
from ddsdk.experiments.table import Table
from ddsdk.foundation.unit import seal_result
from ddsdk.judging import cached_score
from ddsdk.planning import read_leaderboards
from ddsdk.running.checkpoint import write_checkpoint
from ddsdk_integrations.nas import Cell
from ddsdk_integrations.privacy import Budget, Ledger


def stored(write, name):
    """Return the bytes of a file that a function writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


def picture(form="PNG"):
    """Return a small picture in one of the documented formats."""
    target = io.BytesIO()
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(target, form)
    return target.getvalue()


def parquet(path):
    pq.write_table(pa.table({"image": [picture(), picture("BMP")], "label": [0, 1]}), path)


def tar(path):
    with tarfile.open(path, "w") as archive:
        for name, content in (("0.png", picture()), ("0.cls", b"0"), ("1.png", picture()), ("1.json", b'{"label": 1}')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def npz(path):
    np.savez(path, images=np.zeros((2, 4, 4, 3), np.uint8), labels=np.arange(2))


def checkpoint(path):
    write_checkpoint(path, {}, {"index": 1, "tensor": torch.ones(2), "list": [None, 0.5, "text"]})


def ledger(path):
    Ledger(Budget(epsilon=1.0, delta=1e-5), path)
    if not path.exists():
        path.write_bytes(b"{}")


def folder():
    """Return manifest and tensors of a set, joined by a zero byte."""
    with tempfile.TemporaryDirectory() as home:
        make_set(ipc=1, shape=(1, 2, 2)).save(home)
        return b"\0".join((Path(home) / name).read_bytes() for name in ("manifest.json", "set.safetensors"))


def split(first, second):
    """Return two contents as one: two bytes with the length of the first, then both."""
    return len(first).to_bytes(2, "big") + first + second


def idx():
    """Return raw files of MNIST: eight images of 2 x 2 pixels, and their labels."""
    images = struct.pack(">HBBIII", 0, 8, 3, 10, 2, 2) + bytes(range(40))
    return split(images, struct.pack(">HBBI", 0, 8, 1, 10) + bytes(range(10)))


def tree(*entries):
    """Return the entries of a folder, each a kind, a name and a content; an empty content is a small picture."""
    return b"".join(
        bytes([kind << 5 | len(name)]) + name.encode() + bytes([len(content)]) + content
        for kind, name, content in entries
    )


TREES = [
    tree((0, "a/0.png", b""), (0, "b/0.png", b""), (0, "b/1.png", b"")),
    tree((0, "train/a/0.png", b""), (0, "train/b/0.png", b""), (0, "test/a/0.png", b""), (0, "test/b/0.bmp", b"BM")),
    tree((0, "a/0.png", b""), (6, "b", b"a"), (7, "a/1.png", b""), (5, "a/2.png", b""), (6, "a/loop", b"a")),
    tree((0, "images/0.png", b""), (0, "labels/0.txt", b"0 .5 .5 .1 .1")),
    tree((0, "a/0.png", b""), (0, "b/0.png", b""), (0, "b/x.json", b'{"images": [], "annotations": []}')),
]
RESULT = {"shape": [3, 1, 2, 2], "unreadable": [], "reduced": False, "animated": 0}
CHUNK = {"start": 0, "unreadable": [], "sizes": [[2, 2, 3]], "in_colour": False, "reduced": False, "animated": 0}
DECODED = [
    b"\0\x0c" + json.dumps(RESULT).encode(),
    b"\0\x0c" + json.dumps(RESULT | {"unreadable": [[1, "a", "b"]]}).encode(),
    b"\1\x0c" + b'{"shape":[3,1,2,2]}\n' + json.dumps(CHUNK).encode() + b"\n",
]


def score():
    """Return the conditions of a score and its record, as `cached_score` stores them."""
    with tempfile.TemporaryDirectory() as home:
        real = dd.load("digits")
        made = dd.distill(dd.baselines.Random(ipc=1), real, seed=0)
        cached_score(Path(home), "name", made, real, dd.TrainingProtocol(name="quick", epochs=1, networks=1), 0)
        (found,) = Path(home).glob("results/*.unit")
        line, _, record = found.read_bytes().partition(b"\n")
    return split(json.dumps(json.loads(line)["unit"]["config"]).encode(), record)


def table():
    """Return the smallest file of a table."""
    return json.dumps(dataclasses.asdict(Table(table="survey-1", rows=()))).encode()


def curves():
    """Return a file of one curve and one of leaderboards, cut down to what fits."""
    (first, *_) = read_leaderboards()
    small = dataclasses.replace(first, entries=first.entries[:1])
    return [json.dumps({"curves": []}).encode(), json.dumps({"leaderboards": [dataclasses.asdict(small)]}).encode()]


def run():
    """Return the file of the trained network that the parser looks for."""
    from ddsdk.students import TrainedRuns, Training

    with tempfile.TemporaryDirectory() as home:
        real = dd.RealData(
            torch.zeros(4, 1, 2, 2, dtype=torch.uint8),
            torch.arange(4) % 2,
            class_names=("a", "b"),
            preprocess=dd.Preprocess.unit(1),
            name="fuzz",
        )
        make = dd.network_factory("mlp", real.image_shape, 2, width=2)
        runs = TrainedRuns(real, make, Training(epochs=1), count=1, seed=0, folder=Path(home))
        list(runs.make())
        (found,) = Path(home).glob("*.safetensors")
        return found.read_bytes()


def fuzz_task():
    from ddsdk_integrations.federated import FederatedTask

    return FederatedTask(
        class_names=("a", "b"),
        image_shape=(1, 2, 2),
        preprocess=dd.Preprocess.unit(1),
        network="mlp",
        network_options={"width": 2},
    )


def replies():
    """Return the message of a client in the wire format, with hard and with soft labels."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    from flwr.common.serde import recorddict_to_proto

    from ddsdk_integrations.federated import LocalData, Packing
    from ddsdk_integrations.federated.payload import pack

    task = fuzz_task()
    images = torch.rand(4, 1, 2, 2, generator=dd.generator("seed"))
    data = LocalData.of(task, images, torch.tensor([0, 0, 1, 1]))
    made = dd.distill(dd.baselines.Random(ipc=1), data.real, make_student=task.factory, seed=0)
    packings = [Packing(codec=codec, soft=soft) for codec in (Uint8(), Half(), LowRank(1)) for soft in (False, True)]
    contents = [pack(made, data, packing, round_number=1) for packing in packings]
    return [b"\1" + recorddict_to_proto(content).SerializeToString() for content in contents]


def requests():
    """Return messages of a server in the wire format, each after a byte with the action."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    from flwr.app import ArrayRecord, ConfigRecord, RecordDict
    from flwr.common.serde import recorddict_to_proto

    task = fuzz_task()
    weights = task.initial_arrays()
    knowledge = ArrayRecord({"images": torch.zeros(2, 1, 2, 2, dtype=torch.uint8), "classes": torch.arange(2)})
    training = {"server-round": 1, "seed": 0, "task": task.digest}
    distill = {**training, "radius": 1.0, "logits": True, "go-on": True}
    contents = [
        {"config": ConfigRecord(distill), "arrays": weights, "knowledge": knowledge},
        {"config": ConfigRecord(training), "arrays": weights},
        {"config": ConfigRecord({**training, "proximal-mu": 0.0}), "arrays": weights},
        {"config": ConfigRecord({"action": "distill", "task": task.digest})},
        {},
    ]
    sent = [recorddict_to_proto(RecordDict(content)).SerializeToString() for content in contents]
    return [bytes([action]) + data for action, data in enumerate(sent)]


def rounds():
    """Return the state of a server as JSON, with lists in the place of tensors."""
    report = {"round_number": 1, "asked": 1, "taken": 1, "refused": [], "failed": [], "influence": None}
    kept = {"images": [[[[0.5]]]], "labels": [[1.0]], "classes": [0], "node": 7, "examples": 1, "counts": [1]}
    state = {"round": 1, "weights": {"w": [1.0]}, "reports": [report], "evaluated": {"1": {"loss": 0.5}}}
    state |= {"traffic": [1, 2, 3], "kept": [[kept | {"rate": [], "meta": {}}]], "about": {"task": "a"}, "format": 2}
    return json.dumps(state).encode()


def stored_sets():
    """Return sound sets, packed and in parts."""
    blob = make_set(ipc=1, shape=(1, 2, 2)).to_bytes()
    length = int.from_bytes(blob[:8], "little")
    head = blob[8 + length :]
    return {
        "manifest": [blob[8 : 8 + length]],
        "header": [head[: 8 + int.from_bytes(head[:8], "little")]],
        "packed": [blob],
        "folder": [folder()],
    }


SEEDS = {
    **{name: lambda name=name: stored_sets()[name] for name in ("manifest", "header", "packed", "folder")},
    "config": lambda: [json.dumps({"epochs": 3, "decay_at": [0.5], "network_options": {"width": 8}}).encode()],
    "unit": lambda: [seal_result(echo("a"), b"result"), echo("a").description],
    "picture": lambda: [picture(form) for form in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")],
    "npz": lambda: [stored(npz, "data.npz")],
    "parquet": lambda: [stored(parquet, "data.parquet")],
    "tar": lambda: [stored(tar, "data.tar")],
    "csv": lambda: [b"text,label\na good one,pos\na bad one,neg\n"],
    "checkpoint": lambda: [stored(checkpoint, "checkpoint.safetensors")],
    "ledger": lambda: [stored(ledger, "ledger.json")],
    "idx": lambda: [idx()],
    "tree": lambda: TREES,
    "decoded": lambda: DECODED,
    "store": lambda: [score()],
    "runs": lambda: [run()],
    "results": lambda: [table(), *curves()],
    "cells": lambda: [f"arch,cifar10\n{Cell(('none',) * 6)},10.0\n".encode()],
    "ratings": lambda: [b"user,item,rating\na,x,1\na,y,2\nb,x,3\n"],
    "graphs": lambda: [b"2\n2 0\n7 1 1\n8 1 0\n1 1\n7 0\n"],
    "reply": replies,
    "request": requests,
    "rounds": lambda: [rounds()],
}
"""Sound inputs of each parser, from which the fuzzer sets out."""
