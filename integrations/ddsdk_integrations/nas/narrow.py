"""The benchmark's candidates and data, and how candidates train: what truth and proxies share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

import ddsdk as dd
from ddsdk.foundation import require, require_count, require_rate
from ddsdk_integrations.nas.cells import Cell, CellSpace, unique
from ddsdk_integrations.nas.convnets import ConvNetSpace
from ddsdk_integrations.nas.space import Candidate


class Parts(NamedTuple):
    """Images of the benchmark, none of them in two parts.

    Attributes:
        train: What candidates train on, and what sets are made of.
        held_out: By which proxies score.
        test: By which the truth is told.
    """

    train: dd.RealData
    held_out: dd.RealData
    test: dd.RealData


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What truth and proxies share.

    Attributes:
        space: ConvNets, or cells of NAS-Bench-201, each in the published network of 16 channels and 15 cells.
        candidates: How many of the 720 ConvNets, or of the different cells.
        side: Images are averaged down, or their pixels repeated, to so many a side.
        widths: Of the ConvNets, in place of 32, 64, 128 and 256.
        train: Training images of each class.
        validation: Images of each class for the scores of proxies, from the training images too.
        epochs: Of the truth.
        batch_size: Of all training.
        lr: Of all training, with warm-up and a cosine.
        truth_seeds: Trainings of each candidate for the truth.
    """

    space: Literal["convnets", "cells"] = "convnets"
    candidates: int = 100
    side: int = 16
    widths: tuple[int, ...] = (4, 8, 16, 32)
    train: int = 400
    validation: int = 200
    epochs: int = 5
    batch_size: int = 50
    lr: float = 0.05
    truth_seeds: int = 2

    def __post_init__(self) -> None:
        for name in ("candidates", "train", "validation", "epochs", "batch_size"):
            require_count(name, getattr(self, name))
        require_count("side", self.side, least=16)
        require_count("truth_seeds", self.truth_seeds, least=2)
        require_rate("lr", self.lr)
        require(self.space in ("convnets", "cells"), "space", "be 'convnets' or 'cells'", self.space)

    @property
    def evaluation(self) -> dd.Evaluation:
        """How every candidate trains."""
        return dd.Evaluation(
            protocol="nas",
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            schedule="cosine",
            decay=0.0,
            decay_at=(),
            warm_up=0.1,
        )

    def space_of(self, data: dd.RealData) -> ConvNetSpace | CellSpace:
        """Return the space for the data."""
        shape, classes = data.image_shape, data.num_classes
        if self.space == "cells":
            return CellSpace(image_shape=shape, num_classes=classes)
        return ConvNetSpace(image_shape=shape, num_classes=classes, widths=self.widths)

    def drawn(self, data: dd.RealData, count: int, purpose: str) -> tuple[Candidate, ...]:
        """Return candidates, always the same: a balanced sample of the ConvNets, or different cells without twins.

        Args:
            data: Which they are for.
            count: How many.
            purpose: Another one gives another draw.
        """
        space, rng = self.space_of(data), dd.generator("nas", purpose)
        if isinstance(space, ConvNetSpace):
            return space.sample(count, rng)
        cells = list(unique(Cell(tuple(one.values())) for one in space.combinations()))
        require(count <= len(cells), "candidates", f"be at most {len(cells)}", count)
        return tuple(space.of(cells[i]) for i in torch.randperm(len(cells), generator=rng)[:count].tolist())

    def chosen(self, data: dd.RealData) -> tuple[Candidate, ...]:
        """Return the candidates of the benchmark."""
        return self.drawn(data, self.candidates, "candidates")

    def parts(self, train: dd.RealData, test: dd.RealData) -> Parts:
        """Return the images.

        Args:
            train: All training images.
            test: All test images.

        Raises:
            ValueError: If a class has too few.
        """
        small, small_test = _averaged(train, self.side), _averaged(test, self.side)
        first, second = [], []
        for c in range(train.num_classes):
            index = small.index_of_class(c)
            need = self.train + self.validation
            require(len(index) >= need, "train", f"leave {need} images of class {c}", len(index))
            order = index[torch.randperm(len(index), generator=dd.generator("nas", "parts", c))]
            first.append(order[: self.train])
            second.append(order[self.train : need])
        kept = small.subset(torch.cat(first))
        fitted = dd.Preprocess.fit_normalise(kept.images)
        held_out = small.subset(torch.cat(second))
        return Parts(*(part.with_preprocess(fitted) for part in (kept, held_out, small_test)))

    def told(self, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
        """Return what the truth depends on, JSON values.

        Args:
            train: All training images.
            test: All test images.
        """
        return {"setting": plain(self), "train": train.fingerprint, "test": test.fingerprint}


def plain(setting: Setting) -> dict[str, Any]:
    """Return a setting as JSON values."""
    values: Mapping[str, Any] = asdict(setting)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _averaged(data: dd.RealData, side: int) -> dd.RealData:
    images: Tensor = data.images
    unit = images.float() / 255 if images.dtype == torch.uint8 else images
    unit = adaptive_avg_pool2d(unit, side).clamp(0, 1)
    return dd.RealData(
        unit,
        data.labels,
        class_names=data.class_names,
        preprocess=dd.Preprocess.unit(unit.shape[1]),
        name=data.name,
        pictures=data.pictures,
        mirror_safe=data.mirror_safe,
    )
