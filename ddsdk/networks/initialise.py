"""Initial weights, drawn from an explicit random generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from ddsdk.foundation import generator, require, seeded_layers

Init = Literal["pytorch", "xavier-normal", "lecun-normal", "he-normal", "he-normal-biased"]
"""Distribution of the initial weights of linear and convolution layers, see `initialise`."""

M = TypeVar("M", bound=nn.Module)

_Drawn = nn.Linear | _ConvNd
_DRAWN = (nn.Linear, _ConvNd)
_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal variable that is truncated to -2..2."""
# reset_parameters() of these layers is deterministic: ones, zeros, a constant slope, and new running statistics.
_RESET = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.PReLU)


def initialise(module: M, rng: torch.Generator, init: Init = "pytorch") -> M:
    """Draw new initial values for all parameters of a module, in place.

    Linear and convolution layers have one of these distributions; normalisation layers get weight 1, bias 0, running
    mean 0, running variance 1, and a batch count of 0. Numbers are drawn on the CPU in the order of the layers and then
    copied, so that they are the same on all devices.

    - ``"pytorch"``, PyTorch's default: weights and biases from U(-b, b) with b = 1 / sqrt(fan_in).
    - ``"xavier-normal"``: weights from N(0, 2 / (fan_in + fan_out)), zero biases.
    - ``"lecun-normal"``, Flax's default: weights of variance 1 / fan_in from a normal distribution that is truncated
      at two standard deviations, zero biases.
    - ``"he-normal"``: weights from N(0, 2 / fan_in), zero biases.
    - ``"he-normal-biased"``: the same weights, and biases from N(0, 0.01), as in RFAD.

    Layers of other kinds, such as attention and embeddings, are initialised by their own method `reset_parameters`,
    after the layers inside them. A layer with parameters of its own and without this method, such as a class token, is
    an error: TypeError is raised before any change. So is a parameter that two layers of different kinds share.

    Args:
        module: Module of layers with these initial values, and of parameter-free layers. Layers on the meta device get
            memory on the CPU; other layers stay on their device.
        rng: CPU generator, which is advanced. The global random state is neither read nor changed.
        init: Name of the distribution of linear and convolution layers.

    Returns:
        Argument `module` itself.

    Examples:
        >>> import ddsdk
        >>> from torch import nn
        >>> layer = ddsdk.networks.initialise(nn.Linear(4, 2), ddsdk.generator(0), "xavier-normal")
        >>> layer.bias.tolist()
        [0.0, 0.0]

    References:
        He et al., ICCV 2015, arXiv 1502.01852. Glorot and Bengio, AISTATS 2010 (Xavier). LeCun et al., "Efficient
        BackProp", 1998.
    """
    require_init(init)
    layers = [(path, layer) for path, layer in module.named_modules() if _direct_tensors(layer)]
    for path, layer in layers:
        _check_layer(path, layer)
    _check_tied(layers)
    with torch.no_grad():
        for _, layer in layers:
            if any(tensor.is_meta for tensor in _direct_tensors(layer)):
                layer.to_empty(device=torch.device("cpu"), recurse=False)
            if isinstance(layer, _DRAWN):
                _DRAW[init](layer, rng)
            elif isinstance(layer, _RESET):
                layer.reset_parameters()
        # Own methods come last and from the inside out, because that of an attention layer also sets its projections.
        own = [(path, layer) for path, layer in reversed(layers) if not isinstance(layer, (*_DRAWN, *_RESET))]
        seed = int(torch.randint(2**62, (), generator=rng)) if any(map(_own_reset, (layer for _, layer in own))) else 0
        for path, layer in own:
            _reset_own(path, layer, generator(seed, path))
    return module


def require_init(init: object) -> None:
    """Check the name of a distribution of initial weights, else raise ValueError."""
    require(init in _DRAW, "init", f"be one of {list(_DRAW)}", init)


@torch.no_grad()
def draw_weights_(module: nn.Module, rng: torch.Generator, init: Init) -> None:
    """Draw the weights and biases of all linear and convolution layers, in place; layers of other kinds stay.

    Args:
        module: Module whose layers get new weights.
        rng: CPU generator, which is advanced.
        init: Name of the distribution, see `initialise`.

    Examples:
        >>> import ddsdk
        >>> from torch import nn
        >>> layer = nn.Linear(4, 2)
        >>> ddsdk.networks.draw_weights_(layer, ddsdk.generator(0), "he-normal")
        >>> layer.bias.tolist()
        [0.0, 0.0]
    """
    require_init(init)
    for layer in module.modules():
        if isinstance(layer, _DRAWN):
            _DRAW[init](layer, rng)


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


def _draw_pytorch(layer: _Drawn, rng: torch.Generator) -> None:
    bound = 1 / math.sqrt(layer.weight[0].numel())
    for parameter in layer.parameters(recurse=False):
        parameter.copy_(torch.empty(parameter.shape, device="cpu").uniform_(-bound, bound, generator=rng))


def _draw_xavier(layer: _Drawn, rng: torch.Generator) -> None:
    fan_in, fan_out = layer.weight[0].numel(), layer.weight[:, 0].numel()
    _draw_normal(layer, rng, math.sqrt(2 / (fan_in + fan_out)))


def _draw_he(layer: _Drawn, rng: torch.Generator, *, bias_std: float = 0.0) -> None:
    _draw_normal(layer, rng, math.sqrt(2 / layer.weight[0].numel()), bias_std)


def _draw_normal(layer: _Drawn, rng: torch.Generator, std: float, bias_std: float = 0.0) -> None:
    layer.weight.copy_(std * torch.randn(layer.weight.shape, generator=rng))
    if layer.bias is not None:
        layer.bias.copy_(bias_std * torch.randn(layer.bias.shape, generator=rng)) if bias_std else layer.bias.zero_()


def _draw_lecun(layer: _Drawn, rng: torch.Generator) -> None:
    std = 1 / (math.sqrt(layer.weight[0].numel()) * _TRUNCATED_STD)
    drawn = torch.empty(layer.weight.shape, device="cpu")
    layer.weight.copy_(nn.init.trunc_normal_(drawn, std=std, a=-2 * std, b=2 * std, generator=rng))
    if layer.bias is not None:
        layer.bias.zero_()


_DRAW: dict[str, Callable[[_Drawn, torch.Generator], None]] = {
    "pytorch": _draw_pytorch,
    "xavier-normal": _draw_xavier,
    "lecun-normal": _draw_lecun,
    "he-normal": _draw_he,
    "he-normal-biased": partial(_draw_he, bias_std=0.1),
}
