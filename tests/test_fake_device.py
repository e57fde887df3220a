"""The stand-in for a CUDA device catches each kind of fault, and computes what the CPU computes."""

import copy

import numpy as np
import pytest
import torch
from fake_device import CUDA, FakeCuda, FakeTensor
from torch import nn
from torch.nn.functional import cross_entropy, one_hot


@pytest.fixture
def fake():
    with FakeCuda() as cuda:
        yield cuda


@pytest.fixture
def ours(fake):
    return torch.arange(6.0).view(2, 3).to("cuda")


def host():
    return torch.ones(2, 3)


MIXED = {
    "sum": lambda t: t + host(),
    "sum, the other way round": lambda t: host() + t,
    "a scalar of the device and a tensor of the CPU": lambda t: host() * t.sum(),
    "product": lambda t: t @ host().T,
    "in place": lambda t: t.add_(host()),
    "a tensor of the CPU changed in place": lambda t: host().add_(t),
    "a scalar of the CPU changed in place": lambda t: torch.tensor(0.0).add_(t.sum()),
    "concatenation": lambda t: torch.cat([t, host()]),
    "stack with a scalar of the CPU": lambda t: torch.stack([t.sum(), torch.tensor(1.0)]),
    "positions of the device in a tensor of the CPU": lambda t: host()[torch.arange(2, device="cuda")],
    "a mask of the device on a tensor of the CPU": lambda t: host()[t > 1],
    "values of the CPU written to positions": lambda t: t.__setitem__(torch.arange(2), host()),
    "gather": lambda t: t.gather(1, torch.zeros(2, 1, dtype=torch.int64)),
    "layer": lambda t: nn.Linear(3, 1)(t),
    "loss": lambda t: cross_entropy(t, torch.zeros(2, dtype=torch.int64)),
    "comparison": lambda t: torch.equal(t, host()),
    "choice": lambda t: torch.where(t > 1, t, host()),
}


@pytest.mark.parametrize("operation", MIXED.values(), ids=MIXED)
def test_tensors_of_two_devices_do_not_meet(operation, ours):
    with pytest.raises(RuntimeError, match="device"):
        operation(ours)


DRAWN = {
    "randn": lambda rng: torch.randn(3, generator=rng, device="cuda"),
    "randperm": lambda rng: torch.randperm(3, generator=rng, device=CUDA),
    "randint": lambda rng: torch.randint(3, (2,), generator=rng, device="cuda:0"),
    "in place": lambda rng: torch.zeros(3, device="cuda").normal_(generator=rng),
    "uniform": lambda rng: torch.empty(3, device="cuda").uniform_(generator=rng),
    "multinomial": lambda rng: torch.ones(3, device="cuda").multinomial(2, generator=rng),
    "bernoulli": lambda rng: torch.bernoulli(torch.ones(3, device="cuda"), generator=rng),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_a_generator_of_the_cpu_draws_nothing_on_the_device(draw, fake):
    with pytest.raises(RuntimeError, match="generator"):
        draw(torch.Generator())


@pytest.mark.parametrize("convert", [FakeTensor.numpy, np.asarray, np.float32])
def test_numpy_reads_no_tensor_of_the_device(convert, ours):
    with pytest.raises(TypeError, match="numpy"):
        convert(ours)


COPIED = {
    "cpu": (lambda t: t.cpu(), "moves"),
    "to": (lambda t: t.to("cpu"), "moves"),
    "to another tensor": (lambda t: t.to(host()), "moves"),
    "tolist": (lambda t: t.tolist(), "moves"),
    "into a tensor of the CPU": (lambda t: host().copy_(t), "moves"),
    "a part into a tensor of the CPU": (lambda t: host().__setitem__(0, t[0]), "moves"),
    "one element": (lambda t: t[0, :1].cpu(), "reads"),
    "item": (lambda t: t[0, 0].item(), "reads"),
    "float": (lambda t: float(t.sum()), "reads"),
    "bool": (lambda t: bool((t > 1).all()), "reads"),
    "equal": (lambda t: torch.equal(t, t), "reads"),
    "nonzero": (lambda t: torch.nonzero(t), "waits"),
    "mask": (lambda t: t[t > 1], "waits"),
}


@pytest.mark.parametrize(("operation", "kind"), COPIED.values(), ids=COPIED)
def test_what_the_host_asks_for_is_counted(operation, kind, ours, fake):
    fake.clear()
    operation(ours)
    assert {name: len(getattr(fake, name)) for name in ("moves", "reads", "waits")} == {
        "moves": 0,
        "reads": 0,
        "waits": 0,
        kind: 1,
    }


ALLOWED = {
    "a scalar of the CPU": lambda t: t + torch.tensor(1.0),
    "positions of the CPU": lambda t: t[torch.tensor([1, 0])],
    "a copy from the CPU": lambda t: t.copy_(host()),
    "a part from the CPU": lambda t: t.__setitem__(0, torch.zeros(3)),
    "factory": lambda t: torch.zeros(2, device=t.device),
    "factory from numbers": lambda t: torch.tensor([1, 2], device="cuda"),
    "new_tensor": lambda t: t.new_tensor([1, 2]),
    "new_zeros": lambda t: t.new_zeros(2),
    "like": lambda t: torch.rand_like(t),
    "one_hot": lambda t: one_hot(t.long(), 6),
    "in place": lambda t: t.mul_(2),
    "view": lambda t: t[:, 1:].T,
    "cuda": lambda t: host().cuda(),
}


@pytest.mark.parametrize("operation", ALLOWED.values(), ids=ALLOWED)
def test_what_cuda_allows_is_allowed_and_copies_nothing(operation, ours, fake):
    fake.clear()
    found = operation(ours)
    assert found is None or (isinstance(found, FakeTensor) and found.device == torch.device("cuda", 0))
    assert not fake.moves + fake.reads + fake.waits


def test_a_factory_for_the_cpu_stays_there(ours, fake):
    assert type(torch.zeros_like(ours, device="cpu")) is torch.Tensor
    assert type(ours.cpu()) is torch.Tensor
    assert type(torch.zeros(3)) is torch.Tensor


def steps(device, create_graph=True):
    """Weights after two steps of a network with its second derivatives."""
    rng = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    for parameter in network.parameters():
        parameter.detach().normal_(generator=rng)
    network = copy.deepcopy(network.to(device))
    optimizer = torch.optim.Adam(network.parameters())
    x, y = torch.randn(3, 1, 4, 4, generator=rng).to(device), torch.tensor([0, 1, 1]).to(device)
    for _ in range(2):
        optimizer.zero_grad()
        loss = cross_entropy(network(x), y)
        gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
        (loss + sum(g.square().sum() for g in gradients)).backward()
        optimizer.step()
    return [p.detach() for p in network.parameters()]


def test_values_are_those_of_the_cpu(fake):
    expected, found = steps("cpu"), steps("cuda")
    assert all(isinstance(p, FakeTensor) for p in found)
    assert all(torch.equal(p, q.cpu()) for p, q in zip(expected, found, strict=True))
    assert not fake.reads


def test_function_transforms(fake):
    def cube_sum(t):
        return t.pow(3).sum()

    x, tangent = torch.arange(3.0), torch.ones(3)
    for transform in (
        lambda t, d: torch.func.jvp(cube_sum, (t,), (d,))[1],
        lambda t, d: torch.func.vmap(torch.func.grad(cube_sum))(t[:, None]),
        lambda t, d: torch.func.jvp(torch.func.grad(cube_sum), (t,), (d,))[1],
    ):
        assert torch.equal(transform(x, tangent), transform(x.to("cuda"), tangent.to("cuda")).cpu())


def test_the_device_ends_with_the_context():
    with FakeCuda():
        tensor = torch.zeros(2, device="cuda")
    assert tensor.device.type == "cuda"
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(2, device="cuda")
