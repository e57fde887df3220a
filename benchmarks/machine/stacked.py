"""Training step of several stacked networks, timed against a loop over the networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from benchmarks.machine.machine import SHAPE, MachineTable, Row, machine_of, median_times
from ddsdk.foundation import generator, require, require_count
from ddsdk.networks import network_factory

_CLASSES = 10


def stacked_table(*, widths: Sequence[int], ipc: int, repeats: int, device: str, networks: int = 5) -> MachineTable:
    """Return times of the gradients of several networks on one batch, with `torch.func.vmap` and with a loop.

    Images have the shape of FashionMNIST. All numbers must be at least 1.

    Args:
        widths: Widths of a ConvNet-3, which is timed beside a multilayer perceptron and a LeNet.
        ipc: Images of each of the 10 classes in the batch.
        repeats: Number of timed repetitions, of which the median is reported.
        device: Torch device of the networks, such as ``"cpu"``.
        networks: Number of networks of each kind.
    """
    for name, value in (("ipc", ipc), ("repeats", repeats), ("networks", networks)):
        require_count(name, value)
    require(bool(widths), "widths", "name at least one width", list(widths))
    for width in widths:
        require_count("widths", width)
    kinds: list[tuple[str, dict[str, int]]] = [("mlp", {}), ("lenet", {})]
    kinds += [("convnet", {"width": width}) for width in widths]
    rows = [_row(kind, options, ipc, repeats, torch.device(device), networks) for kind, options in kinds]
    title = f"one training step of {networks} networks"
    return MachineTable(machine_of(device, repeats), {title: rows})


def _row(kind: str, options: dict[str, int], ipc: int, repeats: int, device: torch.device, networks: int) -> Row:
    make = network_factory(kind, SHAPE, _CLASSES, **options)
    nets = [make(generator("stacked", i)).to(device) for i in range(networks)]
    weights, buffers = stack_module_state(nets)
    x = torch.rand(_CLASSES * ipc, *SHAPE, generator=generator("stacked images")).to(device)
    y = torch.arange(_CLASSES, device=device).repeat_interleave(ipc)

    def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return cross_entropy(functional_call(nets[0], (weights, buffers), (x,)), y)

    gradients = vmap(grad(loss))

    def one_by_one() -> None:
        for net in nets:
            torch.autograd.grad(cross_entropy(net(x), y), list(net.parameters()))

    stacked, loop = median_times((lambda: gradients(weights, buffers), one_by_one), repeats, device)
    return {
        "network": " ".join([kind, *map(str, options.values())]),
        "images": len(x),
        "stacked, ms": round(1000 * stacked, 1),
        "one by one, ms": round(1000 * loop, 1),
        "stacked / one by one": f"{stacked / loop:.2f}",
    }
