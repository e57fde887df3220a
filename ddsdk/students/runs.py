"""Networks that are trained on the real data once and kept: experts, pools and teachers.

One file for each run holds a row of weights for each snapshot, as plain tensors (safetensors). Its name is a hash of
everything that the run depends on: data, value space, architecture, training and seed. A file that is damaged is set
aside and that run alone is made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
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
    Checked,
    DivergedError,
    Fraction,
    Momentum,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    StorageError,
    canonical_json,
    derive,
    generator,
    require,
    require_count,
    strict_json,
    sweep,
    write_atomic,
)
from ddsdk.students.fresh import MakeStudent, calibrate, enrol
from ddsdk.training import CurvaturePenalty, FlatNetwork, gradient_step, sharpness_aware_step, weight_vector


@final
@dataclass(frozen=True, kw_only=True)
class Training(Checked):
    """The training of the runs: SGD with a constant rate, as trajectories that can be followed need it.

    Attributes:
        epochs: Passes over the real data.
        lr: Learning rate.
        momentum: Momentum.
        weight_decay: Weight decay.
        batch_size: Images of one step.
        augmentation: Operations with numbers of their own for each image, see `ddsdk.Augmentation`.
        mix: Probability that a batch is mixed by CutMix.
        per_epoch: Snapshots in each epoch, evenly spaced; the first weights are always kept too.
        thin: Distance of the snapshots that are kept: 1 keeps all.
        half: Whether weights are stored as float16.
        sharpness: Radius of sharpness-aware steps; 0 for plain ones.
        surrogate: Weight of their surrogate-gap term.
        images: Real images of each class in the training; None for all. Fewer make shorter epochs.
        curvature: Weight of the curvature of the loss at the images, see `ddsdk.training.CurvaturePenalty`; 0 for none.
        curvature_step: Step of that curvature.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        taken = self.epochs * self.per_epoch
        require(self.thin <= taken, "thin", f"not exceed the {taken} snapshots of a run", self.thin)
        plain = not (self.sharpness and self.curvature)
        require(plain, "curvature", "be 0 where steps are sharpness-aware", self.curvature)
        Augmentation(self.augmentation)

    @property
    def identity(self) -> dict[str, Any]:
        """Fields as JSON values, without later ones that hold their defaults: older runs keep their names."""
        later = {"curvature": 0.0, "curvature_step": 3.0}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in later or v != later[k]}

    @property
    def penalty(self) -> CurvaturePenalty | None:
        """Penalty that is added to the loss of a step."""
        return CurvaturePenalty(weight=self.curvature, step=self.curvature_step) if self.curvature else None

    @property
    def snapshots(self) -> int:
        """Rows of a file: the first weights and those that thinning leaves."""
        return 1 + self.epochs * self.per_epoch // self.thin


class RunProgress(NamedTuple):
    """Progress of the making of missing runs: finished epochs, and epochs of all of them."""

    done: int
    total: int


def cache_folder() -> Path:
    """Return the folder of trained runs: ``$DDSDK_CACHE``, or ``ddsdk`` in the user's cache folder."""
    own = os.environ.get("DDSDK_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddsdk"


@final
class TrainedRuns:
    """Runs of one training on one data set, made at first use.

    Args:
        real: Data on which the networks train.
        make_student: Factory of the networks.
        training: Settings of the training.
        count: Number of runs.
        seed: Root of the runs: run i derives its initialisation, order and augmentation from (seed, i).
        folder: Folder of the files, made where it does not exist; None for `cache_folder()`.

    BatchNorm layers train with the statistics of their batch, in the runs and in `flat`; `network` measures them on
    real images. Snapshots hold weights alone.
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
        self._network = enrol(make_student, real, generator("template"))
        self._flat = FlatNetwork(self._network.train())
        shown = len(self._pool(generator("template")))
        rule = f"not exceed the {shown} images of a run"
        require(training.per_epoch <= shown, "per_epoch", rule, training.per_epoch)
        identity = self._identity()
        parts = (canonical_json({**identity, "seed": [seed, i]}) for i in range(count))
        self._keys = [hashlib.sha256(part).hexdigest()[:32] for part in parts]
        self._seed = seed
        self._sound: set[int] = set()

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self._keys)

    @property
    def flat(self) -> FlatNetwork:
        """Architecture of the runs, as a function of weights and images."""
        return self._flat

    @property
    def nbytes(self) -> int:
        """Bytes that the files of all runs take, headers not counted."""
        return len(self) * self.training.snapshots * self._flat.size * (2 if self.training.half else 4)

    @property
    def missing(self) -> list[int]:
        """Runs that are not there yet. A damaged file is renamed to ``.bad`` and counts as missing."""
        return [i for i in range(len(self)) if not self._is_sound(i)]

    @property
    def seconds(self) -> float:
        """Seconds that the making of the runs took, whenever that was; makes none."""
        return sum(float(note["seconds"]) for note in self._notes())

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds that the making of the runs took, wall-clock ones for files without; makes none."""
        return sum(float(note.get("cpu_seconds", note["seconds"])) for note in self._notes())

    def make(self) -> Iterator[RunProgress]:
        """Make the missing runs, giving control back after each epoch.

        Raises:
            DivergedError: If the weights of a run are not finite.
            StorageError: If a file cannot be written; where the folder cannot be made, before any training.
        """
        missing = self.missing
        total = len(missing) * self.training.epochs
        for n, i in enumerate(missing):
            for epoch in self._make(i):
                yield RunProgress(n * self.training.epochs + epoch, total)

    def weights(self, run: int, snapshot: int) -> Tensor:
        """Return one snapshot, (P,) float32 on the device of the data; the run is made if it is missing.

        Args:
            run: Number of the run, 0..len-1.
            snapshot: Number of the snapshot: 0 for the initialisation, -1 for the last one.
        """
        # Counting runs from the end would train another run under the key of the last one.
        require(0 <= run < len(self), "run", f"lie in 0..{len(self) - 1}", run)
        rows = self.training.snapshots
        require(-rows <= snapshot < rows, "snapshot", f"lie in {-rows}..{rows - 1}", snapshot)
        if not self._is_sound(run):
            for _ in self._make(run):
                pass
        with safe_open(self._path(run), "pt") as file:
            row: Tensor = file.get_slice("weights")[snapshot % rows]
        # A copy: the row itself is a map of the file, and dies with it.
        return row.to(self._real.device, torch.float32, copy=True)

    def network(self, run: int, snapshot: int = -1) -> nn.Module:
        """Return a new network with the weights of a snapshot, see `weights` and `made_of`."""
        return self.made_of(self.weights(run, snapshot))

    def made_of(self, weights: Tensor) -> nn.Module:
        """Return a new network of the runs' architecture with the given weights, (P,).

        BatchNorm layers get the statistics of some 512 real images, as many of each class, under these weights.
        """
        key = generator("template")
        network = enrol(self._make_student, self._real, key)
        FlatNetwork(network).load_(weights)
        # Statistics are not stored, and those of the first weights say nothing about these.
        return calibrate(network, self._real, key, max(16, -(-512 // self._real.num_classes)))

    def _identity(self) -> dict[str, Any]:
        """Return the facts on which every run depends; with the seed they are the name of a file."""
        space, tensors = self._real.preprocess.to_state()
        first = weight_vector(self._make_student(generator("identity")))
        return {
            "format": 1,
            "data": self._real.fingerprint,
            "space": space,
            "whitening": [_digest(tensors[name]) for name in sorted(tensors)],
            "architecture": str(self._network),
            "initialisation": _digest(first),
            "training": self.training.identity,
        }

    def _path(self, run: int) -> Path:
        return self.folder / f"run-{self._keys[run]}.safetensors"

    def _is_sound(self, run: int) -> bool:
        path = self._path(run)
        if not path.is_file():
            return False
        if run in self._sound:
            return True
        try:
            with safe_open(path, "pt") as file:
                note, weights = strict_json(file.metadata()["ddsdk"].encode()), file.get_tensor("weights")
            whole = tuple(weights.shape) == (self.training.snapshots, self._flat.size)
            sound = whole and note["sha256"] == _digest(weights) and float(note["seconds"]) >= 0
        except (SafetensorError, ValueError, KeyError, TypeError, OSError):
            sound = False
        if sound:
            self._sound.add(run)
        else:
            with _writing(self.folder):
                path.replace(path.with_suffix(".bad"))
        return sound

    def _notes(self) -> Iterator[dict[str, Any]]:
        for run in filter(self._is_sound, range(len(self))):
            with safe_open(self._path(run), "pt") as file:
                yield strict_json(file.metadata()["ddsdk"].encode())

    def _make(self, run: int) -> Iterator[int]:
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder)
        began, rows = (time.perf_counter(), time.process_time()), []
        for epoch, found in self._train(generator(self._seed, "run", run)):
            rows += found
            # The last epoch is yielded once the file is there: a stop then loses nothing.
            if 0 < epoch < self.training.epochs:
                yield epoch
        weights = torch.stack(rows).to(torch.float16 if self.training.half else torch.float32)
        # Checked after rounding: numbers beyond float16 are infinite there.
        if not bool(torch.isfinite(weights).all()):
            raise DivergedError(f"the weights of trained run {run} are not finite; lower its lr of {self.training.lr}")
        note = {
            "sha256": _digest(weights),
            "seconds": round(time.perf_counter() - began[0], 3),
            "cpu_seconds": round(time.process_time() - began[1], 3),
        }
        write_atomic(self._path(run), save({"weights": weights}, {"ddsdk": canonical_json(note).decode()}))
        self._sound.add(run)
        yield self.training.epochs

    def _train(self, key: torch.Generator) -> Iterator[tuple[int, list[Tensor]]]:
        """Train one network; yield finished epochs with the snapshots that each of them adds."""
        training = self.training
        network = enrol(self._make_student, self._real, key)
        network.train()
        optimizer = torch.optim.SGD(
            network.parameters(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
        )
        data, taken = self._pool(key), 0
        yield 0, [weight_vector(network).cpu()]
        for e in range(training.epochs):
            order, rows = data[torch.randperm(len(data), generator=derive(key, "order", e))], []
            for p, part in enumerate(torch.tensor_split(order, training.per_epoch)):
                self._pass(network, optimizer, part, derive(key, "epoch", e, p))
                taken += 1
                if taken % training.thin == 0:
                    rows.append(weight_vector(network).cpu())
            yield e + 1, rows

    def _pool(self, key: torch.Generator) -> Tensor:
        if self.training.images is None:
            return torch.arange(len(self._real))
        picks = []
        for c in range(self._real.num_classes):
            index = self._real.index_of_class(c)
            picks.append(index[torch.randperm(len(index), generator=derive(key, "pool", c))][: self.training.images])
        return torch.cat(picks)

    def _pass(self, network: nn.Module, optimizer: torch.optim.Optimizer, order: Tensor, key: torch.Generator) -> None:
        training, augmentation = self.training, Augmentation(self.training.augmentation)
        for i, part in enumerate(torch.split(order, training.batch_size)):
            x, y = self._real.batch(part)
            draw = augmentation.per_image(len(x), derive(key, "augmentation", i))
            batch = Batch(*cutmix(draw(x), y, training.mix, derive(key, "mix", i)))
            if training.sharpness:
                sharpness_aware_step(network, optimizer, batch, rho=training.sharpness, alpha=training.surrogate)
            else:
                gradient_step(network, optimizer, batch, penalty=training.penalty)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot keep trained runs in {str(folder)!r}: {error.strerror or error}") from error


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().cpu().numpy().tobytes()).hexdigest()
