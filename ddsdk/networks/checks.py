"""Checks of a factory before a run: repeatable weights, and logits of the right shape."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ddsdk.foundation import generator, require, seeded_layers
from ddsdk.networks.identity import probe_batch
from ddsdk.networks.shapes import ImageShape

MakeNetwork = Callable[[torch.Generator], nn.Module]


def built(make_network: MakeNetwork, rng: torch.Generator) -> nn.Module:
    """Return a new network; weights that its factory draws from torch's global generators depend on `rng` too.

    Args:
        make_network: Factory of the network.
        rng: Generator of the initial weights, which the factory may advance.
    """
    with seeded_layers(rng):
        return make_network(rng)


def require_repeatable(make_network: MakeNetwork, name: str) -> nn.Module:
    """Check that equal generators give networks of equal weights, else raise ValueError.

    Args:
        make_network: Factory of the networks.
        name: Name of the factory for the message.

    Returns:
        One of the two networks that were compared.

    Raises:
        TypeError: If the factory does not accept its arguments, or returns no module, or one with lazy layers.
    """
    try:
        networks = [built(make_network, generator("repeatable")) for _ in range(2)]
    except TypeError as error:
        raise TypeError(f"{name} must build a network from these arguments, got: {error}") from error
    for network in networks:
        if not isinstance(network, nn.Module):
            raise TypeError(f"make_student must return a torch.nn.Module, got {type(network).__name__} from {name}")
        lazy = [path for path, parameter in network.named_parameters() if is_lazy(parameter)]
        if lazy:
            raise TypeError(f"make_student must return networks without lazy layers, got {lazy[0]!r} of {name}")
    one, two = (network.state_dict() for network in networks)
    different = [key for key, value in one.items() if key not in two or not _same(value, two[key])]
    require(
        not different and len(one) == len(two),
        "make_student",
        "give equal weights for equal generators: draw them from the generator or by PyTorch's own initialisation, "
        "not from NumPy, Python's random or a generator of your own",
        f"{name}, whose {different[0] if different else 'layers'} differ in two networks",
    )
    return networks[0]


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a.cpu(), b.cpu())
    return type(a) is type(b)  # extra state, which may be of any type


def require_logits(network: nn.Module, image_shape: ImageShape, num_classes: int, name: str) -> None:
    """Check that a network maps two images to logits (2, K) of a floating type.

    Args:
        network: Network to check; it is not changed.
        image_shape: Shape of the images, (C, H, W).
        num_classes: Number of classes K.
        name: Name of the network for the message.

    Raises:
        ValueError: If the images do not fit the network, or its output is no such tensor.
    """
    with torch.no_grad(), seeded_layers(generator("probe")):
        try:
            logits: object = copy.deepcopy(network).cpu()(probe_batch(image_shape))
        except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
            message = f"network must take images (B, {', '.join(map(str, image_shape))}), got {name}: {error}"
            raise ValueError(message) from error
    rule = f"return one tensor of logits (B, {num_classes}); wrap a network with other outputs in a module of your own"
    tensor = isinstance(logits, Tensor)
    require(tensor, "network", rule, f"{type(logits).__name__} from {name}")
    assert isinstance(logits, Tensor)  # checked above
    fits = tuple(logits.shape) == (2, num_classes) and logits.is_floating_point()
    require(fits, "network", rule, f"{tuple(logits.shape)} {logits.dtype} for two images from {name}")
