"""Parts that recipes share: augmentation, initial images, synthetic sets with hard labels, and optimizers."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ddsdk import data, foundation, synthetic

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, Optimizer, RealData, SyntheticSet, Tensor
    from ddsdk.synthetic import Bounds, Labels, LearnedRate, LearnedScale, Parametrization, Shrink


def augmentation_for(real: RealData, given: str | None, published: str = "") -> str:
    """Return the augmentation `given`, or if it is None the published operations that suit the data.

    Flip is left out unless the data is mirror-safe, and data that is not made of pictures, such as text, gets no
    operation.

    Args:
        real: Real data to be augmented.
        given: Operations joined by "_"; empty for none, None for the published ones.
        published: Published operations joined by "_"; empty for those of DSA.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.recipes import augmentation_for
        >>> augmentation_for(ddsdk.load("digits"), None)
        'color_crop_cutout_scale_rotate'
    """
    if given is not None:
        return given
    if not real.pictures:
        return ""
    return "_".join(op for op in (published or data.DSA_STRATEGY).split("_") if op != "flip" or real.mirror_safe)


def pixel_set(real: RealData, ipc: int, start: str, rng: Generator, *, bounded: bool = False) -> SyntheticSet:
    """Return a synthetic set of plain pixels with fixed one-hot labels.

    Args:
        real: Real data to distil.
        ipc: Images per class, at least 1.
        start: Initialisation of the images, a key of `ddsdk.synthetic.STARTS`.
        rng: Root generator of the initialisation, not advanced.
        bounded: Whether pixels are clamped to `unit_bounds` after each step.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.recipes import pixel_set
        >>> syn = pixel_set(ddsdk.load("digits"), 2, "real", ddsdk.generator(0))
        >>> len(syn), syn.num_classes
        (20, 10)
    """
    images = start_images(real, ipc, start, rng)
    return hard_label_set(real, ipc, synthetic.Pixels(images, unit_bounds(real) if bounded else None))


def multiformation_set(
    real: RealData, ipc: int, factor: int, start: str, rng: Generator, *, shrink: Shrink = "antialias"
) -> SyntheticSet:
    """Return `ipc` canvases per class of factor x factor tiles each, clamped to the unit range, with hard labels.

    Each tile is initialised with a different image, see `cycled_images`, which `shrink` makes smaller.
    """
    tiles = cycled_images(real, ipc, ipc * factor * factor, start, rng)
    parametrization = synthetic.MultiFormation(tiles[:: factor * factor], factor, unit_bounds(real), shrink)
    parametrization.encode(tiles)
    return hard_label_set(real, ipc, parametrization)


def cycled_images(real: RealData, ipc: int, wanted: int, start: str, rng: Generator) -> Tensor:
    """Return `wanted` initial images per class, (K*wanted, C, H, W), sorted by class.

    A class with fewer images than `wanted` repeats them in turn. An unknown `start`, or a class with fewer than `ipc`
    images, is a ValueError.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.recipes import cycled_images
        >>> tuple(cycled_images(ddsdk.load("digits"), 1, 4, "real", ddsdk.generator(0)).shape)
        (40, 1, 8, 8)
    """
    from torch import arange

    distinct = wanted if start == "noise" else max(ipc, min(wanted, *real.class_sizes))
    images = start_images(real, distinct, start, rng).view(real.num_classes, distinct, *real.image_shape)
    return images[:, arange(wanted) % distinct].flatten(0, 1)


def start_images(real: RealData, ipc: int, start: str, rng: Generator) -> Tensor:
    """Return `ipc` initial images per class, (K*ipc, C, H, W), sorted by class, for the initialisation `start`.

    A class with fewer than `ipc` images is a ValueError.

    Raises:
        ValueError: If `start` is not a key of `ddsdk.synthetic.STARTS`.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.recipes import start_images
        >>> tuple(start_images(ddsdk.load("digits"), 2, "means", ddsdk.generator(0)).shape)
        (20, 1, 8, 8)
    """
    if start not in synthetic.STARTS:
        similar = get_close_matches(start, synthetic.STARTS, n=1)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        raise ValueError(f"start must be one of {', '.join(synthetic.STARTS)}, got {start!r}{hint}")
    key = foundation.derive(rng, "start")
    if start in ("noise", "real"):
        return synthetic.STARTS[start](real, ipc, key)
    # A run with a time budget builds its plan twice; the cache saves the second k-means over all images.
    images = real.computed_once(
        ("start", start, ipc, key.initial_seed()), lambda: synthetic.STARTS[start](real, ipc, key)
    )
    return images.clone()


def class_set(
    real: RealData,
    ipc: int,
    parametrization: Parametrization,
    labels: Labels,
    rate: LearnedRate | None = None,
    scale: LearnedScale | None = None,
) -> SyntheticSet:
    """Return a synthetic set on the device of the data, with `ipc` slots per class, sorted by class."""
    classes, k = synthetic.class_slots(real.num_classes, ipc), real.num_classes
    return synthetic.SyntheticSet(parametrization, labels, classes, k, rate, scale).to(real.device)


def hard_label_set(
    real: RealData, ipc: int, parametrization: Parametrization, rate: LearnedRate | None = None
) -> SyntheticSet:
    """Return a synthetic set with `ipc` slots per class, sorted by class, and fixed one-hot labels.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.recipes import hard_label_set, start_images
        >>> real = ddsdk.load("digits")
        >>> images = start_images(real, 1, "real", ddsdk.generator(0))
        >>> len(hard_label_set(real, 1, ddsdk.synthetic.Pixels(images)))
        10
    """
    labels = synthetic.hard_labels(synthetic.class_slots(real.num_classes, ipc), real.num_classes)
    return class_set(real, ipc, parametrization, labels, rate)


def unit_bounds(real: RealData) -> Bounds | None:
    """Return the pixel values that 0 and 1 of the unit range have after preprocessing, (C, 1, 1) each.

    Return None under ZCA whitening, which mixes pixels.

    Examples:
        >>> import ddsdk
        >>> low, high = ddsdk.recipes.unit_bounds(ddsdk.load("digits"))
        >>> bool((low < high).all())
        True
    """
    if real.preprocess.space == "zca":
        return None
    from torch import ones, zeros

    shape = (real.preprocess.channels, 1, 1)
    return real.preprocess(zeros(shape)), real.preprocess(ones(shape))


def unit_rate(real: RealData, lr: float) -> float:
    """Return the learning rate for preprocessed images that equals `lr` for images in the unit range [0, 1].

    Papers that store images in [0, 1] and normalise them inside the augmentation publish rates for that range. With
    x = (u - mean)/std, a gradient step on x is 1/std^2 times as long as one on u, so `lr` is divided by the squared
    mean of the channels' std. Under ZCA whitening `lr` is returned unchanged.
    """
    if real.preprocess.space == "zca":
        return lr
    std = real.preprocess.std
    return lr / (sum(std) / len(std)) ** 2


def sgd_on_images(syn: SyntheticSet, *, lr: float, momentum: float) -> Optimizer:
    """Return an SGD optimizer of all parameters of the set.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.recipes import pixel_set, sgd_on_images
        >>> syn = pixel_set(ddsdk.load("digits"), 1, "noise", ddsdk.generator(0))
        >>> sgd_on_images(syn, lr=0.1, momentum=0.5).defaults["momentum"]
        0.5
    """
    from torch.optim import SGD

    return SGD(syn.parameters(), lr=lr, momentum=momentum)


def adam_on_images(syn: SyntheticSet, *, lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> Optimizer:
    """Return an Adam optimizer of all trainable parameters of the set.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.recipes import adam_on_images, pixel_set
        >>> syn = pixel_set(ddsdk.load("digits"), 1, "noise", ddsdk.generator(0))
        >>> adam_on_images(syn, lr=0.01).defaults["lr"]
        0.01
    """
    from torch.optim import Adam

    return Adam([p for p in syn.parameters() if p.requires_grad], lr=lr, betas=betas)


def adam_by_kind(syn: SyntheticSet, *, image_lr: float, label_lr: float, scale_lr: float) -> Optimizer:
    """Return an Adam optimizer with separate learning rates for the images, the labels and the learned scale.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.recipes import adam_by_kind, pixel_set
        >>> syn = pixel_set(ddsdk.load("digits"), 1, "noise", ddsdk.generator(0))
        >>> len(adam_by_kind(syn, image_lr=0.01, label_lr=0.01, scale_lr=0.1).param_groups)  # labels are fixed
        1
    """
    from torch.optim import Adam

    kinds = ((syn.parametrization, image_lr), (syn.labels, label_lr), (syn.scale, scale_lr))
    groups: list[dict[str, Any]] = [
        {"params": [p for p in module.parameters() if p.requires_grad], "lr": lr}
        for module, lr in kinds
        if module is not None
    ]
    return Adam([group for group in groups if group["params"]])


def dd_network(real: RealData) -> str:
    """Return the network of DD's protocol: LeNet for grey images of at least 12 x 12 pixels, an AlexNet for others."""
    c, *sides = real.image_shape
    return "lenet" if c == 1 and min(sides) >= 12 else "alexnet-cifar"
