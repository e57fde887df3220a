"""The client's side: an app that answers the strategies of this package and those that average, and its students."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import NonNegativeFloat, PositiveInt, check_numbers, derive, require
from ddsdk.networks import Network
from ddsdk.recipes import IterativeRecipe
from ddsdk.synthetic import Pixels, hard_labels
from ddsdk_integrations.federated.local import LocalTraining
from ddsdk_integrations.federated.payload import Packing, pack
from ddsdk_integrations.federated.task import LocalData, Task
from ddsdk_integrations.federated.traffic import count_traffic, counted
from ddsdk_integrations.federated.updates import Encoding, encoded_update

_KEPT = "ddsdk-set"


@final
@dataclass(frozen=True)
class Alone:
    """A function in the place of a recipe, for methods that are no recipes of ddsdk.

    Its set is sent as it is, with its own provenance and privacy statement. Students and start of a strategy are not
    used.

    Attributes:
        function: Function of a client's images that returns the set.
        ipc: Number of images of a class that it needs.
    """

    function: Callable[[dd.RealData], dd.Distilled]
    ipc: int = 1


@final
@dataclass(frozen=True, kw_only=True)
class Participant:
    """A client: its data, the method that distils them, and the form of its answer.

    Attributes:
        task: Task that all sides agree on.
        load: Function from Flower's context to the client's images, (N, C, H, W), uint8 or float in the unit range, and
            class ids of the task, (N,) int64. It is called for each message.
        distil: Recipe or baseline of ddsdk, or `Alone` around a function. It sees the client's classes only.
        packing: Codec and label form of what is sent.
        training: Training of weights, for strategies that average them.
        encoding: Method that writes a weight update as images, for strategies that average updates.
        least: Classes with fewer images are left out. None takes the `ipc` of the recipe, which may start from as many.

    Raises:
        TypeError: If `distil` is neither a recipe nor `Alone`.
    """

    task: Task
    load: Callable[[Context], tuple[Tensor, Tensor]]
    distil: dd.Recipe | Alone
    packing: Packing = field(default_factory=Packing)
    training: LocalTraining = field(default_factory=LocalTraining)
    encoding: Encoding = field(default_factory=Encoding)
    least: PositiveInt | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.distil, dd.Recipe | Alone):
            raise TypeError(f"distil must be a ddsdk.Recipe or Alone, got {self.distil!r}")
        check_numbers(self)

    def app(self) -> ClientApp:
        """Return an app with all that `register` adds, and training of weights for averaging strategies."""
        app = self.register(ClientApp())
        app.train(mods=[count_traffic])(self._fit)
        return app

    def register(self, app: ClientApp) -> ClientApp:
        """Add ``query.stats``, ``query.traffic``, ``train.distill`` and ``train.update`` to an app; return it."""
        app.query("stats", mods=[count_traffic])(self._stats)
        app.query("traffic")(self._traffic)
        app.train("distill", mods=[count_traffic])(self._distil)
        app.train("update", mods=[count_traffic])(self._update)
        return app

    def _data(self, context: Context, action: str) -> LocalData:
        """Return the client's images; a class that is too small to be distilled can still be trained on."""
        images, labels = self.load(context)
        needed = self.distil.ipc if self.least is None else self.least
        return LocalData.of(self.task, images, labels, least=needed if action == "distill" else 1)

    def _stats(self, message: Message, context: Context) -> Message:
        """Answer with the number of images of each class that could be sent, and the partition."""
        data = self._data(context, str(_config(message.content).get("action", "distill")))
        sent = [n if c in data.classes else 0 for c, n in enumerate(data.counts)]
        stats = MetricRecord({"class-counts": sent, "partition-id": _partition(context)})
        return Message(RecordDict({"stats": stats}), reply_to=message)

    def _traffic(self, message: Message, context: Context) -> Message:
        down, up = counted(context)
        return Message(RecordDict({"traffic": MetricRecord({"down": down, "up": up})}), reply_to=message)

    def _fit(self, message: Message, context: Context) -> Message:
        """Answer a strategy that averages weights."""
        mu = _config(message.content).get("proximal-mu", 0)
        require(not mu, "proximal-mu", "be 0, for clients train without a proximal term", mu)
        data = self._data(context, "fit")
        network = data.task.loaded(message.content.array_records["arrays"])
        steps, loss = self.training.fit(network, data.batch(), self._rng(message, context))
        metrics = MetricRecord({"num-examples": len(data.real), "steps": steps, "train-loss": loss})
        return Message(RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics}), reply_to=message)

    def _update(self, message: Message, context: Context) -> Message:
        data = self._data(context, "update")
        network = data.task.loaded(message.content.array_records["arrays"])
        rng = self._rng(message, context)
        content = encoded_update(network, data, self.training, self.encoding, rng, round_number=_round(message.content))
        return Message(content, reply_to=message)

    def _distil(self, message: Message, context: Context) -> Message:
        began = time.monotonic()
        data, content = self._data(context, "distill"), message.content
        config = _config(content)
        students = NearStudents(
            data=data,
            around=data.task.loaded(content.array_records["arrays"]) if "arrays" in content else None,
            radius=float(config.get("radius", 0.0)),
            logits=bool(config.get("logits", False)),
        )
        known = {}
        if "knowledge" in content:
            sent = content.array_records["knowledge"].to_torch_state_dict()
            known = _by_class(data.task.preprocess(sent["images"].float() / 255), sent["classes"], data)
        go_on = bool(config.get("go-on", False))
        if go_on and _KEPT in context.state:
            kept = context.state.array_records[_KEPT].to_torch_state_dict()
            known |= _by_class(kept["images"].float(), kept["classes"], data)
        made = self._made(data.real, students, self._rng(message, context), known)
        if go_on:
            context.state[_KEPT] = ArrayRecord({"images": made.images.half(), "classes": data.ids(made.owner)})
        seconds = time.monotonic() - began
        reply = pack(made, data, self.packing, round_number=_round(content), seconds=seconds)
        return Message(reply, reply_to=message)

    def _made(
        self, real: dd.RealData, students: NearStudents, rng: torch.Generator, known: Mapping[int, Tensor]
    ) -> dd.Distilled:
        """Distil the client's images, from the known images of each class as far as they go."""
        if isinstance(self.distil, Alone):
            return self.distil.function(real)
        # A client with few images of a class sends fewer of all.
        recipe, start = dataclasses.replace(self.distil, ipc=min(self.distil.ipc, *real.class_sizes)), None
        if known and isinstance(recipe, IterativeRecipe):
            classes = torch.cat([torch.full((len(images),), c) for c, images in known.items()])
            pixels = Pixels(torch.cat(list(known.values())))
            start = dd.SyntheticSet(pixels, hard_labels(classes, real.num_classes), classes, real.num_classes)
        return dd.distill(recipe, real, make_student=students, seed=rng, start=start)

    def _rng(self, message: Message, context: Context) -> torch.Generator:
        seed = int(_config(message.content).get("seed", 0))
        return dd.generator("client", seed, _round(message.content), _partition(context))


def _partition(context: Context) -> int:
    """Return the client's ``partition-id``, which names it in every run; its node id where there is none."""
    return int(context.node_config.get("partition-id", context.node_id))


def _config(content: RecordDict) -> dict[str, Any]:
    return dict(content.config_records.get("config", {}))


def _round(content: RecordDict) -> int:
    return int(_config(content).get("server-round", 0))


def _by_class(images: Tensor, classes: Tensor, data: LocalData) -> dict[int, Tensor]:
    """Return images by the client's own ids of their classes; those of other classes are left out."""
    found = {local: images[classes == c] for local, c in enumerate(data.classes)}
    return {c: given for c, given in found.items() if len(given)}


@final
@dataclass(frozen=True, kw_only=True)
class NearStudents:
    """Factory of the students of a client.

    Attributes:
        data: Data of the client: a student has an output for each of its classes, with the weights that the network
            has for that class.
        around: Network of the server; None for fresh networks.
        radius: Largest distance of a student from `around`, in the norm of all weights: the direction is random, the
            distance uniform in 0..radius.
        logits: Whether an embedding is followed by the logits of all K classes, so that what matches embeddings
            matches both, as FedDM does.
    """

    data: LocalData
    around: Network | None = None
    radius: NonNegativeFloat = 0.0
    logits: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def name(self) -> str:
        """Name of the network in `ddsdk.NETWORKS`, for the provenance of a set."""
        return self.data.task.network

    @property
    def options(self) -> Mapping[str, object]:
        """Options of its builder, for the same."""
        return self.data.task.factory.options

    def __call__(self, rng: torch.Generator) -> Network:
        """Return a student; all chance comes from `rng`."""
        if self.around is None:
            network = self.data.task.make(derive(rng, "init"))
        else:
            network = copy.deepcopy(self.around)
            _move(network, self.radius, derive(rng, "near"))
        return self._narrowed(network)

    def _narrowed(self, network: Network) -> Network:
        rows = list(self.data.classes)
        weight, bias = network.head.weight.detach()[rows], network.head.bias.detach()[rows]
        body: nn.Module = network.body
        if self.logits:
            body = _WithLogits(network.body, network.head)
            weight = torch.cat([weight, weight.new_zeros(len(rows), network.head.out_features)], 1)
        head = nn.Linear(weight.shape[1], len(rows), device="meta")
        head.weight, head.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        return Network(body, head)


@final
class _WithLogits(nn.Module):
    """Features of a body, followed by the logits of a head on them."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x)
        flat = features.flatten(1)
        return torch.cat([flat, self.head(flat)], 1)


@torch.no_grad()
def _move(network: nn.Module, radius: float, rng: torch.Generator) -> None:
    if not radius:
        return
    steps = [torch.randn(p.shape, generator=rng) for p in network.parameters()]
    norm = torch.sqrt(sum((s.square().sum() for s in steps), torch.zeros(())))
    length = radius * torch.rand((), generator=rng)
    for p, step in zip(network.parameters(), steps, strict=True):
        p.add_((step * (length / norm)).to(p.device))
