"""Protocols of training on a set, and their scores: plain values that files and the command line share."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from ddsdk.foundation import ArtifactError, Checked, Fraction, NonNegativeFloat, PositiveFloat, PositiveInt, require

_DSA = "color_crop_cutout_flip_scale_rotate"
_Order = Literal["shuffled", "stored"]
_Labels = Literal["stored", "probabilities", "hard"]
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "loss": ("cross-entropy", "mse"),
    "optimizer": ("sgd", "adam"),
    "schedule": ("steps", "cosine"),
    "order": get_args(_Order),
    "learner": ("network", "kernel"),
    "labels": get_args(_Labels),
}
# Entries that came later; without them where they hold their defaults, older sets and scores keep their names.
_LATER = (*_CHOICES, "warm_up")


class Pace(NamedTuple):
    """Learning rate and momentum of each step of training, where they were learned with a set.

    Attributes:
        rates: Learning rates in place of `Evaluation.lr` and its schedule; empty for none.
        momenta: Momenta in place of `Evaluation.momentum`; empty for none.
    """

    rates: tuple[float, ...] = ()
    momenta: tuple[float, ...] = ()

    def check(self, evaluation: Evaluation, images: int) -> None:
        """Raise ValueError unless a network that trains on `images` images takes as many steps as there are."""
        steps = evaluation.epochs * evaluation.steps_in_epoch(images)
        for name, values in (("learned_lr", self.rates), ("learned_momentum", self.momenta)):
            rule = f"hold one number for each of the {steps} steps of {evaluation.epochs} epochs"
            require(len(values) in (0, steps), name, rule, len(values))
        stepped = not any(self) or (evaluation.order, evaluation.learner) == ("stored", "network")
        require(stepped, "order", "be 'stored' where each step has a rate of its own", evaluation.order)
        sgd = not self.momenta or evaluation.optimizer == "sgd"
        require(sgd, "optimizer", "be 'sgd' where momentum was learned", evaluation.optimizer)


@dataclass(frozen=True, kw_only=True)
class Evaluation(Checked):
    """The protocol of training on a set. It travels inside the artefact.

    The defaults are the protocol of DC, DSA and DM: SGD with momentum, one decay at half time, and the test set
    read once, after the last epoch.

    Attributes:
        protocol: Name of the protocol in tables.
        network: Name of the network, see `ddsdk.NETWORKS`; of the kernel where `learner` is one.
        network_options: Options of its builder, such as width.
        networks: Fresh networks that are trained; the score is their mean.
        epochs: Passes over the set.
        batch_size: Images of one step.
        lr: Learning rate.
        momentum: Momentum of SGD, or the first beta of Adam.
        weight_decay: Weight decay, which adds this many times the weights to the gradient.
        decay_at: Fractions of the epochs after each of which `lr` is multiplied by `decay`.
        decay: Factor at each of `decay_at`; with a cosine, the fraction of `lr` at which it ends.
        augmentation: Operations while training, see `ddsdk.Augmentation`; empty for none.
        mix: Probability that a batch is mixed by CutMix.
        loss: ``"cross-entropy"``, -sum(y log_softmax(f)), or ``"mse"``, sum((f - y)^2) / 2; the mean over a batch.
        optimizer: ``"sgd"`` or ``"adam"``.
        schedule: ``"steps"``, see `decay_at`, or ``"cosine"``, which falls with every step and has no `decay_at`.
        warm_up: Fraction of the steps in which the rate rises linearly to its full value.
        order: ``"shuffled"``, or ``"stored"``: every pass goes through the set as it lies, in batches of `batch_size`,
            and step k takes rate k where the artefact has one rate for each step.
        learner: ``"network"``, or ``"kernel"``: kernel ridge regression on the labels, which trains nothing; of the
            fields above it reads `protocol`, `network` and `network_options` only; the others hold where a network
            takes its place, see `changed`.
        labels: Labels of the training: the rows ``"stored"``; ``"probabilities"``, their nearest distributions; or
            ``"hard"``, their largest classes.
    """

    protocol: str = "published"
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
    learner: Literal["network", "kernel"] = "network"
    labels: _Labels = "stored"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(all(0 <= at <= 1 for at in self.decay_at), "decay_at", "hold fractions 0..1", self.decay_at)
        require(0 <= self.warm_up < 1, "warm_up", "lie in 0 <= value < 1", self.warm_up)
        for name, choices in _CHOICES.items():
            require(getattr(self, name) in choices, name, f"be one of {list(choices)}", getattr(self, name))
        beta = self.optimizer == "sgd" or self.momentum < 1
        require(beta, "momentum", "be below 1, as Adam's first beta", self.momentum)

    def steps_in_epoch(self, images: int) -> int:
        """Return the steps of one pass over a set of `images` images."""
        return math.ceil(images / self.batch_size)

    @property
    def rounds(self) -> int:
        """Epochs of all networks together; a kernel has one round."""
        return self.networks * self.epochs if self.learner == "network" else 1

    def rate_at(self, step: int, per_epoch: float) -> float:
        """Return the learning rate of a step, counted from 0 over all epochs.

        With w = warm_up times all n steps, step k < w has the fraction (k + 1) / w of the full rate. A cosine then goes
        from `lr` to decay x lr: the fraction decay + (1 - decay) (1 + cos(pi (k - w) / (n - w))) / 2.

        Args:
            step: Number of the step.
            per_epoch: Steps of one epoch; a fraction where the schedule is squeezed into fewer steps.
        """
        total = self.epochs * per_epoch
        warm = round(self.warm_up * total)
        rise = (step + 1) / warm if step < warm else 1.0
        if self.schedule == "steps":
            return rise * self.rate_in(int(step // per_epoch))
        passed = max(0, step - warm) / max(1, total - warm)
        return rise * self.lr * (self.decay + (1 - self.decay) * (1 + math.cos(math.pi * passed)) / 2)

    def rate_in(self, epoch: int) -> float:
        """Return the rate of an epoch under `decay_at`, counted from 0; the first one always has the full rate."""
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
        return cls(protocol="quick", network_options={"width": 32}, epochs=150, lr=0.03, augmentation=augmentation)

    def changed(
        self,
        *,
        network: str | None = None,
        options: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        networks: int | None = None,
        order: _Order | None = None,
        labels: _Labels | None = None,
    ) -> Evaluation:
        """Return this protocol with changes, named after them, so that it cannot pass for the original.

        Another number of networks changes the precision and not what is measured: it keeps the name.

        Args:
            network: Another network, which is trained also where this protocol has a kernel; its builder's defaults
                then hold in place of `network_options`.
            options: Options of the builder, such as width, above those that hold.
            epochs: Another number of passes over the set.
            networks: Another number of fresh networks.
            order: Another order of the images.
            labels: Other labels than those of the protocol.
        """
        same = network in (None, self.network)
        before = dict(self.network_options) if same else {}
        differing = {k: v for k, v in (options or {}).items() if k not in before or before[k] != v}
        words = [] if epochs in (None, self.epochs) else [f"{epochs} epochs"]
        words += [] if same else [str(network)]
        words += [f"{k} {v}" for k, v in differing.items()]
        words += [] if order in (None, self.order) else [f"{order} order"]
        words += [] if labels in (None, self.labels) else [f"labels {labels}"]
        given = {"network": network, "networks": networks, "epochs": epochs, "order": order, "labels": labels}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if not same:
            changes["learner"] = "network"
        name = ", ".join([self.protocol, *words])
        return dataclasses.replace(self, protocol=name, network_options={**before, **differing}, **changes)

    def with_learned(
        self, rate: float | tuple[float, ...] | None, momentum: float | tuple[float, ...] | None = None
    ) -> tuple[Evaluation, Pace]:
        """Return this protocol, and the pace of its steps, with what was learned with a set.

        One number replaces that of the protocol. One number for each step belongs to the stored order: a protocol that
        shuffles the set keeps its own numbers.
        """
        changes: dict[str, Any] = {
            name: value
            for name, value in (("lr", rate), ("momentum", momentum))
            if value is not None and not isinstance(value, tuple)
        }
        steps = [value if isinstance(value, tuple) else () for value in (rate, momentum)]
        stored = self.order == "stored"
        return dataclasses.replace(self, **changes), Pace(*steps) if stored else Pace()

    @property
    def network_label(self) -> str:
        """Network with its options, such as ``"convnet (width 128)"`` or ``"fc-ntk kernel (depth 2)"``."""
        options = ", ".join(f"{k} {v}" for k, v in self.network_options.items())
        name = self.network if self.learner == "network" else f"{self.network} kernel"
        return f"{name} ({options})" if options else name

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a manifest, without later entries that hold their defaults."""
        values = dataclasses.asdict(self) | {"network_options": dict(self.network_options)}
        usual = {f.name: f.default for f in dataclasses.fields(self) if f.name in _LATER}
        return {name: value for name, value in values.items() if name not in usual or value != usual[name]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that `to_dict` wrote; raise ArtifactError, ``"evaluation"``, for any other values."""
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
    """The score of one evaluation.

    Attributes:
        name: Name of the set.
        protocol: Name of the protocol, `Evaluation.protocol`.
        network: Name of the network, `Evaluation.network_label`.
        accuracies: Test accuracy of each network after its last epoch, in 0..1.
        images: Training images.
        stored_floats: Number of floats stored for images and labels.
        seconds: Wall-clock time of training and testing.
        labels: Kind of the labels: ``"hard"``, ``"soft"`` or ``"scores"``, or such as ``"scores as hard"`` where
            `Evaluation.labels` changed the stored ones; empty in records of older versions.
        loss: Loss, `Evaluation.loss`, or ``"ridge"`` for a kernel; empty in records of older versions.
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
        """Mean accuracy over the networks."""
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float:
        """Sample standard deviation over the networks; 0 for one network."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else 0.0
