"""Published test accuracies, printed beside measured ones.

Accuracies are in percent at 1, 10 and 50 images per class. Errors in table 1 of the survey (Lei and Tao,
arXiv:2301.05603) are corrected with the values of the methods' repositories: DC on MNIST at ipc 10 has 97.4, not 94.7;
DSA on FashionMNIST at ipc 10 has 84.6, not 86.6. Not used are its DC row of CIFAR-100, a copy of the DSA row, and its
DM value of MNIST at ipc 50, that of herding. Its "DCC" and "CAFE" are these methods with DSA augmentation.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

from ddsdk.training import TrainingProtocol

PublishedProtocol = Literal["plain", "augmented", "own"]
"""Protocol of a published accuracy: DC's with a ConvNet-3 of width 128, DC's with augmentation, or the method's own."""

_SURVEY = "Lei and Tao, arXiv:2301.05603, table 1"
_REPOSITORY = "VICO-UoE/DatasetCondensation"
_QUOTED = "quoted from later papers; not read at its source"
_IDC = "snu-mllab/Efficient-Dataset-Condensation"
_LATER = "read in the tables of later papers (FTD, NCFM) and their repositories"
_FRED = "Shin et al., NeurIPS 2023, README of the authors' code"
_META = "Lei and Tao, arXiv:2301.05603, table 1; networks of the papers' own"
_IPCS = (1, 10, 50)


class Published(NamedTuple):
    """Published accuracies of a method on a data set.

    Attributes:
        accuracies: Test accuracies in percent at 1, 10 and 50 images per class; None for an unpublished one.
        source: Paper or repository of the accuracies.
        under: Evaluation protocol: ``"plain"``, ``"augmented"`` or ``"own"``.
    """

    accuracies: tuple[float | None, float | None, float | None]
    source: str
    under: PublishedProtocol


PUBLISHED: dict[tuple[str, str], Published] = {
    ("mnist", "random"): Published((64.9, 95.1, 97.9), _SURVEY, "plain"),
    ("mnist", "herding"): Published((89.2, 93.7, 94.8), _SURVEY, "plain"),
    ("mnist", "dc"): Published((91.7, 97.4, 98.8), _REPOSITORY, "augmented"),
    ("mnist", "dsa"): Published((88.7, 97.8, 99.2), _REPOSITORY, "augmented"),
    ("mnist", "cafe"): Published((90.8, 97.5, 98.9), _SURVEY, "augmented"),
    ("mnist", "dm"): Published((89.7, 97.5, 98.6), _QUOTED, "augmented"),
    ("mnist", "fred"): Published((95.8, 97.6, None), _FRED, "own"),
    ("mnist", "m3d"): Published((94.4, 97.6, 98.2), _QUOTED, "augmented"),
    ("mnist", "dd"): Published((None, 79.5, None), _META, "own"),
    ("mnist", "ld"): Published((60.9, 87.3, 93.3), _META, "own"),
    ("mnist", "rtp"): Published((98.7, 99.3, 99.4), _META, "own"),
    ("mnist", "kip"): Published((90.1, 97.5, 98.3), _META, "own"),
    ("mnist", "frepo"): Published((93.0, 98.6, 99.2), _META, "own"),
    ("mnist", "rfad"): Published((94.4, 98.5, 98.8), _META, "own"),
    ("mnist", "idc"): Published((94.2, 98.4, 99.1), _IDC, "own"),
    ("mnist", "mtt"): Published((91.4, 97.3, 98.5), _SURVEY, "own"),
    ("fashion-mnist", "random"): Published((51.4, 73.8, 82.5), _SURVEY, "plain"),
    ("fashion-mnist", "herding"): Published((67.0, 71.1, 71.9), _SURVEY, "plain"),
    ("fashion-mnist", "dc"): Published((70.5, 82.3, 83.6), _REPOSITORY, "plain"),
    ("fashion-mnist", "dsa"): Published((70.6, 84.6, 88.7), _REPOSITORY, "augmented"),
    ("fashion-mnist", "dm"): Published((70.7, 83.5, 88.1), _QUOTED, "augmented"),
    ("fashion-mnist", "cafe"): Published((73.7, 83.0, 88.2), _SURVEY, "augmented"),
    ("fashion-mnist", "idc"): Published((81.0, 86.0, 86.2), _IDC, "own"),
    ("fashion-mnist", "mtt"): Published((75.1, 87.2, 88.3), _SURVEY, "own"),
    ("fashion-mnist", "fred"): Published((84.6, 89.1, None), _FRED, "own"),
    ("fashion-mnist", "m3d"): Published((80.7, 85.0, 86.2), _QUOTED, "augmented"),
    ("fashion-mnist", "rtp"): Published((88.5, 90.0, 91.2), _META, "own"),
    ("fashion-mnist", "kip"): Published((73.5, 86.8, 88.0), _META, "own"),
    ("fashion-mnist", "frepo"): Published((75.6, 86.2, 89.6), _META, "own"),
    ("fashion-mnist", "rfad"): Published((78.6, 87.0, 88.8), _META, "own"),
    ("cifar10", "dd"): Published((None, 36.8, None), _META, "own"),
    ("cifar10", "ld"): Published((25.7, 38.3, 42.5), _META, "own"),
    ("cifar10", "rtp"): Published((66.4, 71.2, 73.6), _META, "own"),
    ("cifar10", "kip"): Published((49.9, 62.7, 68.6), _META, "own"),
    ("cifar10", "frepo"): Published((46.8, 65.5, 71.7), _META, "own"),
    ("cifar10", "rfad"): Published((53.6, 66.3, 71.1), _META, "own"),
    ("cifar10", "random"): Published((14.4, 26.0, 43.4), _SURVEY, "plain"),
    ("cifar10", "herding"): Published((21.5, 31.6, 40.4), _SURVEY, "plain"),
    ("cifar10", "dc"): Published((28.3, 44.9, 53.9), _REPOSITORY, "plain"),
    ("cifar10", "dsa"): Published((28.8, 52.1, 60.6), _REPOSITORY, "augmented"),
    ("cifar10", "dm"): Published((26.0, 48.9, 63.0), _SURVEY, "augmented"),
    ("cifar10", "dcc"): Published((34.0, 54.5, 64.2), _LATER, "augmented"),
    ("cifar10", "cafe"): Published((31.6, 50.9, 62.3), _LATER, "augmented"),
    ("cifar10", "idc"): Published((50.6, 67.5, 74.5), _IDC, "own"),
    ("cifar10", "mtt"): Published((46.3, 65.3, 71.6), _SURVEY, "own"),
    ("cifar10", "ftd"): Published((46.8, 66.6, 73.8), _LATER, "own"),
    ("cifar10", "tesla"): Published((48.5, 66.4, 72.6), _SURVEY, "own"),
    ("cifar10", "haba"): Published((48.3, 69.9, 74.0), _SURVEY, "own"),
    ("cifar10", "kfs"): Published((59.8, 72.0, 75.0), _SURVEY, "augmented"),
    ("cifar10", "fred"): Published((60.6, 70.3, 75.8), _FRED, "own"),
    ("cifar10", "idm"): Published((45.6, 58.6, 67.5), _LATER, "augmented"),
    ("cifar10", "m3d"): Published((45.3, 63.5, 69.9), _LATER, "augmented"),
    ("cifar10", "datadam"): Published((None, 54.2, 67.0), _LATER, "augmented"),
    ("cifar10", "ncfm"): Published((49.5, 71.8, 77.4), _LATER, "augmented"),
}
"""Published accuracies by (data set, method)."""

TRANSFER: dict[tuple[str, str, int], dict[str, float]] = {
    ("cifar10", "mtt", 10): {"convnet": 65.3, "resnet18": 38.8, "resnet152": 15.9},
    ("cifar10", "dsa", 10): {"convnet": 52.1, "resnet18": 42.1, "resnet152": 16.1},
    ("cifar10", "dm", 10): {"convnet": 48.9, "resnet18": 38.2, "resnet152": 15.6},
}
"""Table 3 of the survey: accuracies of sets distilled with a ConvNet, by (data set, method, ipc) and by network."""


def published(data: str, method: str, ipc: int, under: PublishedProtocol) -> float | None:
    """Return the published accuracy of a method under a protocol, in percent; None if there is none."""
    entry = PUBLISHED.get((data, method))
    if entry is None or ipc not in _IPCS or entry.under != under:
        return None
    return entry.accuracies[_IPCS.index(ipc)]


def comparable_kind(protocol: TrainingProtocol, own: TrainingProtocol | None = None) -> PublishedProtocol | None:
    """Return the kind of published accuracies that are comparable with a protocol; None if none are.

    Args:
        protocol: Evaluation protocol. The number of networks and the kind of labels do not affect comparability.
        own: Protocol of the method that made the evaluated set; None for no method.
    """
    common = TrainingProtocol.published(protocol.augmentation)
    if dataclasses.replace(protocol, networks=common.networks, labels=common.labels) == common:
        return "augmented" if protocol.augmentation else "plain"
    # Published accuracies of kernel methods are those of finite networks, not of kernel ridge regression; those of
    # probes belong to other backbones.
    if own is None or own.learner != "network":
        return None
    return "own" if dataclasses.replace(protocol, networks=own.networks) == own else None
