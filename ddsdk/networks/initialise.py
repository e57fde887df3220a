"""Initial weights, drawn from an explicit random generator."""

from __future__ import annotations

import math
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from ddsdk.foundation import require

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

    A layer of another kind that has parameters, or buffers without memory, is an error: TypeError is raised before
    any change.

    Args:
        module: Module of linear, convolution, normalisation and parameter-free layers. Layers on the meta device get
            memory on the CPU; other layers stay on their device.
        rng: CPU generator, which is advanced. The global random state is neither read nor changed.
        init: Distribution of the weights of linear and convolution layers.

    Returns:
        Argument `module` itself.

    Example:
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
    with torch.no_grad():
        for _, layer in layers:
            if any(tensor.is_meta for tensor in _direct_tensors(layer)):
                layer.to_empty(device=torch.device("cpu"), recurse=False)
            if isinstance(layer, _DRAWN):
                (_draw if init == "pytorch" else _draw_xavier)(layer, rng)
            elif isinstance(layer, _RESET):
                layer.reset_parameters()
    return module


def _direct_tensors(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]


def _check_layer(path: str, layer: nn.Module) -> None:
    constant = not any(True for _ in layer.parameters(recurse=False))
    if constant and not any(buffer.is_meta for buffer in layer.buffers(recurse=False)):
        return
    if isinstance(layer, (*_DRAWN, *_RESET)) and not any(is_lazy(p) for p in layer.parameters(recurse=False)):
        return
    raise TypeError(
        f"module must have layers that initialise() supports, got {type(layer).__name__} at "
        f"{path or '(the module itself)'!r}: build the network from linear, convolution and norm layers, "
        "or pass your own make_student(rng), which draws the weights of this layer from rng"
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
