"""Published algorithms of federated learning with synthetic sets, as configurations of `SetStrategy`."""

from __future__ import annotations

from typing import Any

import ddsdk as dd
from ddsdk_integrations.federated.cross_client import CrossClientFilter
from ddsdk_integrations.federated.learners import AverageUpdates, MergedSteps, TrainOnPool
from ddsdk_integrations.federated.strategy import ClientRequest, SetStrategy
from ddsdk_integrations.federated.task import FederatedTask


def _training(task: FederatedTask, epochs: int) -> dd.TrainingProtocol:
    """Return the training protocol of the server: crops for pictures, and mirror images if the task allows them."""
    augmentation = "crop_flip" if task.mirror_safe else "crop"
    return dd.TrainingProtocol(
        name="federated",
        epochs=epochs,
        lr=0.03,
        augmentation=augmentation if task.pictures else "",
        decay_at=(0.7,),
        batch_size=128,
    )


def one_shot(task: FederatedTask, *, protocol: dd.TrainingProtocol | None = None, **options: Any) -> SetStrategy:  # noqa: ANN401
    """Return the one-shot exchange: clients distil locally, and the server trains a new network on the union.

    It is run with ``num_rounds=1``. With `ddsdk.KIP` or `ddsdk.KRR` at the clients it is FedD3.

    Args:
        task: Task of the federation.
        protocol: Training protocol of the server; None for 100 epochs with the augmentation that the task allows.
        **options: Further arguments of `SetStrategy`, such as `folder`.

    References:
        Song et al., "Federated Learning via Decentralized Dataset Distillation in Resource-Constrained Edge
        Environments" (FedD3), 2022, arXiv:2208.11311.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import FederatedTask, one_shot
        >>> task = FederatedTask.of(ddsdk.load("digits"), width=4, depth=2)
        >>> strategy = one_shot(task)  # strategy.start(grid, task.initial_arrays(), num_rounds=1)
    """
    learn = TrainOnPool(protocol=protocol or _training(task, 100), fresh=True)
    return SetStrategy(task, ask=ClientRequest(model=False), learn=learn, **options)


def dosfl(task: FederatedTask, *, passes: int = 1, **options: Any) -> SetStrategy:  # noqa: ANN401
    """Return distilled one-shot learning: sets for one common initialization, with a learning rate for each step.

    Clients distil with `ddsdk.DD`, or another recipe with learned learning rates, from the initial weights of the
    server. The server then performs the steps of all clients in turn.

    Args:
        task: Task of the federation.
        passes: Number of passes over all steps, equal to that of the clients' recipe.
        **options: Further arguments of `SetStrategy`, such as `folder`.

    Differences from the published algorithm: steps are not masked at random, and labels are those of the recipe.

    References:
        Zhou et al., "Distilled One-Shot Federated Learning", 2020, arXiv:2009.07999.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import FederatedTask, dosfl
        >>> task = FederatedTask.of(ddsdk.load("digits"), width=4, depth=2)
        >>> strategy = dosfl(task, passes=3)  # clients: distil=ddsdk.DD(ipc=1, passes=3)
    """
    return SetStrategy(task, ask=ClientRequest(), learn=MergedSteps(passes=passes), **options)


def fed_dm(
    task: FederatedTask,
    *,
    radius: float = 5.0,
    trust: float | None = None,
    protocol: dd.TrainingProtocol | None = None,
    go_on: bool = False,
    **options: Any,  # noqa: ANN401
) -> SetStrategy:
    """Return FedDM: in each round, clients match distributions of embeddings and logits around the server's weights.

    Clients distil with `ddsdk.DM`; other recipes use the same students.

    Args:
        task: Task of the federation.
        radius: Largest distance of the clients' students from the server's weights, at least 0.
        trust: Largest distance of the trained weights from those at the start of the round, positive; None for no
            limit.
        protocol: Training protocol of the server; None for 40 epochs with the augmentation that the task allows.
        go_on: Whether clients start from their own set of the previous round.
        **options: Further arguments of `SetStrategy`, such as `folder`.

    Differences from the published algorithm: clients leave out classes of which they have too few images.

    References:
        Xiong et al., "FedDM: Iterative Distribution Matching for Communication-Efficient Federated Learning",
        CVPR 2023, arXiv:2207.09653.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import FederatedTask, fed_dm
        >>> task = FederatedTask.of(ddsdk.load("digits"), width=4, depth=2)
        >>> strategy = fed_dm(task, radius=1.0)  # strategy.start(grid, task.initial_arrays(), num_rounds=5)
    """
    ask = ClientRequest(radius=radius, logits=True, go_on=go_on)
    learn = TrainOnPool(protocol=protocol or _training(task, 40), radius=trust)
    return SetStrategy(task, ask=ask, learn=learn, **options)


def fed_mk(
    task: FederatedTask,
    *,
    knowledge: int = 2,
    protocol: dd.TrainingProtocol | None = None,
    **options: Any,  # noqa: ANN401
) -> SetStrategy:
    """Return FedMK: clients condense images that are hard for the server's network, starting from sets of others.

    Clients distil with `MetaKnowledge`, which cites the paper.

    Args:
        task: Task of the federation.
        knowledge: Number of images of each class that clients get from the previous round as warm start.
        protocol: Training protocol of the server; None for 40 epochs with the augmentation that the task allows.
        **options: Further arguments of `SetStrategy`, such as `folder`.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import FederatedTask, fed_mk
        >>> task = FederatedTask.of(ddsdk.load("digits"), width=4, depth=2)
        >>> strategy = fed_mk(task, knowledge=2)  # clients: distil=MetaKnowledge(ipc=10)
    """
    # Sets with a common warm start are similar without being copies, so the distance of copies is smaller.
    arguments = {"screen": CrossClientFilter(near=1e-3), **options}
    learn = TrainOnPool(protocol=protocol or _training(task, 40))
    return SetStrategy(task, ask=ClientRequest(knowledge=knowledge), learn=learn, **arguments)


def fed_synth(task: FederatedTask, *, student_steps: int = 3, trim: float = 0.0, **options: Any) -> SetStrategy:  # noqa: ANN401
    """Return FedSynth: clients send images on which training reproduces their weight update.

    Args:
        task: Task of the federation.
        student_steps: Number of steps that recover an update, equal to that of the clients' `UpdateEncoding`; 1 is the
            method of Goetz and Tewari.
        trim: Share of the highest and of the lowest values of each coordinate that the mean leaves out, in [0, 0.5).
        **options: Further arguments of `SetStrategy`, such as `folder`.

    Differences from the published algorithm: all clients have the same weight, whatever sizes they claim.

    References:
        Goetz and Tewari, "Federated Learning via Synthetic Data", 2020, arXiv:2008.04489.
        Hu et al., "FedSynth: Gradient Compression via Synthetic Data in Federated Learning", 2022, arXiv:2204.01273.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.federated import FederatedTask, fed_synth
        >>> task = FederatedTask.of(ddsdk.load("digits"), width=4, depth=2)
        >>> strategy = fed_synth(task)  # clients: encoding=UpdateEncoding(student_steps=3)
    """
    learn = AverageUpdates(student_steps=student_steps, trim=trim)
    return SetStrategy(task, ask=ClientRequest(action="update"), learn=learn, **options)
