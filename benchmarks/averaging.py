"""Federated averaging methods that Flower lacks: SCAFFOLD and FedNova, with a client for them and for FedProx."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

import ddsdk as dd
from ddsdk.foundation import require
from ddsdk_integrations.federated import FederatedTask, LocalData, Participant, count_traffic

_CONTROL = "ddsdk-control"
Aggregate = tuple[ArrayRecord | None, MetricRecord | None]


@final
class Scaffold(FedAvg):
    """SCAFFOLD: averaging of weights and of control variates, which correct the drift of the clients.

    It has twice the traffic of FedAvg. The clients are those of `client_of`, with momentum 0.

    Args:
        task: Federated task, equal on the server and on all clients.
        **options: Options of Flower's FedAvg.

    Differences from the published algorithm: weights are averaged by numbers of images, as in Flower, and not evenly.

    References:
        Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020,
        arXiv:1910.06378.
    """

    def __init__(self, task: FederatedTask, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        network = task.loaded(task.initial_arrays())
        self.control = {n: torch.zeros_like(p) for n, p in network.named_parameters()}
        self._nodes = 1

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages with the weights and the control variate of the server."""
        self._nodes = max(1, len(list(grid.get_node_ids())))
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:
            message.content["control"] = ArrayRecord(self.control)
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        """Return the mean weights and update the control variate of the server: c += sum_i delta c_i / clients."""
        valid, _ = self._check_and_log_replies(replies, is_train=True, validate=False)
        if not valid:
            return None, None
        changes = [m.content.array_records["control"].to_torch_state_dict() for m in valid]
        self.control = {
            name: c + sum((change[name] for change in changes), torch.zeros_like(c)) / self._nodes
            for name, c in self.control.items()
        }
        for message in valid:
            message.content = RecordDict({k: record for k, record in message.content.items() if k != "control"})
        return super().aggregate_train(server_round, valid)


@final
class FedNova(FedAvg):
    """FedNova: averaging of updates that are normalised by the number of steps of each client.

    w <- w - tau_eff sum_i p_i (w - w_i) / tau_i with tau_eff = sum_i p_i tau_i, tau_i the steps of client i and p_i its
    fraction of all images.

    The clients are those of `Participant.app`, with momentum 0.

    References:
        Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
        NeurIPS 2020, arXiv:2007.07481.
    """

    _sent: dict[str, Tensor]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages with the weights, which are kept for the aggregation."""
        self._sent = dict(arrays.to_torch_state_dict())
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Aggregate:
        """Return the weights after the mean normalised update."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        sizes, steps = (_numbers(valid, name) for name in ("num-examples", "steps"))
        shares = sizes / sizes.sum()
        scales = (shares * steps).sum() * shares / steps
        replied = [m.content.array_records["arrays"].to_torch_state_dict() for m in valid]
        weights = {}
        for name, sent in self._sent.items():
            updates = [float(s) * (sent - reply[name]) for s, reply in zip(scales, replied, strict=True)]
            weights[name] = sent - sum(updates, torch.zeros_like(sent)) if sent.is_floating_point() else sent
        _, metrics = super().aggregate_train(server_round, valid)
        return ArrayRecord(weights), metrics


def _numbers(messages: Iterable[Message], name: str) -> Tensor:
    values: list[Any] = [next(iter(m.content.metric_records.values()))[name] for m in messages]
    return torch.tensor(values, dtype=torch.float64)


def client_of(participant: Participant) -> ClientApp:
    """Return the client app of a participant for FedAvg, FedNova, FedProx and SCAFFOLD."""
    app = participant.register(ClientApp())
    app.train(mods=[count_traffic])(partial(_fit, participant))
    return app


def _fit(participant: Participant, message: Message, context: Context) -> Message:
    """Return the reply of one training round.

    FedAvg's training gets a proximal term if the message has FedProx's weight mu, and control variates if the message
    has SCAFFOLD's variate of the server.
    """
    content, training = message.content, participant.training
    config: dict[str, Any] = dict(content.config_records["config"])
    data = LocalData.of(participant.task, *participant.load(context))
    network = participant.task.loaded(content.array_records["arrays"])
    first = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=training.lr, momentum=training.momentum)
    mu, control = config.get("proximal-mu", 0.0), content.array_records.get("control")
    client_control, shift = [torch.zeros_like(p) for p in first], []
    if control is not None:
        require(training.momentum == 0, "momentum", "be 0 for SCAFFOLD", training.momentum)
        if _CONTROL in context.state:
            client_control = list(context.state.array_records[_CONTROL].to_torch_state_dict().values())
        # Local steps follow g + c - c_i, with c of the server and c_i of the client.
        shift = [c - c_i for c, c_i in zip(control.to_torch_state_dict().values(), client_control, strict=True)]
        _correct(optimizer, lambda i, _: shift[i])
    elif mu:
        # The gradient of mu/2 ||w - w_0||^2.
        _correct(optimizer, lambda i, p: mu * (p.detach() - first[i]))
    rng = dd.generator(
        "client", config.get("seed", 0), config["server-round"], int(context.node_config["partition-id"])
    )
    steps, loss = training.fit(network, data.batch(), rng, optimizer)
    metrics = MetricRecord({"num-examples": len(data.real), "steps": steps, "train-loss": loss})
    reply = RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics})
    if control is not None:
        # Option II of the paper: c_i+ = c_i - c + (w_0 - w) / (steps lr).
        scale = 1 / (steps * training.lr)
        with torch.no_grad():
            updated = [(w - p) * scale - d for w, p, d in zip(first, network.parameters(), shift, strict=True)]
        context.state[_CONTROL] = ArrayRecord(dict(zip(control, updated, strict=True)))
        changes = (new - old for new, old in zip(updated, client_control, strict=True))
        reply["control"] = ArrayRecord(dict(zip(control, changes, strict=True)))
    return Message(reply, reply_to=message)


def _correct(optimizer: torch.optim.Optimizer, term: Callable[[int, Tensor], Tensor]) -> None:
    """Add a term to the gradient of each parameter before each step."""

    def add(*_: object) -> None:
        for i, p in enumerate(optimizer.param_groups[0]["params"]):
            p.grad += term(i, p)

    optimizer.register_step_pre_hook(add)
