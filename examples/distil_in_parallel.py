"""Share the classes of each step among processes: torchrun --nproc-per-node 2 examples/distil_in_parallel.py OUT

Each process matches its own classes; the gradients are summed, and all take the same step.
"""

from __future__ import annotations

import sys
from typing import Any

import torch.distributed as dist

import ddsdk as dd
from ddsdk.artefact import assemble
from ddsdk.foundation import derive
from ddsdk.running import ProcessSum, shared_plan


def main(out: str, steps: int) -> None:
    # "nccl" where every process has a GPU of its own.
    dist.init_process_group("gloo")
    try:
        real = dd.load("digits")
        make_student = dd.network_factory("convnet", real.image_shape, real.num_classes, width=16)
        rng = dd.generator(0)
        recipe = dd.DM(ipc=5, steps=steps)
        whole = recipe.plan(real, make_student=make_student, rng=derive(rng, "plan"))
        group = ProcessSum()
        plan = shared_plan(whole, real.num_classes, group)
        run: dd.Distillation[Any] = dd.Distillation(plan, real, rng=derive(rng, "steps"), reduce=group)
        for step in run:
            if group.rank == 0:
                print(f"step {step.number}: loss {step.loss:.4f}")
        if group.rank == 0:
            made = assemble(recipe, run.result, real, evaluation=recipe.evaluation(real), rng=rng, seconds=0.0)
            print(f"{out}: {made.save(out)}")
        # Whoever leaves the group first may take the others with it.
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 50)
