"""Catalogue of networks by name, and the factory of student networks for recipes and evaluations."""

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
    """A factory of student networks of one architecture; `network_factory` makes it.

    Attributes:
        name: Name of the network, a key of `NETWORKS`.
        image_shape: Shape of the images, (C, H, W).
        num_classes: Number of classes K.
        options: Values of all options of the builder, including defaults and derived values, and ``"init"`` if given.

    Example:
        >>> import ddsdk
        >>> factory = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> factory.options["depth"], factory.options["norm"]
        (2, 'instance')
    """

    name: str
    image_shape: ImageShape
    num_classes: int
    options: Mapping[str, object]

    def __call__(self, rng: torch.Generator) -> Network:
        """Return a new network with initial weights drawn from `rng`."""
        # On the meta device a builder allocates no memory and draws no weights from the global random state.
        with torch.device("meta"):
            network = NETWORKS[self.name](self.image_shape, self.num_classes, **_builder_options(self.options))
        return initialise(network, rng, **{k: v for k, v in self.options.items() if k == "init"})  # type: ignore[arg-type]


def network_factory(name: str, image_shape: ImageShape, num_classes: int, **options: object) -> NetworkFactory:
    """Return a function ``make_student(rng)``, which builds student networks with weights drawn from `rng`.

    Name, sizes and options are checked at once, so that a mistake is found before a long run.

    Args:
        name: Name of the network, a key of `NETWORKS`.
        image_shape: Shape of the images, (C, H, W).
        num_classes: Number of classes K >= 2.
        **options: Options of the network, such as ``depth`` and ``width`` of the ConvNet, and ``init``, the
            distribution of the initial weights, see `ddsdk.networks.initialise`.

    Returns:
        Function that can be pickled. Equal generators give networks with bitwise equal weights on the CPU.

    Raises:
        ValueError: If the name is unknown, an option is out of range, or the images are too small.
        TypeError: If the network has no such option.

    Example:
        >>> import ddsdk
        >>> import torch
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> student = make_student(ddsdk.generator(0))
        >>> student(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    if name not in NETWORKS:
        similar = difflib.get_close_matches(name.lower(), NETWORKS, n=1, cutoff=0.4)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {name!r}{hint}")
    builder = NETWORKS[name]
    # The first two parameters of a builder are image_shape and num_classes.
    parameters = dict(list(inspect.signature(builder).parameters.items())[2:])
    for option in options:
        if option not in (*parameters, "init"):
            raise TypeError(f"options of network {name!r} must be among {list(parameters)}, got {option!r}")
    init = options.get("init", "pytorch")
    require(init in get_args(Init), "init", f"be one of {list(get_args(Init))}", init)
    check_request(image_shape, num_classes)
    channels, height, width = image_shape
    shape = (channels, height, width)
    # A build without memory raises the builder's own errors.
    with torch.device("meta"):
        builder(shape, num_classes, **_builder_options(options))
    complete = {option: parameter.default for option, parameter in parameters.items()} | options
    if complete.get("depth", 1) is None:
        complete["depth"] = derived_depth(shape)
    return NetworkFactory(name, shape, num_classes, complete)


def _builder_options(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if name != "init"}
