"""A classifier by DP-SGD: what the same budget gives without a set, the rival that every private set has to name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

import ddsdk as dd
from ddsdk.foundation import derive, require_count, require_momentum, require_rate, root
from ddsdk_integrations.privacy.data import require_private
from ddsdk_integrations.privacy.gradients import noised_gradients
from ddsdk_integrations.privacy.guard import refuse_bad_student

if TYPE_CHECKING:
    from ddsdk.students import MakeStudent
    from ddsdk_integrations.privacy.data import PrivateData


def dp_sgd(
    private: PrivateData,
    *,
    make_student: MakeStudent | None = None,
    seed: int | torch.Generator = 0,
    steps: int = 300,
    sample_rate: float = 0.02,
    clip: float = 0.1,
    lr: float = 4.0,
    momentum: float = 0.9,
    noise_multiplier: float | None = None,
) -> nn.Module:
    """Train one network on noised gradients of private records, and return it.

    Args:
        private: Private records; one release is spent for each step.
        make_student: Factory of the network, which must treat records one by one; None takes the field's ConvNet.
        seed: Root of the initial weights: an integer, or a generator, which is not advanced.
        steps: Steps of SGD.
        sample_rate: Probability with which a record is in a sample.
        clip: Norm of the gradient of a record, over all parameters.
        lr: Learning rate.
        momentum: Momentum of SGD.
        noise_multiplier: Standard deviation of the noise, over `clip`. None spends all that is left.

    Raises:
        BudgetSpentError: If the steps do not fit what is left.
        PrivacyError: If the network mixes records.

    References:
        Abadi et al., "Deep Learning with Differential Privacy", CCS 2016.
    """
    require_count("steps", steps)
    require_rate("lr", lr)
    require_momentum("momentum", momentum)
    rng = root(seed)
    require_private(private)
    if make_student is None:
        make_student = dd.network_factory("convnet", private.image_shape, private.num_classes)
    refuse_bad_student(make_student)
    mechanism = private.mechanism(
        "gradients of a classifier",
        releases=steps,
        sample_rate=sample_rate,
        clip=clip,
        noise_multiplier=noise_multiplier,
    )
    network = make_student(derive(rng, "start")).to(private.device)
    names = [name for name, _ in network.named_parameters()]
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum)
    expected = [sample_rate * size for size in private.class_sizes]
    for _ in range(steps):
        (found,) = noised_gradients(mechanism, network, names, expected)
        for parameter, gradient in zip(network.parameters(), found, strict=True):
            parameter.grad = gradient
        optimizer.step()
    return network.eval()
