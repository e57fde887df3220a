"""The papers' figures as data, so that a measured one is never printed alone.

Test accuracy in percent of a ConvNet-3 of width 128 at 1, 10 and 50 images per class. None: not published.
Figures that the survey's table 1 misprints are given as in the methods' own repositories.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PUBLISHED", "Published", "published"]

_SURVEY = "Lei and Tao, arXiv:2301.05603, table 1"
_REPOSITORY = "VICO-UoE/DatasetCondensation"
_QUOTED = "quoted from later papers; not read at its source"
_IDC = "snu-mllab/Efficient-Dataset-Condensation"
_LATER = "read in the tables of later papers (FTD, NCFM) and their repositories"
_IPCS = (1, 10, 50)


class Published(NamedTuple):
    """Accuracies at 1, 10 and 50 images per class, in percent, and where they stand."""

    accuracies: tuple[float | None, float | None, float | None]
    source: str


PUBLISHED: dict[tuple[str, str], Published] = {
    ("mnist", "random"): Published((64.9, 95.1, 97.9), _SURVEY),
    ("mnist", "herding"): Published((89.2, 93.7, 94.8), _SURVEY),
    ("mnist", "dc"): Published((91.7, 97.4, 98.8), _REPOSITORY),
    ("mnist", "dsa"): Published((88.7, 97.8, 99.2), _REPOSITORY),
    ("mnist", "cafe"): Published((90.8, 97.5, 98.9), _SURVEY),
    ("mnist", "idc"): Published((94.2, 98.4, 99.1), _IDC),
    ("mnist", "mtt"): Published((91.4, 97.3, 98.5), _SURVEY),
    ("fashion-mnist", "random"): Published((51.4, 73.8, 82.5), _SURVEY),
    ("fashion-mnist", "herding"): Published((67.0, 71.1, 71.9), _SURVEY),
    ("fashion-mnist", "dc"): Published((70.5, 82.3, 83.6), _REPOSITORY),
    ("fashion-mnist", "dsa"): Published((70.6, 84.6, 88.7), _REPOSITORY),
    ("fashion-mnist", "dm"): Published((70.7, 83.5, 88.1), _QUOTED),
    ("fashion-mnist", "cafe"): Published((73.7, 83.0, 88.2), _SURVEY),
    ("fashion-mnist", "idc"): Published((81.0, 86.0, 86.2), _IDC),
    ("fashion-mnist", "mtt"): Published((75.1, 87.2, 88.3), _SURVEY),
    ("cifar10", "random"): Published((14.4, 26.0, 43.4), _SURVEY),
    ("cifar10", "herding"): Published((21.5, 31.6, 40.4), _SURVEY),
    ("cifar10", "dc"): Published((28.3, 44.9, 53.9), _REPOSITORY),
    ("cifar10", "dsa"): Published((28.8, 52.1, 60.6), _REPOSITORY),
    ("cifar10", "dm"): Published((26.0, 48.9, 63.0), _SURVEY),
    ("cifar10", "dcc"): Published((34.0, 54.5, 64.2), _LATER),
    ("cifar10", "cafe"): Published((30.3, 46.3, 55.5), _LATER),
    ("cifar10", "idc"): Published((50.6, 67.5, 74.5), _IDC),
    ("cifar10", "mtt"): Published((46.3, 65.3, 71.6), _SURVEY),
    ("cifar10", "ftd"): Published((46.8, 66.6, 73.8), _LATER),
    ("cifar10", "tesla"): Published((48.5, 66.4, 72.6), _SURVEY),
    ("cifar10", "haba"): Published((48.3, 69.9, 74.0), _SURVEY),
    ("cifar10", "kfs"): Published((59.8, 72.0, 75.0), _SURVEY),
    ("cifar10", "idm"): Published((45.6, 58.6, 67.5), _LATER),
    ("cifar10", "m3d"): Published((45.3, 63.5, 69.9), _LATER),
    ("cifar10", "datadam"): Published((None, 54.2, 67.0), _LATER),
    ("cifar10", "ncfm"): Published((49.5, 71.8, 77.4), _LATER),
}
"""(data set, method) to the published figures."""


def published(data: str, method: str, ipc: int) -> float | None:
    """Return the published accuracy in percent, or None."""
    found = PUBLISHED.get((data, method))
    return None if found is None or ipc not in _IPCS else found.accuracies[_IPCS.index(ipc)]
