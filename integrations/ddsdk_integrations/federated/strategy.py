"""The one strategy of this package: ask clients for sets, check them, and let a learner make new weights of them."""

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
from ddsdk_integrations.federated.census import Census
from ddsdk_integrations.federated.checks import Contract, Limits, Refusal, inspect_replies
from ddsdk_integrations.federated.learners import Learned, Learner
from ddsdk_integrations.federated.payload import Contribution
from ddsdk_integrations.federated.pool import Pool, Weighing, pooled
from ddsdk_integrations.federated.screen import Screen
from ddsdk_integrations.federated.store import RoundReport, Saved, Store, log
from ddsdk_integrations.federated.task import Task
from ddsdk_integrations.federated.traffic import CountingGrid, Traffic, error_text, exchange

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


@final
@dataclass(frozen=True, kw_only=True)
class Ask:
    """Request to the clients of a round.

    Attributes:
        action: ``"distill"`` for a set, ``"update"`` for a weight update written as one.
        model: Whether the weights of the server are sent; without them clients use fresh networks.
        radius: Largest distance of the students of clients from these weights, see `NearStudents`.
        logits: Whether they match logits too.
        go_on: Whether a client starts from its own set of the round before, which Flower keeps for it.
        knowledge: Images of each class that clients get from the pool of the round before, to start from.
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
    """A strategy of Flower in which synthetic sets travel in place of weights.

    Its ``start`` is that of Flower's strategies, so it takes the place of ``FedAvg`` in a server app that exists. Every
    round asks clients, refuses sets that fail a check, warns of missing classes, and waits no longer than its timeout.
    The first one waits as long for nodes to come, and once more for their class counts.

    Args:
        task: Task that all sides agree on.
        ask: Request to the clients.
        learn: Learner that makes new weights of their sets.
        screen: Refusal of sets beside those of others; None for the usual one.
        limits: Limits of a client's set; None for the usual ones.
        remember: Number of rounds whose sets are learned from together, those of clients that are silent now included.
        fraction_train: Share of the nodes that are asked.
        min_available_nodes: Number of nodes that the first round waits for, for at most its timeout.
        seed: Root of every random number, those of the clients included.
        secret: Root of the networks of the screen, which clients must not know; None draws one from the operating
            system.
        folder: Folder of the state, written after each round; a strategy with the same folder goes on from there.

    Attributes:
        reports: Report of each round.
        traffic: Count of all that was sent.
        pool: Union of the sets of the last round that had one.
    """

    def __init__(
        self,
        task: Task,
        *,
        ask: Ask,
        learn: Learner,
        screen: Screen | None = None,
        limits: Limits | None = None,
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
        fits = remember == 1 or ask.action == "distill"
        require(fits, "remember", "be 1 where clients send updates, which belong to one round", remember)
        # Flower would wait for two nodes.
        super().__init__(fraction_train=fraction_train, min_train_nodes=1, min_available_nodes=min_available_nodes)
        # The server evaluates. As an argument of the constructor, this would be a warning in the log.
        self.fraction_evaluate = 0.0
        self.task, self.ask, self.learn = task, ask, learn
        self.screen = Screen() if screen is None else screen
        self.limits = Limits() if limits is None else limits
        self.remember, self.seed = remember, seed
        self.reports: list[RoundReport] = []
        self.traffic = Traffic()
        self.pool: Pool | None = None
        self._kept: list[list[Contribution]] = []
        self._secret = secrets.randbits(62) if secret is None else secret
        self._store = None if folder is None else Store(Path(folder), self.described())
        self._census = Census(task, ask.action)
        self._asked: list[int] = []
        self._arrays = ArrayRecord()
        self._refused: list[Refusal] = []
        self._learned: Learned | None = None
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
        """Run the rounds that are left; return the final weights and the results of `evaluate_fn`.

        Args:
            grid: Grid of Flower.
            initial_arrays: Weights to start from, such as ``task.initial_arrays()``.
            num_rounds: Number of the last round, from 1; rounds that the folder has are not run again.
            timeout: Seconds that a round waits for clients.
            train_config: Further entries of the message to clients.
            evaluate_config: Not used: the server evaluates.
            evaluate_fn: Function of the round and the weights, called before the first round and after each.
        """
        grid = CountingGrid(grid, self.traffic)
        result, first = self._begin(initial_arrays, evaluate_fn)
        for server_round in range(first, num_rounds + 1):
            began, before = time.monotonic(), dataclasses.replace(self.traffic)
            self._census.open(grid, self.min_available_nodes, timeout)
            config = ConfigRecord() if train_config is None else train_config
            # New nodes state their class counts beside the others' round, and take part in the next one.
            sent = [*self.configure_train(server_round, result.arrays, config, grid), *self._census.questions(grid)]
            replies = self._census.answers(exchange(grid, sent, timeout))
            arrays, metrics = self.aggregate_train(server_round, replies)
            if arrays is not None and metrics is not None:
                result.arrays = arrays
                result.train_metrics_clientapp[server_round] = metrics
            self._report(server_round, replies, before, time.monotonic() - began)
            self._evaluate(server_round, result, evaluate_fn)
            self._save(server_round, result)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages of a round, which are all alike."""
        self._arrays = arrays
        self._asked = self._census.choose(grid, self.fraction_train, dd.generator("sample", self.seed, server_round))
        entries = {"server-round": server_round, "seed": self.seed, "radius": self.ask.radius}
        entries |= {"logits": self.ask.logits, "go-on": self.ask.go_on}
        content = RecordDict({"config": ConfigRecord({**config, **entries})})
        if self.ask.model:
            content["arrays"] = arrays
        if self.ask.knowledge and self.pool is not None:
            content["knowledge"] = _knowledge(self.pool, self.ask.knowledge)
        return [Message(content, node, f"train.{self.ask.action}") for node in self._asked]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the replies, and make new weights of the sound ones; None without any."""
        sets = self._sound(server_round, replies)
        self._learned, self._used = None, []
        if not sets:
            log.warning("round %d: no set was taken, the weights stay as they are", server_round)
            return None, None
        kept = [*self._kept, sets][-self.remember :]
        learned = self.learn(
            self.task.loaded(self._arrays),
            _by_client(kept),
            self.task,
            dd.generator("server", self.seed, server_round),
            quota=self.limits.images * len(kept),
        )
        self._refused += learned.refused
        if not all(bool(torch.isfinite(t).all()) for t in learned.network.state_dict().values()):
            log.warning("round %d: training diverged, the weights stay as they are", server_round)
            return None, None
        self._kept, self._learned = kept, learned
        out = {refusal.node for refusal in learned.refused}
        self._used = [one for one in sets if one.node not in out]
        self.pool = learned.pool or self.pool
        images = sum(len(one.images) for one in sets)
        metrics = MetricRecord({"sets": len(sets), "images": images, "refused": len(self._refused)})
        return ArrayRecord(learned.network.state_dict()), metrics

    def _sound(self, server_round: int, replies: Iterable[Message]) -> list[Contribution]:
        """Return the sets that pass all checks."""
        contract = Contract(
            task=self.task,
            round_number=server_round,
            allowed={node: self._census.classes_of(node) for node in self._asked},
            limits=self.limits,
            update=self.ask.action == "update",
        )
        sets, self._refused = inspect_replies(replies, contract)
        if not contract.update:
            sets, refused = self.screen(sets, self.task, dd.generator("screen", self._secret, server_round))
            self._refused += refused
        return sets

    def described(self) -> dict[str, str]:
        """Return the settings of which the result depends beside clients and secret, as text by name."""
        names = ("fraction_train", "seed", "remember", "ask", "learn", "screen", "limits")
        return {"task": self.task.digest, **{name: str(getattr(self, name)) for name in names}}

    def distilled(self) -> dd.Distilled:
        """Return the union of the sets of the last round as an artefact, to save, judge or share.

        Raises:
            ValueError: If no round had one.
        """
        require(self.pool is not None, "strategy", "have run a round that pools sets", len(self.reports))
        assert self.pool is not None
        return dd.Distilled(
            self.task.preprocess(self.pool.images),
            self.pool.labels / self.pool.labels.sum(1, keepdim=True),
            class_names=self.task.class_names,
            preprocess=self.task.preprocess,
            evaluation=getattr(self.learn, "evaluation", dd.Evaluation()).to_dict(),
            classes=self.pool.classes,
            provenance={"recipe": f"federated {self.ask.action}"},
        )

    def _begin(self, initial_arrays: ArrayRecord, evaluate_fn: EvaluateFn | None) -> tuple[Result, int]:
        saved = None if self._store is None else self._store.load()
        if saved is None:
            result = Result(arrays=initial_arrays)
            self._evaluate(0, result, evaluate_fn)
            return result, 1
        self.reports, self._kept = saved.reports, saved.kept
        if self._kept:
            weighing, quota = getattr(self.learn, "weighing", Weighing()), self.limits.images * len(self._kept)
            self.pool = pooled(_by_client(self._kept), self.task, weighing, quota=quota)
        self.traffic.down, self.traffic.up, self.traffic.messages = saved.traffic
        result = Result(arrays=saved.arrays)
        result.evaluate_metrics_serverapp.update({r: MetricRecord(values) for r, values in saved.evaluated.items()})
        log.info("going on after round %d", saved.round_number)
        return result, saved.round_number + 1

    def _evaluate(self, server_round: int, result: Result, evaluate_fn: EvaluateFn | None) -> None:
        found = None if evaluate_fn is None else evaluate_fn(server_round, result.arrays)
        if found is not None:
            result.evaluate_metrics_serverapp[server_round] = found
            log.info("round %d: %s", server_round, dict(found))

    def _report(self, server_round: int, replies: Iterable[Message], before: Traffic, seconds: float) -> None:
        answered = {m.metadata.src_node_id for m in replies}
        learned = self._learned
        missing = sorted(self._census.held().difference(*(one.classes.tolist() for one in self._used)))
        report = RoundReport(
            round_number=server_round,
            asked=len(self._asked),
            taken=len(self._used),
            silent=tuple(node for node in self._asked if node not in answered),
            failed=tuple((m.metadata.src_node_id, error_text(m)) for m in replies if m.has_error()),
            refused=tuple(self._refused),
            missing=tuple(self.task.class_names[c] for c in missing),
            share=0.0 if learned is None else learned.share,
            influence=0.0 if learned is None else learned.influence,
            codec_error=max((one.meta["codec-error"] for one in self._used), default=None),
            down=self.traffic.down - before.down,
            up=self.traffic.up - before.up,
            seconds=seconds,
        )
        report.write()
        self.reports.append(report)

    def _save(self, server_round: int, result: Result) -> None:
        if self._store is None:
            return
        evaluated = {r: dict(m) for r, m in result.evaluate_metrics_serverapp.items()}
        traffic, kept = dataclasses.astuple(self.traffic), [] if self.pool is None else self._kept
        self._store.save(Saved(server_round, result.arrays, self.reports, evaluated, traffic, kept))


def _by_client(rounds: Sequence[Sequence[Contribution]]) -> list[Contribution]:
    """Return a set for each client, the newest images first, in the order of the newest round."""
    found: dict[int, Contribution] = {}
    for sets in reversed(rounds):
        for one in sets:
            found[one.node] = found[one.node].after(one) if one.node in found else one
    return list(found.values())


def _knowledge(pool: Pool, images: int) -> ArrayRecord:
    """Return the first images of each class, spread over the clients that sent some, as bytes."""
    rows = []
    for c in torch.unique(pool.classes):
        held = torch.nonzero(pool.classes == c).flatten()
        # Evenly over the pool, which lies client by client.
        rows.append(held[torch.linspace(0, len(held) - 1, min(images, len(held))).round().long()])
    kept = torch.cat(rows)
    return ArrayRecord({"images": to_bytes(pool.images[kept]), "classes": pool.classes[kept]})
