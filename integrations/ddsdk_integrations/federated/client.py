"""Client app for the strategies of this package and for weight averaging, and the students of its distillation."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.foundation import NonNegativeFloat, PositiveInt, check_numbers, derive, require
from ddsdk.networks import Network
from ddsdk.recipes import IterativeRecipe
from ddsdk.synthetic import Pixels, hard_labels
from ddsdk_integrations.federated.client_checks import Account, Request, RequestLimits
from ddsdk_integrations.federated.local import LocalTraining
from ddsdk_integrations.federated.payload import MessageError, Packing, decoded_array, pack
from ddsdk_integrations.federated.store import log
from ddsdk_integrations.federated.task import FederatedTask, LocalData
from ddsdk_integrations.federated.traffic import count_traffic, counted
from ddsdk_integrations.federated.updates import UpdateEncoding, encoded_update

_STORED_SET = "ddsdk-set"
# Codes of Flower for a failed precondition and an error of the client app.
_REFUSED, _FAILED = 6, 2


@final
@dataclass(frozen=True)
class CustomDistillation:
    """User-defined distillation in place of a recipe of ddsdk.

    The returned set is sent unchanged, with its own provenance and privacy statement. Students and warm start of a
    strategy are not used.

    Attributes:
        function: Function from a client's real images to the distilled set.
        ipc: Smallest number of images of a class that the function accepts.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import CustomDistillation
        >>> distil = CustomDistillation(lambda real: ddsdk.distill(ddsdk.DM(ipc=1, steps=1), real, seed=0))
        >>> len(distil.function(ddsdk.load("digits")))
        10
    """

    function: Callable[[dd.RealData], dd.Distilled]
    ipc: int = 1


@final
@dataclass(frozen=True, kw_only=True)
class Participant:
    """Client of a federation: its data, its distillation method, and the form of its replies.

    Attributes:
        task: Task of the federation.
        load: Function from Flower's context to the client's data: images, (N, C, H, W), uint8 or float in the unit
            range, and class ids of the task, (N,) int64. It is called for each message.
        distil: Recipe or baseline of ddsdk, or a `CustomDistillation`; it gets the images of the client's classes.
        packing: Codec and label form of sent sets.
        training: Local training, for strategies that average weights or weight updates.
        encoding: Encoding of weight updates as images, for strategies that average updates.
        least: Smallest number of images of a class to be distilled; smaller classes are left out. None takes `ipc` of
            `distil`, because recipes may start from that many real images.
        requests: Limits of the server's requests, which the client refuses beyond them.

    Raises:
        TypeError: If `distil` is neither a recipe nor a `CustomDistillation`.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import FederatedTask, Participant
        >>> real = ddsdk.load("digits")
        >>> task = FederatedTask.of(real, network="convnet", width=4, depth=2)
        >>> client = Participant(task=task, load=lambda context: (real.images, real.labels), distil=ddsdk.DM(ipc=1))
        >>> type(client.app()).__name__
        'ClientApp'
    """

    task: FederatedTask
    load: Callable[[Context], tuple[Tensor, Tensor]]
    distil: dd.Recipe | CustomDistillation
    packing: Packing = field(default_factory=Packing)
    training: LocalTraining = field(default_factory=LocalTraining)
    encoding: UpdateEncoding = field(default_factory=UpdateEncoding)
    least: PositiveInt | None = None
    requests: RequestLimits = field(default_factory=RequestLimits)

    def __post_init__(self) -> None:
        if not isinstance(self.distil, dd.Recipe | CustomDistillation):
            raise TypeError(f"distil must be a ddsdk.Recipe or a CustomDistillation, got {self.distil!r}")
        check_numbers(self)

    def app(self) -> ClientApp:
        """Return a client app with the functions of `register` and with local training for weight averaging."""
        app = self.register(ClientApp())
        app.train(mods=[count_traffic])(self._answering("fit", self._fit))
        return app

    def register(self, app: ClientApp) -> ClientApp:
        """Add ``query.stats``, ``query.traffic``, ``train.distill`` and ``train.update`` to an app.

        Args:
            app: Client app of Flower, changed in place.

        Returns:
            The same app.
        """
        app.query("stats", mods=[count_traffic])(self._answering("stats", self._stats))
        app.query("traffic")(self._answering("traffic", self._traffic))
        app.train("distill", mods=[count_traffic])(self._answering("distill", self._distil))
        app.train("update", mods=[count_traffic])(self._answering("update", self._update))
        return app

    def _answering(self, action: str, answer: Callable[[Request, Context], RecordDict]) -> ClientAppCallable:
        """Return a function for Flower that checks each request before `answer` gets it, and always has a reply.

        The texts of other errors stay in the client's log, because they may contain values and paths of the client.
        """

        def answered(message: Message, context: Context) -> Message:
            began = time.monotonic()
            try:
                request = Request.of(message, action, self.task, self.requests)
                account = Account(context, self.requests)
                content = account.repeated(request)
                if content is None:
                    account.open(request)
                    try:
                        content = answer(request, context)
                    finally:
                        account.close(request, content, time.monotonic() - began)
            except MessageError as error:
                log.warning("the client refused a request: %s", error)
                return Message(Error(_REFUSED, str(error)), reply_to=message)
            except Exception as error:
                log.exception("the client failed in the action %s", action)
                reason = f"the client failed with {type(error).__name__}, and its log has the details"
                return Message(Error(_FAILED, reason), reply_to=message)
            return Message(content, reply_to=message)

        return answered

    def _data(self, context: Context, action: str) -> LocalData:
        """Return the client's images; classes that are too small for distillation are left out for that action only."""
        images, labels = self.load(context)
        least = self.distil.ipc if self.least is None else self.least
        return LocalData.of(self.task, images, labels, least=least if action == "distill" else 1)

    def _stats(self, request: Request, context: Context) -> RecordDict:
        """Return the partition id and the number of images of each class, 0 for classes that would not be sent."""
        data = self._data(context, str(request.config.get("action", "distill")))
        counts = [n if c in data.classes else 0 for c, n in enumerate(data.counts)]
        return RecordDict({"stats": MetricRecord({"class-counts": counts, "partition-id": _partition(context)})})

    def _traffic(self, request: Request, context: Context) -> RecordDict:  # noqa: ARG002
        down, up = counted(context)
        return RecordDict({"traffic": MetricRecord({"down": down, "up": up})})

    def _fit(self, request: Request, context: Context) -> RecordDict:
        """Return the locally trained weights, for strategies that average weights."""
        data, network = self._data(context, "fit"), _weights(request)
        steps, loss = self.training.fit(network, data.batch(), request.rng(_partition(context)))
        metrics = MetricRecord({"num-examples": len(data.real), "steps": steps, "train-loss": loss})
        return RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics})

    def _update(self, request: Request, context: Context) -> RecordDict:
        data, rng = self._data(context, "update"), request.rng(_partition(context))
        return encoded_update(
            _weights(request), data, self.training, self.encoding, rng, round_number=request.round_number
        )

    def _distil(self, request: Request, context: Context) -> RecordDict:
        began = time.monotonic()
        data, config = self._data(context, "distill"), request.config
        students = PerturbedStudents(
            data=data,
            around=request.network,
            radius=float(config.get("radius", 0.0)),
            logits=bool(config.get("logits", False)),
        )
        start_images = _by_class(data.task.preprocess(request.images.float() / 255), request.classes, data)
        go_on = bool(config.get("go-on", False))
        if go_on:
            start_images |= _stored_set(context, data)
        distilled = self._distilled(data.real, students, request.rng(_partition(context)), start_images)
        seconds = time.monotonic() - began
        reply = pack(distilled, data, self.packing, round_number=request.round_number, seconds=seconds)
        if go_on:
            stored_set = {"images": distilled.images.half(), "classes": data.ids(distilled.owner)}
            context.state[_STORED_SET] = ArrayRecord(stored_set)
        return reply

    def _distilled(
        self, real: dd.RealData, students: PerturbedStudents, rng: torch.Generator, start_images: Mapping[int, Tensor]
    ) -> dd.Distilled:
        """Return the distilled set, with a warm start for the classes that have `start_images`."""
        if isinstance(self.distil, CustomDistillation):
            return self.distil.function(real)
        # All classes have the same ipc, so the smallest class limits it.
        recipe, start = dataclasses.replace(self.distil, ipc=min(self.distil.ipc, *real.class_sizes)), None
        if start_images and isinstance(recipe, IterativeRecipe):
            classes = torch.cat([torch.full((len(images),), c) for c, images in start_images.items()])
            pixels = Pixels(torch.cat(list(start_images.values())))
            start = dd.SyntheticSet(pixels, hard_labels(classes, real.num_classes), classes, real.num_classes)
        return dd.distill(recipe, real, make_student=students, seed=rng, start=start)


def _partition(context: Context) -> int:
    """Return the client's ``partition-id``, which is the same in every run, or its node id if there is none."""
    return int(context.node_config.get("partition-id", context.node_id))


def _weights(request: Request) -> Network:
    assert request.network is not None  # the check of the records requires them for these actions
    return request.network


def _stored_set(context: Context, data: LocalData) -> dict[int, Tensor]:
    """Return the client's set of the previous round by class; a state that cannot be used is dropped."""
    if _STORED_SET not in context.state:
        return {}
    try:
        record = context.state.array_records[_STORED_SET]
        images, classes = (torch.from_numpy(decoded_array(name, record[name]).copy()) for name in ("images", "classes"))
        shape = (len(classes), *data.task.image_shape)
        require(images.shape == shape, "images", f"have shape {shape}", tuple(images.shape))
        require(bool(torch.isfinite(images).all()), "images", "be finite", "others")
    except (KeyError, TypeError, ValueError) as error:
        log.warning("the stored set of the previous round is damaged, and a new one is started: %s", error)
        del context.state[_STORED_SET]
        return {}
    return _by_class(images.float(), classes, data)


def _by_class(images: Tensor, classes: Tensor, data: LocalData) -> dict[int, Tensor]:
    """Return the images of each class of the client, by its own class index; images of other classes are dropped."""
    class_images = {local: images[classes == c] for local, c in enumerate(data.classes)}
    return {c: members for c, members in class_images.items() if len(members)}


@final
@dataclass(frozen=True, kw_only=True)
class PerturbedStudents:
    """Factory of a client's student networks: fresh networks, or random perturbations of the server's network.

    A student has one output for each class of the client, with the weights of that class in the full network.

    Attributes:
        data: Local data of the client.
        around: Network of the server; None for fresh networks.
        radius: Largest distance of a student from `around` in the norm of all weights, at least 0. The direction is
            random and the distance is uniform in [0, radius].
        logits: Whether the embedding is extended by the logits of all K classes of the task, so that matching
            embeddings matches both, as in FedDM.
    """

    data: LocalData
    around: Network | None = None
    radius: NonNegativeFloat = 0.0
    logits: bool = False

    def __post_init__(self) -> None:
        check_numbers(self)

    @property
    def name(self) -> str:
        """Name of the network in `ddsdk.NETWORKS`, for the provenance of sets."""
        return self.data.task.network

    @property
    def options(self) -> Mapping[str, object]:
        """Options of the network, for the provenance of sets."""
        return self.data.task.factory.options

    def __call__(self, rng: torch.Generator) -> Network:
        """Return a student with random weights or a random perturbation from `rng`."""
        if self.around is None:
            network = self.data.task.make(derive(rng, "init"))
        else:
            network = copy.deepcopy(self.around)
            perturb(network, self.radius, derive(rng, "near"))
        return self._restricted(network)

    def _restricted(self, network: Network) -> Network:
        """Return the network with outputs for the classes of the client only."""
        rows = list(self.data.classes)
        weight, bias = network.head.weight.detach()[rows], network.head.bias.detach()[rows]
        body: nn.Module = network.body
        if self.logits:
            body = _WithLogits(network.body, network.head)
            # Zero weights on the appended logits leave the outputs unchanged.
            weight = torch.cat([weight, weight.new_zeros(len(rows), network.head.out_features)], 1)
        # On the meta device, construction draws no random numbers.
        head = nn.Linear(weight.shape[1], len(rows), device="meta")
        head.weight, head.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        return Network(body, head)


@final
class _WithLogits(nn.Module):
    """Features of a body, concatenated with the logits of a head on them."""

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x)
        flat = features.flatten(1)
        return torch.cat([flat, self.head(flat)], 1)


@torch.no_grad()
def perturb(network: nn.Module, radius: float, rng: torch.Generator) -> None:
    """Move the weights by a random direction and a distance that is uniform in [0, radius]."""
    if not radius:
        return
    direction = [torch.randn(p.shape, generator=rng) for p in network.parameters()]
    norm = torch.sqrt(sum((d.square().sum() for d in direction), torch.zeros(())))
    length = radius * torch.rand((), generator=rng)
    for p, d in zip(network.parameters(), direction, strict=True):
        p.add_((d * (length / norm)).to(p.device))
