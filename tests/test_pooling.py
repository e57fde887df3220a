import pytest
import torch
from torch.nn.functional import avg_pool2d

from ddsdk.networks.pooling import AvgPool2


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (1, 1, 2, 2), (2, 2, 5, 4), (2, 2, 4, 7)])
def test_pooling_equals_the_library(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(AvgPool2()(x), avg_pool2d(x, 2))


def test_first_and_second_derivatives():
    x = torch.randn(2, 2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(AvgPool2(), (x,))
    assert torch.autograd.gradgradcheck(lambda t: AvgPool2()(t).square(), (x,))


def test_function_transforms():
    x = torch.randn(3, 2, 2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def ours(t):
        return AvgPool2()(t).pow(3).sum()

    def theirs(t):
        return avg_pool2d(t, 2).pow(3).sum()

    for transform in (torch.func.vmap, lambda f: torch.func.vmap(torch.func.grad(f))):
        torch.testing.assert_close(transform(ours)(x), transform(theirs)(x))
    found = torch.func.jvp(torch.func.grad(ours), (x[0],), (x[1],))
    torch.testing.assert_close(found, torch.func.jvp(torch.func.grad(theirs), (x[0],), (x[1],)))
