"""Networks that are trained on the real data once and stored: experts, pools and teachers.

Each run has one file with the weights of all its snapshots, as plain tensors (safetensors). The name of the file is a
hash of everything that determines the run: data, value space, layers and outputs of the network, training and seed. A
damaged file is renamed to ``.bad``, and its run is trained again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ddsdk.data import Augmentation, Batch, RealData, cutmix
from ddsdk.foundation import (
    CheckedDataclass,
    DivergedError,
    Fraction,
    Momentum,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    StorageError,
    cache_folder,
    canonical_json,
    derive,
    generator,
    make_folder,
    note,
    remove_stale_files,
    require,
    require_count,
    seeded_layers,
    strict_json,
    write_atomic,
)
from ddsdk.networks import (
    NetworkFactory,
    built,
    function_digest,
    network_name,
    require_repeatable,
    uses_batch_statistics,
)
from ddsdk.students.fresh import MakeStudent, calibrate, prepare_student
from ddsdk.training import (
    CurvaturePenalty,
    FlatNetwork,
    MemoryFallback,
    gradient_step,
    sharpness_aware_step,
    split_batches,
    weight_vector,
)


@final
@dataclass(frozen=True, kw_only=True)
class Training(CheckedDataclass):
    """Training of the runs on the real data by SGD, with a constant learning rate as trajectory matching needs it.

    Attributes:
        epochs: Number of passes over the real data.
        lr: Learning rate of SGD before its decay.
        decay_at: Fractions of the epochs, 0..1, after each of which the learning rate is multiplied by `decay`; empty
            for a constant rate.
        decay: Factor at each of `decay_at`.
        momentum: Momentum of SGD, 0 <= value < 1.
        weight_decay: Weight decay of SGD, at least 0.
        batch_size: Images in one training step.
        augmentation: Augmentation with different random numbers for each image, see `ddsdk.Augmentation`; empty for
            none.
        mix: Probability, 0..1, that a batch is mixed by CutMix.
        per_epoch: Number of snapshots in each epoch, evenly spaced, in addition to the initial weights.
        thin: Distance between stored snapshots: n stores every n-th snapshot, 1 stores all.
        half: True to store weights as float16, false for float32.
        sharpness: Radius rho of sharpness-aware steps; 0 for plain steps.
        surrogate: Weight of the surrogate gap in sharpness-aware steps.
        images: Number of real images of each class for a run, which shortens its epochs; None for all images.
        curvature: Weight of the penalty on the curvature of the loss in the images, see
            `ddsdk.training.CurvaturePenalty`; 0 for none.
        curvature_step: Step length of that penalty, in units of the value space.

    Examples:
        >>> import ddsdk
        >>> ddsdk.students.Training(epochs=50, thin=10).snapshots
        6
    """

    epochs: PositiveInt
    lr: PositiveFloat = 0.01
    momentum: Momentum = 0.0
    weight_decay: NonNegativeFloat = 0.0
    batch_size: PositiveInt = 256
    augmentation: str = ""
    mix: Fraction = 0.0
    per_epoch: PositiveInt = 1
    thin: PositiveInt = 1
    half: bool = False
    sharpness: NonNegativeFloat = 0.0
    surrogate: NonNegativeFloat = 0.3
    images: PositiveInt | None = None
    curvature: NonNegativeFloat = 0.0
    curvature_step: PositiveFloat = 3.0
    decay_at: tuple[float, ...] = ()
    decay: PositiveFloat = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(all(0 <= at <= 1 for at in self.decay_at), "decay_at", "hold fractions 0..1", self.decay_at)
        snapshots = self.epochs * self.per_epoch
        require(self.thin <= snapshots, "thin", f"not exceed the {snapshots} snapshots of a run", self.thin)
        compatible = not (self.sharpness and self.curvature)
        require(compatible, "curvature", "be 0 where steps are sharpness-aware", self.curvature)
        Augmentation(self.augmentation)

    @property
    def identity(self) -> dict[str, Any]:
        """Settings as JSON values, the part of a file's hash that describes the training."""
        # Fields of later versions are omitted at their defaults, so that older files keep their names.
        later = {"curvature": 0.0, "curvature_step": 3.0, "decay_at": (), "decay": 0.2}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in later or v != later[k]}

    def rate_in(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self.lr * self.decay ** sum(epoch >= at * self.epochs for at in self.decay_at)

    @property
    def penalty(self) -> CurvaturePenalty | None:
        """Penalty that is added to the training loss; None for none."""
        return CurvaturePenalty(weight=self.curvature, step=self.curvature_step) if self.curvature else None

    @property
    def snapshots(self) -> int:
        """Number of stored snapshots of a run, including the initial weights."""
        return 1 + self.epochs * self.per_epoch // self.thin


class RunProgress(NamedTuple):
    """Progress of the training of missing runs.

    Attributes:
        done: Number of finished epochs, over all missing runs.
        total: Number of epochs of all missing runs.

    Examples:
        >>> from ddsdk.students import RunProgress
        >>> progress = RunProgress(done=30, total=120)
        >>> f"{progress.done / progress.total:.0%}"
        '25%'
    """

    done: int
    total: int


@final
class TrainedRuns:
    """Networks trained on one data set with the same settings and different seeds, each trained at its first use.

    BatchNorm layers use batch statistics in the training and in `flat`; `network` measures their statistics on real
    images. Snapshots store weights alone.

    Args:
        real: Real data for the training.
        make_student: Factory of the networks.
        training: Settings of the training.
        count: Number of runs, at least 1.
        seed: Seed of the runs; run i derives its initialisation, order and augmentation from (seed, i).
        folder: Folder of the files, created if it does not exist; None for `cache_folder()`.

    Examples:
        >>> import pathlib, ddsdk
        >>> from ddsdk.students import TrainedRuns, Training
        >>> real, make_student = ddsdk.load("digits"), ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> training = Training(epochs=2, images=8)
        >>> runs = TrainedRuns(real, make_student, training, count=1, seed=0, folder=pathlib.Path("runs"))
        >>> len(list(runs.make())), runs.missing
        (2, [])
    """

    def __init__(
        self,
        real: RealData,
        make_student: MakeStudent,
        training: Training,
        *,
        count: int,
        seed: int,
        folder: Path | None = None,
    ) -> None:
        require_count("count", count)
        self.training = training
        self.folder = cache_folder() if folder is None else folder
        self._real, self._make_student = real, make_student
        if not isinstance(make_student, NetworkFactory):
            require_repeatable(make_student, network_name(make_student))
        self._network = prepare_student(make_student, real, generator("template"))
        self._flat = FlatNetwork(self._network.train())
        images = len(self._pool(generator("template")))
        rule = f"not exceed the {images} images of a run"
        require(training.per_epoch <= images, "per_epoch", rule, training.per_epoch)
        identity = self._identity()
        parts = (canonical_json({**identity, "seed": [seed, i]}) for i in range(count))
        self._keys = [hashlib.sha256(part).hexdigest()[:32] for part in parts]
        self._seed = seed
        self._intact: set[int] = set()

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self._keys)

    @property
    def flat(self) -> FlatNetwork:
        """Network of the runs as a function of weights and images."""
        return self._flat

    @property
    def nbytes(self) -> int:
        """Size of the files of all runs in bytes, without headers."""
        return len(self) * self.training.snapshots * self._flat.size * (2 if self.training.half else 4)

    @property
    def missing(self) -> list[int]:
        """Numbers of the runs without an intact file; a damaged file is renamed to ``.bad``."""
        return [i for i in range(len(self)) if not self._is_intact(i)]

    @property
    def seconds(self) -> float:
        """Wall-clock seconds that the training of the stored runs took; missing runs are not trained."""
        return sum(float(metadata["seconds"]) for metadata in self._metadata())

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds that the training of the stored runs took; wall-clock seconds for files of older versions."""
        return sum(float(metadata.get("cpu_seconds", metadata["seconds"])) for metadata in self._metadata())

    def estimate(self) -> float:
        """Return the estimated seconds of the training of the missing runs, from the time of a few batches."""
        missing = len(self.missing)
        if not missing:
            return 0.0
        key, training = generator("estimate"), self.training
        network, pool = prepare_student(self._make_student, self._real, key).train(), self._pool(key)
        optimizer = torch.optim.SGD(network.parameters(), lr=training.lr)
        times = []
        for i in range(4):
            began = time.perf_counter()
            order = pool[torch.randperm(len(pool), generator=derive(key, i))][: training.batch_size]
            self._train_on(network, optimizer, order, derive(key, i), MemoryFallback())
            times.append(time.perf_counter() - began)
        batches = -(-len(pool) // training.batch_size)
        # The first batch includes one-time costs.
        return missing * training.epochs * batches * max(times[1:])

    def make(self) -> Iterator[RunProgress]:
        """Train the missing runs; each step of the returned iterator is one epoch.

        DivergedError is raised if the weights of a run are not finite, and StorageError if a file cannot be written. A
        folder that cannot be created is reported before any training.

        Yields:
            The progress after each epoch.
        """
        missing = self.missing
        total = len(missing) * self.training.epochs
        for n, i in enumerate(missing):
            for epoch in self._make(i):
                yield RunProgress(n * self.training.epochs + epoch, total)

    def weights(self, run: int, snapshot: int) -> Tensor:
        """Return the weights of one snapshot, (P,) float32 on the device of the data; trains the run if it is missing.

        Args:
            run: Number of the run, 0..len-1.
            snapshot: Number of the snapshot: 0 for the initial weights, -1 for the last ones.
        """
        # A negative number would have the file name of a run from the end, but other random numbers.
        require(0 <= run < len(self), "run", f"lie in 0..{len(self) - 1}", run)
        rows = self.training.snapshots
        require(-rows <= snapshot < rows, "snapshot", f"lie in {-rows}..{rows - 1}", snapshot)
        if not self._is_intact(run):
            for _ in self._make(run):
                pass
        with safe_open(self._path(run), "pt") as file:
            row: Tensor = file.get_slice("weights")[snapshot % rows]
        # A copy, because the row is a memory map of the file and invalid once the file is closed.
        return row.to(self._real.device, torch.float32, copy=True)

    def network(self, run: int, snapshot: int = -1) -> nn.Module:
        """Return a new network with the weights of one snapshot, see `weights` and `network_from_weights`."""
        return self.network_from_weights(self.weights(run, snapshot))

    def network_from_weights(self, weights: Tensor) -> nn.Module:
        """Return a new network of the runs' architecture with given weights, (P,).

        BatchNorm layers get the statistics of about 512 real images under these weights, equally many of each class
        and at least 16.
        """
        key = generator("template")
        network = prepare_student(self._make_student, self._real, key)
        FlatNetwork(network).load_(weights)
        # Snapshots have no statistics, and those of the initial weights are wrong for other weights.
        calibrate(network, self._real, key, max(16, -(-512 // self._real.num_classes)))
        # Random layers such as dropout are off in a trained network that labels or leads.
        return network.eval()

    def _identity(self) -> dict[str, Any]:
        """Return everything but the seed that determines a run, for the hash that names its file."""
        space, tensors = self._real.preprocess.to_state()
        student = built(self._make_student, generator("identity"))
        return {
            "format": 1,
            "data": self._real.fingerprint,
            "space": space,
            "whitening": [_digest(tensors[name]) for name in sorted(tensors)],
            "architecture": str(self._network),
            "initialisation": _digest(weight_vector(student)),
            "function": function_digest(student, self._real.image_shape),
            "training": self.training.identity,
        }

    def _path(self, run: int) -> Path:
        return self.folder / f"run-{self._keys[run]}.safetensors"

    def _is_intact(self, run: int) -> bool:
        path = self._path(run)
        if not path.is_file():
            return False
        if run in self._intact:
            return True
        try:
            with safe_open(path, "pt") as file:
                metadata, weights = strict_json(file.metadata()["ddsdk"].encode()), file.get_tensor("weights")
            complete = tuple(weights.shape) == (self.training.snapshots, self._flat.size)
            intact = complete and metadata["sha256"] == _digest(weights) and float(metadata["seconds"]) >= 0
        except (SafetensorError, ValueError, KeyError, TypeError, OSError):
            intact = False
        if intact:
            self._intact.add(run)
        else:
            with _storage_errors(self.folder):
                path.replace(path.with_suffix(".bad"))
            note(f"{str(path)!r} is damaged and now ends in .bad; network {run + 1} of {len(self)} is trained again")
        return intact

    def _metadata(self) -> Iterator[dict[str, Any]]:
        for run in filter(self._is_intact, range(len(self))):
            with safe_open(self._path(run), "pt") as file:
                yield strict_json(file.metadata()["ddsdk"].encode())

    def _make(self, run: int) -> Iterator[int]:
        make_folder(self.folder)
        remove_stale_files(self.folder)
        started, rows = (time.perf_counter(), time.process_time()), []
        for epoch, snapshots in self._train(generator(self._seed, "run", run)):
            rows += snapshots
            # The last epoch is yielded after the file is written, so that a caller who stops there loses nothing.
            if 0 < epoch < self.training.epochs:
                yield epoch
        weights = torch.stack(rows).to(torch.float16 if self.training.half else torch.float32)
        # The check follows the conversion, because numbers beyond the range of float16 become infinite.
        if not bool(torch.isfinite(weights).all()):
            raise DivergedError(f"the weights of trained run {run} are not finite; lower its lr of {self.training.lr}")
        metadata = {
            "sha256": _digest(weights),
            "seconds": round(time.perf_counter() - started[0], 3),
            "cpu_seconds": round(time.process_time() - started[1], 3),
        }
        write_atomic(self._path(run), save({"weights": weights}, {"ddsdk": canonical_json(metadata).decode()}))
        self._intact.add(run)
        yield self.training.epochs

    def _train(self, key: torch.Generator) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield the number of finished epochs and the snapshots of the last one, from (0, [initial weights]) on."""
        training = self.training
        network = prepare_student(self._make_student, self._real, key)
        network.train()
        optimizer = torch.optim.SGD(
            network.parameters(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
        )
        pool, snapshots, memory = self._pool(key), 0, MemoryFallback()
        yield 0, [weight_vector(network).cpu()]
        for epoch in range(training.epochs):
            optimizer.param_groups[0]["lr"] = training.rate_in(epoch)
            order, rows = pool[torch.randperm(len(pool), generator=derive(key, "order", epoch))], []
            for i, part in enumerate(torch.tensor_split(order, training.per_epoch)):
                key_of_part = derive(key, "epoch", epoch, i)
                with seeded_layers(derive(key_of_part, "layers")):
                    self._train_on(network, optimizer, part, key_of_part, memory)
                snapshots += 1
                if snapshots % training.thin == 0:
                    rows.append(weight_vector(network).cpu())
            yield epoch + 1, rows

    def _pool(self, key: torch.Generator) -> Tensor:
        if self.training.images is None:
            return torch.arange(len(self._real))
        positions = []
        for c in range(self._real.num_classes):
            index = self._real.index_of_class(c)
            order = torch.randperm(len(index), generator=derive(key, "pool", c))
            positions.append(index[order][: self.training.images])
        return torch.cat(positions)

    def _train_on(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        order: Tensor,
        key: torch.Generator,
        memory: MemoryFallback,
    ) -> None:
        training, augmentation = self.training, Augmentation(self.training.augmentation)
        for i, part in enumerate(split_batches(order, training.batch_size, uses_batch_statistics(network))):
            x, y = self._real.batch(part)
            draw = augmentation.per_image(len(x), derive(key, "augmentation", i))
            batch = Batch(*cutmix(draw(x), y, training.mix, derive(key, "mix", i)))
            if training.sharpness:
                sharpness_aware_step(network, optimizer, batch, rho=training.sharpness, alpha=training.surrogate)
            else:
                gradient_step(network, optimizer, batch, penalty=training.penalty, memory=memory)


@contextlib.contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write trained runs to {str(folder)!r}: {error.strerror or error}") from error


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().cpu().numpy().tobytes()).hexdigest()
