"""Checks of what a client sent, in a fixed order, each a counted refusal and never an error.

Checks 1 to 10 look at one reply and are here; 11 and 12 compare clients, see `ddsdk_integrations.federated.screen`; 13
and 14 bound the union of sets, see `ddsdk_integrations.federated.pool`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast, final

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from numpy.typing import NDArray
from torch import Tensor

from ddsdk.artefact import RowCodec, codec_from
from ddsdk.foundation import PositiveInt, check_numbers, clean, clean_json, require, strict_json
from ddsdk_integrations.federated.payload import (
    ARRAYS,
    CODEC_NAMES,
    FORMAT,
    META,
    METRICS,
    Contribution,
    content_digest,
)
from ddsdk_integrations.federated.task import Task
from ddsdk_integrations.federated.traffic import content_bytes

_META: dict[str, type] = {"format": int, "round": int, "codec-error": float}
_META |= dict.fromkeys(("task", "codec", "manifest", "privacy", "digest"), str)
_HEADER_CAP = 4096
_TEXT_CAP = 4096
_MOST_RATE = 10.0
_MOST_RATES = 4096
_REASON = 200


class Refusal(NamedTuple):
    """A set, or a part of one, that was not taken.

    Attributes:
        node: Id of the sender.
        check: Number of the check, 1 to 12.
        name: Name of the check.
        reason: Broken rule, with the value.
    """

    node: int
    check: int
    name: str
    reason: str


@final
@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of what a client may send in one round.

    Attributes:
        images: Largest number of images of one class.
        max_bytes: Largest number of bytes of a reply.
        bounds: Lowest and highest pixel, in the unit range or a little beyond.
        max_examples: Largest number of real images that a client may claim.
        codecs: Names of the codecs that are read.
        soft: Whether label rows are read, each of which must be largest at the class that its image was made for;
            otherwise the class is the label.
    """

    images: PositiveInt = 50
    max_bytes: PositiveInt = 16 << 20
    bounds: tuple[float, float] = (-2.0, 3.0)
    max_examples: PositiveInt = 1_000_000
    codecs: tuple[str, ...] = CODEC_NAMES
    soft: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)
        known = set(self.codecs) <= set(CODEC_NAMES)
        require(known, "codecs", f"be among {', '.join(CODEC_NAMES)}", self.codecs)
        require(self.bounds[0] < self.bounds[1], "bounds", "be a lower and a higher number", self.bounds)


@final
@dataclass(frozen=True, kw_only=True)
class Contract:
    """Form of a valid reply of a round.

    Attributes:
        task: Task that all sides agree on.
        round_number: Number of the round.
        allowed: Node that was asked to the classes that it may send.
        limits: Limits of a reply.
        update: Whether sets stand for weight updates, whose label rows may be any probabilities.
    """

    task: Task
    round_number: int
    allowed: Mapping[int, frozenset[int]]
    limits: Limits = field(default_factory=Limits)
    update: bool = False


class _Refused(Exception):
    """A broken rule."""


class _Reply:
    """A reply on its way through the checks; each leaves what the next ones need."""

    codec: RowCodec
    images: Tensor

    def __init__(self, message: Message, contract: Contract, seen: set[int]) -> None:
        self.content, self.contract, self.seen = message.content, contract, seen
        self.node = message.metadata.src_node_id
        self.decoded: dict[str, NDArray[Any]] = {}

    @property
    def arrays(self) -> ArrayRecord:
        return self.content.array_records[ARRAYS]

    @property
    def meta(self) -> ConfigRecord:
        return self.content.config_records[META]

    @property
    def metrics(self) -> MetricRecord:
        return self.content.metric_records[METRICS]

    @property
    def layout(self) -> Mapping[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and shape of a row of each array of the codec."""
        return self.codec.layout(self.contract.task.image_shape)

    @property
    def classes(self) -> Tensor:
        """Class of each image in the task."""
        return torch.from_numpy(self.decoded["classes"].astype(np.int64))

    @property
    def labels(self) -> Tensor:
        if "soft" in self.decoded:
            return torch.from_numpy(self.decoded["soft"].astype(np.float32))
        return torch.nn.functional.one_hot(self.classes, self.contract.task.num_classes).float()


def _insist(ok: bool, reason: str) -> None:
    if not ok:
        raise _Refused(reason)


def _sender(reply: _Reply) -> None:
    """The node was asked, answers once, and answers this round."""
    _insist(reply.node in reply.contract.allowed, "the node was not asked")
    _insist(reply.node not in reply.seen, "the node has answered already")
    stated = reply.content.config_records.get(META, ConfigRecord()).get("round")
    wanted = reply.contract.round_number
    _insist(stated == wanted, f"round must be {wanted}, got {stated!r:.60}")


def _size(reply: _Reply) -> None:
    """The content is small enough to be looked at."""
    size, cap = content_bytes(reply.content), reply.contract.limits.max_bytes
    _insist(size <= cap, f"content must not exceed {cap} bytes, got {size}")


def _keys(reply: _Reply) -> None:
    """There are three records with known keys, of this format and task, and the digest is right."""
    kinds = {ARRAYS: ArrayRecord, META: ConfigRecord, METRICS: MetricRecord}
    found = {name: type(record) for name, record in reply.content.items()}
    _insist(found == kinds, f"records must be {sorted(kinds)}, got {sorted(found)}")
    meta = reply.meta
    _insist(set(meta) == set(_META), f"meta must have the keys {sorted(_META)}, got {sorted(meta)}")
    for name, kind in _META.items():
        value = meta[name]
        _insist(type(value) is kind, f"{name} must be {kind.__name__}, got {type(value).__name__}")
        short = not isinstance(value, str) or len(value) <= _TEXT_CAP
        _insist(short, f"{name} must not exceed {_TEXT_CAP} characters")
    _insist(meta["format"] == FORMAT, f"format must be {FORMAT}, got {meta['format']!r}")
    _insist(meta["task"] == reply.contract.task.digest, "task must be that of this federation")
    _insist(meta["digest"] == content_digest(reply.arrays, meta), "digest must be that of the content")
    manifest = strict_json(str(meta["manifest"]).encode())
    whole = isinstance(manifest, dict) and {"recipe", "parameters", "versions"} <= set(manifest)
    _insist(whole, "manifest must be an object with recipe, parameters and versions")
    _insist(clean_json(manifest) == manifest, "manifest must be of printable text")
    reply.codec = _codec(meta["codec"], reply.contract)
    needed, extra = {*reply.layout, "classes"}, {"soft", "rate"}
    names = set(reply.arrays)
    _insist(needed <= names <= needed | extra, f"arrays must be {sorted(needed)}, got {sorted(names)}")


def _codec(stated: object, contract: Contract) -> RowCodec:
    state = strict_json(str(stated).encode())
    _insist(isinstance(state, dict), "codec must be an object")
    name, known = state.get("name"), contract.limits.codecs
    _insist(name in known, f"codec must be one of {known}, got {name!r}")
    # Limits name no others than those of rows.
    return cast(RowCodec, codec_from(state))


def _dtype(reply: _Reply) -> None:
    """Declared and true dtype, shape and length of each array agree, and the dtype is the agreed one."""
    wanted = {name: str(dtype).removeprefix("torch.") for name, (dtype, _) in reply.layout.items()}
    wanted |= {"classes": "int16", "soft": "float16", "rate": "float32"}
    for name, array in reply.arrays.items():
        _insist(array.dtype == wanted[name], f"dtype of {name} must be {wanted[name]}, got {array.dtype}")
        reply.decoded[name] = _decoded(name, array)


def _decoded(name: str, array: Array) -> NDArray[Any]:
    """Return the values; nothing is allocated before header, declaration and number of bytes agree."""
    _insist(array.stype == "numpy.ndarray", f"{name} must be a numpy array, got {array.stype!r}")
    stream = io.BytesIO(array.data)
    _insist(np.lib.format.read_magic(stream) == (1, 0), f"{name} must be of numpy's format 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=_HEADER_CAP)
    declared = (tuple(array.shape), array.dtype, False)
    _insist((shape, str(dtype), fortran) == declared, f"{name} must be as declared, {declared}, got {shape}")
    size, rest = dtype.itemsize * math.prod(shape), len(array.data) - stream.tell()
    _insist(size == rest, f"{name} must have {size} bytes, got {rest}")
    return np.frombuffer(array.data, dtype=dtype, offset=stream.tell()).reshape(shape)


def _shape(reply: _Reply) -> None:
    """Rows have the agreed shape, there are as many of each, and no class has more than its quota."""
    images = len(reply.decoded["classes"])
    rows = {name: row for name, (_, row) in reply.layout.items()}
    rows |= {"classes": (), "soft": (reply.contract.task.num_classes,)}
    for name, row in rows.items():
        if name in reply.decoded:
            wanted, got = (images, *row), reply.decoded[name].shape
            _insist(images > 0 and got == wanted, f"shape of {name} must be {wanted}, not empty, got {got}")
    rate = reply.decoded.get("rate", np.zeros(0))
    _insist(rate.ndim == 1 and len(rate) <= _MOST_RATES, f"rates must be a list of at most {_MOST_RATES}")
    quota = reply.contract.limits.images
    most = int(np.unique(reply.decoded["classes"], return_counts=True)[1].max())
    _insist(most <= quota, f"a class must not have more than {quota} images, got {most}")
    # Before anything is unpacked: ids of classes that do not exist would have quotas of their own.
    room = quota * len(reply.contract.allowed[reply.node])
    _insist(images <= room, f"a client must not send more than {room} images, got {images}")


def _finite(reply: _Reply) -> None:
    """Every number is finite."""
    for name, value in reply.decoded.items():
        _insist(bool(np.isfinite(value).all()), f"{name} must be finite")


def _range(reply: _Reply) -> None:
    """Pixels lie in the bounds."""
    # A copy: what came over the wire is read-only.
    reply.images = reply.codec.unpack({n: torch.from_numpy(reply.decoded[n].copy()) for n in reply.layout})
    low, high = reply.contract.limits.bounds
    found = float(reply.images.min()), float(reply.images.max())
    _insist(low <= found[0] and found[1] <= high, f"pixels must lie in {low}..{high}, got {found}")


def _classes(reply: _Reply) -> None:
    """Class ids are known, and the client may send them."""
    found = {int(c) for c in reply.decoded["classes"]}
    allowed = reply.contract.allowed[reply.node]
    _insist(found <= allowed, f"classes must be among {sorted(allowed)}, got {sorted(found - allowed)}")


def _labels(reply: _Reply) -> None:
    """Label rows are probabilities."""
    rows = reply.labels
    _insist(bool((rows >= 0).all()), "labels must not be negative")
    worst = float((rows.sum(1) - 1).abs().max())
    _insist(worst <= 0.01, f"label rows must sum to 1, got a row that is off by {worst:.3g}")
    if reply.contract.update or "soft" not in reply.decoded:
        return
    _insist(reply.contract.limits.soft, "label rows were not asked for")
    _insist(bool((rows.argmax(1) == reply.classes).all()), "label rows must be largest at their class")
    others = torch.ones(rows.shape[1])
    others[sorted(reply.contract.allowed[reply.node])] = 0
    spill = float((rows * others).sum(1).max())
    _insist(spill <= 0.01, f"label rows must lie on classes that the client holds, got {spill:.3g} beyond")


def _weight(reply: _Reply) -> None:
    """Its claim of a size is possible. The server caps it again when it weighs sets."""
    metrics, cap = reply.metrics, reply.contract.limits.max_examples
    examples: Any = metrics.get("num-examples")
    counts: Any = metrics.get("class-counts")
    _insist(isinstance(examples, int), f"num-examples must be a whole number, got {examples!r}")
    _insist(1 <= examples <= cap, f"num-examples must lie in 1..{cap}, got {examples}")
    wide = isinstance(counts, list) and len(counts) == reply.contract.task.num_classes
    _insist(wide, "class-counts must have a number for each class")
    _insist(all(isinstance(n, int) and n >= 0 for n in counts), "class-counts must be whole numbers from 0")
    _insist(sum(counts) == examples, f"class-counts must sum to {examples}, got {sum(counts)}")
    seconds = metrics.get("seconds", 0.0)
    timed = isinstance(seconds, float | int) and math.isfinite(seconds)
    _insist(timed and set(metrics) <= {"num-examples", "class-counts", "seconds"}, "metrics must be the known ones")
    rate = reply.decoded.get("rate", np.ones(0))
    _insist(bool(((rate > 0) & (rate <= _MOST_RATE)).all()), f"rates must lie in 0..{_MOST_RATE}")


_IN_ORDER = (_sender, _size, _keys, _dtype, _shape, _finite, _range, _classes, _labels, _weight)
CHECKS: tuple[tuple[int, str, Callable[[_Reply], None]], ...] = tuple(
    (number, check.__name__[1:], check) for number, check in enumerate(_IN_ORDER, 1)
)
"""Number, name and function of the checks of one reply, in their order."""


def inspect_replies(replies: Iterable[Message], contract: Contract) -> tuple[list[Contribution], list[Refusal]]:
    """Return the sets that pass the checks 1 to 10, by the order of the contract's nodes, and what was refused.

    Replies that are errors are neither. Whatever goes wrong inside a check is a refusal by it.
    """
    taken: dict[int, Contribution] = {}
    refused: list[Refusal] = []
    seen: set[int] = set()
    for message in replies:
        if message.has_error():
            continue
        reply = _Reply(message, contract, seen)
        refusal = _first_refusal(reply)
        seen.add(reply.node)
        if refusal is not None:
            refused.append(refusal)
            continue
        metrics: dict[str, Any] = dict(reply.metrics)
        taken[reply.node] = Contribution(
            node=reply.node,
            images=reply.images,
            labels=reply.labels,
            classes=reply.classes,
            examples=metrics["num-examples"],
            counts=tuple(metrics["class-counts"]),
            rate=tuple(float(r) for r in reply.decoded.get("rate", ())),
            meta={name: reply.meta[name] for name in ("manifest", "privacy", "codec", "codec-error")},
        )
    return [taken[node] for node in contract.allowed if node in taken], refused


def _first_refusal(reply: _Reply) -> Refusal | None:
    for number, name, check in CHECKS:
        try:
            check(reply)
        except Exception as error:  # a payload must never stop a round
            reason = str(error) if isinstance(error, _Refused) else f"{type(error).__name__}: {error}"
            return Refusal(reply.node, number, name, clean(reason, _REASON))
    return None
