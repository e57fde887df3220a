"""Networks of torchvision and timm by name, adapted to the images and classes of the data."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ddsdk.foundation import MissingExtraError, require
from ddsdk.networks.shapes import ImageShape

LIBRARIES = ("torchvision", "timm")
"""Prefixes of names, as in "timm:resnet18"."""

_LOADING = ("weights", "weights_backbone", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path")
"""Options that read weights from files or the network; the weights of a student come from its generator."""

_STORED = ("drop_rate", "drop_path_rate", "dropout", "stochastic_depth_prob", "img_size", "patch_size")
"""Options that a file may set."""


def is_library_name(name: str) -> bool:
    """Return whether a name is one of torchvision or timm, such as "timm:resnet18"."""
    return name.partition(":")[0] in LIBRARIES and ":" in name


def check_stored_options(name: str, options: Mapping[str, object]) -> None:
    """Check that a file sets only harmless options of a network of torchvision or timm, else raise ValueError."""
    for option, value in options.items():
        harmless = option in _STORED and isinstance(value, int | float)
        require(harmless, f"options of {name}", f"be numbers among {', '.join(_STORED)} in a file", {option: value})


def library_network(name: str, image_shape: ImageShape, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    """Return a network of torchvision or timm with new weights from torch's global generator.

    The builder gets the number of classes and, where it has them, the channels and the size of the images. The first
    convolution of a torchvision network over three channels is replaced for images of other channels.

    Args:
        name: Name of the network, "torchvision:NAME" or "timm:NAME", of a classifier of that library.
        image_shape: Shape of the images, (C, H, W).
        num_classes: Number of classes K.
        options: Further options of the builder.

    Raises:
        TypeError: If the builder has no such option.
    """
    library, _, model = name.partition(":")
    for option in options:
        require(option not in _LOADING, "options", "load no weights, which come from the generator", option)
    # Constants of a library that is imported here need memory, whatever the default device of the caller.
    with torch.device("cpu"):
        try:
            return (_timm if library == "timm" else _torchvision)(model, image_shape, num_classes, dict(options))
        except TypeError as error:
            raise TypeError(f"options of {name} must be those of its builder, got {dict(options)}: {error}") from error


def check_known(name: str, library: str, names: list[str]) -> None:
    """Check that a library has a network of a name; the error shows the nearest name.

    Args:
        name: Name of the network without the prefix of the library.
        library: Name of the library, such as "timm".
        names: Names of all networks of the library.

    Raises:
        ValueError: If the library has no such network.
    """
    similar = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"; did you mean {library}:{similar[0]}?" if similar else ""
    if name not in names:
        raise ValueError(f"network must be a classifier of {library}, got {name!r}{hint}")


def _torchvision(name: str, image_shape: ImageShape, num_classes: int, options: dict[str, Any]) -> nn.Module:
    from torchvision import models

    check_known(name, "torchvision", models.list_models(module=models))
    channels, height, width = image_shape
    if name.startswith("vit_"):
        require(height == width, "image_shape", f"be square for torchvision:{name}", image_shape)
        options.setdefault("image_size", height)
    if name in ("googlenet", "inception_v3"):
        # Their auxiliary classifiers give several outputs, and their own initial values take a minute.
        options = {"aux_logits": False, "init_weights": False, **options}
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    if channels != 3:
        _replace_first_convolution(network, channels)
    return network


def _replace_first_convolution(network: nn.Module, channels: int) -> None:
    path, first = next((path, layer) for path, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    parent, _, attribute = path.rpartition(".")
    copied = ("out_channels", "kernel_size", "stride", "padding", "dilation", "padding_mode")
    arguments: dict[str, Any] = {name: getattr(first, name) for name in copied}
    convolution = nn.Conv2d(channels, bias=first.bias is not None, **arguments)
    setattr(network.get_submodule(parent), attribute, convolution)


def _timm(name: str, image_shape: ImageShape, num_classes: int, options: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise MissingExtraError(f"timm:{name}", "timm", "timm") from None
    check_known(name, "timm", timm.list_models())
    channels, height, width = image_shape
    arguments = {"num_classes": num_classes, "in_chans": channels, **options}
    network: nn.Module
    try:
        network = timm.create_model(name, **{"img_size": (height, width), **arguments})
    except TypeError:
        # Convolutional networks take images of any size and have no such option.
        network = timm.create_model(name, **arguments)
    return network
