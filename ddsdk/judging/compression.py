"""Compression of distilled sets to a number of bytes, with the codec that validation on held-out images chooses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ddsdk.artefact import (
    Codec,
    Cosine,
    Distilled,
    Half,
    LowRank,
    PackedStorage,
    Palette,
    Uint8,
    codec_state,
    packed_set,
)
from ddsdk.data import RealData
from ddsdk.foundation import generator, require, require_count
from ddsdk.judging.judge import evaluation_steps, last_score
from ddsdk.judging.stored import check_cost, stored_protocol
from ddsdk.judging.training_set import TrainingSet, in_space_of
from ddsdk.training import TrainingProtocol

_STEPS = tuple(0.01 * 1.02**i for i in range(341))
"""Quantisation steps of coefficients, 0.01 to 8.5 in the unit range."""
_SHARES = (1.0, 0.5, 0.25, 0.12, 0.08, 0.05, 0.03)
"""Shares of the frequencies that are kept."""
_COLOURS = (256, 64, 32, 16, 8, 4, 2)
_PARTS = (1.0, 0.7, 0.5, 0.25)
"""Shares of the images of each class that are kept."""
CODEC_FAMILIES = ("cosine", "palette", "uint8", "half", "low-rank")
"""Names of the codecs that `compression_steps` tries."""


class BudgetError(ValueError):
    """No packed form of a set fits into a number of bytes."""


class CompressionTrial(NamedTuple):
    """A packed form of a set that fits into a number of bytes.

    Attributes:
        distilled: Packed set, which fits into the budget.
        codec: Codec with its settings, as text.
        error: Root mean squared error of the pixels in the unit range.
        accuracy: Accuracy on the held-out images, in 0..1.
    """

    distilled: Distilled
    codec: str
    error: float
    accuracy: float


def compression_steps(
    distilled: Distilled,
    budget: int,
    held: RealData,
    *,
    families: Sequence[str] = CODEC_FAMILIES,
    protocol: TrainingProtocol | None = None,
    seed: int = 0,
) -> Iterator[CompressionTrial]:
    """Yield packed forms of a set within a number of bytes, each with its accuracy on held-out images.

    For each codec, number of images and number of label entries, the form with the smallest error is tried. The one
    with the highest accuracy is the result of a compression. It has no certificate, because the choice reads real data.
    A budget below the smallest form gives a `BudgetError` with the size of that form.

    Args:
        distilled: Distilled set without edges.
        budget: Largest number of bytes of images, labels and learned rates, at least 1.
        held: Held-out images with the classes of the set, in any value space; not the test images.
        families: Names of the codecs to try, among `CODEC_FAMILIES`.
        protocol: Protocol of the networks, equal for all forms. None for that of the set, see `reduced_protocol` for a
            cheaper one.
        seed: Root of all random numbers.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.judging import compression_steps
        >>> train, held = ddsdk.load("digits").split(0.2, ddsdk.generator(0))
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=2), train)
        >>> protocol = ddsdk.TrainingProtocol(epochs=1, networks=1).changed(options={"width": 4})
        >>> trials = list(compression_steps(distilled, 300, held, families=["cosine"], protocol=protocol))
        >>> max(trial.distilled.manifest.storage.bytes for trial in trials) <= 300
        True
    """
    require_count("budget", budget)
    for family in families:
        require(family in CODEC_FAMILIES, "families", f"be among {', '.join(CODEC_FAMILIES)}", family)
    protocol = stored_protocol(distilled) if protocol is None else protocol
    check_cost(protocol, distilled)
    held = in_space_of(distilled, held)
    for form in _fitting_forms(distilled.unpacked(), budget, families):
        training_set = TrainingSet.of(form.packed, protocol)
        accuracy = last_score(evaluation_steps(training_set, held, rng=generator(seed, "compression"))).mean
        yield CompressionTrial(form.packed, _text(form.packed), form.error, accuracy)


class _Form(NamedTuple):
    packed: Distilled
    error: float


def _fitting_forms(distilled: Distilled, budget: int, families: Sequence[str]) -> list[_Form]:
    """Return the form with the smallest error for each codec, number of images and of label entries.

    Raises:
        BudgetError: If none fits into the budget.
    """
    best: dict[object, _Form] = {}
    smallest = math.inf
    for part in _parts(distilled):
        items = part.preprocess.inverse(part.images.cpu())
        rates = 4 * part.manifest.storage.other_floats
        for kept in _kept_labels(part):
            for codecs in _codecs(items, families):

                def size(codec: Codec, part: Distilled = part, kept: int = kept, items: Tensor = items) -> int:
                    return PackedStorage.of(items, part.labels.cpu(), codec, kept).nbytes

                codec, nbytes = _first_that_fits(codecs, size, budget - rates)
                smallest = min(smallest, nbytes + rates)
                if nbytes + rates > budget:
                    continue
                packed = dataclasses.replace(packed_set(part, codec, kept), certificate=None)
                error = float((part.preprocess.inverse(packed.images.cpu()) - items).square().mean().sqrt())
                key = codec.name, len(part), kept
                if key not in best or error < best[key].error:
                    best[key] = _Form(packed, error)
    if not best:
        raise BudgetError(f"budget must be at least {smallest} bytes, the smallest form of this set, got {budget}")
    return list(best.values())


def _parts(distilled: Distilled) -> Iterator[Distilled]:
    """Yield the set, and its first images of each class where the set can be divided."""
    sizes = torch.bincount(distilled.owner, minlength=distilled.num_classes).tolist()
    divisible = distilled.stored_floats == distilled.images.numel() and distilled.edge_index is None
    divisible &= not isinstance(distilled.learned_lr, tuple) and not isinstance(distilled.learned_momentum, tuple)
    counts = {tuple(math.ceil(share * size) for size in sizes) for share in (_PARTS if divisible else _PARTS[:1])}
    for count in sorted(counts, reverse=True):
        yield distilled if list(count) == sizes else distilled.first_of_classes(count)


def _kept_labels(distilled: Distilled) -> tuple[int, ...]:
    if distilled.manifest.storage.labels == "hard":
        return (0,)
    return tuple(sorted({0, min(5, distilled.num_classes), distilled.num_classes}))


def _codecs(items: Tensor, families: Sequence[str]) -> Iterator[Sequence[Codec]]:
    """Yield codecs of one family each, by decreasing size."""
    height, width = items.shape[2:]
    if "cosine" in families:
        # Below this step an error grows, because coefficients are clipped.
        least = Cosine.least_step(items)
        steps = [least, *(step for step in _STEPS if step > least)]
        for kept in sorted({math.ceil(share * height * width) for share in _SHARES}, reverse=True):
            yield [Cosine(height=height, width=width, kept=kept, step=step) for step in steps]
    if "palette" in families:
        different = len(torch.unique(items.movedim(1, -1).flatten(0, -2), dim=0))
        palettes = [Palette(colours=colours) for colours in _COLOURS if colours < different]
        if palettes:
            yield palettes
    if "uint8" in families:
        yield [Uint8()]
    if "half" in families:
        yield [Half()]
    if "low-rank" in families:
        yield [LowRank(rank=rank) for rank in range(min(height, width) // 2, 0, -1)]


def _first_that_fits(codecs: Sequence[Codec], size: Callable[[Codec], int], budget: int) -> tuple[Codec, int]:
    """Return the first codec within the budget and its bytes by bisection, or the last one if there is none."""
    low, high = 0, len(codecs) - 1
    found = size(codecs[high])
    while low < high:
        middle = (low + high) // 2
        nbytes = size(codecs[middle])
        if nbytes <= budget:
            high, found = middle, nbytes
        else:
            low = middle + 1
    return codecs[high], found


def _text(packed: Distilled) -> str:
    assert packed.packing is not None
    state, kept = codec_state(packed.packing.codec), packed.packing.kept_labels
    settings = [f"{name} {value:.3g}" for name, value in state.items() if name not in ("name", "height", "width")]
    return ", ".join([str(state["name"]), *settings, *([f"{kept} label entries"] if kept else [])])
