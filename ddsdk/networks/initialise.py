"""Initial weights, drawn from an explicit random generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from ddsdk.foundation import generator, require, seeded_layers

Init = Literal["pytorch", "xavier-normal"]
"""Distribution of the initial weights of linear and convolution layers, see `initialise`."""

M = TypeVar("M", bound=nn.Module)

_DRAWN = (nn.Linear, _ConvNd)
# reset_parameters() of these layers is deterministic: ones, zeros, a constant slope, and new running statistics.
_RESET = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.PReLU)


def initialise(module: M, rng: torch.Generator, init: Init = "pytorch") -> M:
    """Draw new initial values for all parameters of a module, in place.

    With ``"pytorch"`` the distributions are PyTorch's defaults. Weights of linear and convolution layers are
    Kaiming-uniform with a = sqrt(5), which is U(-b, b) with b = 1 / sqrt(fan_in), and biases have the same b. With
    ``"xavier-normal"`` these layers have weights from N(0, 2 / (fan_in + fan_out)) and zero biases. Normalisation
    layers get weight 1, bias 0, running mean 0, running variance 1, and a batch count of 0. Numbers are drawn on the
    CPU in the order of the layers and then copied, so that they are the same on all devices.

    Layers of other kinds, such as attention and embeddings, are initialised by their own method `reset_parameters`,
    after the layers inside them. A layer with parameters of its own and without this method, such as a class token, is
    an error: TypeError is raised before any change. So is a parameter that two layers of different kinds share.

    Args:
        module: Module of layers with these initial values, and of parameter-free layers. Layers on the meta device get
            memory on the CPU; other layers stay on their device.
        rng: CPU generator, which is advanced. The global random state is neither read nor changed.
        init: Distribution of the weights of linear and convolution layers.

    Returns:
        Argument `module` itself.

    Examples:
        >>> import ddsdk
        >>> from torch import nn
        >>> layer = ddsdk.networks.initialise(nn.Linear(4, 2), ddsdk.generator(0), "xavier-normal")
        >>> layer.bias.tolist()
        [0.0, 0.0]

    References:
        He et al., ICCV 2015, arXiv 1502.01852. Glorot and Bengio, AISTATS 2010 (Xavier).
    """
    require(init in get_args(Init), "init", f"be one of {list(get_args(Init))}", init)
    layers = [(path, layer) for path, layer in module.named_modules() if _direct_tensors(layer)]
    for path, layer in layers:
        _check_layer(path, layer)
    _check_tied(layers)
    with torch.no_grad():
        for _, layer in layers:
            if any(tensor.is_meta for tensor in _direct_tensors(layer)):
                layer.to_empty(device=torch.device("cpu"), recurse=False)
            if isinstance(layer, _DRAWN):
                (_draw if init == "pytorch" else _draw_xavier)(layer, rng)
            elif isinstance(layer, _RESET):
                layer.reset_parameters()
        # Own methods come last and from the inside out, because that of an attention layer also sets its projections.
        own = [(path, layer) for path, layer in reversed(layers) if not isinstance(layer, (*_DRAWN, *_RESET))]
        seed = int(torch.randint(2**62, (), generator=rng)) if any(map(_own_reset, (layer for _, layer in own))) else 0
        for path, layer in own:
            _reset_own(path, layer, generator(seed, path))
    return module


def _own_reset(layer: nn.Module) -> Callable[[], object] | None:
    for name in ("reset_parameters", "_reset_parameters"):
        method = getattr(layer, name, None)
        if callable(method):
            return method  # type: ignore[no-any-return]
    return None


def _reset_own(path: str, layer: nn.Module, rng: torch.Generator) -> None:
    reset, parameters = _own_reset(layer), dict(layer.named_parameters(recurse=False))
    if reset is None:
        return
    for parameter in parameters.values():
        parameter.fill_(math.nan)
    with seeded_layers(rng):
        reset()
    for name, parameter in parameters.items():
        if parameter.isnan().any():
            raise _unsupported(path, layer, f"whose reset_parameters() leaves {name} as it is")


def _check_tied(layers: list[tuple[str, nn.Module]]) -> None:
    owners: dict[Tensor, tuple[str, nn.Module]] = {}
    for path, layer in layers:
        for parameter in layer.parameters(recurse=False):
            first, owner = owners.setdefault(parameter, (path, layer))
            if type(owner) is not type(layer) or (owner is not layer and parameter.is_meta):
                raise _unsupported(path, layer, f"which shares a parameter with {type(owner).__name__} at {first!r}")


def _direct_tensors(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]


def _check_layer(path: str, layer: nn.Module) -> None:
    constant = not any(True for _ in layer.parameters(recurse=False))
    if constant and not any(buffer.is_meta for buffer in layer.buffers(recurse=False)):
        return
    if isinstance(layer, (*_DRAWN, *_RESET)) and not any(is_lazy(p) for p in layer.parameters(recurse=False)):
        return
    if not any(p.is_meta or is_lazy(p) for p in _direct_tensors(layer)) and _own_reset(layer) is not None:
        return
    raise _unsupported(path, layer, ", ".join(name for name, _ in layer.named_parameters(recurse=False)))


def _unsupported(path: str, layer: nn.Module, reason: str) -> TypeError:
    return TypeError(
        f"module must have layers that initialise() supports, got {type(layer).__name__} at "
        f"{path or '(the module itself)'!r} ({reason}): pass the class of the network, or your own make_student(rng), "
        "which builds the network with its initial weights"
    )


def _draw(layer: nn.Linear | _ConvNd, rng: torch.Generator) -> None:
    bound = 1 / math.sqrt(layer.weight[0].numel())
    for parameter in layer.parameters(recurse=False):
        parameter.copy_(torch.empty(parameter.shape, device="cpu").uniform_(-bound, bound, generator=rng))


def _draw_xavier(layer: nn.Linear | _ConvNd, rng: torch.Generator) -> None:
    fan_in, fan_out = layer.weight[0].numel(), layer.weight[:, 0].numel()
    std = math.sqrt(2 / (fan_in + fan_out))
    layer.weight.copy_(std * torch.randn(layer.weight.shape, generator=rng))
    if layer.bias is not None:
        layer.bias.zero_()
