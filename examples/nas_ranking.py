"""Rank architectures on a distilled set, in a local pool and on Ray, and ask whether it paid."""

from __future__ import annotations

import torch
from torch.nn.functional import adaptive_avg_pool2d

import ddsdk as dd
from ddsdk.experiments import Processes, RayTasks
from ddsdk.foundation import MissingExtraError
from ddsdk_integrations.nas import (
    ConvNetSpace,
    ParameterCount,
    RandomArchitecture,
    distilled_proxy,
    early_stopping,
    judge_ranking,
    rank,
)


def large(data: dd.RealData) -> dd.RealData:
    """Digits with each pixel repeated: the deepest candidates halve an image four times."""
    return data.with_items(adaptive_avg_pool2d(data.images, 16), data.labels)


def on_ray(candidates, proxy, rng):
    try:
        found = rank(candidates, proxy, seed=rng, executor=RayTasks(cpus=2))
    except MissingExtraError as error:
        print(error)
        return None
    import ray

    ray.shutdown()
    return found


def main() -> None:
    torch.set_num_threads(1)
    train, test = (large(data) for data in dd.load_pair("digits"))
    train, held_out = train.split(0.3, dd.generator("validation"))
    space = ConvNetSpace(image_shape=train.image_shape, num_classes=10, widths=(4, 8, 16, 32))
    candidates = space.sample(8, dd.generator("candidates"))

    # Students of many architectures, none of them favoured.
    many = RandomArchitecture(tuple(one.make for one in space.sample(12, dd.generator("students"))))
    recipe = dd.DM(ipc=5, steps=20, real_batch=32, augmentation="")
    distilled = dd.distill(recipe, train, make_student=many, seed=dd.generator("set"))

    # Candidates train on the set as they will in the end, only shorter, and are scored on real images.
    training = dd.TrainingProtocol(epochs=2, batch_size=50, lr=0.05, schedule="cosine", decay=0.0, warm_up=0.1)
    proxy = distilled_proxy(
        distilled, held_out, protocol=training, steps=8, statistics=train, seed=dd.generator("proxy")
    )
    rng = dd.generator("run")
    pool = rank(candidates, proxy, seed=rng, executor=Processes(2), name="distilled")
    ray = on_ray(candidates, proxy, rng)
    if ray is not None:
        print("the same scores on Ray:", ray.scores == pool.scores)
    print("best on the distilled set:", ", ".join(pool.best(3)))

    # Never without its rivals.
    early = early_stopping(train, held_out, protocol=training, steps=8)
    compared = [
        rank(candidates, early, seed=rng, name="early stopping"),
        rank(candidates, ParameterCount(), seed=rng, name="parameters"),
    ]
    whole = early_stopping(train, held_out, protocol=training, test=test)
    truth = rank(candidates, whole, seed=dd.generator("truth")).by("test")
    for ranking in [pool, *compared]:
        verdict = judge_ranking(truth, ranking, seed=dd.generator("bootstrap"), draws=200)
        value, low, high = verdict.spearman
        print(
            f"{ranking.name}: Spearman {value:.2f} ({low:.2f} to {high:.2f}), regret {100 * verdict.regret:.1f} %, "
            f"{verdict.total:.1f} s"
        )


if __name__ == "__main__":
    main()
