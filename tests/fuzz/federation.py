"""What server and clients read: replies and requests in the wire format, and the state of the server between rounds."""

from __future__ import annotations

import contextlib
import logging
import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

import atheris
from inputs import empty, refusing

with atheris.instrument_imports(include=["ddsdk", "ddsdk_integrations"]):
    import torch
    from flwr.app import ConfigRecord, Context, Message, RecordDict
    from flwr.common.serde import recorddict_from_proto
    from flwr.proto.recorddict_pb2 import RecordDict as Wire
    from flwr.supercore.task_identity import TaskIdentity

    import ddsdk as dd
    from ddsdk.foundation import strict_json
    from ddsdk.running import write_checkpoint
    from ddsdk_integrations.federated import (
        CrossClientFilter,
        FederatedTask,
        ReplyLimits,
        ReplySpec,
        RequestLimits,
        inspect_replies,
    )
    from ddsdk_integrations.federated.client_checks import ACTIONS, Account, Request
    from ddsdk_integrations.federated.cross_client import FeatureNetworks
    from ddsdk_integrations.federated.payload import Contribution, MessageError, content_digest
    from ddsdk_integrations.federated.pool import PoolWeights, pooled
    from ddsdk_integrations.federated.registry import NodeRegistry
    from ddsdk_integrations.federated.store import RoundStore
    from ddsdk_integrations.federated.traffic import Quorum, content_bytes

logging.getLogger("flwr").setLevel(logging.ERROR)
logging.getLogger("ddsdk.federated").setLevel(logging.CRITICAL)
torch.set_num_threads(1)
TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
TASK = FederatedTask(
    class_names=("a", "b"),
    image_shape=(1, 2, 2),
    preprocess=dd.Preprocess.unit(1),
    network="mlp",
    network_options={"width": 2},
)
NODE = 7
SPEC = ReplySpec(
    task=TASK,
    round_number=1,
    allowed={NODE: frozenset({0, 1})},
    limits=ReplyLimits(images=8, max_bytes=1 << 20, soft=True),
)
LIMITS = RequestLimits(knowledge=4)
FEATURES = FeatureNetworks.of(TASK, dd.generator("fuzz"))


def contribution(node):
    """Return a sound set of another client."""
    images = torch.rand(2, 1, 2, 2, generator=dd.generator("fuzz", node))
    return Contribution(
        node=node,
        images=images,
        labels=torch.eye(2),
        classes=torch.tensor([0, 1]),
        examples=2,
        counts=(1, 1),
        rate=(),
        meta={"manifest": "{}", "privacy": "", "codec": "{}", "codec-error": 0.0},
    )


HONEST = [contribution(node) for node in (8, 9, 10)]


def parsed(data):
    """Return the records of a message; None for what Flower cannot read, which is an error of the sender."""
    try:
        return recorddict_from_proto(Wire.FromString(data))
    except Exception:
        return None


def message(content, name):
    return Message(content, reply_to=Message(RecordDict({"config": ConfigRecord()}), NODE, name))


def reply(data):
    """A client's message: refused or taken, and then compared, pooled and counted with those of others."""
    content = parsed(data[1:])
    if content is None:
        return
    if data[:1] != b"\0":
        with contextlib.suppress(Exception):
            content["meta"]["digest"] = content_digest(content["syn"], content["meta"])
    content_bytes(content)
    sets, refused = inspect_replies([message(content, "train.distill")], SPEC)
    assert len(sets) + len(refused) == 1
    if sets:
        kept, _ = CrossClientFilter()([*sets, *HONEST], TASK, dd.generator("screen"), features=FEATURES)
        pool = pooled(kept, TASK, PoolWeights())
        assert torch.isfinite(pool.batch(TASK).x).all()
    registry = NodeRegistry(TASK, "distill", Quorum())
    registry._unanswered = {NODE}
    registry.answers([message(content, "query.stats")])
    registry.held()


def request(data):
    """A server's message at a client: refused by a text that names the rule, or a request within the limits."""
    content = parsed(data[1:])
    if content is None or not data:
        return
    action = (*ACTIONS, "stats", "traffic")[data[0] % 5]
    try:
        found = Request.of(message(content, f"train.{action}"), action, TASK, LIMITS)
    except MessageError as error:
        assert str(error)
        assert str(error).isprintable()
        return
    assert 0 <= found.config.get("radius", 0) <= LIMITS.radius
    assert len(found.images) == len(found.classes) <= 2 * LIMITS.knowledge
    if found.network is not None:
        assert all(torch.isfinite(t).all() for t in found.network.state_dict().values())
    found.config.get("server-round") and found.rng(0)
    Account(Context(1, NODE, {}, content, {}), LIMITS).repeated(found)


def tensors(value):
    """Return JSON values with the lists of numbers as tensors."""
    if isinstance(value, dict):
        return {name: tensors(inner) for name, inner in value.items()}
    if isinstance(value, list):
        with contextlib.suppress(ValueError, TypeError, RuntimeError):
            return torch.tensor(value)
        return [tensors(inner) for inner in value]
    return value


def rounds(data):
    """The state of a server with a sound checksum around any values."""
    try:
        values = strict_json(data)
    except ValueError:
        return
    if not isinstance(values, dict):
        return
    about = values.pop("about", {"task": "a"})
    home = empty("rounds")
    state = {name: tensors(value) if name in ("weights", "kept") else value for name, value in values.items()}
    try:
        write_checkpoint(home / "federation.safetensors", {"format": values.get("format", 2), "about": about}, state)
    except (TypeError, ValueError):
        return
    refusing(RoundStore(home, {"task": "a"}).load)
