"""Evaluation protocols of the benchmark tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ddsdk.artefact import Distilled
from ddsdk.judging import published_protocol, reduced_protocol, stored_protocol
from ddsdk.training import TrainingProtocol

TRANSFER_NETWORKS = ("convnet", "mlp", "alexnet", "vgg11", "resnet10", "resnet18", "resnet152", "densenet121")
"""Evaluation networks of tables 3 and 4 of the survey (arXiv:2301.05603)."""

NO_AUGMENTATION = "own, no augmentation"
_DSA = "color_crop_cutout_flip_scale_rotate"
_AUGMENTATIONS = {"none": "", "crop": "crop", "cutout": "cutout", "DSA": _DSA}
_ADAM: dict[str, Any] = {
    "optimizer": "adam",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "decay_at": (),
    "decay": 0.01,
}


class ProtocolColumn(NamedTuple):
    """Column of a table.

    Attributes:
        name: Name of the column, such as ``"hard labels"``.
        protocol: Training protocol of the evaluated networks.
    """

    name: str
    protocol: TrainingProtocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationCost:
    """Limits on the cost of an evaluation. The name of a changed protocol includes the changes.

    Attributes:
        networks: Number of networks trained on each distilled set.
        epochs: Maximum number of epochs; None for all. It does not apply to a method's own protocol, whose learning
            rates are tuned for its number of epochs.
        width: Width of the networks; None for the width of the protocol.
        transfer: Networks of the table ``cross-architecture``, keys of `ddsdk.networks.NETWORKS`.

    Examples:
        >>> from ddsdk import TrainingProtocol
        >>> EvaluationCost(networks=1, epochs=10).of(TrainingProtocol.published()).name
        'published, 10 epochs'
    """

    networks: int = 3
    epochs: int | None = None
    width: int | None = None
    transfer: tuple[str, ...] = TRANSFER_NETWORKS

    def of(self, protocol: TrainingProtocol, *, own: bool = False) -> TrainingProtocol:
        """Return a protocol within these limits.

        Args:
            protocol: Training protocol of the evaluation.
            own: Whether it is a method's own protocol, which keeps its number of epochs.
        """
        epochs = None if own else self.epochs
        return reduced_protocol(protocol, networks=self.networks, epochs=epochs, width=self.width)


def _is_own(protocol: TrainingProtocol) -> bool:
    """Return whether a protocol differs from the published one in more than the number of networks."""
    common = TrainingProtocol.published(protocol.augmentation)
    return dataclasses.replace(protocol, networks=common.networks) != common


def _survey(distilled: Distilled, judging: EvaluationCost) -> list[ProtocolColumn]:
    own = stored_protocol(distilled)
    hard = published_protocol(distilled, own.augmentation)
    columns = [ProtocolColumn("hard labels", judging.of(hard))]
    if _is_own(own) or hard.labels != own.labels:
        columns.append(ProtocolColumn("own", judging.of(own, own=_is_own(own))))
    return columns


def _transfer(distilled: Distilled, judging: EvaluationCost) -> list[ProtocolColumn]:
    hard = published_protocol(distilled, stored_protocol(distilled).augmentation)
    return [
        ProtocolColumn(name, judging.of(hard.changed(network=name, options=None if name == hard.network else {})))
        for name in judging.transfer
    ]


def _recipes(distilled: Distilled, judging: EvaluationCost) -> list[ProtocolColumn]:
    columns = []
    for name, augmentation in _AUGMENTATIONS.items():
        # The published number of epochs depends on the augmentation; here the columns differ only by their name.
        sgd = published_protocol(distilled, augmentation).changed(epochs=TrainingProtocol.published().epochs)
        adam = dataclasses.replace(sgd, name=f"{sgd.name}, adam", **_ADAM)
        columns += [ProtocolColumn(f"sgd, {name}", judging.of(sgd)), ProtocolColumn(f"adam, {name}", judging.of(adam))]
    return columns


def _fair(distilled: Distilled, judging: EvaluationCost) -> list[ProtocolColumn]:
    own = stored_protocol(distilled)
    plain = dataclasses.replace(own, name=f"{own.name}, no augmentation", augmentation="")
    protocols = {"hard labels": published_protocol(distilled, own.augmentation), "own": own, NO_AUGMENTATION: plain}
    columns = [ProtocolColumn(n, judging.of(p, own=n != "hard labels" and _is_own(own))) for n, p in protocols.items()]
    return columns if own.augmentation else columns[:2]


COLUMNS: Mapping[str, Callable[[Distilled, EvaluationCost], Sequence[ProtocolColumn]]] = {
    "survey-1": _survey,
    "cross-architecture": _transfer,
    "robustness-to-recipe": _recipes,
    "fair-scores": _fair,
}
"""Function of each table, by name, from a distilled set and the cost limits to the columns."""
