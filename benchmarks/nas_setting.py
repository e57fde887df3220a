"""Candidates, images and ground truth of `benchmarks.nas`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch.nn.functional import adaptive_avg_pool2d

import ddsdk as dd
from ddsdk.experiments import Executor, InProcess, Processes
from ddsdk.foundation import require, require_count, require_positive, strict_json
from ddsdk_integrations.nas import (
    Candidate,
    Cell,
    CellSpace,
    ConvNetSpace,
    Proxy,
    Ranking,
    early_stopping,
    equivalence_classes,
    rank,
    read_accuracies,
)

KNOWN_TRUTH = Path(__file__).parent / "nas_truth.json"


class Parts(NamedTuple):
    """Disjoint parts of the images.

    Attributes:
        train: Training images of the candidates, from which sets are distilled.
        held_out: Validation images for the scores of proxies.
        test: Test images for the ground truth.
    """

    train: dd.RealData
    held_out: dd.RealData
    test: dd.RealData


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Settings of ground truth and proxies.

    Attributes:
        space: Search space. convnets: 720 ConvNets. cells: cells of NAS-Bench-201 in the published network of 16
            channels and 15 cells, which needs a GPU.
        candidates: Number of candidates from the search space.
        side: Side of the images in pixels, at least 16. Images are resized by adaptive average pooling.
        widths: Widths of the ConvNets, which replace the published 32, 64, 128 and 256.
        train: Number of training images of each class.
        validation: Number of validation images of each class for the scores of proxies, from the training split.
        epochs: Number of training epochs for the ground truth.
        batch_size: Batch size of all trainings.
        lr: Peak learning rate of all trainings, with warm-up and cosine annealing.
        truth_seeds: Number of trainings of each candidate for the ground truth, at least 2.
        repeats: Number of trainings of each candidate for a proxy.
        accuracies: CSV file with the ground truth of cells, with a column "arch" and a column for each data set. Empty:
            the ground truth is measured.
        column: Column of the file `accuracies` with the ground truth.
        fresh_truth: Whether the ground truth is measured even if it is in benchmarks/nas_truth.json.
        device: Torch device of all trainings, such as cpu or cuda.
        processes: Number of worker processes; 1 for no further process.
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
    repeats: int = 1
    accuracies: str = ""
    column: str = "cifar10"
    fresh_truth: bool = False
    device: str = "cpu"
    processes: int = 1

    def __post_init__(self) -> None:
        for name in ("candidates", "train", "validation", "epochs", "batch_size", "repeats", "processes"):
            require_count(name, getattr(self, name))
        require_count("side", self.side, least=16)
        require_count("truth_seeds", self.truth_seeds, least=2)
        require_positive("lr", self.lr)
        require(not self.accuracies or self.space == "cells", "accuracies", "be empty but for cells", self.accuracies)

    @property
    def protocol(self) -> dd.TrainingProtocol:
        """Training protocol of all candidates."""
        return dd.TrainingProtocol(
            name="nas",
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            schedule="cosine",
            decay=0.0,
            decay_at=(),
            warm_up=0.1,
        )

    def space_of(self, data: dd.RealData) -> ConvNetSpace | CellSpace:
        """Return the search space for images and classes of a data set."""
        shape, classes = data.image_shape, data.num_classes
        if self.space == "cells":
            return CellSpace(image_shape=shape, num_classes=classes)
        return ConvNetSpace(image_shape=shape, num_classes=classes, widths=self.widths)

    def drawn(self, data: dd.RealData, count: int, purpose: str) -> tuple[Candidate, ...]:
        """Return a reproducible sample of candidates: balanced ConvNets, or functionally different cells.

        Args:
            data: Data set with the image shape and classes of the networks.
            count: Number of candidates in the sample.
            purpose: Key of the random generator; each purpose has its own sample.
        """
        space, rng = self.space_of(data), dd.generator("nas", purpose)
        if isinstance(space, ConvNetSpace):
            return space.sample(count, rng)
        cells = list(equivalence_classes(Cell(tuple(choice.values())) for choice in space.combinations()))
        require(count <= len(cells), "candidates", f"be at most {len(cells)}", count)
        return tuple(space.of(cells[i]) for i in torch.randperm(len(cells), generator=rng)[:count].tolist())

    def chosen(self, data: dd.RealData) -> tuple[Candidate, ...]:
        """Return the ranked candidates."""
        return self.drawn(data, self.candidates, "candidates")

    def parts(self, train: dd.RealData, test: dd.RealData) -> Parts:
        """Return the parts of the images, resized and normalised. A class with too few images is a ValueError."""
        small, small_test = (_resized(data.to(self.device), self.side) for data in (train, test))
        train_indices, held_out_indices = [], []
        for c in range(train.num_classes):
            index = small.index_of_class(c)
            needed = self.train + self.validation
            require(len(index) >= needed, "train", f"leave {needed} images of class {c}", len(index))
            order = index[torch.randperm(len(index), generator=dd.generator("nas", "parts", c))]
            train_indices.append(order[: self.train])
            held_out_indices.append(order[self.train : needed])
        part = small.subset(torch.cat(train_indices))
        normalise = dd.Preprocess.fit_normalise(part.images)
        held_out = small.subset(torch.cat(held_out_indices))
        return Parts(*(data.with_preprocess(normalise) for data in (part, held_out, small_test)))

    def ranked(self, proxy: Proxy, parts: Parts, folder: Path, name: str, seeds: int) -> Ranking:
        """Return the ranking of the candidates by a proxy. Stored scores are not computed again.

        Args:
            proxy: Proxy that scores the candidates.
            parts: Images of the benchmark.
            folder: Folder of the store of work units.
            name: Name of the proxy. Proxies share their random numbers; the ground truth has others.
            seeds: Number of scores of each candidate.
        """
        executor: Executor = InProcess() if self.processes == 1 else Processes(self.processes)
        return rank(
            self.chosen(parts.train),
            proxy,
            seed=dd.generator("nas", "truth" if name == "truth" else "proxies"),
            seeds=seeds,
            store=folder / "units",
            executor=executor,
            name=name,
            wall_clock=self.device != "cpu",
        )

    def truth(self, train: dd.RealData, test: dd.RealData, parts: Parts, folder: Path) -> Ranking:
        """Return the ground truth, from a table of accuracies, from an equal earlier measurement, or measured now.

        Args:
            train: Whole training split of the data set.
            test: Whole test split of the data set.
            parts: Images of the benchmark.
            folder: Folder of the store of work units.
        """
        if self.accuracies:
            accuracies = read_accuracies(self.accuracies, self.column)
            names = [candidate.name for candidate in self.chosen(parts.train)]
            return Ranking(name="truth", scores={name: (accuracies[Cell.parse(name)],) for name in names})
        truth = None if self.fresh_truth else self.known_truth(train, test)
        if truth is None:
            full_training = early_stopping(parts.train, parts.held_out, protocol=self.protocol, test=parts.test)
            truth = self.ranked(full_training, parts, folder, "truth", self.truth_seeds)
        return truth

    def known_truth(self, train: dd.RealData, test: dd.RealData) -> Ranking | None:
        """Return the ground truth in `KNOWN_TRUTH`, if it was measured with equal images and settings; else None."""
        record, settings = strict_json(KNOWN_TRUTH.read_bytes()), dataclasses.asdict(self)
        equal_settings = all(
            tuple(value) == settings[name] if isinstance(value, list) else value == settings[name]
            for name, value in record["setting"].items()
        )
        equal_images = (record["train"], record["test"]) == (train.fingerprint, test.fingerprint)
        return Ranking.from_dict(record["ranking"]) if equal_settings and equal_images else None


def _resized(data: dd.RealData, side: int) -> dd.RealData:
    images = adaptive_avg_pool2d(data.unit_images(), side).clamp(0, 1)
    return data.with_items(images, data.labels, dd.Preprocess.unit(images.shape[1]))
