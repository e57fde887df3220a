"""Features and classifier of any network: its own `embed`, or the input of the linear layer that gives the logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddsdk.networks.network import Network


class LastLayer(NamedTuple):
    """The last linear layer of a forward pass whose output has the shape of the logits.

    Attributes:
        path: Name of the layer in the network, as in `named_modules`.
        layer: Linear layer of that name.
        features: Input of the layer, (B, F).
        logits: Output of the network, (B, K).
        exact: Whether the output of the layer is that of the network, so that the layer is the classifier.
    """

    path: str
    layer: nn.Linear
    features: Tensor
    logits: Tensor
    exact: bool


def own_embed(network: object) -> Callable[[Tensor], Tensor] | None:
    """Return the method `embed` of a network; None without one, and for a layer of this name."""
    embed = getattr(network, "embed", None)
    return embed if callable(embed) and not isinstance(embed, nn.Module) else None


def last_layer(network: nn.Module, x: Tensor) -> LastLayer:
    """Run a network on images, and return the linear layer that classifies, with its features.

    Args:
        network: Network from images (B, C, H, W) to logits (B, K).
        x: Images, (B, C, H, W).

    Returns:
        The layer, its input, and the logits.

    Raises:
        TypeError: If no linear layer, or several, have an output of the shape of the logits and none equals them.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from ddsdk.networks import last_layer
        >>> wrapped = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)))
        >>> found = last_layer(wrapped, torch.rand(2, 1, 8, 8))
        >>> found.path, tuple(found.features.shape), found.exact
        ('1.2', (2, 16), True)
    """
    calls: list[tuple[str, nn.Linear, Tensor, Tensor]] = []

    def collect(path: str, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((path, layer, inputs[0], output))  # type: ignore[arg-type]  # hooks of linear layers alone

    linear = [(path, layer) for path, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    handles = [layer.register_forward_hook(partial(collect, path)) for path, layer in linear]
    try:
        logits: Tensor = network(x)
    finally:
        for handle in handles:
            handle.remove()
    fitting = [call for call in calls if call[3].shape == logits.shape]
    exact = [call for call in fitting if call[3] is logits or torch.equal(call[3].detach(), logits.detach())]
    if not exact and len(fitting) != 1:
        layers = " and ".join(path for path, *_ in fitting) or "no nn.Linear"
        raise TypeError(
            f"student must have a method embed(x) -> (B, F), or end in one linear layer, got {type(network).__name__}, "
            f"whose logits {tuple(logits.shape)} come from {layers}"
        )
    path, layer, features, _ = (exact or fitting)[-1]
    return LastLayer(path, layer, features, logits, bool(exact))


def classifier(network: nn.Module, x: Tensor) -> nn.Linear:
    """Return the linear layer whose output is the logits of a network.

    Args:
        network: Network from images (B, C, H, W) to logits (B, K).
        x: Images of a probe, (B, C, H, W).

    Raises:
        TypeError: If no layer is, or more layers follow the last one, such as a factor on its output.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from ddsdk.networks import classifier
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        >>> classifier(network, torch.rand(2, 1, 8, 8))
        Linear(in_features=16, out_features=10, bias=True)
    """
    found = last_layer(network, x)
    if not found.exact:
        raise TypeError(
            f"network must end in the linear layer that gives its logits, got {type(network).__name__}, "
            f"whose output differs from that of {found.path}"
        )
    return found.layer


def embedding(network: object) -> Callable[[Tensor], Tensor]:
    """Return the function from images (B, C, H, W) to the features, (B, F), before the last linear layer of a network.

    It is the network's method `embed` if it has one, else the input of the layer of `last_layer`.

    Raises:
        TypeError: If `network` is no module and has no such method.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from ddsdk.networks import embedding
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten(), nn.Linear(4, 10))
        >>> embedding(network)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 4])
    """
    own = own_embed(network)
    if own is not None:
        return own
    if not isinstance(network, nn.Module):
        raise TypeError(f"student must be a network with a method embed(x), got {type(network).__name__}")
    return partial(_hooked_features, network)


def _hooked_features(network: nn.Module, x: Tensor) -> Tensor:
    return last_layer(network, x).features


def features_and_logits(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features, (B, F), and the logits, (B, K), of images, (B, C, H, W), in one pass if possible.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from ddsdk.networks import features_and_logits
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        >>> [tuple(t.shape) for t in features_and_logits(network, torch.rand(2, 1, 8, 8))]
        [(2, 16), (2, 10)]
    """
    own = own_embed(network)
    if own is None:
        found = last_layer(network, x)
        return found.features, found.logits
    features = own(x)
    # The attribute `head` of another network may be no classifier.
    return features, network.head(features) if isinstance(network, Network) else network(x)
