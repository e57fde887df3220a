"""Parts that recipes share: augmentation, pixels with hard labels, and optimizers of what is stored."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ddsdk import data, foundation, synthetic

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, Optimizer, RealData, SyntheticSet, Tensor
    from ddsdk.synthetic import Bounds, Labels, LearnedRate, LearnedScale, Parametrization


def augmentation_for(real: RealData, given: str | None) -> str:
    """Return `given`, or the published operations for `real` if it is None: all six, without flip unless mirror-safe.

    Args:
        real: Data that is augmented. Data that are no pictures, such as text, have no operations at all.
        given: DSA operations joined by "_"; empty for none.
    """
    if given is not None:
        return given
    if not real.pictures:
        return ""
    return "_".join(op for op in data.DSA_STRATEGY.split("_") if op != "flip" or real.mirror_safe)


def pixel_set(real: RealData, ipc: int, start: str, rng: Generator, *, bounded: bool = False) -> SyntheticSet:
    """Return a set of plain pixels with fixed one-hot labels, `ipc` for each class, from `start_images`.

    Args:
        real: Real data.
        ipc: Images per class.
        start: Key of `ddsdk.synthetic.STARTS`.
        rng: Root of the start.
        bounded: Whether pixels are clamped to `unit_bounds`.
    """
    images = start_images(real, ipc, start, rng)
    return hard_set(real, ipc, synthetic.Pixels(images, unit_bounds(real) if bounded else None))


def multiformation_set(real: RealData, ipc: int, factor: int, start: str, rng: Generator) -> SyntheticSet:
    """Return `ipc` canvases for each class, each of factor x factor tiles, clamped to where the unit range lies.

    Every tile starts as an image of its own, see `cycled_images`.
    """
    tiles = cycled_images(real, ipc, ipc * factor * factor, start, rng)
    parametrization = synthetic.MultiFormation(tiles[:: factor * factor], factor, unit_bounds(real))
    parametrization.encode(tiles)
    return hard_set(real, ipc, parametrization)


def cycled_images(real: RealData, ipc: int, wanted: int, start: str, rng: Generator) -> Tensor:
    """Return `wanted` images of each class, (K*wanted, C, H, W), class by class; a small class gives some twice.

    Raises:
        ValueError: If `start` is unknown, or a class of `real` has fewer than `ipc` images.
    """
    from torch import arange

    given = wanted if start == "noise" else max(ipc, min(wanted, *real.class_sizes))
    images = start_images(real, given, start, rng).view(real.num_classes, given, *real.image_shape)
    return images[:, arange(wanted) % given].flatten(0, 1)


def start_images(real: RealData, ipc: int, start: str, rng: Generator) -> Tensor:
    """Return `ipc` images of each class, (K*ipc, C, H, W), class by class, from the start called `start`.

    Raises:
        ValueError: If `start` is unknown, or a class of `real` has too few images for it.
    """
    if start not in synthetic.STARTS:
        near = get_close_matches(start, synthetic.STARTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"start must be one of {', '.join(synthetic.STARTS)}, got {start!r}{hint}")
    key = foundation.derive(rng, "start")
    # A run that a budget shortens builds its plan twice, and k-means over all images takes its time.
    made = real.computed_once(
        ("start", start, ipc, key.initial_seed()), lambda: synthetic.STARTS[start](real, ipc, key)
    )
    return made.clone()


def class_set(
    real: RealData,
    ipc: int,
    parametrization: Parametrization,
    labels: Labels,
    rate: LearnedRate | None = None,
    scale: LearnedScale | None = None,
) -> SyntheticSet:
    """Return a set whose slots are `ipc` for each class, class by class."""
    classes, k = synthetic.class_slots(real.num_classes, ipc), real.num_classes
    return synthetic.SyntheticSet(parametrization, labels, classes, k, rate, scale).to(real.device)


def hard_set(
    real: RealData, ipc: int, parametrization: Parametrization, rate: LearnedRate | None = None
) -> SyntheticSet:
    """Return a set whose slots are `ipc` for each class, class by class, with fixed one-hot labels."""
    labels = synthetic.hard_labels(synthetic.class_slots(real.num_classes, ipc), real.num_classes)
    return class_set(real, ipc, parametrization, labels, rate)


def unit_bounds(real: RealData) -> Bounds | None:
    """Return where 0 and 1 of the unit range lie in the value space of `real`; None where whitening mixes pixels."""
    if real.preprocess.space == "zca":
        return None
    from torch import ones, zeros

    shape = (real.preprocess.channels, 1, 1)
    return real.preprocess(zeros(shape)), real.preprocess(ones(shape))


def unit_rate(real: RealData, lr: float) -> float:
    """Return the learning rate that moves images of the value space as `lr` moves images of the unit range.

    Papers that store images in [0, 1] and normalise them inside the augmentation give rates for that range. With
    x = (u - mean)/std a step on x is 1/std^2 times as long as one on u. Left as it is under whitening.
    """
    if real.preprocess.space == "zca":
        return lr
    std = real.preprocess.std
    return lr / (sum(std) / len(std)) ** 2


def sgd_on_images(syn: SyntheticSet, *, lr: float, momentum: float) -> Optimizer:
    """Return SGD over everything that `syn` stores and learns."""
    from torch.optim import SGD

    return SGD(syn.parameters(), lr=lr, momentum=momentum)


def adam_on_images(syn: SyntheticSet, *, lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> Optimizer:
    """Return Adam over everything that `syn` learns."""
    from torch.optim import Adam

    return Adam([p for p in syn.parameters() if p.requires_grad], lr=lr, betas=betas)


def adam_by_kind(syn: SyntheticSet, *, image_lr: float, label_lr: float, scale_lr: float) -> Optimizer:
    """Return Adam over what `syn` learns, with a learning rate for each of images, labels and scale."""
    from torch.optim import Adam

    kinds = ((syn.parametrization, image_lr), (syn.labels, label_lr), (syn.scale, scale_lr))
    groups: list[dict[str, Any]] = [
        {"params": [p for p in module.parameters() if p.requires_grad], "lr": lr}
        for module, lr in kinds
        if module is not None
    ]
    return Adam([group for group in groups if group["params"]])


def classic_network(real: RealData) -> str:
    """Return what DD and its kin are judged on: LeNet for grey images of 12 pixels and more, AlexNet for others."""
    c, *sides = real.image_shape
    return "lenet" if c == 1 and min(sides) >= 12 else "alexnet"
