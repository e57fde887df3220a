"""Ridge regression on the synthetic set must predict the labels of real images.

No network is trained within a step: the student is a kernel, or networks whose features make one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddsdk.data import Batch, Source
from ddsdk.foundation import Checked, NonNegativeFloat, PositiveFloat, PositiveInt, derive, require
from ddsdk.objectives.base import embedding, of_each_class
from ddsdk.synthetic import SyntheticView
from ddsdk.training import Adversary, Kernel, Ridge, embeddings, micro_batch, pieces, solve

S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)
_LOSS = Literal["mse", "cross-entropy"]


class Compared(NamedTuple):
    """Kernel values in float64, with graph to the images of the set alone.

    Attributes:
        gram: Values among the images of the set, (n, n).
        cross: Values between real images and those of the set, (m, n).
    """

    gram: Tensor
    cross: Tensor


class Compare(Protocol[S_contra]):
    """A comparison of images by a student."""

    def __call__(self, student: S_contra, images: Tensor, new: Tensor) -> Compared:
        """Return the kernel values of `images`, (n, C, H, W), and of `new` real ones, (m, C, H, W)."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class ByFeatures(Checked):
    """Compare by the features f(x) of networks: the mean over networks of slope <f(x), f(z)> / F + bias.

    Features are made in the precision of the networks, products in float64; those of real images have a graph only
    where the images have one.

    Attributes:
        slope: Factor; 2 in RFAD. It has no effect where the bias is 0 and the ridge is a share of the trace.
        bias: Squared length of a constant feature; 0.01 in RFAD.

    Cost: one forward pass over the real images in micro-batches, and one forward and backward over the set, for each
    network.
    """

    slope: PositiveFloat = 1.0
    bias: NonNegativeFloat = 0.0

    def __call__(self, student: nn.Module | Sequence[nn.Module], images: Tensor, new: Tensor) -> Compared:
        """Return the kernel values under a network, or under several."""
        networks = student if isinstance(student, list | tuple) else (student,)
        one = [self._under(network, images, new) for network in networks]
        gram, cross = (torch.stack(parts).mean(0) + self.bias for parts in zip(*one, strict=True))
        return Compared(gram, cross)

    def _under(self, network: nn.Module, images: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        embed = embedding(network)
        size = micro_batch(network, images.device, len(images))
        mine = torch.cat([embed(images[part]) for part in pieces(len(images), size)]).double()
        theirs = (embed(new) if new.requires_grad else embeddings(network, new)).double()
        share = self.slope / mine.shape[1]
        return share * (mine @ mine.T), share * (theirs @ mine.T)


def by_kernel(student: Kernel, images: Tensor, new: Tensor) -> Compared:
    """Compare by a kernel in closed form, see `KERNELS`: the student is the kernel."""
    if isinstance(student, nn.Module) or not callable(student):
        raise TypeError(f"student must be a kernel, got {type(student).__name__}")
    return Compared(student(images, images), student(new, images))


@final
@dataclass(frozen=True, kw_only=True)
class FitAndTest(Checked, Generic[S]):
    """Fit ridge regression to the labels of the whole set; its predictions for real images have the loss.

    With the set (X, Y), a real batch (T, y) and the kernel k of the student, predictions are
    f = k(T, X) (k(X, X) + r I)^-1 Y. The loss is half the mean of ||f - s (y - 1/K)||^2 over the batch, or the
    cross-entropy of softmax(scale f), whose scale is learned with the set; less the mean over Y of
    min(largest - second largest entry, margin). It is differentiable with respect to images, labels and scale.

    FRePo is this with one network of a pool, RFAD with several fresh ones, KIP with a kernel.

    Attributes:
        compare: Kernel k of a student.
        ridge: Ridge r. The system is solved in float64.
        real_batch: Real images of a step.
        loss: "mse", for sets whose labels are centred, or "cross-entropy".
        balanced: Whether the real images are as many of each class, rounded up.
        label_scale: Scale s, that of the labels of the set.
        margin: Margin by which labels keep the class of an image ahead; 0 for none.
        mirrored: Whether the regression has the mirror image of each image too, with the same label.
        adversary: Attack on the real images of the step as the regression predicts them: adversarial kernel
            distillation (Tsilivis, Su and Kempe, 2022).

    References:
        Nguyen, Chen and Lee, ICLR 2021, arXiv:2011.00050; Zhou, Nezhadarya and Ba, NeurIPS 2022, arXiv:2206.00719;
        Loo, Hasani, Amini and Rus, NeurIPS 2022, arXiv:2210.12067.
    """

    compare: Compare[S]
    ridge: Ridge
    real_batch: PositiveInt
    loss: _LOSS = "mse"
    balanced: bool = False
    label_scale: PositiveFloat = 1.0
    margin: NonNegativeFloat = 0.0
    mirrored: bool = False
    adversary: Adversary | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.loss in get_args(_LOSS), "loss", f"be one of {list(get_args(_LOSS))}", self.loss)

    def __call__(self, student: S, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the one loss; the cross-entropy needs a set with a learned scale."""
        images, labels = syn.whole(derive(rng, "decode"))
        key = derive(rng, "real")
        each = -(-self.real_batch // real.num_classes)
        new, truth = of_each_class(real, each, key) if self.balanced else real.mixed(self.real_batch, key)
        seen = (images, images.flip(3)) if self.mirrored else (images,)
        images, labels = torch.cat(seen), labels.repeat(len(seen), 1)
        scale = syn.scale if self.loss == "cross-entropy" else None
        if self.adversary is not None:
            key = derive(rng, "adversary")
            new = self._attacked(student, Batch(images, labels), Batch(new, truth), scale, key)
        gram, cross = self.compare(student, images, new)
        loss = self._loss(cross @ solve(gram, labels, self.ridge).values, truth, scale) / len(truth)
        yield loss - label_lead(labels, self.margin) if self.margin else loss

    def _loss(self, found: Tensor, truth: Tensor, scale: Tensor | None) -> Tensor:
        """Return the loss of predictions, summed over the batch."""
        if self.loss == "mse":
            return 0.5 * (found - targets(truth, self.label_scale)).square().sum()
        assert scale is not None  # the set learns one for this loss
        return cross_entropy(scale * found, truth.double(), reduction="sum")

    def _attacked(self, student: S, syn: Batch, real: Batch, scale: Tensor | None, rng: torch.Generator) -> Tensor:
        adversary, images = self.adversary, syn.x.detach()
        assert adversary is not None  # checked by the caller
        with torch.no_grad():
            gram, _ = self.compare(student, images, real.x[:1])
            weights = solve(gram, syn.y.detach(), self.ridge).values
        fixed = None if scale is None else scale.detach()

        def loss(x: Tensor) -> Tensor:
            return self._loss(self.compare(student, images, x).cross @ weights, real.y, fixed)

        return adversary(loss, real.x, rng)


def label_lead(labels: Tensor, margin: float) -> Tensor:
    """Return the mean over label rows of min(largest - second largest entry, margin)."""
    first, second = labels.topk(2, dim=1).values.T
    lead: Tensor = (first - second).clamp_max(margin).mean()
    return lead


def targets(labels: Tensor, scale: float = 1.0) -> Tensor:
    """Return the targets of a regression: scale (y - 1/K) of label rows y, (B, K), in float64."""
    return scale * (labels.double() - 1 / labels.shape[1])
