"""Kernel ridge regression on the synthetic set, with a loss on its predictions for real images (KIP, FRePo, RFAD).

No network is trained within a step: the student is a kernel, or one or several networks whose features give a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar, final, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ddsdk.data import Batch, Source
from ddsdk.foundation import CheckedDataclass, NonNegativeFloat, PositiveFloat, PositiveInt, derive, require
from ddsdk.objectives.base import embedding, of_each_class
from ddsdk.synthetic import SyntheticView
from ddsdk.training import InputAttack, Kernel, Ridge, embeddings, micro_batch, pieces, solve

S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)
_LOSS = Literal["mse", "cross-entropy"]


class GramMatrices(NamedTuple):
    """Kernel values in float64, with graph to the images of the set alone.

    Attributes:
        gram: Kernel values among the images of the set, (n, n).
        cross: Kernel values between real images and those of the set, (m, n).

    Examples:
        >>> import ddsdk
        >>> x, kernel = ddsdk.load("digits").images[:5].float(), ddsdk.training.LinearKernel()
        >>> gram, cross = ddsdk.objectives.by_kernel(kernel, x, x[:2])
        >>> gram.shape, cross.shape
        (torch.Size([5, 5]), torch.Size([2, 5]))
    """

    gram: Tensor
    cross: Tensor


class GramFunction(Protocol[S_contra]):
    """A function from a student and two batches of images to Gram matrices."""

    def __call__(self, student: S_contra, images: Tensor, new: Tensor) -> GramMatrices:
        """Return the Gram matrices of the set `images`, (n, C, H, W), and real images `new`, (m, C, H, W)."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class ByFeatures(CheckedDataclass):
    """The kernel of the features f of one or several networks: the mean over networks of slope <f(x), f(z)> / F + bias.

    Features are computed in the precision of the networks, products in float64. Features of real images have a graph
    only if the images have one.

    Attributes:
        slope: Factor of the inner product, > 0; 2 in RFAD. It has no effect with bias 0 and the "trace" rule.
        bias: Constant that is added to the kernel, at least 0; 0.01 in RFAD.

    Cost: for each network, one forward pass over the real images in micro-batches, and one forward and backward pass
    over the set.

    Examples:
        >>> import ddsdk
        >>> x = ddsdk.load("digits").images[:5].float()
        >>> student = ddsdk.network_factory("convnet", (1, 8, 8), 10, width=4)(ddsdk.generator(0))
        >>> ddsdk.objectives.ByFeatures()(student, x, x[:2]).cross.shape
        torch.Size([2, 5])
    """

    slope: PositiveFloat = 1.0
    bias: NonNegativeFloat = 0.0

    def __call__(self, student: nn.Module | Sequence[nn.Module], images: Tensor, new: Tensor) -> GramMatrices:
        """Return the Gram matrices under one network or several."""
        networks = student if isinstance(student, list | tuple) else (student,)
        matrices = [self._under(network, images, new) for network in networks]
        gram, cross = (torch.stack(parts).mean(0) + self.bias for parts in zip(*matrices, strict=True))
        return GramMatrices(gram, cross)

    def _under(self, network: nn.Module, images: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        embed = embedding(network)
        size = micro_batch(network, images.device, len(images))
        features = torch.cat([embed(images[part]) for part in pieces(len(images), size)]).double()
        new_features = (embed(new) if new.requires_grad else embeddings(network, new)).double()
        factor = self.slope / features.shape[1]
        return factor * (features @ features.T), factor * (new_features @ features.T)


def by_kernel(student: Kernel, images: Tensor, new: Tensor) -> GramMatrices:
    """Return the Gram matrices under a kernel in closed form, which is the student, see `ddsdk.training.KERNELS`.

    Args:
        student: Kernel of two batches of images.
        images: Images of the set, (n, C, H, W).
        new: Real images, (m, C, H, W).

    Raises:
        TypeError: If the student is a network or no function.

    Examples:
        >>> import ddsdk
        >>> x = ddsdk.load("digits").images[:5].float()
        >>> ddsdk.objectives.by_kernel(ddsdk.training.FullyConnectedNTK(), x, x[:2]).cross.shape
        torch.Size([2, 5])
    """
    if isinstance(student, nn.Module) or not callable(student):
        raise TypeError(f"student must be a kernel, got {type(student).__name__}")
    return GramMatrices(student(images, images), student(new, images))


@final
@dataclass(frozen=True, kw_only=True)
class FitAndTest(CheckedDataclass, Generic[S]):
    """The loss on real images of kernel ridge regression that is fitted to the labels of the whole set.

    With the set (X, Y), a real batch (T, y) and the kernel k of the student, the predictions are
    f = k(T, X) (k(X, X) + r I)^-1 Y. The loss is half the mean of ||f - s (y - 1/K)||^2 over the batch, or the
    cross-entropy of softmax(scale f) with a scale that is learned with the set. The margin term is subtracted: the mean
    over the rows of Y of min(largest - second largest entry, margin). Images, labels and scale have gradients.

    FRePo has one network of a pool as the student, RFAD several fresh networks, KIP a kernel.

    Attributes:
        compare: Function from the student and images to Gram matrices, `ByFeatures` or `by_kernel`.
        ridge: Ridge r; the system is solved in float64.
        real_batch: Real images in one step.
        loss: Loss on the real images: "mse", for sets with centred labels, or "cross-entropy".
        balanced: True for equally many real images of each class, rounded up; false for random classes.
        label_scale: Scale s of the regression targets, that of the labels of the set.
        margin: Margin of the label term, which keeps the class of an image ahead; 0 for no such term.
        mirrored: True if the regression also has the mirror image of each image, with the same label.
        adversary: Attack on the real images of the step under the regression, for adversarial kernel distillation
            (Tsilivis, Su and Kempe, 2022); None for clean images.

    References:
        Nguyen, Chen and Lee, ICLR 2021, arXiv:2011.00050; Zhou, Nezhadarya and Ba, NeurIPS 2022, arXiv:2206.00719;
        Loo, Hasani, Amini and Rus, NeurIPS 2022, arXiv:2210.12067.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk.objectives import ByFeatures, FitAndTest
        >>> objective = FitAndTest(compare=ByFeatures(), ridge=ddsdk.training.Ridge(), real_batch=50)
        >>> swap = lambda plan: dataclasses.replace(plan, objective=objective)
        >>> len(ddsdk.distill(ddsdk.DM(ipc=1, steps=2), ddsdk.load("digits"), transform=swap))
        10
    """

    compare: GramFunction[S]
    ridge: Ridge
    real_batch: PositiveInt
    loss: _LOSS = "mse"
    balanced: bool = False
    label_scale: PositiveFloat = 1.0
    margin: NonNegativeFloat = 0.0
    mirrored: bool = False
    adversary: InputAttack | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.loss in get_args(_LOSS), "loss", f"be one of {list(get_args(_LOSS))}", self.loss)

    def __call__(self, student: S, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield the loss; the cross-entropy needs a set with a learned scale."""
        images, labels = syn.whole(derive(rng, "decode"))
        key = derive(rng, "real")
        per_class = -(-self.real_batch // real.num_classes)
        x, y = of_each_class(real, per_class, key) if self.balanced else real.mixed(self.real_batch, key)
        views = (images, images.flip(3)) if self.mirrored else (images,)
        images, labels = torch.cat(views), labels.repeat(len(views), 1)
        scale = syn.scale if self.loss == "cross-entropy" else None
        if self.adversary is not None:
            key = derive(rng, "adversary")
            x = self._attacked(student, Batch(images, labels), Batch(x, y), scale, key)
        gram, cross = self.compare(student, images, x)
        loss = self._loss(cross @ solve(gram, labels, self.ridge).values, y, scale) / len(y)
        yield loss - label_margin(labels, self.margin) if self.margin else loss

    def _loss(self, predictions: Tensor, labels: Tensor, scale: Tensor | None) -> Tensor:
        """Return the loss of predictions, summed over the batch."""
        if self.loss == "mse":
            return 0.5 * (predictions - targets(labels, self.label_scale)).square().sum()
        assert scale is not None  # read from the set for this loss
        return cross_entropy(scale * predictions, labels.double(), reduction="sum")

    def _attacked(self, student: S, syn: Batch, real: Batch, scale: Tensor | None, rng: torch.Generator) -> Tensor:
        adversary, images = self.adversary, syn.x.detach()
        assert adversary is not None  # checked by the caller
        with torch.no_grad():
            gram, _ = self.compare(student, images, real.x[:1])
            weights = solve(gram, syn.y.detach(), self.ridge).values
        fixed_scale = None if scale is None else scale.detach()

        def loss(x: Tensor) -> Tensor:
            return self._loss(self.compare(student, images, x).cross @ weights, real.y, fixed_scale)

        return adversary(loss, real.x, rng)


def label_margin(labels: Tensor, margin: float) -> Tensor:
    """Return the mean over label rows of min(largest - second largest entry, margin)."""
    first, second = labels.topk(2, dim=1).values.T
    lead: Tensor = (first - second).clamp_max(margin).mean()
    return lead


def targets(labels: Tensor, scale: float = 1.0) -> Tensor:
    """Return the centred regression targets scale (y - 1/K) of label rows y, (B, K), in float64."""
    return scale * (labels.double() - 1 / labels.shape[1])
