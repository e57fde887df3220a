"""How a set must be trained on, and what came out: plain values that files and the command line share."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ddsdk.errors import ArtifactError, require

__all__ = ["Evaluation", "Score"]

_DSA = "color_crop_cutout_flip_scale_rotate"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a set must be trained on. It travels inside the artefact.

    The defaults are the protocol of DC, DSA and DM: SGD with momentum, one decay at half time, and the test set
    read once, after the last epoch.

    Attributes:
        protocol: What to call this in tables.
        network: Name of the network, see `ddsdk.NETWORKS`.
        network_options: Options of its builder, such as width.
        networks: Fresh networks that are trained; the score is their mean.
        epochs: Passes over the set.
        batch_size: Images of one step.
        lr: Learning rate of SGD.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        decay_at: Fractions of the epochs after each of which `lr` is multiplied by `decay`.
        decay: See `decay_at`.
        augmentation: Operations while training, see `ddsdk.Augmentation`; empty for none.
        mix: Probability that a batch is mixed by CutMix.
    """

    protocol: str = "published"
    network: str = "convnet"
    network_options: Mapping[str, Any] = field(default_factory=dict)
    networks: int = 3
    epochs: int = 300
    batch_size: int = 256
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_at: tuple[float, ...] = (0.5,)
    decay: float = 0.1
    augmentation: str = ""
    mix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("networks", "epochs", "batch_size"):
            require(getattr(self, name) >= 1, name, "be at least 1", getattr(self, name))
        require(0 < self.lr < math.inf, "lr", "be positive", self.lr)
        for name in ("momentum", "weight_decay", "decay"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, "be finite and not negative", value)
        require(all(0 <= at <= 1 for at in self.decay_at), "decay_at", "hold fractions 0..1", self.decay_at)
        require(0 <= self.mix <= 1, "mix", "lie in 0..1", self.mix)

    def rate_in(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0; the first one always has the full rate."""
        passed = sum(epoch >= max(1, int(self.epochs * at)) for at in self.decay_at)
        return self.lr * self.decay**passed

    @classmethod
    def published(cls, augmentation: str = "") -> Evaluation:
        """Return the protocol of the papers: 300 epochs, or 1000 with augmentation, of a ConvNet-3 of width 128."""
        epochs = 1000 if augmentation else 300
        return cls(network_options={"width": 128}, epochs=epochs, augmentation=augmentation)

    @classmethod
    def quick(cls, augmentation: str = _DSA) -> Evaluation:
        """Return a protocol for small machines: a narrow network and fewer epochs. Not comparable with papers."""
        return cls(
            protocol="quick",
            network_options={"width": 32},
            epochs=150,
            lr=0.03,
            augmentation=augmentation,
        )

    def changed(
        self,
        *,
        network: str | None = None,
        options: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        networks: int | None = None,
    ) -> Evaluation:
        """Return this protocol with changes, named after them, so that it cannot pass for the original.

        Another number of networks changes the precision and not what is measured: it keeps the name.

        Args:
            network: Another network; its builder's defaults then hold instead of `network_options`.
            options: Options of the builder, such as width, above those that hold.
            epochs: Passes over the set.
            networks: Fresh networks that are trained.
        """
        same = network in (None, self.network)
        before = dict(self.network_options) if same else {}
        differing = {k: v for k, v in (options or {}).items() if k not in before or before[k] != v}
        words = [] if epochs in (None, self.epochs) else [f"{epochs} epochs"]
        words += [] if same else [str(network)]
        words += [f"{k} {v}" for k, v in differing.items()]
        return dataclasses.replace(
            self,
            protocol=", ".join([self.protocol, *words]),
            network=self.network if network is None else network,
            network_options={**before, **differing},
            networks=self.networks if networks is None else networks,
            epochs=self.epochs if epochs is None else epochs,
        )

    @property
    def network_label(self) -> str:
        """The network with its options, such as ``"convnet (width 128)"``."""
        options = ", ".join(f"{k} {v}" for k, v in self.network_options.items())
        return f"{self.network} ({options})" if options else self.network

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a manifest."""
        return dataclasses.asdict(self) | {"network_options": dict(self.network_options)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that `to_dict` wrote.

        Raises:
            ArtifactError: ``"evaluation"``, if a key is unknown, or a value is of another type or out of range.
        """
        unknown = sorted(set(values) - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ArtifactError("evaluation", f"evaluation must have known keys only, got {unknown!r}")
        values = dict(values)
        # Sets made before there could be several decays hold one number.
        if isinstance(values.get("decay_at"), float | int):
            values["decay_at"] = [values["decay_at"]]
        try:
            return msgspec.convert(values, cls, strict=True)
        except msgspec.ValidationError as error:
            raise ArtifactError("evaluation", f"evaluation must be sound, got: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Score:
    """What came out of one evaluation.

    Attributes:
        name: What was trained on.
        protocol: `Evaluation.protocol`.
        network: `Evaluation.network_label`.
        accuracies: Test accuracy of each network after its last epoch, in 0..1.
        images: Training images.
        stored_floats: Floats stored for images and labels.
        seconds: Wall-clock time of training and testing.
    """

    name: str
    protocol: str
    network: str
    accuracies: tuple[float, ...]
    images: int
    stored_floats: int
    seconds: float

    @property
    def mean(self) -> float:
        """Mean accuracy over the networks."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Sample standard deviation over the networks; 0 for one network."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0
