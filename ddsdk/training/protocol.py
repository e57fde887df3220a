"""Training protocols and their scores: plain values that files and the command line share."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, final, get_args

import msgspec

from ddsdk.foundation import (
    ArtifactError,
    CheckedDataclass,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    require,
)
from ddsdk.training.probe import Probe

_DSA = "color_crop_cutout_flip_scale_rotate"
_Order = Literal["shuffled", "stored"]
_Labels = Literal["stored", "probabilities", "hard", "centred"]
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "loss": ("cross-entropy", "mse"),
    "optimizer": ("sgd", "adam"),
    "schedule": ("steps", "cosine"),
    "order": get_args(_Order),
    "learner": ("network", "kernel", "probe"),
    "labels": get_args(_Labels),
}
# Fields of later versions. `to_dict` omits them at their defaults: the hashes of older sets and scores stay valid.
_LATER = (*_CHOICES, "warm_up", "label_scale", "subtract_initial", "early_stopping", "probe")


class PerStepSchedule(NamedTuple):
    """Learning rate and momentum of every training step, for sets that were distilled together with them.

    Attributes:
        rates: Learning rates that replace `TrainingProtocol.lr` and its schedule, one for each step; empty for none.
        momenta: Momenta that replace `TrainingProtocol.momentum`, one for each step; empty for none.

    Examples:
        >>> import ddsdk
        >>> schedule = ddsdk.training.PerStepSchedule(rates=(0.1, 0.1, 0.05))
        >>> schedule.check(ddsdk.TrainingProtocol(epochs=3, order="stored"), images=10)
    """

    rates: tuple[float, ...] = ()
    momenta: tuple[float, ...] = ()

    def check(self, protocol: TrainingProtocol, images: int) -> None:
        """Check that a protocol takes as many steps on `images` images as the schedule has entries.

        A mismatch raises ValueError, and so does a protocol that shuffles the set, has a kernel in the place of a
        network, or has another optimizer than SGD for learned momenta.
        """
        steps = protocol.epochs * protocol.steps_in_epoch(images)
        for name, values in (("learned_lr", self.rates), ("learned_momentum", self.momenta)):
            rule = f"hold one number for each of the {steps} steps of {protocol.epochs} epochs"
            require(len(values) in (0, steps), name, rule, len(values))
        stepped = not any(self) or (protocol.order, protocol.learner) == ("stored", "network")
        require(stepped, "order", "be 'stored' where each step has its own learning rate", protocol.order)
        sgd = not self.momenta or protocol.optimizer == "sgd"
        require(sgd, "optimizer", "be 'sgd' where momentum was learned", protocol.optimizer)


@final
@dataclass(frozen=True, kw_only=True)
class EarlyStopping(CheckedDataclass):
    """Choice of the epoch by the accuracy on real training images, in the place of the last epoch.

    The images are drawn equally from all classes. A set may have been distilled from them, as in the papers that stop
    early; test images are never used.

    Attributes:
        images: Number of real training images.
        every: Epochs between two checks; the untrained network is checked first.
        patience: Epochs without a better check after which the training ends; None to train all epochs.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.training import EarlyStopping
        >>> ddsdk.TrainingProtocol(early_stopping=EarlyStopping(images=500, every=10)).early_stopping.images
        500
    """

    images: PositiveInt
    every: PositiveInt = 1
    patience: PositiveInt | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingProtocol(CheckedDataclass):
    """The protocol by which evaluation networks train on a set; a distilled artefact contains one.

    The defaults are the protocol of DC, DSA and DM: SGD with momentum, one learning-rate decay after half of the
    epochs, and one test after the last epoch, without early stopping.

    Attributes:
        name: Name of the protocol in tables.
        network: Name of the network, a key of `ddsdk.NETWORKS`; name of the kernel or of the backbone if `learner` is
            "kernel" or "probe".
        network_options: Options of the network or kernel, such as width; others have their defaults.
        networks: Number of networks that are trained from new weights; the score is their mean.
        epochs: Number of passes over the set.
        batch_size: Number of images in one step.
        lr: Learning rate before the schedule.
        momentum: Momentum of SGD, or the first beta of Adam.
        weight_decay: Factor of the weights that is added to the gradient.
        decay_at: Fractions of the epochs, 0..1, after each of which the learning rate is multiplied by `decay`.
        decay: Factor at each of `decay_at`; with the cosine schedule, the last learning rate as a fraction of `lr`.
        augmentation: Augmentation of the training images, see `ddsdk.Augmentation`; empty for none.
        mix: Probability, 0..1, that a batch is mixed by CutMix.
        loss: Training loss, averaged over a batch: ``"cross-entropy"``, -sum(y log_softmax(f)), or ``"mse"``,
            sum((f - y)^2) / 2.
        optimizer: Optimizer of the network, ``"sgd"`` or ``"adam"``.
        schedule: Learning-rate schedule: ``"steps"`` with `decay_at`, or ``"cosine"``, which falls with every step
            and ignores `decay_at`.
        warm_up: Fraction of the steps, 0 <= value < 1, over which the learning rate first rises linearly to `lr`.
        order: Order of the images: ``"shuffled"`` anew in every epoch, or ``"stored"``: batches of `batch_size` in the
            order of the set. Only the stored order can have a learned learning rate for each step.
        learner: Kind of the learner, ``"network"``, ``"kernel"`` or ``"probe"``. Kernel ridge regression and a linear
            probe train no network and use `name`, `network`, `network_options`, `labels` and `probe` alone; the other
            fields apply if `changed` sets a network.
        labels: Labels of the training: the ``"stored"`` rows; ``"probabilities"``, the nearest distributions to these
            rows; ``"hard"``, the classes with the largest entries; or ``"centred"``, the hard ones less 1 / K.
        label_scale: Factor of the label rows in the training.
        subtract_initial: Whether the output of the network with its initial weights is subtracted from its output, in
            training and test. Weight decay then pulls to the initial weights.
        early_stopping: Choice of the epoch by real training images; None for the last epoch.
        probe: Backbone and linear probe if `learner` is "probe"; None for other learners.

    Examples:
        >>> import ddsdk
        >>> protocol = ddsdk.TrainingProtocol(network_options={"width": 32}, epochs=100, lr=0.03)
        >>> protocol.network_label
        'convnet (width 32)'
    """

    name: str = "published"
    network: str = "convnet"
    network_options: Mapping[str, Any] = field(default_factory=dict)
    networks: PositiveInt = 3
    epochs: PositiveInt = 300
    batch_size: PositiveInt = 256
    lr: PositiveFloat = 0.01
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    decay_at: tuple[float, ...] = (0.5,)
    decay: NonNegativeFloat = 0.1
    augmentation: str = ""
    mix: Fraction = 0.0
    loss: Literal["cross-entropy", "mse"] = "cross-entropy"
    optimizer: Literal["sgd", "adam"] = "sgd"
    schedule: Literal["steps", "cosine"] = "steps"
    warm_up: float = 0.0
    order: _Order = "shuffled"
    learner: Literal["network", "kernel", "probe"] = "network"
    labels: _Labels = "stored"
    label_scale: PositiveFloat = 1.0
    subtract_initial: bool = False
    early_stopping: EarlyStopping | None = None
    probe: Probe | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(all(0 <= at <= 1 for at in self.decay_at), "decay_at", "hold fractions 0..1", self.decay_at)
        require(0 <= self.warm_up < 1, "warm_up", "lie in 0 <= value < 1", self.warm_up)
        for name, choices in _CHOICES.items():
            require(getattr(self, name) in choices, name, f"be one of {list(choices)}", getattr(self, name))
        beta = self.optimizer == "sgd" or self.momentum < 1
        require(beta, "momentum", "be below 1, as Adam's first beta", self.momentum)
        probed = (self.learner == "probe") == (self.probe is not None)
        require(probed, "probe", "be given for the learner 'probe' alone", self.learner)

    def steps_in_epoch(self, images: int) -> int:
        """Return the number of optimizer steps in one epoch of a set of `images` images."""
        return math.ceil(images / self.batch_size)

    @property
    def rounds(self) -> int:
        """Number of epochs of all networks together; 1 for a kernel or a probe."""
        return self.networks * self.epochs if self.learner == "network" else 1

    def rate_at(self, step: int, per_epoch: float) -> float:
        """Return the learning rate of one step.

        With n steps in all and w = n warm_up, step k < w has (k + 1) / w of the scheduled rate. The cosine schedule is
        lr (decay + (1 - decay) (1 + cos(pi (k - w) / (n - w))) / 2) from step w on.

        Args:
            step: Number of the step, counted from 0 over all epochs.
            per_epoch: Steps of one epoch; not an integer where the schedule is scaled to a given number of steps.
        """
        total = self.epochs * per_epoch
        warm_up_steps = round(self.warm_up * total)
        warm_up_factor = (step + 1) / warm_up_steps if step < warm_up_steps else 1.0
        if self.schedule == "steps":
            return warm_up_factor * self.rate_in(int(step // per_epoch))
        progress = max(0, step - warm_up_steps) / max(1, total - warm_up_steps)
        return warm_up_factor * self.lr * (self.decay + (1 - self.decay) * (1 + math.cos(math.pi * progress)) / 2)

    def rate_in(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0, under `decay_at`; it is `lr` in the first epoch."""
        decays = sum(epoch >= max(1, int(self.epochs * at)) for at in self.decay_at)
        return self.lr * self.decay**decays

    @classmethod
    def published(cls, augmentation: str = "") -> TrainingProtocol:
        """Return the protocol of the papers: a ConvNet-3 of width 128, 300 epochs, or 1000 with augmentation."""
        epochs = 1000 if augmentation else 300
        return cls(network_options={"width": 128}, epochs=epochs, augmentation=augmentation)

    @classmethod
    def quick(cls, augmentation: str = _DSA) -> TrainingProtocol:
        """Return a protocol for small machines: a narrow network and fewer epochs; not comparable with papers.

        Args:
            augmentation: DSA operations joined by "_". The default flips images: pass that of the set for data that are
                not mirror-safe.
        """
        return cls(name="quick", network_options={"width": 32}, epochs=150, lr=0.03, augmentation=augmentation)

    def changed(
        self,
        *,
        network: str | None = None,
        options: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        networks: int | None = None,
        order: _Order | None = None,
        labels: _Labels | None = None,
        early_stopping: bool = True,
    ) -> TrainingProtocol:
        """Return this protocol with some settings changed, and the changes in its name.

        The name shows that scores are not comparable with the original protocol. Another number of networks alone
        keeps the name, because it changes the precision of the score and not its expectation.

        Args:
            network: Name of another network, which also replaces a kernel; its options start from their defaults. None
                keeps the network.
            options: Options of the network to set, such as width; the other options stay. None for no change.
            epochs: New number of passes over the set; None for no change.
            networks: New number of trained networks; None for no change.
            order: New order of the images; None for no change.
            labels: New kind of training labels; None for no change.
            early_stopping: False to train all epochs, without real training images that choose one.

        Examples:
            >>> import ddsdk
            >>> ddsdk.TrainingProtocol.published().changed(network="mlp", epochs=10).name
            'published, 10 epochs, mlp'
        """
        same_network = network in (None, self.network)
        kept_options = dict(self.network_options) if same_network else {}
        new_options = {k: v for k, v in (options or {}).items() if k not in kept_options or kept_options[k] != v}
        name_parts = [] if epochs in (None, self.epochs) else [f"{epochs} epochs"]
        name_parts += [] if same_network else [str(network)]
        name_parts += [f"{k} {v}" for k, v in new_options.items()]
        name_parts += [] if order in (None, self.order) else [f"{order} order"]
        name_parts += [] if labels in (None, self.labels) else [f"labels {labels}"]
        fields = {"network": network, "networks": networks, "epochs": epochs, "order": order, "labels": labels}
        changes: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
        if not same_network:
            changes |= {"learner": "network", "probe": None}
        if not early_stopping and self.early_stopping is not None:
            changes["early_stopping"] = None
            name_parts.append("last epoch")
        name = ", ".join([self.name, *name_parts])
        return dataclasses.replace(self, name=name, network_options={**kept_options, **new_options}, **changes)

    def with_learned(
        self, rate: float | tuple[float, ...] | None, momentum: float | tuple[float, ...] | None = None
    ) -> tuple[TrainingProtocol, PerStepSchedule]:
        """Return this protocol and its per-step schedule with the learned learning rate and momentum of a set.

        A protocol that shuffles the set ignores values for each step, because they belong to the stored order.

        Args:
            rate: Learned learning rate: one number, or one for each step; None for that of the protocol.
            momentum: Learned momentum: one number, or one for each step; None for that of the protocol.
        """
        changes: dict[str, Any] = {
            name: value
            for name, value in (("lr", rate), ("momentum", momentum))
            if value is not None and not isinstance(value, tuple)
        }
        steps = [value if isinstance(value, tuple) else () for value in (rate, momentum)]
        stored = self.order == "stored"
        return dataclasses.replace(self, **changes), PerStepSchedule(*steps) if stored else PerStepSchedule()

    @property
    def network_label(self) -> str:
        """Network or kernel with its options, such as "convnet (width 128)" or "fc-ntk kernel (depth 2)"."""
        options = ", ".join(f"{k} {v}" for k, v in self.network_options.items())
        names = {"network": self.network, "kernel": f"{self.network} kernel", "probe": f"probe on {self.network}"}
        name = names[self.learner]
        return f"{name} ({options})" if options else name

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a manifest, without the fields of later versions that hold their defaults."""
        values = {
            "protocol": self.name,
            **{k: v for k, v in dataclasses.asdict(self).items() if k != "name"},
            "network_options": dict(self.network_options),
        }
        defaults = {f.name: f.default for f in dataclasses.fields(self) if f.name in _LATER}
        return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingProtocol:
        """Return the protocol that `to_dict` wrote.

        Raises:
            ArtifactError: ``"evaluation"``, if a key is unknown, or a value has a wrong type or is out of range.
        """
        # The key of the name is "protocol" in files.
        known = {"protocol" if f.name == "name" else f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ArtifactError("evaluation", f"evaluation must have known keys only, got {unknown!r}")
        values = {"name" if key == "protocol" else key: value for key, value in values.items()}
        # Older sets, which could have one decay only, store one number.
        if isinstance(values.get("decay_at"), float | int):
            values["decay_at"] = [values["decay_at"]]
        try:
            return msgspec.convert(values, cls, strict=True)
        except msgspec.ValidationError as error:
            raise ArtifactError("evaluation", f"evaluation must be valid, got: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Score:
    """The score of a set under one protocol.

    Attributes:
        name: Name of the set.
        protocol: Name of the protocol, `TrainingProtocol.name`.
        network: Name of the network with its options, `TrainingProtocol.network_label`.
        accuracies: Test accuracies, 0..1, one for each network after its last epoch.
        images: Number of training images.
        stored_floats: Number of floats stored for images and labels.
        seconds: Wall-clock seconds of training and testing.
        labels: Kind of the labels: ``"hard"``, ``"soft"`` or ``"scores"``; ``"scores as hard"`` and the like if
            `TrainingProtocol.labels` changed the stored labels; empty in records of older versions.
        loss: Training loss, `TrainingProtocol.loss`; ``"ridge"`` for a kernel, ``"probe"`` for a linear probe; empty in
            records of older versions.

    Examples:
        >>> from ddsdk import Score
        >>> score = Score(name="dm", protocol="published", network="convnet", accuracies=(0.5, 0.7), images=10,
        ...               stored_floats=640, seconds=1.0)
        >>> round(score.mean, 3)
        0.6
    """

    name: str
    protocol: str
    network: str
    accuracies: tuple[float, ...]
    images: int
    stored_floats: int
    seconds: float
    labels: str = ""
    loss: str = ""

    @property
    def mean(self) -> float:
        """Mean test accuracy over the networks."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Sample standard deviation of the test accuracy over the networks; 0 for one network."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0

    @property
    def accuracy_text(self) -> str:
        """Mean and standard deviation in percent; a kernel machine or probe is exact and has no deviation."""
        exact = len(self.accuracies) == 1 and self.loss in ("ridge", "probe")
        return f"{100 * self.mean:.2f}{'' if exact else f' ± {100 * self.std:.2f}'}"
