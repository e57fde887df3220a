"""The client's side: one ``ClientApp`` that answers every strategy of this package and the averaging ones."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import require, require_count
from ddsdk.recipes import IterativeRecipe
from ddsdk.synthetic import Pixels, hard_labels
from ddsdk_integrations.federated.local import LocalTraining
from ddsdk_integrations.federated.near import NearStudents
from ddsdk_integrations.federated.payload import Packing, pack
from ddsdk_integrations.federated.task import LocalData, Task, arrays_of
from ddsdk_integrations.federated.traffic import count_traffic, counted
from ddsdk_integrations.federated.updates import Encoding, encoded_update

_KEPT = "ddsdk-set"


@final
@dataclass(frozen=True)
class Alone:
    """A function in the place of a recipe, for methods that are no recipes of ddsdk.

    Its set is sent as it is, with its own provenance and privacy statement. It has no use for the students and the
    start that a strategy gives.

    Attributes:
        function: Function of a client's images that returns the set.
        ipc: Number of images of a class that it needs.
    """

    function: Callable[[dd.RealData], dd.Distilled]
    ipc: int = 1


@final
@dataclass(frozen=True, kw_only=True)
class Participant:
    """A client: its data, what distils them, and in how few bytes it answers.

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
    least: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.distil, dd.Recipe | Alone):
            raise TypeError(f"distil must be a ddsdk.Recipe or Alone, got {self.distil!r}")
        if self.least is not None:
            require_count("least", self.least)

    def app(self) -> ClientApp:
        """Return an app with all that `register` adds, and training of weights for averaging strategies."""
        app = self.register(ClientApp())
        app.train(mods=[count_traffic])(self._fit)
        return app

    def register(self, app: ClientApp) -> ClientApp:
        """Let an app that exists answer the strategies of this package too; return it.

        It adds the actions ``query.stats``, ``query.traffic``, ``train.distill`` and ``train.update`` and leaves the
        others alone.
        """
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
        """Say how many images of each class could be sent, and which partition this is."""
        data = self._data(context, str(_config(message.content).get("action", "distill")))
        sent = [n if c in data.classes else 0 for c, n in enumerate(data.counts)]
        told = MetricRecord({"class-counts": sent, "partition-id": partition_of(context)})
        return Message(RecordDict({"stats": told}), reply_to=message)

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
        told = MetricRecord({"num-examples": len(data.real), "steps": steps, "train-loss": loss})
        return Message(RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": told}), reply_to=message)

    def _update(self, message: Message, context: Context) -> Message:
        data = self._data(context, "update")
        network = data.task.loaded(arrays_of(message.content, "arrays"))
        rng = self._rng(message, context)
        content = encoded_update(network, data, self.training, self.encoding, rng, round_number=_round(message.content))
        return Message(content, reply_to=message)

    def _distil(self, message: Message, context: Context) -> Message:
        began = time.monotonic()
        data, content = self._data(context, "distill"), message.content
        config = _config(content)
        around = data.task.loaded(arrays_of(content, "arrays")) if "arrays" in content else None
        students = NearStudents(
            data=data,
            around=around,
            radius=float(config.get("radius", 0.0)),  # type: ignore[arg-type]
            logits=bool(config.get("logits", False)),
        )
        known = _knowledge(content, data)
        go_on = bool(config.get("go-on", False))
        if go_on:
            known |= _kept(context, data)
        made = self._made(data.real, students, self._rng(message, context), known)
        if go_on:
            kept = {"images": made.images.half(), "classes": data.ids(made.owner)}
            context.state[_KEPT] = ArrayRecord(kept)
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
        recipe = dataclasses.replace(self.distil, ipc=min(self.distil.ipc, *real.class_sizes))
        start = _start(known, real.num_classes) if isinstance(recipe, IterativeRecipe) else None
        return dd.distill(recipe, real, make_student=students, seed=rng, start=start)

    def _rng(self, message: Message, context: Context) -> torch.Generator:
        config = _config(message.content)
        seed, turn = int(config.get("seed", 0)), _round(message.content)  # type: ignore[arg-type]
        return dd.generator("client", seed, turn, partition_of(context))


def partition_of(context: Context) -> int:
    """Return the client's ``partition-id``, which names it in every run; its node id where there is none."""
    return int(context.node_config.get("partition-id", context.node_id))


def _config(content: RecordDict) -> ConfigRecord:
    config = content.get("config")
    return config if isinstance(config, ConfigRecord) else ConfigRecord()


def _round(content: RecordDict) -> int:
    return int(_config(content).get("server-round", 0))  # type: ignore[arg-type]


def _knowledge(content: RecordDict, data: LocalData) -> dict[int, Tensor]:
    """Return the images that the server sent of this client's classes, by its own class ids, in the value space."""
    if "knowledge" not in content:
        return {}
    told = arrays_of(content, "knowledge").to_torch_state_dict()
    return _by_class(data.task.preprocess(told["images"].float() / 255), told["classes"], data)


def _kept(context: Context, data: LocalData) -> dict[int, Tensor]:
    """Return the images of the client's last set, in the same form."""
    kept = context.state.get(_KEPT)
    if not isinstance(kept, ArrayRecord):
        return {}
    told = kept.to_torch_state_dict()
    return _by_class(told["images"].float(), told["classes"], data)


def _by_class(images: Tensor, classes: Tensor, data: LocalData) -> dict[int, Tensor]:
    found = {local: images[classes == c] for local, c in enumerate(data.classes)}
    return {c: given for c, given in found.items() if len(given)}


def _start(known: Mapping[int, Tensor], num_classes: int) -> dd.SyntheticSet | None:
    """Return known images of the value space as a warm start; None without any."""
    if not known:
        return None
    classes = torch.cat([torch.full((len(images),), c) for c, images in known.items()])
    pixels = Pixels(torch.cat(list(known.values())))
    return dd.SyntheticSet(pixels, hard_labels(classes, num_classes), classes, num_classes)
