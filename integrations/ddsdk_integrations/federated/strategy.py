"""Flower strategy that requests synthetic sets from clients, checks them, and learns new weights from them."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

import ddsdk as dd
from ddsdk.artefact import to_bytes
from ddsdk.foundation import NonNegativeFloat, NonNegativeInt, check_numbers, require, require_count
from ddsdk_integrations.federated.checks import Refusal, ReplyLimits, ReplySpec, inspect_replies
from ddsdk_integrations.federated.cross_client import CrossClientFilter
from ddsdk_integrations.federated.learners import ServerLearner, ServerUpdate
from ddsdk_integrations.federated.payload import Contribution
from ddsdk_integrations.federated.pool import Pool, PoolWeights, pooled
from ddsdk_integrations.federated.registry import NodeRegistry
from ddsdk_integrations.federated.store import RoundReport, RoundStore, SavedRound, log
from ddsdk_integrations.federated.task import FederatedTask
from ddsdk_integrations.federated.traffic import CountingGrid, Traffic, error_text, exchange

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


@final
@dataclass(frozen=True, kw_only=True)
class ClientRequest:
    """Request to the clients of a round.

    Attributes:
        action: Action of the clients: ``"distill"`` for a distilled set, ``"update"`` for a set that encodes a weight
            update.
        model: Whether the server's weights are sent; otherwise clients use fresh networks.
        radius: Largest distance of the clients' students from the server's weights, at least 0, see
            `ddsdk_integrations.federated.client.PerturbedStudents`.
        logits: Whether clients match logits in addition to embeddings.
        go_on: Whether clients start from their own set of the previous round, which Flower stores for them.
        knowledge: Number of images of each class that clients get from the pool of the previous round as warm start.

    Example:
        >>> from ddsdk_integrations.federated import ClientRequest
        >>> ClientRequest(radius=5.0, logits=True).action
        'distill'
    """

    action: str = "distill"
    model: bool = True
    radius: NonNegativeFloat = 0.0
    logits: bool = False
    go_on: bool = False
    knowledge: NonNegativeInt = 0

    def __post_init__(self) -> None:
        require(self.action in ("distill", "update"), "action", "be distill or update", self.action)
        check_numbers(self)


@final
class SetStrategy(FedAvg):
    """Flower strategy in which clients send synthetic sets instead of weights.

    Its ``start`` has the signature of Flower's strategies, so it replaces ``FedAvg`` in an existing server app. Each
    round sends requests, refuses sets that fail a check, warns about missing classes, and waits at most its timeout.
    The first round also waits for nodes and for their class counts, at most one timeout each.

    Args:
        task: Task of the federation.
        ask: Request to the clients.
        learn: Learning rule of the server.
        screen: Filter of copied and outlying sets; None for the default `CrossClientFilter`.
        limits: Limits of a client's reply; None for the default `ReplyLimits`.
        remember: Number of rounds whose sets are used together, so that silent clients still contribute older sets;
            1 for weight updates.
        fraction_train: Share of the nodes that get a request in a round, in (0, 1].
        min_available_nodes: Number of nodes for which the first round waits.
        seed: Seed from which all random numbers derive, including those of the clients.
        secret: Seed of the networks of `screen`, which clients must not learn; None draws one from the operating
            system.
        folder: Folder of the state, written after each round, from which a new strategy resumes; None to save nothing.

    Attributes:
        reports: Report of each round.
        traffic: Count of sent bytes and messages.
        pool: Union of the sets in the last round that had one; None before.

    Example:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import FederatedTask, InProcessGrid, Participant, fed_dm
        >>> real = ddsdk.load("digits")
        >>> task = FederatedTask.of(real, width=4, depth=2)
        >>> recipe = ddsdk.DM(ipc=1, steps=1, real_batch=16)
        >>> client = Participant(task=task, load=lambda context: (real.images, real.labels), distil=recipe)
        >>> strategy = fed_dm(task, protocol=ddsdk.TrainingProtocol(epochs=1))
        >>> result = strategy.start(InProcessGrid(client.app(), 1), task.initial_arrays(), num_rounds=1)
        >>> strategy.reports[0].taken, len(strategy.distilled())
        (1, 10)
    """

    def __init__(
        self,
        task: FederatedTask,
        *,
        ask: ClientRequest,
        learn: ServerLearner,
        screen: CrossClientFilter | None = None,
        limits: ReplyLimits | None = None,
        remember: int = 1,
        fraction_train: float = 1.0,
        min_available_nodes: int = 1,
        seed: int = 0,
        secret: int | None = None,
        folder: str | Path | None = None,
    ) -> None:
        require(0 < fraction_train <= 1, "fraction_train", "lie in 0 < value <= 1", fraction_train)
        require_count("min_available_nodes", min_available_nodes)
        require_count("remember", remember)
        allowed = remember == 1 or ask.action == "distill"
        require(allowed, "remember", "be 1 where clients send updates, which belong to one round", remember)
        # Flower's default of `min_train_nodes` would wait for two nodes.
        super().__init__(fraction_train=fraction_train, min_train_nodes=1, min_available_nodes=min_available_nodes)
        # The server evaluates; 0 as an argument of the constructor would cause a warning of Flower in the log.
        self.fraction_evaluate = 0.0
        self.task, self.ask, self.learn = task, ask, learn
        self.screen = CrossClientFilter() if screen is None else screen
        self.limits = ReplyLimits() if limits is None else limits
        self.remember, self.seed = remember, seed
        self.reports: list[RoundReport] = []
        self.traffic = Traffic()
        self.pool: Pool | None = None
        self._round_sets: list[list[Contribution]] = []
        self._secret = secrets.randbits(62) if secret is None else secret
        self._store = None if folder is None else RoundStore(Path(folder), self.described())
        self._registry = NodeRegistry(task, ask.action)
        self._selected: list[int] = []
        self._arrays = ArrayRecord()
        self._refused: list[Refusal] = []
        self._learned: ServerUpdate | None = None
        self._used: list[Contribution] = []

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,  # noqa: ARG002 - the signature is Flower's
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Run all rounds that have not been saved in the folder.

        Args:
            grid: Grid of Flower or an `InProcessGrid`.
            initial_arrays: Initial weights, such as ``task.initial_arrays()``.
            num_rounds: Number of the last round, counted from 1 over all runs with the same folder.
            timeout: Longest wait for the clients of a round in seconds.
            train_config: Further entries of the request to clients; None for no further ones.
            evaluate_config: Ignored argument of Flower's interface: the server evaluates.
            evaluate_fn: Function of the round and the weights, called before the first round and after each round;
                None for no evaluation.

        Returns:
            The final weights, the training metrics and the results of `evaluate_fn` by round.
        """
        grid = CountingGrid(grid, self.traffic)
        result, first = self._begin(initial_arrays, evaluate_fn)
        for server_round in range(first, num_rounds + 1):
            began, previous_traffic = time.monotonic(), dataclasses.replace(self.traffic)
            self._registry.open(grid, self.min_available_nodes, timeout)
            config = ConfigRecord() if train_config is None else train_config
            # New nodes state their class counts during this round and take part from the next one on.
            sent = [*self.configure_train(server_round, result.arrays, config, grid), *self._registry.questions(grid)]
            replies = self._registry.answers(exchange(grid, sent, timeout))
            arrays, metrics = self.aggregate_train(server_round, replies)
            if arrays is not None and metrics is not None:
                result.arrays = arrays
                result.train_metrics_clientapp[server_round] = metrics
            self._report(server_round, replies, previous_traffic, time.monotonic() - began)
            self._evaluate(server_round, result, evaluate_fn)
            self._save(server_round, result)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the requests of a round, with equal content for all selected nodes."""
        self._arrays = arrays
        self._selected = self._registry.choose(
            grid, self.fraction_train, dd.generator("sample", self.seed, server_round)
        )
        entries = {"server-round": server_round, "seed": self.seed, "radius": self.ask.radius}
        entries |= {"logits": self.ask.logits, "go-on": self.ask.go_on}
        content = RecordDict({"config": ConfigRecord({**config, **entries})})
        if self.ask.model:
            content["arrays"] = arrays
        if self.ask.knowledge and self.pool is not None:
            content["knowledge"] = _knowledge(self.pool, self.ask.knowledge)
        return [Message(content, node, f"train.{self.ask.action}") for node in self._selected]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the replies and learn new weights from the accepted sets.

        Args:
            server_round: Number of the round.
            replies: Replies of the clients.

        Returns:
            The new weights and metrics; None for both if no set was accepted or the training diverged.
        """
        sets = self._accepted(server_round, replies)
        self._learned, self._used = None, []
        if not sets:
            log.warning("round %d: no set was taken, the weights stay as they are", server_round)
            return None, None
        round_sets = [*self._round_sets, sets][-self.remember :]
        learned = self.learn(
            self.task.loaded(self._arrays),
            _by_client(round_sets),
            self.task,
            dd.generator("server", self.seed, server_round),
            quota=self.limits.images * len(round_sets),
        )
        self._refused += learned.refused
        if not all(bool(torch.isfinite(t).all()) for t in learned.network.state_dict().values()):
            log.warning("round %d: training diverged, the weights stay as they are", server_round)
            return None, None
        self._round_sets, self._learned = round_sets, learned
        refused = {refusal.node for refusal in learned.refused}
        self._used = [contribution for contribution in sets if contribution.node not in refused]
        self.pool = learned.pool or self.pool
        images = sum(len(contribution.images) for contribution in sets)
        metrics = MetricRecord({"sets": len(sets), "images": images, "refused": len(self._refused)})
        return ArrayRecord(learned.network.state_dict()), metrics

    def _accepted(self, server_round: int, replies: Iterable[Message]) -> list[Contribution]:
        """Return the sets that pass all checks, and record the refusals."""
        spec = ReplySpec(
            task=self.task,
            round_number=server_round,
            allowed={node: self._registry.classes_of(node) for node in self._selected},
            limits=self.limits,
            update=self.ask.action == "update",
        )
        sets, self._refused = inspect_replies(replies, spec)
        if not spec.update:
            sets, refused = self.screen(sets, self.task, dd.generator("screen", self._secret, server_round))
            self._refused += refused
        return sets

    def described(self) -> dict[str, str]:
        """Return the settings of the server on which the result depends, as text by name; the secret is left out."""
        names = ("fraction_train", "seed", "remember", "ask", "learn", "screen", "limits")
        return {"task": self.task.digest, **{name: str(getattr(self, name)) for name in names}}

    def distilled(self) -> dd.Distilled:
        """Return the union of the sets in the last round that had one, as a distilled set to save, judge or share.

        A ValueError is raised before the first round with a pool.
        """
        require(self.pool is not None, "strategy", "have run a round that pools sets", len(self.reports))
        assert self.pool is not None
        return dd.Distilled(
            self.task.preprocess(self.pool.images),
            self.pool.labels / self.pool.labels.sum(1, keepdim=True),
            class_names=self.task.class_names,
            preprocess=self.task.preprocess,
            protocol=getattr(self.learn, "protocol", dd.TrainingProtocol()).to_dict(),
            classes=self.pool.classes,
            provenance={"recipe": f"federated {self.ask.action}"},
        )

    def _begin(self, initial_arrays: ArrayRecord, evaluate_fn: EvaluateFn | None) -> tuple[Result, int]:
        saved = None if self._store is None else self._store.load()
        if saved is None:
            result = Result(arrays=initial_arrays)
            self._evaluate(0, result, evaluate_fn)
            return result, 1
        self.reports, self._round_sets = saved.reports, saved.kept
        if self._round_sets:
            weighing, quota = getattr(self.learn, "weighing", PoolWeights()), self.limits.images * len(self._round_sets)
            self.pool = pooled(_by_client(self._round_sets), self.task, weighing, quota=quota)
        self.traffic.down, self.traffic.up, self.traffic.messages = saved.traffic
        result = Result(arrays=saved.arrays)
        result.evaluate_metrics_serverapp.update({r: MetricRecord(values) for r, values in saved.evaluated.items()})
        log.info("resuming after round %d", saved.round_number)
        return result, saved.round_number + 1

    def _evaluate(self, server_round: int, result: Result, evaluate_fn: EvaluateFn | None) -> None:
        metrics = None if evaluate_fn is None else evaluate_fn(server_round, result.arrays)
        if metrics is not None:
            result.evaluate_metrics_serverapp[server_round] = metrics
            log.info("round %d: %s", server_round, dict(metrics))

    def _report(self, server_round: int, replies: Iterable[Message], previous: Traffic, seconds: float) -> None:
        answered = {m.metadata.src_node_id for m in replies}
        learned = self._learned
        sent_classes = (contribution.classes.tolist() for contribution in self._used)
        missing = sorted(self._registry.held().difference(*sent_classes))
        report = RoundReport(
            round_number=server_round,
            asked=len(self._selected),
            taken=len(self._used),
            silent=tuple(node for node in self._selected if node not in answered),
            failed=tuple((m.metadata.src_node_id, error_text(m)) for m in replies if m.has_error()),
            refused=tuple(self._refused),
            missing=tuple(self.task.class_names[c] for c in missing),
            share=0.0 if learned is None else learned.share,
            influence=0.0 if learned is None else learned.influence,
            codec_error=max((contribution.meta["codec-error"] for contribution in self._used), default=None),
            down=self.traffic.down - previous.down,
            up=self.traffic.up - previous.up,
            seconds=seconds,
        )
        report.write()
        self.reports.append(report)

    def _save(self, server_round: int, result: Result) -> None:
        if self._store is None:
            return
        evaluated = {r: dict(m) for r, m in result.evaluate_metrics_serverapp.items()}
        # Weight updates have no pool, and their sets are not reused.
        round_sets = [] if self.pool is None else self._round_sets
        traffic = dataclasses.astuple(self.traffic)
        self._store.save(SavedRound(server_round, result.arrays, self.reports, evaluated, traffic, round_sets))


def _by_client(rounds: Sequence[Sequence[Contribution]]) -> list[Contribution]:
    """Return one set for each client, with its newest images first, in the order of the newest round."""
    client_sets: dict[int, Contribution] = {}
    for sets in reversed(rounds):
        for contribution in sets:
            newer = client_sets.get(contribution.node)
            client_sets[contribution.node] = contribution if newer is None else newer.after(contribution)
    return list(client_sets.values())


def _knowledge(pool: Pool, images: int) -> ArrayRecord:
    """Return up to `images` images of each class as uint8, spread evenly over the clients."""
    rows = []
    for c in torch.unique(pool.classes):
        members = torch.nonzero(pool.classes == c).flatten()
        # The pool is ordered by client, so equidistant rows are spread over the clients.
        rows.append(members[torch.linspace(0, len(members) - 1, min(images, len(members))).round().long()])
    selected = torch.cat(rows)
    return ArrayRecord({"images": to_bytes(pool.images[selected]), "classes": pool.classes[selected]})
