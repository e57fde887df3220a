"""Share the classes of each step among processes: torchrun --nproc-per-node 2 examples/distil_in_parallel.py OUT

Each process matches its own classes; the gradients are summed, and all take the same step.
"""

from __future__ import annotations

import sys

import torch.distributed as dist

import ddsdk as dd
from ddsdk.running import ProcessSum, Run, shared_plan


def main(out: str, steps: int) -> None:
    # "nccl" where every process has a GPU of its own.
    dist.init_process_group("gloo")
    try:
        real = dd.load("digits")
        make_student = dd.network_factory("convnet", real.image_shape, real.num_classes, width=16)
        group = ProcessSum()
        run = Run(
            dd.DM(ipc=5, steps=steps),
            real,
            make_student=make_student,
            seed=0,
            transform=lambda plan: shared_plan(plan, real.num_classes, group),
        )
        for step in run:
            if group.rank == 0:
                print(f"step {step.number}: loss {step.loss:.4f}")
        if group.rank == 0:
            print(f"{out}: {run.distilled().save(out)}")
        # Whoever leaves the group first may take the others with it.
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 50)
