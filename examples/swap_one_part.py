"""Swap one part of a published method, here the optimizer of DC."""

import dataclasses

import torch

import ddsdk

train, test = ddsdk.load_pair("digits")
student = ddsdk.network_factory("convnet", train.image_shape, train.num_classes, width=32)
rng = ddsdk.generator(0)

# The plan of DC, with an optimizer of our own.
plan = ddsdk.DC(ipc=1, students=40, real_batch=32, start="real").plan(train, make_student=student, rng=rng)
plan = dataclasses.replace(plan, make_optimizer=lambda syn: torch.optim.Adam(syn.parameters(), lr=0.05))

# The loop is yours: log, stop early, or judge in between; there are no callbacks.
for step in ddsdk.Distillation(plan, train, rng=rng):
    if step.number % 10 == 0:
        print(f"step {step.number}: loss {step.loss:.2f}")

batch = plan.syn.detached(rng)
accuracy = ddsdk.evaluate(batch, test, ddsdk.TrainingProtocol.quick(""), seed=rng).mean
print(f"accuracy {100 * accuracy:.1f} %")
