"""Tiny distilled sets for tests, and what to compare."""

import hashlib
import json

import numpy as np
import torch

from ddsdk.artefact.certificate import Certificate, NoisedRelease
from ddsdk.artefact.distilled import Distilled
from ddsdk.artefact.header import build_header
from ddsdk.artefact.manifest import encode_manifest
from ddsdk.data.preprocess import Preprocess
from ddsdk.foundation.files import canonical_json

FILES = ("README.md", "manifest.json", "set.safetensors", "sheet.png")
HOSTILE = (
    "<script>alert(1)</script>",
    "\x1b[31mred\x1b[0m\x07\x9b2J",
    "../../etc/passwd",
    "a|b`c*[x](http://e.org)\n# head",
    "‮evil‬ ﻿---\n",
    "x" * (1 << 20),
    "",
)

CERTIFICATE = Certificate(
    epsilon=1.0,
    delta=1e-5,
    adjacency="adding or removing one record",
    protects="one image with its label",
    mechanism="noised sums",
    releases=(NoisedRelease(what="sums", clip=1.0, noise_multiplier=4.0, sample_rate=1.0, count=1),),
    accountant="an accountant",
    noise_source="the operating system",
    assumptions=("class names are public", "<b>x</b> | y"),
)


def make_set(*, seed=0, classes=3, ipc=2, shape=(3, 4, 5), soft=False, zca=False, **options):
    rng = torch.Generator().manual_seed(seed)
    unit = torch.rand((classes * ipc, *shape), generator=rng)
    preprocess = Preprocess.fit_zca(unit) if zca else Preprocess.normalise([0.5] * shape[0], [0.25] * shape[0])
    labels = torch.eye(classes).repeat_interleave(ipc, 0)
    if soft:
        labels = (labels + torch.rand(labels.shape, generator=rng)).softmax(1)
    settings = {
        "class_names": tuple(f"class {i}" for i in range(classes)),
        "preprocess": preprocess,
        "protocol": {"protocol": "quick", "network_options": {"width": 8}, "lr": 0.01},
        "provenance": {"recipe": "DM", "data": {"name": "digits"}, "seed": 0, "seconds": 1.5},
    } | options
    return Distilled(preprocess(unit), labels, **settings)


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".ddsdk.lock"))


def same(a, b):
    assert a.content_id == b.content_id
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.labels, b.labels)
    assert (a.classes is None) == (b.classes is None)
    assert a.classes is None or torch.equal(a.classes, b.classes)
    for name in ("class_names", "preprocess", "protocol", "label_space", "learned_lr", "stored_floats"):
        assert getattr(a, name) == getattr(b, name)
    assert a.provenance == b.provenance
    assert a.certificate == b.certificate


def forge(folder, edit=None, rehash=True, claimed=None, **arrays):
    """Write a folder by hand, with hashes that fit, as an attacker would."""
    base = make_set()
    tensors = {"images": base.images.numpy(), "labels": base.labels.numpy()} | arrays
    body = json.loads(encode_manifest(base.manifest))
    kinds = {np.dtype("<f4"): "F32", np.dtype("<i8"): "I64"}
    body["tensors"] = {
        n: {"dtype": kinds[a.dtype], "shape": list(a.shape), "sha256": hashlib.sha256(a.tobytes()).hexdigest()}
        for n, a in tensors.items()
    }
    with np.errstate(invalid="ignore"):
        body["value_range"] = [float(np.nanmin(tensors["images"])), float(np.nanmax(tensors["images"]))]
    if not np.array_equal(tensors["labels"], base.labels.numpy()):
        body["storage"] |= {"labels": "soft", "label_floats": tensors["labels"].size}
    body["storage"]["other_floats"] = sum(a.size for n, a in tensors.items() if n.startswith(("learned_", "edge_")))
    counted = sum(body["storage"][n] for n in ("image_floats", "label_floats", "other_floats"))
    body["storage"] |= {
        "floats": counted,
        "bytes": 4 * counted,
        "tensor_bytes": sum(a.nbytes for a in tensors.values()),
    }
    if edit:
        edit(body)
    if rehash:
        part = {k: v for k, v in body.items() if k not in ("id", "seal", "provenance")}
        body["id"] = claimed or hashlib.sha256(canonical_json(part)).hexdigest()
        body["seal"] = hashlib.sha256(canonical_json({k: v for k, v in body.items() if k != "seal"})).hexdigest()
    told = {k: body.get(k) for k in ("id", "preprocess", "label_space", "class_names")}
    header = build_header(
        {n: (kinds[a.dtype], a.shape) for n, a in tensors.items()}, {"ddsdk": canonical_json(told).decode()}
    )
    order = sorted(tensors, key=lambda n: (-tensors[n].itemsize, n))
    (folder / "set.safetensors").write_bytes(header + b"".join(tensors[n].tobytes() for n in order))
    (folder / "manifest.json").write_bytes(canonical_json(body))
