"""Under which protocols each table judges a set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ddsdk.artefact import Distilled
from ddsdk.judging import shortened
from ddsdk.training import Evaluation

TRANSFER_NETWORKS = ("convnet", "mlp", "alexnet", "vgg11", "resnet10", "resnet18", "resnet152", "densenet121")
"""The networks of the survey's tables 3 and 4."""

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


class Column(NamedTuple):
    """Name of one way to judge a set, and its protocol."""

    name: str
    evaluation: Evaluation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judging:
    """Cost of a judgement: a protocol that it changes has a name that says so.

    Attributes:
        networks: Fresh networks for each set.
        epochs: Epochs at most, of protocols that are not a method's own, which belong to its rates; None for all.
        width: Width of networks that have one; None for the protocol's.
        transfer: Networks of the table of transfer.
    """

    networks: int = 3
    epochs: int | None = None
    width: int | None = None
    transfer: tuple[str, ...] = TRANSFER_NETWORKS

    def of(self, evaluation: Evaluation, *, own: bool = False) -> Evaluation:
        """Return a protocol within this cost; `own` says that it is a method's own, whose epochs stay."""
        epochs = None if own else self.epochs
        return shortened(evaluation, networks=self.networks, epochs=epochs, width=self.width)


def own_protocol(distilled: Distilled) -> Evaluation:
    """Return the protocol that a set brings."""
    return Evaluation.from_dict(distilled.evaluation)


def wants_centred(distilled: Distilled, evaluation: Evaluation) -> bool:
    """Tell whether real images need centred label rows, to be comparable with a set's scores under a protocol."""
    regression = evaluation.loss == "mse" or evaluation.learner == "kernel"
    return distilled.label_space == "scores" and evaluation.labels == "stored" and regression


def ordinary_protocol(distilled: Distilled, augmentation: str) -> Evaluation:
    """Return the papers' protocol for the images of a set with a class for each."""
    hard = distilled.manifest.storage.labels == "hard"
    exact = Evaluation.published(augmentation)
    return exact if hard else dataclasses.replace(exact, labels="hard")


def _is_own(own: Evaluation) -> bool:
    """Tell whether a protocol is another than the papers' common one; the number of its networks does not count."""
    exact = Evaluation.published(own.augmentation)
    return dataclasses.replace(own, networks=exact.networks) != exact


def _survey(distilled: Distilled, judging: Judging) -> list[Column]:
    own = own_protocol(distilled)
    hard = ordinary_protocol(distilled, own.augmentation)
    found = [Column("hard labels", judging.of(hard))]
    if _is_own(own) or hard.labels != own.labels:
        found.append(Column("own", judging.of(own, own=_is_own(own))))
    return found


def _transfer(distilled: Distilled, judging: Judging) -> list[Column]:
    hard = ordinary_protocol(distilled, own_protocol(distilled).augmentation)
    return [
        Column(name, judging.of(hard.changed(network=name, options=None if name == hard.network else {})))
        for name in judging.transfer
    ]


def _recipes(distilled: Distilled, judging: Judging) -> list[Column]:
    found = []
    for name, augmentation in _AUGMENTATIONS.items():
        # One number of epochs for all, so that a column differs in what it is named after.
        sgd = ordinary_protocol(distilled, augmentation).changed(epochs=Evaluation.published().epochs)
        adam = dataclasses.replace(sgd, protocol=f"{sgd.protocol}, adam", **_ADAM)
        found += [Column(f"sgd, {name}", judging.of(sgd)), Column(f"adam, {name}", judging.of(adam))]
    return found


def _fair(distilled: Distilled, judging: Judging) -> list[Column]:
    own = own_protocol(distilled)
    plain = dataclasses.replace(own, protocol=f"{own.protocol}, no augmentation", augmentation="")
    columns = {"hard labels": ordinary_protocol(distilled, own.augmentation), "own": own, NO_AUGMENTATION: plain}
    found = [Column(n, judging.of(e, own=n != "hard labels" and _is_own(own))) for n, e in columns.items()]
    return found if own.augmentation else found[:2]


COLUMNS: Mapping[str, Callable[[Distilled, Judging], Sequence[Column]]] = {
    "survey-1": _survey,
    "cross-architecture": _transfer,
    "robustness-to-recipe": _recipes,
    "fair-scores": _fair,
}
"""Name of a table to the protocols under which it judges a set."""
