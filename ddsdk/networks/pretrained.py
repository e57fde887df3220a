"""Pretrained modules by name: weights of torchvision, timm and safetensors files, and functions of other packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ddsdk.foundation import MissingExtraError, note, require
from ddsdk.networks.backbones import Backbone
from ddsdk.networks.features import last_layer
from ddsdk.networks.libraries import check_known, is_library_name
from ddsdk.networks.own import imported_network

_WAY_OUT = "put the file there, name a file by FILE.safetensors@NAME, or a function by package.module:factory"


def load_backbone(
    spec: str | nn.Module | Backbone,
    *,
    side: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Backbone:
    """Return the frozen backbone that a text names, or that a module is.

    Weights of torchvision and timm are read from the caches of these libraries, which download missing ones after a
    note. Their last linear layer is removed. The module of "package.module:factory" is imported, so that a text of a
    file must never come here.

    An unknown name, weights that cannot be read, and a missing `mean` or `std` give a ValueError. These two are never
    guessed, because a wrong normalisation costs many points of accuracy.

    Args:
        spec: Name "torchvision:NAME" or "timm:NAME" with the pretrained weights of that library;
            "FILE.safetensors@torchvision:NAME" or "FILE.safetensors@timm:NAME" with the weights of a file;
            "package.module:factory" of a function without arguments that returns a module or a `Backbone`; a module; or
            a `Backbone`.
        side: Input resolution in pixels; None for that of the pretrained weights, or of the images for a module.
        mean: Mean of each channel in the unit range; None for that of the pretrained weights, which a module and a file
            do not state.
        std: Standard deviation of each channel in the unit range; None as for `mean`.

    Raises:
        TypeError: If `spec` neither is nor names a module or a `Backbone`.

    Examples:
        >>> from torch import nn
        >>> from ddsdk.networks import load_backbone
        >>> load_backbone(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU()), mean=[0.5], std=[0.5]).features
        8
    """
    found, stated = named_module(spec) if isinstance(spec, str) else (spec, {})
    if isinstance(found, Backbone):
        stated = found.preprocessing
    elif not isinstance(found, nn.Module):
        raise TypeError(f"backbone must be a module or a Backbone, or name one, got {type(found).__name__}")
    name = spec if isinstance(spec, str) else type(found).__name__
    given = {"mean": mean, "std": std, "side": side}
    facts: dict[str, Any] = {key: stated.get(key) if value is None else value for key, value in given.items()}
    for key in ("mean", "std"):
        rule = f"be given for {name}, whose weights do not state their normalisation"
        require(facts[key] is not None, key, rule, None)
    return found.with_preprocessing(**facts) if isinstance(found, Backbone) else Backbone(found, **facts, name=name)


def named_module(spec: str) -> tuple[object, Mapping[str, Any]]:
    """Return the module that a text names, without its classifier, and what is known of its preprocessing.

    Args:
        spec: Text as in `load_backbone`.

    Returns:
        The module, and a mapping with some of the keys ``"mean"``, ``"std"`` and ``"side"``.
    """
    file, at, network = spec.rpartition("@")
    if at:
        require(is_library_name(network), "backbone", "be FILE.safetensors@torchvision:NAME or @timm:NAME", spec)
        return _from_file(Path(file), network), {}
    if is_library_name(spec):
        library, _, name = spec.partition(":")
        return _timm(name) if library == "timm" else _torchvision(name)
    suffix = spec.endswith(".safetensors")
    require(not suffix, "backbone", "name the network of a file: FILE.safetensors@torchvision:NAME", spec)
    found = imported_network(spec, "backbone")
    return found() if callable(found) and not isinstance(found, nn.Module) else found, {}


def _torchvision(name: str) -> tuple[nn.Module, dict[str, Any]]:
    from torchvision import models

    check_known(name, "torchvision", models.list_models(module=models))
    weights: Any = models.get_model_weights(name).DEFAULT
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(weights.url).path).name
    if not path.exists():
        note(f"the weights of torchvision:{name} are downloaded from {weights.url} to {path}")
    try:
        # Without weights_only the library would run the code of a pickled file.
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    # A broken connection, a wrong hash, or a file that holds more than tensors, for which torch has an own error.
    except Exception as error:
        raise ValueError(f"backbone must have readable weights, got {error} for {path}: {_WAY_OUT}") from error
    transform = weights.transforms()
    side = int(transform.crop_size[0])
    network, classifier = _torchvision_network(name, len(weights.meta["categories"]), side)
    network.load_state_dict(state)
    facts = {"mean": tuple(transform.mean), "std": tuple(transform.std), "side": side}
    return _without(network, classifier), facts


@torch.no_grad()
def _torchvision_network(name: str, classes: int, side: int = 224) -> tuple[nn.Module, str]:
    from torchvision import models

    check_known(name, "torchvision", models.list_models(module=models))
    options: dict[str, Any] = {"image_size": side} if name.startswith("vit_") else {}
    if name in ("googlenet", "inception_v3"):
        # The published weights belong to networks with auxiliary classifiers and this change of the normalisation.
        options = {"aux_logits": True, "init_weights": False, "transform_input": True}
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options).eval()
    try:
        return network, last_layer(network, torch.zeros(2, 3, side, side)).path
    except TypeError as error:
        raise ValueError(f"backbone must end in one linear layer, got torchvision:{name}: {error}") from None


def _without(network: nn.Module, classifier: str) -> nn.Module:
    parent, _, attribute = classifier.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    return network


def _timm(name: str) -> tuple[nn.Module, dict[str, Any]]:
    timm = _timm_library(name)
    note(f"timm reads the weights of timm:{name} from its cache, and downloads them if they are missing")
    try:
        network: nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
    # The hub's client and timm raise OSError, RuntimeError and ValueError for weights that are not there.
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"backbone must have readable weights, got {error} for timm:{name}: {_WAY_OUT}") from error
    stated: Any = network.pretrained_cfg
    return network, {"mean": stated["mean"], "std": stated["std"], "side": int(stated["input_size"][-1])}


def _timm_library(name: str) -> Any:  # noqa: ANN401
    try:
        import timm
    except ImportError:
        raise MissingExtraError(f"timm:{name}", "timm", "timm") from None
    # The name of a model may be followed by that of its weights, as in "resnet18.a1_in1k".
    check_known(name.partition(".")[0], "timm", timm.list_models())
    return timm


def _from_file(path: Path, network: str) -> nn.Module:
    require(path.suffix == ".safetensors", "backbone", "have its weights in a .safetensors file", str(path))
    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"backbone must have readable weights, got {path}: {error}") from None
    library, _, name = network.partition(":")
    if library == "timm":
        module: nn.Module = _timm_library(name).create_model(name, pretrained=False, num_classes=0)
        heads: Any = getattr(module, "default_cfg", {}).get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
    else:
        whole, head = _torchvision_network(name, 2)
        module, heads = _without(whole, head), (head,)
    # A file may have a classifier of any number of classes, which the backbone does not have.
    body = {key: value for key, value in state.items() if not key.startswith(tuple(f"{head}." for head in heads))}
    try:
        module.load_state_dict(body)
    except RuntimeError as error:
        raise ValueError(f"backbone must have the weights of {network}, got {path}: {error}") from None
    return module
