"""Catalogue of networks by name, and the factory of student networks for recipes and evaluations."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final, get_args

import torch
from torch import nn

from ddsdk.foundation import canonical_json, generator, require, seeded_layers
from ddsdk.networks.checks import built, require_logits, require_repeatable
from ddsdk.networks.classic import alexnet, lenet, mlp, vgg11, vgg16
from ddsdk.networks.convnet import convnet, derived_depth
from ddsdk.networks.deep import densenet121, resnet10, resnet18, resnet50, resnet152
from ddsdk.networks.initialise import Init, initialise
from ddsdk.networks.libraries import check_stored_options, is_library_name, library_network
from ddsdk.networks.modern import convnext_tiny, efficientnet_b0, mobilenet, vit_tiny
from ddsdk.networks.network import Network
from ddsdk.networks.own import OwnNetwork, network_name, own_network
from ddsdk.networks.shapes import ImageShape, check_request
from ddsdk.networks.textcnn import textcnn

Builder = Callable[..., Network]
NetworkSpec = str | nn.Module | Callable[..., nn.Module]
"""Name of a network, class, function that returns a network, or module whose weights are drawn anew."""

NETWORKS: dict[str, Builder] = {
    "convnet": convnet,
    "mlp": mlp,
    "lenet": lenet,
    "alexnet": alexnet,
    "vgg11": vgg11,
    "vgg16": vgg16,
    "resnet10": resnet10,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet152": resnet152,
    "densenet121": densenet121,
    "mobilenet": mobilenet,
    "efficientnet-b0": efficientnet_b0,
    "convnext-tiny": convnext_tiny,
    "vit-tiny": vit_tiny,
    "textcnn": textcnn,
}

OWN_WEIGHTS = frozenset({"mobilenet", "efficientnet-b0", "convnext-tiny", "vit-tiny"})
"""Networks of the catalogue whose builders draw the published initial weights; they have no option ``init``."""


@final
@dataclass(frozen=True)
class NetworkFactory:
    """A factory of student networks of one architecture; `network_factory` makes it.

    Attributes:
        name: Name of the network: a key of `NETWORKS`, "torchvision:NAME", "timm:NAME", or that of a class or function.
        image_shape: Shape of the images, (C, H, W).
        num_classes: Number of classes K.
        options: Values of all options of the builder, including defaults and derived values, and ``"init"`` if given;
            for other networks the given options alone.
        own: Builder of a network that is none of the catalogue, torchvision or timm; None for these.

    Examples:
        >>> import ddsdk
        >>> factory = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> factory.options["depth"], factory.options["norm"]
        (2, 'instance')
    """

    name: str
    image_shape: ImageShape
    num_classes: int
    options: Mapping[str, object]
    own: OwnNetwork | None = field(default=None, repr=False)

    @property
    def spec(self) -> NetworkSpec:
        """Argument of `network_factory` that gives this network."""
        return self.name if self.own is None else self.own.source

    def __call__(self, rng: torch.Generator) -> Any:  # noqa: ANN401
        """Return a new network with initial weights drawn from `rng`; a `Network` for a name of the catalogue."""
        if self.own is not None:
            return built(self.own, rng)
        if self.name not in NETWORKS:
            with seeded_layers(rng):
                return library_network(self.name, self.image_shape, self.num_classes, self.options)
        if self.name in OWN_WEIGHTS:
            with seeded_layers(rng):
                return NETWORKS[self.name](self.image_shape, self.num_classes, **self.options)
        # On the meta device a builder allocates no memory and draws no weights from the global random state.
        with torch.device("meta"):
            network = NETWORKS[self.name](self.image_shape, self.num_classes, **_builder_options(self.options))
        return initialise(network, rng, **{k: v for k, v in self.options.items() if k == "init"})  # type: ignore[arg-type]


def network_factory(
    network: NetworkSpec, image_shape: ImageShape, num_classes: int, **options: object
) -> NetworkFactory:
    """Return a function ``make_student(rng)``, which builds student networks with weights drawn from `rng`.

    Name, sizes and options are checked at once, so that a mistake is found before a long run. A network that is none of
    the catalogue is built and run on two images; one of your own is built twice, and must have equal weights.

    Args:
        network: Name of the network: a key of `NETWORKS`, "torchvision:NAME" or "timm:NAME" (extra ``timm``). Or a
            class, a function with or without a `torch.Generator`, or a module, whose weights are drawn anew. A name
            never imports code of another package.
        image_shape: Shape of the images, (C, H, W).
        num_classes: Number of classes K >= 2.
        **options: Options of the network, such as ``depth`` and ``width`` of the ConvNet, and ``init``, the
            distribution of the initial weights of a network of the catalogue, see `ddsdk.networks.initialise`. For a
            class or function its other arguments.

    Returns:
        Function that can be pickled if `network` can. Equal generators give networks with bitwise equal weights on the
        CPU.

    Raises:
        ValueError: If the name is unknown, an option is out of range, or the images are too small.
        TypeError: If the network has no such option.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> make_student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)
        >>> student = make_student(ddsdk.generator(0))
        >>> student(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
        >>> from torch import nn
        >>> def two_layers(hidden):
        ...     return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        >>> ddsdk.network_factory(two_layers, (1, 8, 8), 10, hidden=32)(ddsdk.generator(0))[1].out_features
        32
    """
    check_request(image_shape, num_classes)
    channels, height, width = image_shape
    shape = (channels, height, width)
    if not isinstance(network, str):
        own = own_network(network, shape, num_classes, options)
        factory = NetworkFactory(network_name(network), shape, num_classes, _recorded(options), own)
        require_logits(require_repeatable(own, factory.name), shape, num_classes, factory.name)
        return factory
    if is_library_name(network):
        factory = NetworkFactory(network, shape, num_classes, dict(options))
        require_logits(factory(generator("probe")), shape, num_classes, network)
        return factory
    if network not in NETWORKS:
        similar = difflib.get_close_matches(network.lower(), NETWORKS, n=1, cutoff=0.4)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        if ":" in network:
            hint = "; pass the class or function itself, or name it with --network or --networks"
        known = f"{', '.join(NETWORKS)}, torchvision:NAME or timm:NAME"
        raise ValueError(f"network must be one of {known}, got {network!r}{hint}")
    builder = NETWORKS[network]
    # The first two parameters of a builder are image_shape and num_classes.
    parameters = dict(list(inspect.signature(builder).parameters.items())[2:])
    extra = () if network in OWN_WEIGHTS else ("init",)
    for option in options:
        if option not in (*parameters, *extra):
            raise TypeError(f"options of network {network!r} must be among {list(parameters)}, got {option!r}")
    init = options.get("init", "pytorch")
    require(init in get_args(Init), "init", f"be one of {list(get_args(Init))}", init)
    # A build without memory raises the builder's own errors.
    with torch.device("meta"):
        builder(shape, num_classes, **_builder_options(options))
    complete = {option: parameter.default for option, parameter in parameters.items()} | options
    if complete.get("depth", 1) is None:
        complete["depth"] = derived_depth(shape)
    return NetworkFactory(network, shape, num_classes, complete)


def stored_network_factory(name: str, image_shape: ImageShape, num_classes: int, **options: object) -> NetworkFactory:
    """Return the factory of a network that a file names, such as the protocol of a distilled set.

    A file may come from a stranger: it can name networks of the catalogue, torchvision and timm, and set numbers of the
    latter, and it imports no code of another package.

    Args:
        name: Name of the network: a key of `NETWORKS`, "torchvision:NAME" or "timm:NAME".
        image_shape: Shape of the images, (C, H, W).
        num_classes: Number of classes K >= 2.
        **options: Options of the network, as in `network_factory`.

    Raises:
        ValueError: If the name is that of a network of one's own, or an option is not allowed in a file.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.networks import stored_network_factory
        >>> stored_network_factory("convnet", (1, 8, 8), 10, width=4).name
        'convnet'
    """
    if name not in NETWORKS and not is_library_name(name):
        similar = [] if ":" in name else difflib.get_close_matches(name.lower(), NETWORKS, n=1, cutoff=0.4)
        hint = f"did you mean {similar[0]!r}?" if similar else "choose the network with --networks or networks="
        known = f"{', '.join(NETWORKS)}, torchvision:NAME or timm:NAME"
        raise ValueError(f"network of a protocol must be one of {known}, got {name!r}; {hint}")
    if is_library_name(name):
        check_stored_options(name, options)
    return network_factory(name, image_shape, num_classes, **options)


def network_parameters(network: NetworkSpec) -> frozenset[str]:
    """Return the names of the options that a network accepts; empty for torchvision and timm.

    Examples:
        >>> from ddsdk.networks import network_parameters
        >>> sorted(network_parameters("mlp"))
        ['width']
    """
    if isinstance(network, nn.Module) or (isinstance(network, str) and network not in NETWORKS):
        return frozenset()
    names = list(inspect.signature(NETWORKS[network] if isinstance(network, str) else network).parameters)
    return frozenset(names[2:] if isinstance(network, str) else names)


def _recorded(options: Mapping[str, object]) -> dict[str, object]:
    """Return options as JSON values for reports; other values by their text."""
    values = {}
    for name, value in options.items():
        try:
            canonical_json(value)
            values[name] = value
        except (TypeError, ValueError):
            values[name] = repr(value)
    return values


def _builder_options(options: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if name != "init"}
