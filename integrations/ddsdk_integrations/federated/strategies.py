"""The published algorithms, each as the parts that it puts into the one strategy."""

from __future__ import annotations

from typing import Any

import ddsdk as dd
from ddsdk_integrations.federated.learners import AverageUpdates, MergedSteps, TrainOnPool
from ddsdk_integrations.federated.screen import Screen
from ddsdk_integrations.federated.strategy import Ask, SetStrategy
from ddsdk_integrations.federated.task import Task


def _training(task: Task, epochs: int) -> dd.Evaluation:
    """Return the server's training on a union: with crops of pictures, mirrored where the task allows it."""
    augmentation = "crop_flip" if task.mirror_safe else "crop"
    return dd.Evaluation(
        protocol="federated",
        epochs=epochs,
        lr=0.03,
        augmentation=augmentation if task.pictures else "",
        decay_at=(0.7,),
        batch_size=128,
    )


def one_shot(task: Task, *, evaluation: dd.Evaluation | None = None, **options: Any) -> SetStrategy:  # noqa: ANN401
    """Return the exchange of one round: clients distil alone, the server trains a new network on the union.

    With `ddsdk.KIP` or `ddsdk.KRR` at the clients it is FedD3. Run it with ``num_rounds=1``.

    Args:
        task: Task that all sides agree on.
        evaluation: Protocol of the server's training; None takes 100 epochs, augmented as the task allows.
        **options: Options of `SetStrategy`.

    References:
        Song et al., "Federated Learning via Decentralized Dataset Distillation in Resource-Constrained Edge
        Environments" (FedD3), 2022, arXiv:2208.11311.
    """
    learn = TrainOnPool(evaluation=evaluation or _training(task, 100), fresh=True)
    return SetStrategy(task, ask=Ask(model=False), learn=learn, **options)


def dosfl(task: Task, *, passes: int = 1, **options: Any) -> SetStrategy:  # noqa: ANN401
    """Return distilled one-shot learning: sets for one known initialisation, and a learned rate for each step.

    Clients distil with `ddsdk.DD`, or another recipe with learned rates, from the weights that they get; the server
    goes through the steps of all clients in turn.

    Args:
        task: Task that all sides agree on.
        passes: Number of passes through all steps, that of the clients' recipe.
        **options: Options of `SetStrategy`.

    Differences from the published algorithm: no random masking of steps; labels are those of the recipe.

    References:
        Zhou et al., "Distilled One-Shot Federated Learning", 2020, arXiv:2009.07999.
    """
    return SetStrategy(task, ask=Ask(), learn=MergedSteps(passes=passes), **options)


def fed_dm(
    task: Task,
    *,
    radius: float = 5.0,
    trust: float | None = None,
    evaluation: dd.Evaluation | None = None,
    go_on: bool = False,
    **options: Any,  # noqa: ANN401
) -> SetStrategy:
    """Return FedDM: in every round clients match embeddings and logits around the server's weights.

    Clients distil with `ddsdk.DM`; other recipes run with the same students.

    Args:
        task: Task that all sides agree on.
        radius: Largest distance of the clients' students from the server's weights.
        trust: Largest distance of the server's training from them; None leaves it free.
        evaluation: Protocol of the server's training on the union; None takes 40 epochs, augmented as the task allows.
        go_on: Whether a client starts from its own set of the round before.
        **options: Options of `SetStrategy`.

    Differences from the published algorithm: clients match the classes of which they have enough images.

    References:
        Xiong et al., "FedDM: Iterative Distribution Matching for Communication-Efficient Federated Learning",
        CVPR 2023, arXiv:2207.09653.
    """
    ask = Ask(radius=radius, logits=True, go_on=go_on)
    learn = TrainOnPool(evaluation=evaluation or _training(task, 40), radius=trust)
    return SetStrategy(task, ask=ask, learn=learn, **options)


def fed_mk(task: Task, *, knowledge: int = 2, evaluation: dd.Evaluation | None = None, **options: Any) -> SetStrategy:  # noqa: ANN401
    """Return FedMK: clients condense images that are hard for the server's network, from the sets of others.

    Clients distil with `MetaKnowledge`, which names the paper.

    Args:
        task: Task that all sides agree on.
        knowledge: Images of each class that clients get from the round before, to start from.
        evaluation: Protocol of the server's training on the union; None takes 40 epochs, augmented as the task allows.
        **options: Options of `SetStrategy`.
    """
    # Sets that start from the same knowledge are alike without being copies.
    parts = {"screen": Screen(near=1e-3), **options}
    learn = TrainOnPool(evaluation=evaluation or _training(task, 40))
    return SetStrategy(task, ask=Ask(knowledge=knowledge), learn=learn, **parts)


def fed_synth(task: Task, *, student_steps: int = 3, trim: float = 0.0, **options: Any) -> SetStrategy:  # noqa: ANN401
    """Return gradient as data: clients send images that move the weights as their own training does.

    Args:
        task: Task that all sides agree on.
        student_steps: Number of steps of the replay, that of the clients' `Encoding`. 1 is the method of Goetz and
            Tewari.
        trim: Share of the highest and of the lowest values of each weight that is left out of the mean.
        **options: Options of `SetStrategy`.

    Differences from the published algorithm: all clients count the same, whatever they say of their sizes.

    References:
        Goetz and Tewari, "Federated Learning via Synthetic Data", 2020, arXiv:2008.04489.
        Hu et al., "FedSynth: Gradient Compression via Synthetic Data in Federated Learning", 2022, arXiv:2204.01273.
    """
    learn = AverageUpdates(student_steps=student_steps, trim=trim)
    return SetStrategy(task, ask=Ask(action="update"), learn=learn, **options)
