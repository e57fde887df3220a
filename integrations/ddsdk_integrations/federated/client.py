"""The client's side: one ``ClientApp`` that answers every strategy of this package and the averaging ones."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import assemble
from ddsdk.foundation import derive, require_count
from ddsdk.recipes import IterativeRecipe, Recipe
from ddsdk_integrations.federated.local import LocalTraining, fit_reply
from ddsdk_integrations.federated.near import NearStudents
from ddsdk_integrations.federated.payload import Packing, pack
from ddsdk_integrations.federated.task import LocalData, Task, arrays_of
from ddsdk_integrations.federated.traffic import count_traffic, counted
from ddsdk_integrations.federated.updates import Encoding, encoded_update

__all__ = ["Alone", "Participant"]

_KEPT = "ddsdk-set"


@final
@dataclass(frozen=True)
class Alone:
    """A function of the real data alone, as what distils: for methods that are no recipes of ddsdk.

    Attributes:
        function: Of a client's images, to the set.
        ipc: Images of a class that it needs.
    """

    function: Callable[[dd.RealData], dd.Distilled]
    ipc: int = 1

    def __call__(
        self,
        real: dd.RealData,
        *,
        make_student: Callable[[torch.Generator], torch.nn.Module],  # noqa: ARG002
        rng: torch.Generator,  # noqa: ARG002
    ) -> dd.Distilled:
        """Return what the function makes of the data."""
        return self.function(real)


@final
@dataclass(frozen=True, kw_only=True)
class Participant:
    """A client: its data, what distils them, and in how few bytes it answers.

    Attributes:
        task: What is agreed on.
        load: From Flower's context to the client's images, (N, C, H, W), uint8 or float in the unit range, and class
            ids of the task, (N,) int64. It is called for each message.
        distil: Any recipe or baseline of ddsdk, or `Alone` around a function. It sees the client's classes only.
        packing: Codec and label form of what is sent.
        training: How the client trains weights, where a strategy averages them.
        encoding: How the client writes a weight update as images, where a strategy asks for that.
        least: Classes with fewer images are left out. None takes the `ipc` of the recipe, which may start from as many.
    """

    task: Task
    load: Callable[[Context], tuple[Tensor, Tensor]]
    distil: Recipe
    packing: Packing = field(default_factory=Packing)
    training: LocalTraining = field(default_factory=LocalTraining)
    encoding: Encoding = field(default_factory=Encoding)
    least: int | None = None

    def __post_init__(self) -> None:
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
        data = self._data(context, "fit")
        return fit_reply(message, context, data, self.training, self._rng(message, context))

    def _update(self, message: Message, context: Context) -> Message:
        data = self._data(context, "update")
        network = data.task.loaded(arrays_of(message.content, "arrays"))
        rng = self._rng(message, context)
        content = encoded_update(
            network, data, self.training, self.encoding, rng, round_number=_round(message.content)
        )
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
        start = _knowledge(content, data)
        go_on = bool(config.get("go-on", False))
        if go_on:
            start |= _kept(context)
        made = distilled(self.distil, data.real, students, self._rng(message, context), start)
        if go_on:
            context.state[_KEPT] = ArrayRecord({"images": made.images.half(), "classes": made.owner})
        seconds = time.monotonic() - began
        reply = pack(made, data, self.packing, round_number=_round(content), seconds=seconds)
        return Message(reply, reply_to=message)

    def _rng(self, message: Message, context: Context) -> torch.Generator:
        config = _config(message.content)
        seed, turn = int(config.get("seed", 0)), _round(message.content)  # type: ignore[arg-type]
        return dd.generator("client", seed, turn, partition_of(context))


def distilled(
    recipe: Recipe,
    real: dd.RealData,
    make_student: Callable[[torch.Generator], torch.nn.Module],
    rng: torch.Generator,
    start: Mapping[int, Tensor],
) -> dd.Distilled:
    """Distil the images of a client, from given images where a recipe can start from them.

    Args:
        recipe: Its `ipc` is lowered to the images of the smallest class.
        real: What to distil.
        make_student: Builds students.
        rng: Root of every random number.
        start: Class of `real` to images in the value space, which take the place of the recipe's own start, as far as
            they go. Recipes without steps pass them over.
    """
    ipc = min(recipe.ipc, *real.class_sizes)
    fitting: Any = dataclasses.replace(recipe, ipc=ipc) if ipc < recipe.ipc else recipe  # type: ignore[type-var]
    if not (start and isinstance(fitting, IterativeRecipe)):
        made: dd.Distilled = fitting(real, make_student=make_student, rng=rng)
        return made
    run = fitting.distillation(real, make_student=make_student, rng=rng)
    _begin_from(run.plan.syn, start, rng)
    for _ in run:
        pass
    evaluation = fitting.evaluation(real)
    return assemble(fitting, run.result, real, evaluation=evaluation, rng=rng, seconds=0, run=run.record())


def _begin_from(syn: dd.SyntheticSet, start: Mapping[int, Tensor], rng: torch.Generator) -> None:
    decoded, owners = syn.parametrization.decode(torch.arange(len(syn)), derive(rng, "begin"))
    images, classes = decoded.detach().clone(), syn.classes[owners]
    for c, given in start.items():
        rows = torch.nonzero(classes == c).flatten()[: len(given)]
        images[rows] = given[: len(rows)].to(images)
    syn.parametrization.encode(images)


def partition_of(context: Context) -> int:
    """Return the client's ``partition-id``, which names it in every run; its node id where there is none."""
    return int(context.node_config.get("partition-id", context.node_id))


def _config(content: RecordDict) -> ConfigRecord:
    config = content.get("config")
    return config if isinstance(config, ConfigRecord) else ConfigRecord()


def _round(content: RecordDict) -> int:
    return int(_config(content).get("server-round", 0))  # type: ignore[arg-type]


def _knowledge(content: RecordDict, data: LocalData) -> dict[int, Tensor]:
    """Return what others know of this client's classes, by its own class ids, in the value space."""
    if "knowledge" not in content:
        return {}
    told = arrays_of(content, "knowledge").to_torch_state_dict()
    images = data.task.preprocess(told["images"].float() / 255)
    found = {local: images[told["classes"] == c] for local, c in enumerate(data.classes)}
    return {c: given for c, given in found.items() if len(given)}


def _kept(context: Context) -> dict[int, Tensor]:
    kept = context.state.get(_KEPT)
    if not isinstance(kept, ArrayRecord):
        return {}
    told = kept.to_torch_state_dict()
    return {int(c): told["images"][told["classes"] == c].float() for c in torch.unique(told["classes"])}
