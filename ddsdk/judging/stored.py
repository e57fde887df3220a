"""The training protocol in a distilled set, which is a statement of its maker: its name, and what it may cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch

from ddsdk.artefact import Distilled
from ddsdk.foundation import require
from ddsdk.networks import NETWORKS
from ddsdk.training import TrainingProtocol

_LIMITS: Mapping[str, int] = {"epochs": 20_000, "networks": 100}
_MAX_STEPS, _MAX_OPTION, _MAX_WEIGHTS, _MAX_DECAYS = 5_000_000, 4096, 500_000_000, 1000
_TEACHER_LABELS = "published, stored teacher labels"
"""Name of the published protocol for the sets of SRe2L and RDED."""


def stored_protocol(distilled: Distilled) -> TrainingProtocol:
    """Return the training protocol in a distilled set: that of the method that made it.

    The names "published" and "quick" are reserved. A stored protocol that takes one of them, alone or before a comma,
    must be that protocol with the changes in its name; otherwise its name becomes "claims published".

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import stored_protocol
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), ddsdk.load("digits"))
        >>> stored_protocol(distilled).epochs
        300
    """
    protocol = TrainingProtocol.from_dict(distilled.protocol)
    published, quick = (base(protocol.augmentation) for base in (TrainingProtocol.published, TrainingProtocol.quick))
    if protocol.name.split(",")[0].strip().casefold() not in (published.name, quick.name):
        return protocol
    changes = {name: getattr(protocol, name) for name in ("network", "networks", "epochs", "order", "labels")}
    for base in (published, quick, dataclasses.replace(published, name=_TEACHER_LABELS)):
        if protocol == base.changed(options=protocol.network_options, **changes):
            return protocol
    return dataclasses.replace(protocol, name=f"claims {protocol.name.strip()}")


def check_cost(protocol: TrainingProtocol, distilled: Distilled) -> None:
    """Check that the protocol of a set from elsewhere trains within generous bounds, before anything is trained.

    The bounds are on networks, epochs, steps, options of the network such as width and depth, and weights. A value
    beyond its bound gives a ValueError with the way out.

    Args:
        protocol: Protocol of the set, or this protocol with changes.
        distilled: Distilled set to be trained on.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import check_cost, stored_protocol
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), ddsdk.load("digits"))
        >>> check_cost(stored_protocol(distilled), distilled)
    """
    steps = protocol.rounds * protocol.steps_in_epoch(len(distilled))
    options = {name: value for name, value in protocol.network_options.items() if isinstance(value, int | float)}
    _require_at_most("decay_at", len(protocol.decay_at), _MAX_DECAYS, " numbers")
    if protocol.learner == "network":
        for name, limit in _LIMITS.items():
            _require_at_most(name, getattr(protocol, name), limit)
        _require_at_most("steps", steps, _MAX_STEPS)
    for name, value in options.items():
        _require_at_most(name, value, _MAX_OPTION)
    if protocol.learner == "network" and protocol.network in NETWORKS:
        _require_at_most("weights", _weights(protocol, distilled), _MAX_WEIGHTS)


def _require_at_most(name: str, value: float, limit: int, unit: str = "") -> None:
    way_out = "pass protocol=..., or --epochs, --repeats and --width, or --trust-protocol to train it as stated"
    require(value <= limit, name, f"be at most {limit}{unit} in the protocol of a set ({way_out})", value)


def _weights(protocol: TrainingProtocol, distilled: Distilled) -> int:
    """Return the number of weights of the network, without allocating them; 0 for options that it does not accept."""
    options = {name: value for name, value in protocol.network_options.items() if name != "init"}
    c, h, w = distilled.images.shape[1:]
    try:
        with torch.device("meta"):
            network = NETWORKS[protocol.network]((c, h, w), distilled.num_classes, **options)
    except (TypeError, ValueError):  # refused with its reason when the network is made
        return 0
    return sum(math.prod(parameter.shape) for parameter in network.parameters())
