"""Initial weights that come from an explicit generator and nothing else."""

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
"""Start of linear and convolution layers, see `initialise`."""

M = TypeVar("M", bound=nn.Module)

_DRAWN = (nn.Linear, _ConvNd)
# Their reset_parameters() is deterministic: ones, zeros, a constant slope, and fresh running statistics.
_RESET = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.PReLU)


def initialise(module: M, rng: torch.Generator, init: Init = "pytorch") -> M:
    """Give every parameter of `module` a fresh value drawn from `rng`, in place.

    The formulas are PyTorch's defaults. Linear and convolution layers: the weight is Kaiming-uniform with
    a = sqrt(5), which is U(-b, b) with b = 1 / sqrt(fan_in), and the bias has the same b. Norm layers: weight
    1, bias 0, running mean 0, running variance 1, no batches tracked. Draws are made on the CPU in module
    order and copied, so that the device does not change the numbers. With ``"xavier-normal"`` linear and
    convolution layers have weights from N(0, 2 / (fan_in + fan_out)) and biases of 0 instead.

    Args:
        module: Module of linear, convolution, norm and parameter-free layers. Parts on the meta device get memory on
            the CPU; other parts stay where they are.
        rng: CPU generator; it advances. The global random state is neither read nor changed.
        init: Start of linear and convolution layers.

    Returns:
        The same module.

    Raises:
        TypeError: If a layer holds parameters (or buffers without memory) of an unknown kind, before any change.

    References:
        He et al., ICCV 2015, arXiv 1502.01852. Glorot and Bengio, AISTATS 2010 (Xavier).
    """
    require(init in get_args(Init), "init", f"be one of {list(get_args(Init))}", init)
    layers = [(path, layer) for path, layer in module.named_modules() if _own_tensors(layer)]
    for path, layer in layers:
        _check_known(path, layer)
    with torch.no_grad():
        for _, layer in layers:
            if any(tensor.is_meta for tensor in _own_tensors(layer)):
                layer.to_empty(device=torch.device("cpu"), recurse=False)
            if isinstance(layer, _DRAWN):
                (_draw if init == "pytorch" else _draw_xavier)(layer, rng)
            elif isinstance(layer, _RESET):
                layer.reset_parameters()
    return module


def _own_tensors(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]


def _check_known(path: str, layer: nn.Module) -> None:
    constant = not any(True for _ in layer.parameters(recurse=False))
    if constant and not any(buffer.is_meta for buffer in layer.buffers(recurse=False)):
        return
    if isinstance(layer, (*_DRAWN, *_RESET)) and not any(is_lazy(p) for p in layer.parameters(recurse=False)):
        return
    raise TypeError(
        f"layer {path or '(the module itself)'!r} is a {type(layer).__name__}, "
        "which initialise() does not know: build the network from linear, convolution and norm layers, "
        "or pass a make_student(rng) of your own that draws this layer's weights from rng"
    )


def _draw(layer: nn.Linear | _ConvNd, rng: torch.Generator) -> None:
    bound = 1 / math.sqrt(layer.weight[0].numel())
    for parameter in layer.parameters(recurse=False):
        parameter.copy_(torch.empty(parameter.shape, device="cpu").uniform_(-bound, bound, generator=rng))


def _draw_xavier(layer: nn.Linear | _ConvNd, rng: torch.Generator) -> None:
    into, out = layer.weight[0].numel(), layer.weight[:, 0].numel()
    std = math.sqrt(2 / (into + out))
    layer.weight.copy_(std * torch.randn(layer.weight.shape, generator=rng))
    if layer.bias is not None:
        layer.bias.zero_()
