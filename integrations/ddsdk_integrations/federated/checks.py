"""Checks of a client's reply in a fixed order: a failed check is a counted refusal and never an error of the round.

Checks 1 to 10 concern one reply and are in this module. Checks 11 to 13 compare clients, see
`ddsdk_integrations.federated.cross_client`. Check 14 compares pools with and without a client on clean images, see
`ddsdk_integrations.federated.agreement`. Checks 15 and 16 bound the union of the sets, see
`ddsdk_integrations.federated.pool`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast, final

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
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
    MessageError,
    content_digest,
    decoded_array,
    insist,
)
from ddsdk_integrations.federated.task import FederatedTask
from ddsdk_integrations.federated.traffic import content_bytes

_META: dict[str, type] = {"format": int, "round": int, "codec-error": float}
_META |= dict.fromkeys(("task", "codec", "manifest", "privacy", "digest"), str)
_TEXT_CAP = 4096
_MOST_RATE = 10.0
_MOST_RATES = 4096
_REASON = 200


class Refusal(NamedTuple):
    """Refusal of a client's set, or of one class of it.

    Attributes:
        node: Node id of the client.
        check: Number of the check, 1 to 14.
        name: Name of the check.
        reason: Broken rule, with the value.
        class_id: Refused class; None for the whole set.
    """

    node: int
    check: int
    name: str
    reason: str
    class_id: int | None = None

    @property
    def hostile(self) -> bool:
        """Whether earlier sets of the client are withdrawn as well.

        Check 1 refuses a message whose sender is not established; copies and surplus images are harmless as such.
        """
        return self.name not in ("sender", "duplicate", "quota")


@final
@dataclass(frozen=True, kw_only=True)
class ReplyLimits:
    """Limits of a client's reply in one round.

    Attributes:
        images: Largest number of images of one class.
        max_bytes: Largest size of a reply in bytes.
        bounds: Lowest and highest pixel, in units of the unit range; the default leaves a margin around [0, 1].
        max_examples: Largest number of real images that a client may claim.
        codecs: Names of the accepted codecs.
        soft: Whether soft labels are accepted, each of which must be largest at the class of its image. Otherwise the
            class id is the label.

    Examples:
        >>> from ddsdk_integrations.federated import ReplyLimits
        >>> ReplyLimits(images=10, bounds=(0.0, 1.0)).max_bytes
        16777216
    """

    images: PositiveInt = 50
    max_bytes: PositiveInt = 16 << 20
    bounds: tuple[float, float] = (-2.0, 3.0)
    max_examples: PositiveInt = 1_000_000
    codecs: tuple[str, ...] = CODEC_NAMES
    soft: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)
        require(set(self.codecs) <= set(CODEC_NAMES), "codecs", f"be among {', '.join(CODEC_NAMES)}", self.codecs)
        require(self.bounds[0] < self.bounds[1], "bounds", "be a lower and a higher number", self.bounds)


@final
@dataclass(frozen=True, kw_only=True)
class ReplySpec:
    """Specification of a valid reply of a round.

    Attributes:
        task: Task of the federation.
        round_number: Number of the round.
        allowed: Class ids that each selected node may send, by node id.
        limits: Limits of a reply.
        update: Whether sets encode weight updates, whose label rows may be any probabilities.
    """

    task: FederatedTask
    round_number: int
    allowed: Mapping[int, frozenset[int]]
    limits: ReplyLimits = field(default_factory=ReplyLimits)
    update: bool = False


class _Reply:
    """Reply with the values that its checks have decoded so far; later checks rely on earlier ones."""

    codec: RowCodec
    images: Tensor

    def __init__(self, message: Message, spec: ReplySpec, answered: set[int]) -> None:
        self.content, self.spec, self.answered = message.content, spec, answered
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
        """Dtype and row shape of each array of the codec."""
        return self.codec.layout(self.spec.task.image_shape)

    @property
    def classes(self) -> Tensor:
        """Class id of each image."""
        return torch.from_numpy(self.decoded["classes"].astype(np.int64))

    @property
    def labels(self) -> Tensor:
        if "soft" in self.decoded:
            return torch.from_numpy(self.decoded["soft"].astype(np.float32))
        return torch.nn.functional.one_hot(self.classes, self.spec.task.num_classes).float()


def _sender(reply: _Reply) -> None:
    """Check that the node was selected, answers once, and answers this round."""
    insist(reply.node in reply.spec.allowed, "the node was not selected for this round")
    insist(reply.node not in reply.answered, "the node has answered already")
    stated = reply.content.config_records.get(META, ConfigRecord()).get("round")
    expected = reply.spec.round_number
    insist(stated == expected, f"round must be {expected}, got {stated!r:.60}")


def _size(reply: _Reply) -> None:
    """Check the size of the content before anything is decoded."""
    size, cap = content_bytes(reply.content), reply.spec.limits.max_bytes
    insist(size <= cap, f"content must not exceed {cap} bytes, got {size}")


def _keys(reply: _Reply) -> None:
    """Check the three records: their keys, format version, task and digest."""
    kinds = {ARRAYS: ArrayRecord, META: ConfigRecord, METRICS: MetricRecord}
    record_kinds = {name: type(record) for name, record in reply.content.items()}
    insist(record_kinds == kinds, f"records must be {sorted(kinds)}, got {sorted(record_kinds)}")
    meta = reply.meta
    insist(set(meta) == set(_META), f"meta must have the keys {sorted(_META)}, got {sorted(meta)}")
    for name, kind in _META.items():
        value = meta[name]
        insist(type(value) is kind, f"{name} must be {kind.__name__}, got {type(value).__name__}")
        short = not isinstance(value, str) or len(value) <= _TEXT_CAP
        insist(short, f"{name} must not exceed {_TEXT_CAP} characters")
    insist(meta["format"] == FORMAT, f"format must be {FORMAT}, got {meta['format']!r}")
    insist(meta["task"] == reply.spec.task.digest, "task must be that of this federation")
    insist(meta["digest"] == content_digest(reply.arrays, meta), "digest must be that of the content")
    manifest = strict_json(str(meta["manifest"]).encode())
    complete = isinstance(manifest, dict) and {"recipe", "parameters", "versions"} <= set(manifest)
    insist(complete, "manifest must be an object with recipe, parameters and versions")
    insist(clean_json(manifest) == manifest, "manifest must be of printable text")
    reply.codec = _codec(meta["codec"], reply.spec)
    required, optional = {*reply.layout, "classes"}, {"soft", "rate"}
    names = set(reply.arrays)
    insist(required <= names <= required | optional, f"arrays must be {sorted(required)}, got {sorted(names)}")


def _codec(stated: object, spec: ReplySpec) -> RowCodec:
    state = strict_json(str(stated).encode())
    insist(isinstance(state, dict), "codec must be an object")
    name, accepted = state.get("name"), spec.limits.codecs
    insist(name in accepted, f"codec must be one of {accepted}, got {name!r}")
    # `ReplyLimits` accepts names of row codecs only.
    return cast(RowCodec, codec_from(state))


def _dtype(reply: _Reply) -> None:
    """Check that dtype, shape and length of each array are as declared, and that the dtype is that of the format."""
    dtypes = {name: str(dtype).removeprefix("torch.") for name, (dtype, _) in reply.layout.items()}
    dtypes |= {"classes": "int16", "soft": "float16", "rate": "float32"}
    for name, array in reply.arrays.items():
        insist(array.dtype == dtypes[name], f"dtype of {name} must be {dtypes[name]}, got {array.dtype}")
        reply.decoded[name] = decoded_array(name, array)


def _shape(reply: _Reply) -> None:
    """Check that arrays have one row of the right shape for each image, and classes no more images than the quota."""
    images = len(reply.decoded["classes"])
    rows = {name: row for name, (_, row) in reply.layout.items()}
    rows |= {"classes": (), "soft": (reply.spec.task.num_classes,)}
    for name, row in rows.items():
        if name in reply.decoded:
            expected, got = (images, *row), reply.decoded[name].shape
            insist(images > 0 and got == expected, f"shape of {name} must be {expected}, not empty, got {got}")
    rate = reply.decoded.get("rate", np.zeros(0))
    insist(rate.ndim == 1 and len(rate) <= _MOST_RATES, f"rates must be a list of at most {_MOST_RATES}")
    quota = reply.spec.limits.images
    most = int(np.unique(reply.decoded["classes"], return_counts=True)[1].max())
    insist(most <= quota, f"a class must not have more than {quota} images, got {most}")
    # Class ids are checked later; unknown ids with a quota each would let a client send images without limit.
    limit = quota * len(reply.spec.allowed[reply.node])
    insist(images <= limit, f"a client must not send more than {limit} images, got {images}")


def _finite(reply: _Reply) -> None:
    """Check that every number is finite."""
    for name, value in reply.decoded.items():
        insist(bool(np.isfinite(value).all()), f"{name} must be finite")


def _range(reply: _Reply) -> None:
    """Check that pixels lie within the bounds."""
    # A copy: decoded arrays are read-only views of the message.
    reply.images = reply.codec.unpack({n: torch.from_numpy(reply.decoded[n].copy()) for n in reply.layout})
    low, high = reply.spec.limits.bounds
    extremes = float(reply.images.min()), float(reply.images.max())
    insist(low <= extremes[0] and extremes[1] <= high, f"pixels must lie in {low}..{high}, got {extremes}")


def _classes(reply: _Reply) -> None:
    """Check that the client holds the classes that it sends."""
    classes = {int(c) for c in reply.decoded["classes"]}
    allowed = reply.spec.allowed[reply.node]
    insist(classes <= allowed, f"classes must be among {sorted(allowed)}, got {sorted(classes - allowed)}")


def _labels(reply: _Reply) -> None:
    """Check that label rows are probabilities, largest at the class of the image and on classes of the client."""
    rows = reply.labels
    insist(bool((rows >= 0).all()), "labels must not be negative")
    deviation = float((rows.sum(1) - 1).abs().max())
    insist(deviation <= 0.01, f"label rows must sum to 1, got a row that is off by {deviation:.3g}")
    if reply.spec.update or "soft" not in reply.decoded:
        return
    insist(reply.spec.limits.soft, "label rows must be left out, because ReplyLimits.soft is False")
    insist(bool((rows.argmax(1) == reply.classes).all()), "label rows must be largest at their class")
    not_held = torch.ones(rows.shape[1])
    not_held[sorted(reply.spec.allowed[reply.node])] = 0
    outside = float((rows * not_held).sum(1).max())
    insist(outside <= 0.01, f"label rows must lie on classes that the client holds, got {outside:.3g} outside")


def _weight(reply: _Reply) -> None:
    """Check that the claimed numbers of real images and the learning rates are plausible; `PoolWeights` caps them."""
    metrics, cap = reply.metrics, reply.spec.limits.max_examples
    examples: Any = metrics.get("num-examples")
    counts: Any = metrics.get("class-counts")
    insist(isinstance(examples, int), f"num-examples must be a whole number, got {examples!r}")
    insist(1 <= examples <= cap, f"num-examples must lie in 1..{cap}, got {examples}")
    complete = isinstance(counts, list) and len(counts) == reply.spec.task.num_classes
    insist(complete, "class-counts must have a number for each class")
    insist(all(isinstance(n, int) and n >= 0 for n in counts), "class-counts must be whole numbers from 0")
    insist(sum(counts) == examples, f"class-counts must sum to {examples}, got {sum(counts)}")
    seconds = metrics.get("seconds", 0.0)
    keys = {"num-examples", "class-counts", "seconds"}
    sound = isinstance(seconds, float | int) and math.isfinite(seconds) and set(metrics) <= keys
    insist(sound, f"metrics must have the keys {sorted(keys)}, with finite seconds")
    rate = reply.decoded.get("rate", np.ones(0))
    insist(bool(((rate > 0) & (rate <= _MOST_RATE)).all()), f"rates must lie in 0..{_MOST_RATE}")


_IN_ORDER = (_sender, _size, _keys, _dtype, _shape, _finite, _range, _classes, _labels, _weight)
CHECKS: tuple[tuple[int, str, Callable[[_Reply], None]], ...] = tuple(
    (number, check.__name__[1:], check) for number, check in enumerate(_IN_ORDER, 1)
)
"""Number, name and function of each check of one reply, in the order of execution."""


def inspect_replies(replies: Iterable[Message], spec: ReplySpec) -> tuple[list[Contribution], list[Refusal]]:
    """Return the sets that pass checks 1 to 10, in the order of ``spec.allowed``, and the refusals.

    Replies that are Flower errors are skipped. Any exception inside a check counts as a refusal by it.

    Args:
        replies: Messages of the clients, in the order of their arrival.
        spec: Specification of a valid reply.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import FederatedTask, ReplySpec, inspect_replies
        >>> task = FederatedTask.of(ddsdk.load("digits"), width=4, depth=2)
        >>> inspect_replies([], ReplySpec(task=task, round_number=1, allowed={7: frozenset({0, 1})}))
        ([], [])
    """
    accepted: dict[int, Contribution] = {}
    refused: list[Refusal] = []
    answered: set[int] = set()
    for arrival, message in enumerate(replies):
        if message.has_error():
            continue
        reply = _Reply(message, spec, answered)
        refusal = _first_refusal(reply)
        answered.add(reply.node)
        if refusal is not None:
            refused.append(refusal)
            continue
        metrics: dict[str, Any] = dict(reply.metrics)
        accepted[reply.node] = Contribution(
            node=reply.node,
            images=reply.images,
            labels=reply.labels,
            classes=reply.classes,
            examples=metrics["num-examples"],
            counts=tuple(metrics["class-counts"]),
            rate=tuple(float(r) for r in reply.decoded.get("rate", ())),
            meta={name: reply.meta[name] for name in ("manifest", "privacy", "codec", "codec-error")},
            arrival=arrival,
        )
    return [accepted[node] for node in spec.allowed if node in accepted], refused


def _first_refusal(reply: _Reply) -> Refusal | None:
    for number, name, check in CHECKS:
        try:
            check(reply)
        except Exception as error:  # whatever a client sends, the round goes on
            reason = str(error) if isinstance(error, MessageError) else f"{type(error).__name__}: {error}"
            return Refusal(reply.node, number, name, clean(reason, _REASON))
    return None
