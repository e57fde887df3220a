"""Needs of methods: what a network must offer beside logits, in one sentence each, and the checks before a run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddsdk.foundation import generator, seeded_layers
from ddsdk.networks.attention import differentiable_attention
from ddsdk.networks.features import embedding
from ddsdk.networks.identity import probe_batch
from ddsdk.networks.norms import has_batch_norm
from ddsdk.networks.shapes import ImageShape

NEEDS: dict[str, str] = {
    "features": "features: a last linear layer that gives the logits, or a method embed(x) -> (B, F)",
    "stages": "a module body that is an nn.Sequential of stages and returns the features",
    "activations": "activation layers: modules nn.ReLU, nn.LeakyReLU or nn.Sigmoid",
    "body": "a module body whose parameters come first, before those of the classifier",
    "no random layers": "no random layers such as dropout, because one function is evaluated many times",
    "second derivatives": "second derivatives: gradients of its weights that can be differentiated by the images",
    "BatchNorm": "BatchNorm layers, or to be a network of the catalogue with an option norm",
}
"""Sentences of the needs, which complete "networks with …"."""


def check_needs(
    network: nn.Module, image_shape: ImageShape, needs: Sequence[str], method: str, name: str, norm: bool = False
) -> None:
    """Check on two images that a network offers what a method needs.

    Args:
        network: Network to check; it is not changed.
        image_shape: Shape of the images, (C, H, W).
        needs: Needs of the method.
        method: Name of the method for the message.
        name: Name of the network for the message.
        norm: Whether the network has an option ``norm``, by which a method adds BatchNorm.

    Raises:
        ValueError: If the network lacks one of them.
    """
    if not needs:
        return
    clone, x = copy.deepcopy(network).cpu(), probe_batch(image_shape)
    for need in needs:
        if need == "BatchNorm" and norm:
            continue
        with seeded_layers(generator("probe")), differentiable_attention(), torch.enable_grad():
            fault = _CHECKS[need](clone, x)
        if fault:
            raise ValueError(
                f"make_student must give networks with {NEEDS[need]}, for {method}, got {name}: {fault}; choose "
                "another network or method, see the table in the guide to your own network"
            )


def _features(network: nn.Module, x: Tensor) -> str:
    try:
        features: object = embedding(network)(x)
    except TypeError as error:
        return str(error)
    fits = isinstance(features, Tensor) and features.ndim == 2 and len(features) == len(x)
    return "" if fits else f"embed returns {tuple(getattr(features, 'shape', ()))} for two images"


def _stages(network: nn.Module, x: Tensor) -> str:  # noqa: ARG001
    return "" if isinstance(getattr(network, "body", None), nn.Sequential) else "it has no such module"


def _activations(network: nn.Module, x: Tensor) -> str:
    calls: list[nn.Module] = []
    layers = [layer for layer in network.modules() if isinstance(layer, nn.ReLU | nn.LeakyReLU | nn.Sigmoid)]
    handles = [layer.register_forward_hook(lambda layer, *_: calls.append(layer)) for layer in layers]
    network(x)
    for handle in handles:
        handle.remove()
    return "" if calls else "it has none"


def _body(network: nn.Module, x: Tensor) -> str:  # noqa: ARG001
    body = getattr(network, "body", None)
    if not isinstance(body, nn.Module):
        return "it has no such module"
    inner, every = list(body.parameters()), list(network.parameters())
    first = len(inner) <= len(every) and all(a is b for a, b in zip(inner, every, strict=False))
    return "" if first else "other parameters come before those of the body"


def _fixed(network: nn.Module, x: Tensor) -> str:
    before = torch.default_generator.get_state()
    network(x)
    return "" if torch.equal(torch.default_generator.get_state(), before) else "its forward pass draws random numbers"


def _second_derivatives(network: nn.Module, x: Tensor) -> str:
    images, weights = x.clone().requires_grad_(), [p.requires_grad_() for p in network.parameters()]
    if not weights:
        return "it has no parameters"
    logits: Tensor = network(images)
    try:
        loss = cross_entropy(logits, torch.zeros(len(x), dtype=torch.long))
        gradients = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
        squares = [g.square().sum() for g in gradients if g is not None]
        (by_images,) = torch.autograd.grad(torch.stack(squares).sum(), images, allow_unused=True)
    except (RuntimeError, NotImplementedError) as error:
        return str(error).splitlines()[0]
    return "" if by_images is not None else "the gradients do not depend on the images"


def _batch_norm(network: nn.Module, x: Tensor) -> str:  # noqa: ARG001
    return "" if has_batch_norm(network) else "it has none"


_CHECKS: dict[str, Callable[[nn.Module, Tensor], str]] = {
    "features": _features,
    "stages": _stages,
    "activations": _activations,
    "body": _body,
    "no random layers": _fixed,
    "second derivatives": _second_derivatives,
    "BatchNorm": _batch_norm,
}
