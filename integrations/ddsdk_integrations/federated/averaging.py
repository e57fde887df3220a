"""Averaging of weights beyond what Flower has: SCAFFOLD and FedNova, for comparison under the same accounting."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import Tensor

from ddsdk_integrations.federated.task import Task, arrays_of


@final
class Scaffold(FedAvg):
    """Weights and control variates: clients correct the drift of their own data. Twice the traffic of FedAvg.

    The clients are those of `Participant.app`, with momentum 0.

    Args:
        task: Task that all sides agree on.
        **options: Options of Flower's FedAvg.

    Differences from the published algorithm: weights are averaged by numbers of images, as Flower does, and not evenly.

    References:
        Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020,
        arXiv:1910.06378.
    """

    def __init__(self, task: Task, **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        zeros = {n: torch.zeros_like(p) for n, p in task.loaded(task.initial_arrays()).named_parameters()}
        self._control = zeros
        self._nodes = 1

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send weights and the server's variate."""
        self._nodes = max(1, len(list(grid.get_node_ids())))
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for message in messages:
            message.content["control"] = ArrayRecord(self._control)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average weights, and move the variate by the share of clients that took part."""
        valid, _ = self._check_and_log_replies(replies, is_train=True, validate=False)
        if not valid:
            return None, None
        moved = [arrays_of(m.content, "control").to_torch_state_dict() for m in valid]
        self._control = {
            name: c + sum((one[name] for one in moved), torch.zeros_like(c)) / self._nodes
            for name, c in self._control.items()
        }
        plain = [_without(m, "control") for m in valid]
        return super().aggregate_train(server_round, plain)


@final
class FedNova(FedAvg):
    """Updates divided by the number of steps behind them before they are averaged.

    w <- w - tau_eff sum_i p_i (w - w_i) / tau_i with tau_eff = sum_i p_i tau_i and p_i the shares of images.

    The clients are those of `Participant.app`, with momentum 0.

    References:
        Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
        NeurIPS 2020, arXiv:2007.07481.
    """

    _sent: dict[str, Tensor]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the weights, and remember them."""
        self._sent = dict(arrays.to_torch_state_dict())
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average normalised updates."""
        valid, _ = self._check_and_log_replies(replies, is_train=True)
        if not valid:
            return None, None
        sizes = torch.tensor([_number(m, "num-examples") for m in valid], dtype=torch.float64)
        steps = torch.tensor([_number(m, "steps") for m in valid], dtype=torch.float64)
        share = sizes / sizes.sum()
        scale = (share * steps).sum() * share / steps
        found = [arrays_of(m.content, "arrays").to_torch_state_dict() for m in valid]
        new = {}
        for name, sent in self._sent.items():
            moves = [float(s) * (sent - one[name]) for s, one in zip(scale, found, strict=True)]
            new[name] = sent - sum(moves, torch.zeros_like(sent)) if sent.is_floating_point() else sent
        _, metrics = super().aggregate_train(server_round, valid)
        return ArrayRecord(new), metrics


def _number(message: Message, name: str) -> float:
    return float(next(iter(message.content.metric_records.values()))[name])  # type: ignore[arg-type]


def _without(message: Message, name: str) -> Message:
    kept = {key: record for key, record in message.content.items() if key != name}
    message.content = RecordDict(kept)
    return message
