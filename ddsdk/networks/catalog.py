"""The networks by name, and the factory of students that recipes and evaluations take."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final, get_args

import torch

from ddsdk.foundation import require
from ddsdk.networks.classic import alexnet, lenet, mlp, vgg11
from ddsdk.networks.convnet import convnet, derived_depth
from ddsdk.networks.deep import densenet121, resnet10, resnet18, resnet152
from ddsdk.networks.initialise import Init, initialise
from ddsdk.networks.network import Network
from ddsdk.networks.shapes import ImageShape, check_request
from ddsdk.networks.textcnn import textcnn

Builder = Callable[..., Network]

NETWORKS: dict[str, Builder] = {
    "convnet": convnet,
    "mlp": mlp,
    "lenet": lenet,
    "alexnet": alexnet,
    "vgg11": vgg11,
    "resnet10": resnet10,
    "resnet18": resnet18,
    "resnet152": resnet152,
    "densenet121": densenet121,
    "textcnn": textcnn,
}


@final
@dataclass(frozen=True)
class NetworkFactory:
    """A factory of one network of the catalogue.

    Attributes:
        name: Key of `NETWORKS`.
        image_shape: Shape of the images, (C, H, W).
        num_classes: Number of classes K.
        options: Every option of the builder, defaults and derived values included; and ``"init"`` where it was given.
    """

    name: str
    image_shape: ImageShape
    num_classes: int
    options: Mapping[str, object]

    def __call__(self, rng: torch.Generator) -> Network:
        """Return a network whose weights come from `rng` alone."""
        with torch.device("meta"):
            network = NETWORKS[self.name](self.image_shape, self.num_classes, **_of_builder(self.options))
        return initialise(network, rng, **{k: v for k, v in self.options.items() if k == "init"})  # type: ignore[arg-type]


def network_factory(name: str, image_shape: ImageShape, num_classes: int, **options: object) -> NetworkFactory:
    """Return ``make_student(rng)``, which builds the named network with weights drawn from `rng` alone.

    The network is built once here without memory, so that a wrong size or option is refused before a long
    run and not during it.

    Args:
        name: Key of `NETWORKS`.
        image_shape: Shape of the images, (C, H, W).
        num_classes: Number of classes K >= 2.
        **options: Keyword options of that builder, such as ``depth`` and ``width`` of the ConvNet; and ``init``, the
            start of the weights, see `ddsdk.networks.initialise`.

    Returns:
        A picklable callable; equal generators give equal weights, bit for bit, on the CPU.

    Raises:
        ValueError: If the name is unknown, an option has a value out of range, or the image is too small.
        TypeError: If the builder has no such option.
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(name.lower(), NETWORKS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {name!r}{hint}")
    builder = NETWORKS[name]
    known = dict(list(inspect.signature(builder).parameters.items())[2:])
    for option in options:
        if option not in (*known, "init"):
            raise TypeError(f"options of network {name!r} must be among {list(known)}, got {option!r}")
    init = options.get("init", "pytorch")
    require(init in get_args(Init), "init", f"be one of {list(get_args(Init))}", init)
    check_request(image_shape, num_classes)
    channels, height, width = image_shape
    shape = (channels, height, width)
    with torch.device("meta"):
        builder(shape, num_classes, **_of_builder(options))
    given = {option: parameter.default for option, parameter in known.items()} | options
    if given.get("depth", 1) is None:
        given["depth"] = derived_depth(shape)
    return NetworkFactory(name, shape, num_classes, given)


def _of_builder(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if name != "init"}
