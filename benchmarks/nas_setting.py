"""Candidates, images and truth of `benchmarks.nas`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch.nn.functional import adaptive_avg_pool2d

import ddsdk as dd
from ddsdk.experiments import Executor, InProcess, Processes
from ddsdk.foundation import require, require_count, require_rate, strict_json
from ddsdk_integrations.nas import (
    Candidate,
    Cell,
    CellSpace,
    ConvNetSpace,
    Proxy,
    Ranking,
    early_stopping,
    rank,
    read_accuracies,
    unique,
)

KNOWN_TRUTH = Path(__file__).parent / "nas_truth.json"


class Parts(NamedTuple):
    """Images of the benchmark, none of them in two parts.

    Attributes:
        train: Images on which candidates train, and of which sets are made.
        held_out: Images by which proxies score.
        test: Images by which the truth is told.
    """

    train: dd.RealData
    held_out: dd.RealData
    test: dd.RealData


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Values that truth and proxies share.

    Attributes:
        space: ConvNets, or cells of NAS-Bench-201, each in the published network of 16 channels and 15 cells, which
            takes a GPU.
        candidates: Number of the 720 ConvNets, or of the different cells.
        side: Pixels of a side, to which images are averaged down or repeated.
        widths: Widths of the ConvNets, in place of 32, 64, 128 and 256.
        train: Training images of each class.
        validation: Images of each class for the scores of proxies, from the training images too.
        epochs: Epochs of the truth.
        batch_size: Images of a step of all training.
        lr: Learning rate of all training, with warm-up and a cosine.
        truth_seeds: Trainings of each candidate for the truth.
        repeats: Trainings of each candidate for a proxy.
        accuracies: Table of the accuracies of cells that is the truth: CSV with a column "arch" and one for each data;
            empty where the truth is measured.
        column: Column of the table.
        fresh_truth: Whether the truth is measured also where the file of known truth has it.
        device: Device on which candidates train.
        processes: Processes that share the work; 1 works in this one.
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
        require_rate("lr", self.lr)
        require(not self.accuracies or self.space == "cells", "accuracies", "be empty but for cells", self.accuracies)

    @property
    def evaluation(self) -> dd.Evaluation:
        """Protocol by which every candidate trains."""
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
        """Return the space of networks for the data."""
        shape, classes = data.image_shape, data.num_classes
        if self.space == "cells":
            return CellSpace(image_shape=shape, num_classes=classes)
        return ConvNetSpace(image_shape=shape, num_classes=classes, widths=self.widths)

    def drawn(self, data: dd.RealData, count: int, purpose: str) -> tuple[Candidate, ...]:
        """Return candidates, always the same: a balanced sample of the ConvNets, or different cells without twins.

        Args:
            data: Data whose shape and classes the networks fit.
            count: Number of candidates.
            purpose: Word from which the draw derives.
        """
        space, rng = self.space_of(data), dd.generator("nas", purpose)
        if isinstance(space, ConvNetSpace):
            return space.sample(count, rng)
        cells = list(unique(Cell(tuple(one.values())) for one in space.combinations()))
        require(count <= len(cells), "candidates", f"be at most {len(cells)}", count)
        return tuple(space.of(cells[i]) for i in torch.randperm(len(cells), generator=rng)[:count].tolist())

    def chosen(self, data: dd.RealData) -> tuple[Candidate, ...]:
        """Return the candidates that are ranked."""
        return self.drawn(data, self.candidates, "candidates")

    def parts(self, train: dd.RealData, test: dd.RealData) -> Parts:
        """Return the images of the benchmark.

        Raises:
            ValueError: If a class has too few.
        """
        small, small_test = (_resized(data.to(self.device), self.side) for data in (train, test))
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

    def ranked(self, proxy: Proxy, parts: Parts, folder: Path, name: str, seeds: int) -> Ranking:
        """Return the ranking of the candidates by a proxy; what the folder holds already is not computed again.

        Args:
            proxy: Proxy that gives the scores.
            parts: Images of the benchmark.
            folder: Folder of the units of work.
            name: Name of the proxy; the truth has random numbers of its own.
            seeds: Scores of each candidate.
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
        """Return the truth: that of a table, the known one where it was measured so, or one that is measured now.

        Args:
            train: All training images.
            test: All test images.
            parts: Images of the benchmark.
            folder: Folder of the units of work.
        """
        if self.accuracies:
            known = read_accuracies(self.accuracies, self.column)
            names = [one.name for one in self.chosen(parts.train)]
            return Ranking(name="truth", scores={name: (known[Cell.parse(name)],) for name in names})
        found = None if self.fresh_truth else self.known_truth(train, test)
        if found is None:
            whole = early_stopping(parts.train, parts.held_out, evaluation=self.evaluation, test=parts.test)
            found = self.ranked(whole, parts, folder, "truth", self.truth_seeds)
        return found

    def known_truth(self, train: dd.RealData, test: dd.RealData) -> Ranking | None:
        """Return the kept truth, if it was measured on these images with the same values of all its fields."""
        kept, own = strict_json(KNOWN_TRUTH.read_bytes()), dataclasses.asdict(self)
        same = all(tuple(v) == own[k] if isinstance(v, list) else v == own[k] for k, v in kept["setting"].items())
        on_these = (kept["train"], kept["test"]) == (train.fingerprint, test.fingerprint)
        return Ranking.from_dict(kept["ranking"]) if same and on_these else None


def _resized(data: dd.RealData, side: int) -> dd.RealData:
    images = adaptive_avg_pool2d(data.unit_images(), side).clamp(0, 1)
    return data.with_items(images, data.labels, dd.Preprocess.unit(images.shape[1]))
