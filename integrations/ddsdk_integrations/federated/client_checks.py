"""Checks of the server's requests at a client, before any record is used, and the client's account of its answers.

All records, names, types, shapes and ranges of a request are compared with the task and with limits of the client's
owner. A request that breaks a rule is answered with an error and changes nothing in the client's state.
"""

from __future__ import annotations

import hashlib
import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from torch import Tensor

from ddsdk.foundation import PositiveFloat, PositiveInt, canonical_json, check_numbers, clean, generator, require
from ddsdk.networks import Network
from ddsdk_integrations.federated.payload import MessageError, decoded_array
from ddsdk_integrations.federated.store import log
from ddsdk_integrations.federated.task import FederatedTask

ACTIONS = ("distill", "update", "fit")
_QUERIES = ("stats", "traffic")
_CONFIG, _WEIGHTS, _KNOWLEDGE = "config", "arrays", "knowledge"
# Records that a request must have, and records that it may have.
_RECORDS: dict[str, tuple[set[str], set[str]]] = {
    "stats": (set(), {_CONFIG}),
    "traffic": (set(), {_CONFIG}),
    "distill": ({_CONFIG}, {_WEIGHTS, _KNOWLEDGE}),
    "update": ({_CONFIG, _WEIGHTS}, set()),
    "fit": ({_CONFIG, _WEIGHTS}, set()),
}
_MOST_ROUNDS = 1_000_000
_MOST_ENTRIES = 64
_TEXT = 200
_ACCOUNT, _ANSWER = "ddsdk-account", "ddsdk-answer"


@final
@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """Limits of what a client does for a server, and of what it discloses.

    Attributes:
        actions: Trainings that a server may request: ``"distill"`` for distilled sets, ``"update"`` for encoded weight
            updates, ``"fit"`` for weights. Each form discloses something else.
        answers: Largest number of sets and weights that are sent in one run of Flower. Equal requests for a set or an
            update in a row get the same answer, which counts once.
        seconds: Largest time for all answers of a run in seconds, checked before each; None for no limit.
        radius: Largest radius of the students around the server's weights.
        knowledge: Largest number of images of each class that the server may send as warm start.
        weight: Largest magnitude of a weight of the server.
        entries: Names of further configuration entries of the request, which the client's own functions read.

    Examples:
        >>> from ddsdk_integrations.federated import RequestLimits
        >>> RequestLimits(actions=("distill",), answers=20).radius
        100.0
    """

    actions: tuple[str, ...] = ACTIONS
    answers: PositiveInt = 1000
    seconds: PositiveFloat | None = None
    radius: PositiveFloat = 100.0
    knowledge: PositiveInt = 50
    weight: PositiveFloat = 1e6
    entries: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_numbers(self)
        require(set(self.actions) <= set(ACTIONS), "actions", f"be among {', '.join(ACTIONS)}", self.actions)


class _Rule(NamedTuple):
    """Rule of a configuration entry: its types, the rule in words, and a function of the value."""

    types: tuple[type, ...]
    text: str
    holds: Callable[[Any], bool]


@final
@dataclass(frozen=True, kw_only=True)
class Request:
    """Request of the server after all checks.

    Attributes:
        action: Action of the client: a training of `RequestLimits`, ``"stats"`` or ``"traffic"``.
        digest: SHA-256 of action and content in hex, by which a repeated request is recognized.
        config: Configuration entries by their names.
        network: Network with the weights of the server; None if there are none.
        images: Images of other clients as warm start, (N, C, H, W) uint8; empty if there are none.
        classes: Class ids of `images` in the task, (N,) int64.
    """

    action: str
    digest: str
    config: Mapping[str, Any]
    network: Network | None
    images: Tensor
    classes: Tensor

    @property
    def round_number(self) -> int:
        """Number of the round."""
        return int(self.config["server-round"])

    def rng(self, partition: int) -> torch.Generator:
        """Return the generator of a client, the same for the same round, seed and partition."""
        return generator("client", int(self.config.get("seed", 0)), self.round_number, partition)

    @classmethod
    def of(cls, message: Message, action: str, task: FederatedTask, limits: RequestLimits) -> Request:
        """Return the request of a message.

        Args:
            message: Message of the server.
            action: Action of the client.
            task: Task of the federation.
            limits: Limits of the owner of the client.

        Raises:
            MessageError: If the message breaks a rule; the text has name, rule and value.
        """
        try:
            _insist(message.has_content(), "message", "have content", "an error")
            content = message.content
            _check_records(content, action, limits)
            config = _checked_config(content, action, task, limits)
            arrays = content.array_records
            network = _network(arrays[_WEIGHTS], task, limits) if _WEIGHTS in content else None
            images, classes = _knowledge(arrays.get(_KNOWLEDGE), task, limits)
            digest = _digest(action, content)
        except MessageError:
            raise
        except Exception as error:  # whatever a server sends, the client has an answer
            # The text may name files of the client.
            log.warning("a request cannot be read: %s", clean(str(error), _TEXT))
            raise MessageError(f"the request cannot be read: {type(error).__name__}") from error
        return cls(action=action, digest=digest, config=config, network=network, images=images, classes=classes)


def _insist(ok: bool, name: str, rule: str, value: object) -> None:
    if not ok:
        raise MessageError(clean(f"{name} must {rule}, got {reprlib.repr(value)}", _TEXT))


def _check_records(content: RecordDict, action: str, limits: RequestLimits) -> None:
    """Check that the owner allows the action, and that records are complete, known, and of the right types."""
    allowed = (*limits.actions, *_QUERIES)
    _insist(action in allowed, "action", f"be one of {', '.join(allowed)}, which the client's owner allows", action)
    required, optional = _RECORDS[action]
    names = set(content)
    known = sorted(required | optional)
    _insist(names <= required | optional, "records", f"be among {known}", sorted(names))
    for name in sorted(required | names):
        _insist(name in names, "records", f"have {name!r}", sorted(names))
        expected = ConfigRecord if name == _CONFIG else ArrayRecord
        _insist(isinstance(content[name], expected), name, f"be of type {expected.__name__}", type(content[name]))


def _rules(action: str, task: FederatedTask, limits: RequestLimits) -> dict[str, _Rule]:
    agreed = _Rule((str,), f"be {task.digest!r}, as the client has agreed", lambda value: value == task.digest)
    if action == "traffic":
        return {}
    if action == "stats":
        known = _Rule((str,), f"be one of {', '.join(limits.actions)}", lambda value: value in limits.actions)
        return {"action": known, "task": agreed}
    switch = _Rule((bool,), "be true or false", lambda _: True)
    rounds, radius = f"be a whole number in 1..{_MOST_ROUNDS}", f"be a number in 0..{limits.radius:g}"
    return {
        "server-round": _Rule((int,), rounds, lambda value: 1 <= value <= _MOST_ROUNDS),
        "seed": _Rule((int,), "be a whole number of 64 bits", lambda value: -(2**63) <= value < 2**63),
        "radius": _Rule((int, float), radius, lambda value: 0 <= value <= limits.radius),
        "logits": switch,
        "go-on": switch,
        "task": agreed,
        # Clients train without a proximal term.
        "proximal-mu": _Rule((int, float), "be 0, because clients train without a proximal term", lambda v: v == 0),
    }


def _checked_config(content: RecordDict, action: str, task: FederatedTask, limits: RequestLimits) -> dict[str, Any]:
    """Return the configuration after checks of its names, types and ranges."""
    config: dict[str, Any] = dict(content.config_records.get(_CONFIG, {}))
    rules = _rules(action, task, limits)
    further = set(limits.entries)
    _insist(len(config) <= _MOST_ENTRIES, "config", f"have at most {_MOST_ENTRIES} entries", len(config))
    unknown = sorted(set(config) - set(rules) - further)
    _insist(not unknown, "config", f"have no entries but {sorted({*rules, *further})}", unknown)
    if action in ACTIONS:
        _insist("server-round" in config, "config", "have 'server-round'", sorted(config))
    for name, rule in rules.items():
        if name in config:
            value = config[name]
            # A Boolean is an integer for Python, and NaN fails every comparison.
            _insist(type(value) in rule.types and rule.holds(value), name, rule.text, value)
    return config


def _network(record: ArrayRecord, task: FederatedTask, limits: RequestLimits) -> Network:
    """Return the task's network with the weights of a record; nothing is allocated before layout and sizes agree."""
    network = task.make(generator("task"))
    own = network.state_dict()
    differing = sorted(set(record) ^ set(own))
    _insist(not differing, _WEIGHTS, "have the arrays of the task's network and no others", differing)
    decoded = {}
    for name, tensor in own.items():
        array, shape = record[name], tuple(tensor.shape)
        # Averaging turns counters, such as those of batch normalization, into floats.
        dtypes = sorted({str(tensor.dtype).removeprefix("torch."), "float32", "float64"})
        label = f"{_WEIGHTS}[{name!r}]"
        _insist(tuple(array.shape) == shape, label, f"have shape {shape}", tuple(array.shape))
        _insist(array.dtype in dtypes, label, f"have a dtype of {', '.join(dtypes)}", array.dtype)
        values = torch.from_numpy(decoded_array(label, array).copy())
        for extreme in (float(values.min()), float(values.max())):
            _insist(math.isfinite(extreme), label, "be finite", extreme)
            _insist(abs(extreme) <= limits.weight, label, f"not exceed {limits.weight:g} in magnitude", extreme)
        decoded[name] = values
    network.load_state_dict(decoded)
    return network


def _knowledge(record: ArrayRecord | None, task: FederatedTask, limits: RequestLimits) -> tuple[Tensor, Tensor]:
    """Return images of other clients and their class ids after checks; both are empty without a record."""
    if record is None:
        return torch.zeros((0, *task.image_shape), dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    _insist(set(record) == {"images", "classes"}, _KNOWLEDGE, "have images and classes", sorted(record))
    count, most = next(iter(record["classes"].shape), 0), limits.knowledge * task.num_classes
    _insist(1 <= count <= most, f"images of {_KNOWLEDGE}", f"number 1..{most}", count)
    layout = {"images": ("uint8", (count, *task.image_shape)), "classes": ("int64", (count,))}
    for name, expected in layout.items():
        found = (record[name].dtype, tuple(record[name].shape))
        _insist(found == expected, f"{_KNOWLEDGE}[{name!r}]", f"have dtype and shape {expected}", found)
    decoded = {name: decoded_array(name, record[name]) for name in layout}
    images, classes = (torch.from_numpy(decoded[name].copy()) for name in ("images", "classes"))
    known = (classes >= 0) & (classes < task.num_classes)
    rule = f"lie in 0..{task.num_classes - 1}"
    _insist(bool(known.all()), f"classes of {_KNOWLEDGE}", rule, classes[~known][:1].tolist())
    fullest = int(torch.bincount(classes).max())
    rule = f"number at most {limits.knowledge} (RequestLimits.knowledge)"
    _insist(fullest <= limits.knowledge, f"images of a class in {_KNOWLEDGE}", rule, fullest)
    return images, classes


def _digest(action: str, content: RecordDict) -> str:
    digest = hashlib.sha256(action.encode())
    for name in sorted(content):
        record: Any = content[name]
        if isinstance(record, ConfigRecord):
            # The text of the types, because JSON has no bytes.
            digest.update(repr([name, sorted((key, repr(value)) for key, value in record.items())]).encode())
            continue
        for key in sorted(record):
            array = record[key]
            digest.update(canonical_json([name, key, array.dtype, list(array.shape), len(array.data)]))
            digest.update(array.data)
    return digest.hexdigest()


def _copied(record: Any) -> Any:  # noqa: ANN401 - the records of Flower have no public base
    return type(record)(dict(record))


@final
class Account:
    """Account of a client's answers in one run of Flower, in the state that Flower keeps for the client.

    Args:
        context: Context of Flower, whose state is changed.
        limits: Limits of the owner of the client.
    """

    def __init__(self, context: Context, limits: RequestLimits) -> None:
        self._state, self._limits = context.state, limits
        found: dict[str, Any] = dict(self._state.config_records.get(_ACCOUNT, {}))
        answers, seconds = found.get("answers", 0), found.get("seconds", 0.0)
        sound = type(answers) is int and answers >= 0 and type(seconds) is float and 0 <= seconds < math.inf
        if not sound:
            # Without a readable count nothing more is sent; a new run starts a new one.
            log.error("the account of answers in the client's state is damaged: %s", reprlib.repr(found))
            answers, seconds = limits.answers, limits.seconds or 0.0
        self._answers, self._seconds = int(answers), float(seconds)

    def repeated(self, request: Request) -> RecordDict | None:
        """Return the stored answer if the last answered request was equal to this one; None otherwise."""
        last: dict[str, Any] = dict(self._state.config_records.get(_ANSWER, {}))
        if last.get("digest") != request.digest:
            return None
        prefix = f"{_ANSWER}-"
        stored = {name.removeprefix(prefix): self._state[name] for name in self._state if name.startswith(prefix)}
        return RecordDict({name: _copied(record) for name, record in stored.items()})

    def open(self, request: Request) -> None:
        """Count a new answer before it is computed, so that a failing one counts as well.

        A `MessageError` is raised if a limit is reached.
        """
        limits = self._limits
        if limits.seconds is not None and request.action != "traffic":
            _insist(self._seconds < limits.seconds, "seconds", f"stay below {limits.seconds:g} in a run", self._seconds)
        if request.action in ACTIONS:
            self._answers += 1
            _insist(self._answers <= limits.answers, "answers", f"not exceed {limits.answers} in a run", self._answers)
        self._write()

    def close(self, request: Request, answer: RecordDict | None, seconds: float) -> None:
        """Count the time of an answer, and store a set for a repetition of the request.

        Args:
            request: Request that was answered.
            answer: Records of the answer; None if it failed.
            seconds: Duration of the answer in seconds.
        """
        self._seconds += seconds
        self._write()
        if answer is None or request.action not in ("distill", "update"):
            return
        for name in [name for name in self._state if name.startswith(_ANSWER)]:
            del self._state[name]
        self._state[_ANSWER] = ConfigRecord({"digest": request.digest})
        for name, record in answer.items():
            self._state[f"{_ANSWER}-{name}"] = _copied(record)

    def _write(self) -> None:
        self._state[_ACCOUNT] = ConfigRecord({"answers": self._answers, "seconds": self._seconds})
