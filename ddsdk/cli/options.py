"""Options that several verbs share: which data, which network, where to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ddsdk as dd
from ddsdk.errors import require

if TYPE_CHECKING:
    from ddsdk.students.fresh import MakeStudent

__all__ = ["DataOptions", "names", "network_options"]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which data, and where.

    Attributes:
        data: Name (digits, fashion-mnist, cifar10 ...), image folder, or parquet file.
        root: Where named data sets lie, or are downloaded to if they are not there.
        zca: Whiten (ZCA) instead of normalising.
        image_column: Column of a parquet file that holds the images; found by its type if not given.
        label_column: Column of a parquet file that holds the labels.
        device: cpu, cuda, cuda:1 ... Everything runs where the data is.
        threads: CPU threads; None leaves it to torch. It is part of what makes a run repeatable.
    """

    data: str
    root: str | None = None
    zca: bool = False
    image_column: str | None = None
    label_column: str | None = None
    device: str = "cpu"
    threads: int | None = None

    def train(self) -> dd.RealData:
        """Load the train split onto the device."""
        self._cap_threads()
        return dd.load(self.data, **self._where()).to(self.device)

    def pair(self) -> tuple[dd.RealData, dd.RealData]:
        """Load the train and test splits onto the device."""
        self._cap_threads()
        train, test = dd.load_pair(self.data, **self._where())
        return train.to(self.device), test.to(self.device)

    def _cap_threads(self) -> None:
        import torch

        if self.threads is not None:
            require(self.threads >= 1, "threads", "be at least 1", self.threads)
            torch.set_num_threads(self.threads)

    def _where(self) -> dict[str, Any]:
        return {
            "root": self.root,
            "zca": self.zca,
            "image_column": self.image_column,
            "label_column": self.label_column,
        }


def names(text: str) -> list[str]:
    """Split a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def network_options(network: str, width: int | None, depth: int | None) -> dict[str, Any]:
    """Return the options of a builder that were given; only the ConvNet has a width and a depth."""
    given = {k: v for k, v in (("width", width), ("depth", depth)) if v is not None}
    return given if network == "convnet" else {}


def make_student(real: dd.RealData, network: str, options: dict[str, Any]) -> MakeStudent:
    """Return the factory of students for `real`."""
    return dd.network_factory(network, real.image_shape, real.num_classes, **options)
