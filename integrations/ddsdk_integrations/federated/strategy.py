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
from ddsdk_integrations.federated.agreement import harmful
from ddsdk_integrations.federated.checks import Refusal, ReplyLimits, ReplySpec, inspect_replies
from ddsdk_integrations.federated.cross_client import CrossClientFilter, FeatureNetworks
from ddsdk_integrations.federated.learners import ServerLearner, ServerUpdate
from ddsdk_integrations.federated.payload import Contribution
from ddsdk_integrations.federated.pool import Pool, PoolWeights, pooled
from ddsdk_integrations.federated.registry import NodeRegistry
from ddsdk_integrations.federated.store import RoundReport, RoundStore, SavedRound, log
from ddsdk_integrations.federated.task import FederatedTask
from ddsdk_integrations.federated.traffic import CountingGrid, Quorum, Traffic, error_text, exchange

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

    Examples:
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
        screen: Filter of copies, surplus images and contradicted labels; None for the default `CrossClientFilter`.
        limits: Limits of a client's reply; None for the default `ReplyLimits`.
        clean: Small set of clean images of the server with the classes of the task, at least two of each, such as
            five. Its classifier judges each set, and sets without which the pool fits it better are left out. It is
            for sets of images that look like real ones. None compares the clients with each other alone.
        quorum: Rule for the end of a round and for silent nodes; None for the default `Quorum`.
        remember: Number of rounds whose sets are used together, so that silent clients still contribute older sets;
            1 for weight updates. Older sets of a refused client are withdrawn.
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

    Examples:
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
        clean: dd.RealData | None = None,
        quorum: Quorum | None = None,
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
        if clean is not None:
            require(ask.action == "distill", "clean", "be None where clients send updates, which are no images", clean)
            _check_clean(clean, task)
        # Flower's default of `min_train_nodes` would wait for two nodes.
        super().__init__(fraction_train=fraction_train, min_train_nodes=1, min_available_nodes=min_available_nodes)
        # The server evaluates; 0 as an argument of the constructor would cause a warning of Flower in the log.
        self.fraction_evaluate = 0.0
        self.task, self.ask, self.learn = task, ask, learn
        self.screen = CrossClientFilter() if screen is None else screen
        self.limits = ReplyLimits() if limits is None else limits
        self.clean = clean
        self.quorum = Quorum() if quorum is None else quorum
        self.remember, self.seed = remember, seed
        self.reports: list[RoundReport] = []
        self.traffic = Traffic()
        self.pool: Pool | None = None
        self._round_sets: list[list[Contribution]] = []
        self._secret = secrets.randbits(62) if secret is None else secret
        self._store = None if folder is None else RoundStore(Path(folder), self.described())
        self._registry = NodeRegistry(task, ask.action, self.quorum)
        self._selected: list[int] = []
        self._arrays = ArrayRecord()
        self._refused: list[Refusal] = []
        self._withdrawn = 0
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
            train_config: Further entries of the request, which clients allow by ``RequestLimits(entries=…)``; None for
                no further ones.
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
            requests = self.configure_train(server_round, result.arrays, config, grid)
            questions, excluded = self._registry.questions(grid), sorted(self._registry.excluded)
            replies = self._registry.answers(exchange(grid, requests, timeout, self.quorum, beside=questions))
            self._registry.count_silence(self._selected, (m.metadata.src_node_id for m in replies))
            arrays, metrics = self.aggregate_train(server_round, replies)
            if arrays is not None and metrics is not None:
                result.arrays = arrays
                result.train_metrics_clientapp[server_round] = metrics
            self._report(server_round, replies, excluded, previous_traffic, time.monotonic() - began)
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
        content = RecordDict(
            {
                "config": ConfigRecord(
                    {
                        **config,
                        "server-round": server_round,
                        "seed": self.seed,
                        "radius": self.ask.radius,
                        "logits": self.ask.logits,
                        "go-on": self.ask.go_on,
                        "task": self.task.digest,
                    }
                )
            }
        )
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
        self._withdraw(self._refused)
        sets = self._without_harm(sets, server_round)
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
            rng = dd.generator("screen", self._secret, server_round)
            earlier = _by_client(self._round_sets)
            sets, refused = self.screen(sets, self.task, rng, self.clean, self._features(server_round), earlier)
            self._refused += refused
        return sets

    def _features(self, server_round: int) -> FeatureNetworks:
        around = self.task.loaded(self._arrays) if self.ask.model else None
        rng = dd.generator("features", self._secret, server_round)
        return FeatureNetworks.of(self.task, rng, around, self.ask.radius)

    def _withdraw(self, refused: Iterable[Refusal]) -> None:
        """Take what refused clients sent in earlier rounds out of the pool: a refused class, or all of it."""
        hostile = [refusal for refusal in refused if refusal.hostile]
        nodes = {refusal.node for refusal in hostile if refusal.class_id is None}
        classes = {(refusal.node, refusal.class_id) for refusal in hostile}
        before = _images(self._round_sets)
        kept_rounds = []
        for sets in self._round_sets:
            kept = []
            for contribution in sets:
                keep = [(contribution.node, c) not in classes for c in contribution.classes.tolist()]
                if contribution.node not in nodes and any(keep):
                    kept.append(contribution.of_classes(torch.tensor(keep)))
            kept_rounds.append(kept)
        self._round_sets = kept_rounds
        self._withdrawn = before - _images(kept_rounds)

    def _without_harm(self, sets: list[Contribution], server_round: int) -> list[Contribution]:
        """Return the sets of clients without which the pool of all rounds does not fit the clean images better."""
        if self.clean is None or not sets:
            return sets
        networks = self._features(server_round).matched
        pool_sets = _by_client([*self._round_sets, sets][-self.remember :])
        refused = [
            Refusal(
                pool_sets[i].node, 14, "harm", f"{100 * share:.0f} % of the error on clean images is due to this client"
            )
            for i, share in harmful(pool_sets, self.task, networks, self.clean).items()
        ]
        withdrawn = self._withdrawn
        self._withdraw(refused)
        self._withdrawn += withdrawn
        self._refused += refused
        nodes = {refusal.node for refusal in refused}
        return [contribution for contribution in sets if contribution.node not in nodes]

    @property
    def partitions(self) -> dict[int, int]:
        """Partition that each registered node has stated, by node id."""
        return self._registry.partitions

    def described(self) -> dict[str, str]:
        """Return the settings of the server on which the result depends, as text by name; the secret is left out."""
        names = ("fraction_train", "seed", "remember", "ask", "learn", "screen", "limits")
        clean = "" if self.clean is None else self.clean.fingerprint
        return {"task": self.task.digest, "clean": clean, **{name: str(getattr(self, name)) for name in names}}

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
            weighing = getattr(self.learn, "weighing", PoolWeights())
            self.pool = pooled(_by_client(self._round_sets), self.task, weighing)
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

    def _report(
        self, server_round: int, replies: Iterable[Message], excluded: Sequence[int], previous: Traffic, seconds: float
    ) -> None:
        answered = {m.metadata.src_node_id for m in replies}
        learned = self._learned
        sent_classes = (contribution.classes.tolist() for contribution in self._used)
        missing = sorted(self._registry.held().difference(*sent_classes))
        report = RoundReport(
            round_number=server_round,
            asked=len(self._selected),
            taken=len(self._used),
            silent=tuple(node for node in self._selected if node not in answered),
            excluded=tuple(excluded),
            failed=tuple((m.metadata.src_node_id, error_text(m)) for m in replies if m.has_error()),
            refused=tuple(self._refused),
            withdrawn=self._withdrawn,
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


def _check_clean(clean: dd.RealData, task: FederatedTask) -> None:
    """Raise a ValueError unless the clean images have the classes and the shape of the task, and two of each class."""
    require(clean.class_names == task.class_names, "clean", f"have the classes {task.class_names}", clean.class_names)
    require(clean.image_shape == task.image_shape, "clean", f"have the shape {task.image_shape}", clean.image_shape)
    fewest = int(torch.bincount(clean.labels, minlength=task.num_classes).min())
    require(fewest >= 2, "clean", "have at least two images of each class", fewest)


def _images(rounds: Iterable[Iterable[Contribution]]) -> int:
    return sum(len(contribution.images) for sets in rounds for contribution in sets)


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
