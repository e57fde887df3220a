"""One large matching step over several processes: each takes a share of the classes, and gradients are summed by hand.

Wrappers such as DistributedDataParallel do not synchronise gradients that `torch.autograd.grad` computed; here every
process adds up its own terms, the sums are added over all processes, and all take the same step.
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
from ddsdk.running.loop import Plan, Schedule


@final
class ProcessSum:
    """Add up gradients and losses over the processes of the default group of `torch.distributed`.

    Every process gets the same sums, bit for bit, and so takes the same step. ``torchrun`` and ``init_process_group``
    make a group; RuntimeError where there is none.
    """

    def __init__(self) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError("group must exist: start with torchrun, and call torch.distributed.init_process_group")
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()

    def __call__(self, parameters: Sequence[Tensor], loss: float) -> float:
        """Replace the gradients of parameters by their sums over all processes; return the summed loss.

        A process that has no gradient of a parameter adds zero.
        """
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        device = parameters[0].device if parameters else torch.device("cpu")
        # In double precision, next to the gradients: one message a step.
        told = torch.tensor([loss], dtype=torch.float64, device=device)
        flat = torch.cat([*(g.reshape(-1).double() for g in gradients), told])
        dist.all_reduce(flat)
        parts = torch.split(flat[:-1], [g.numel() for g in gradients])
        for parameter, gradient, part in zip(parameters, gradients, parts, strict=True):
            parameter.grad = part.view_as(gradient).to(gradient.dtype)
        return float(flat[-1])


def shared_plan(plan: Plan[Any], num_classes: int, group: ProcessSum) -> Plan[Any]:
    """Return the plan of one process: its objective matches every `group.size`-th class, and gradients are summed.

    The summed step is that of one process, but for rounding, where decoders draw no numbers of their own.

    Args:
        plan: Plan of the whole; the same in every process, with the same seed.
        num_classes: Number of classes K, not less than the processes.
        group: Sums over the processes.

    Raises:
        TypeError: If the objective does not go class by class in each step.
    """
    require(group.size <= num_classes, "processes", f"be at most the {num_classes} classes", group.size)
    objective = plan.objective
    if isinstance(objective, Schedule) or not isinstance(objective, ClassMatch):
        raise TypeError(f"objective must be a ClassMatch, which goes class by class, got {type(objective).__name__}")
    asked = range(num_classes) if objective.classes is None else objective.classes
    mine = tuple(asked[group.rank :: group.size])
    return dataclasses.replace(plan, objective=dataclasses.replace(objective, classes=mine), reduce=group)
