"""Data-parallel matching: each process takes a share of the classes, and the gradients of a step are summed.

DistributedDataParallel synchronises only gradients of `Tensor.backward`, and not those of `torch.autograd.grad`, which
gradient matching needs. Here each process adds up the gradients of its own classes, the sums are added over all
processes, and all processes take the same step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, final

import torch
import torch.distributed as dist
from torch import Tensor

from ddsdk.foundation import require
from ddsdk.objectives import ClassMatch
from ddsdk.running.plan import ObjectiveSchedule, Plan


@final
class ProcessSum:
    """Sum of gradients and losses over the processes of the default group of `torch.distributed`.

    The sums are equal bit for bit in all processes, which therefore take the same step. ``torchrun`` and
    ``init_process_group`` make the group.

    Raises:
        RuntimeError: If there is no default group.

    Examples:
        >>> import torch.distributed as dist
        >>> from ddsdk.running import ProcessSum
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> group = ProcessSum()
        >>> group.rank, group.size
        (0, 1)
        >>> dist.destroy_process_group()
    """

    def __init__(self) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError("group must exist: start with torchrun, and call torch.distributed.init_process_group")
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def __call__(self, parameters: Sequence[Tensor], loss: float) -> float:
        """Replace the gradients of parameters by their sums over all processes.

        A missing gradient counts as zero.

        Returns:
            The loss, summed over all processes.
        """
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        device = parameters[0].device if parameters else torch.device("cpu")
        # Loss and gradients are sent as one tensor in double precision: one message for each step.
        loss_entry = torch.tensor([loss], dtype=torch.float64, device=device)
        flat = torch.cat([*(g.reshape(-1).double() for g in gradients), loss_entry])
        dist.all_reduce(flat)
        sums = torch.split(flat[:-1], [g.numel() for g in gradients])
        for parameter, gradient, total in zip(parameters, gradients, sums, strict=True):
            parameter.grad = total.view_as(gradient).to(gradient.dtype)
        return float(flat[-1])


def shared_plan(plan: Plan[Any], num_classes: int, group: ProcessSum) -> Plan[Any]:
    """Return the plan of one process: it matches every `group.size`-th class and sums gradients over the processes.

    The summed step equals that of a single process up to rounding, unless a decoder of the set draws random numbers.
    More processes than classes give a ValueError.

    Args:
        plan: Plan of the whole distillation, equal in all processes, with equal seeds.
        num_classes: Number of classes K, at least the number of processes.
        group: Sum over the processes.

    Raises:
        TypeError: If the objective is not a `ClassMatch`, which has separate terms for the classes.

    Examples:
        >>> import ddsdk, torch.distributed as dist
        >>> from ddsdk.running import ProcessSum, shared_plan
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> real = ddsdk.load("digits")
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> plan = ddsdk.DM(ipc=1).plan(real, make_student=make_student, rng=ddsdk.generator(0))
        >>> len(shared_plan(plan, 10, ProcessSum()).objective.classes)
        10
        >>> dist.destroy_process_group()
    """
    require(group.size <= num_classes, "processes", f"be at most the {num_classes} classes", group.size)
    objective = plan.objective
    if isinstance(objective, ObjectiveSchedule) or not isinstance(objective, ClassMatch):
        raise TypeError(f"objective must be a ClassMatch, which goes class by class, got {type(objective).__name__}")
    classes = range(num_classes) if objective.classes is None else objective.classes
    process_classes = tuple(classes[group.rank :: group.size])
    return dataclasses.replace(plan, objective=dataclasses.replace(objective, classes=process_classes), reduce=group)
