"""Sets as networks train on them: images, label rows, protocol and learned rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, final

import torch

from ddsdk.artefact import Distilled
from ddsdk.data import Batch, ClassChoice, LoadOptions, RealData, Resize
from ddsdk.foundation import clean, note, require
from ddsdk.judging.stored import check_cost, stored_protocol
from ddsdk.networks import Backbone, NetworkFactory, NetworkSpec, network_factory, stored_network_factory
from ddsdk.training import PerStepSchedule, TrainingProtocol, kernel_machine, require_backbone


@final
@dataclass(frozen=True, eq=False)
class TrainingSet:
    """A set with the protocol by which networks are trained on it.

    Attributes:
        batch: Images (M, C, H, W) in the value space of the test data, and label rows (M, K), probabilities or scores.
        protocol: Protocol of training the networks.
        per_step: Learning rates and momenta of the training steps that were learned with the set; by default none.
        network: Network that the user gives, see `ddsdk.networks.network_factory`; the protocol has its name. None for
            the network that the protocol names, which cannot import code of another package.
        stopping: Real training images in the value space of the set that choose the epoch, see
            `ddsdk.judging.stopping_images`; None for a protocol without early stopping.
        backbone: Backbone of a protocol that probes, with the weights and preprocessing of the protocol; another or no
            backbone is refused with a ValueError. None for other protocols.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import TrainingSet
        >>> train, test = ddsdk.load_pair("digits")
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), train)
        >>> training_set = TrainingSet.of(distilled)
        >>> training_set.protocol.name, len(training_set.batch.x)
        ('published', 10)
    """

    batch: Batch
    protocol: TrainingProtocol
    per_step: PerStepSchedule = PerStepSchedule()  # noqa: RUF009 - a tuple, which cannot change
    network: NetworkSpec | None = None
    stopping: RealData | None = None
    backbone: Backbone | None = None

    def __post_init__(self) -> None:
        # No network is ever trained in the place of a probe.
        require_backbone(self.protocol, self.backbone)

    @classmethod
    def of(
        cls,
        distilled: Distilled,
        protocol: TrainingProtocol | None = None,
        *,
        device: torch.device | None = None,
        network: NetworkSpec | None = None,
        stopping: RealData | None = None,
        learned: bool = True,
        backbone: Backbone | None = None,
    ) -> TrainingSet:
        """Return a distilled set with its learned rates under a protocol.

        Args:
            distilled: Distilled set. A learned rate or momentum replaces that of the protocol; values for single steps
                are used if the protocol has the stored order.
            protocol: Protocol of training. None for the protocol in the set, within the bounds of `check_cost`.
            device: Device of the images. None for that of the set.
            network: Network of the user, see `TrainingSet`. None for that of the protocol.
            stopping: Real training images that choose the epoch, see `TrainingSet`. None for a protocol without early
                stopping.
            learned: Whether a learned rate or momentum replaces that of the protocol. False for a protocol that several
                sets have in common.
            backbone: Backbone of a protocol that probes, see `TrainingSet`. None for other protocols.
        """
        if protocol is None:
            protocol = stored_protocol(distilled)
            check_cost(protocol, distilled)
        batch = Batch(distilled.images.to(device), distilled.labels.to(device))
        rates = (distilled.learned_lr, distilled.learned_momentum) if learned else (None, None)
        training = protocol.with_learned(*rates)
        return cls(batch, *training, network=network, stopping=stopping, backbone=backbone)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        c, h, w = self.batch.x.shape[1:]
        return c, h, w

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.batch.y.shape[1]

    def check(self, test: RealData | None = None) -> None:
        """Check that labels and learned rates fit, that the network exists, and that test data have the same form.

        ValueError is raised for a mismatch, and TypeError for an unknown option of the network.

        Args:
            test: Real data that the trained networks classify. None for no comparison.
        """
        (x, y), protocol = self.batch, self.protocol
        require(len(y) == len(x), "labels", f"have one row for each of the {len(x)} images", len(y))
        if test is not None:
            require(self.image_shape == test.image_shape, "images", f"have shape {test.image_shape}", self.image_shape)
            require(
                self.num_classes == test.num_classes, "labels", f"have {test.num_classes} columns", self.num_classes
            )
        self.per_step.check(protocol, len(x))
        rule = "be real training images for a protocol that stops early: pass train= or changed(early_stopping=False)"
        require(protocol.early_stopping is None or self.stopping is not None, "stopping", rule, self.stopping)
        # The network is built once here, so that an unknown name or option is refused before any training.
        if protocol.learner == "kernel":
            kernel_machine(protocol.network, **protocol.network_options)
        elif protocol.learner == "network":
            _ = self.factory

    @cached_property
    def factory(self) -> NetworkFactory:
        """Factory of the trained networks, for the images and classes of the set; checked once, at its first use."""
        shape, options = (self.image_shape, self.num_classes), self.protocol.network_options
        if self.network is None:
            return stored_network_factory(self.protocol.network, *shape, **options)
        return network_factory(self.network, *shape, **options)


def published_protocol(distilled: Distilled, augmentation: str) -> TrainingProtocol:
    """Return the published protocol for a distilled set, which trains on hard labels whichever labels the set stores.

    Args:
        distilled: Distilled set to be trained on.
        augmentation: Augmentation of the training images, see `ddsdk.Augmentation`; empty for none.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import published_protocol
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), ddsdk.load("digits"))
        >>> published_protocol(distilled, "crop").epochs
        1000
    """
    return with_hard_labels(TrainingProtocol.published(augmentation), distilled)


def kernel_protocol(distilled: Distilled) -> TrainingProtocol:
    """Return the protocol of regression with the kernel of random ConvNets: the second score of RFAD.

    Sets without label scores have centred labels.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import kernel_protocol
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), ddsdk.load("digits"))
        >>> kernel_protocol(distilled).network_label
        'random-convnets kernel (ridge 0.005)'
    """
    labels: Literal["stored", "centred"] = "stored" if distilled.label_space == "scores" else "centred"
    options = {"ridge": 5e-3}
    return TrainingProtocol(
        name="kernel", learner="kernel", network="random-convnets", network_options=options, labels=labels
    )


def with_hard_labels(protocol: TrainingProtocol, distilled: Distilled) -> TrainingProtocol:
    """Return a protocol that trains on hard labels, unchanged for a set whose stored labels are hard."""
    hard = distilled.manifest.storage.labels == "hard"
    return protocol if hard else dataclasses.replace(protocol, labels="hard")


def stored_reading(distilled: Distilled) -> LoadOptions:
    """Return the options of `ddsdk.load` that belong to a distilled set: geometry and chosen classes of its data.

    ValueError is raised for a set, such as an altered one, whose provenance has an invalid entry.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import stored_reading
        >>> few = ddsdk.load("digits", classes=["3", "8"])
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), few)
        >>> ddsdk.load("digits", split="test", **stored_reading(distilled)).class_names
        ('3', '8')
    """
    facts, options = _data_facts(distilled), LoadOptions()
    if "resize" in facts:
        options["resize"] = Resize.from_state(facts["resize"])
    if "classes" in facts:
        options["classes"] = ClassChoice.from_state(facts["classes"])
    return options


def _data_facts(distilled: Distilled) -> Mapping[str, Any]:
    facts = distilled.provenance.get("data")
    return facts if isinstance(facts, Mapping) else {}


def note_geometry(distilled: Distilled, real: RealData, split: str = "test") -> None:
    """Write a note if pictures were brought to the shape of a set by another geometry, such as padding for a crop."""
    stated, given = (facts.get("resize") for facts in (_data_facts(distilled), real.reading))
    if stated != given and _states_reading(distilled):
        note(f"the {split} images have the geometry {given}, and the set {stated}")


def _states_reading(distilled: Distilled) -> bool:
    # Only a complete description of the data, which has a fingerprint, leaves out what was not done.
    return "fingerprint" in _data_facts(distilled)


def in_space_of(distilled: Distilled, real: RealData, split: str = "test") -> RealData:
    """Return real data in the value space of a distilled set.

    ValueError is raised if class names, image shape or the vocabulary of texts differ from those of the set. A set
    without facts of its data, such as a union or a private set, states no vocabulary.

    Args:
        distilled: Distilled set whose preprocessing the real data get.
        real: Real data with the classes of the set, in any value space.
        split: Name of the data in error messages.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import in_space_of
        >>> whitened = ddsdk.load("digits", zca=True)
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["means"](ipc=1), whitened)
        >>> in_space_of(distilled, ddsdk.load("digits", split="test")).preprocess.space
        'zca'
    """
    names = tuple(map(clean, real.class_names))
    rule = f"be those of the set, {list(distilled.class_names)}"
    require(names == distilled.class_names, f"class names of {split}", rule, list(names))
    shape = tuple(distilled.images.shape[1:])
    rule = f"have the shape of the set's images, {shape}"
    require(real.image_shape == shape, f"{split} images", rule, real.image_shape)
    stated, given = (facts.get("vocabulary") for facts in (_data_facts(distilled), real.reading))
    same = stated == given or not _states_reading(distilled)
    require(same, f"vocabulary of {split}", f"be that of the set, {stated}", given)
    return real if real.preprocess == distilled.preprocess else real.with_preprocess(distilled.preprocess)
