"""DP-KIP: noised gradients of kernel ridge regression by the images of the set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, final

import torch
from torch import Tensor
from torch.func import vjp, vmap

import ddsdk as dd
from ddsdk.data import Source
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt, derive
from ddsdk.objectives import ByFeatures, Compare, by_kernel, targets
from ddsdk.recipes import adam_on_images, ntk_protocol
from ddsdk.students import FixedTeachers
from ddsdk.synthetic import FixedLabels, SyntheticView, centred_labels
from ddsdk.training import FullyConnectedNTK, Ridge, solve
from ddsdk_integrations.privacy.guard import refuse_bad_student
from ddsdk_integrations.privacy.mechanism import Mechanism
from ddsdk_integrations.privacy.recipe import PrivateRecipe

if TYPE_CHECKING:
    from ddsdk.students import MakeStudent
    from ddsdk_integrations.privacy.data import PrivateData


S = TypeVar("S")


@final
@dataclass(frozen=True, kw_only=True)
class NoisedRegression(Generic[S]):
    """Kernel ridge regression from the set to private records, whose gradient by the set is released with noise.

    For each record (x, y) of a sample, the gradient of ||k(x, S) (k(S, S) + r I)^-1 Y - y||^2 / 2 by the images S is
    clipped; the noised sum g, over the expected size of a sample, enters as the term <S, g>, whose gradient it is. The
    regression itself, k(S, S), depends on no record.

    Attributes:
        mechanism: Mechanism with a release for each step.
        compare: Kernel of a student, such as `ddsdk.objectives.by_kernel` or `ddsdk.objectives.ByFeatures`.
        ridge: Rule of r.
        expected: Publicly expected number of records in a sample.
    """

    mechanism: Mechanism
    compare: Compare[S]
    ridge: Ridge
    expected: float

    def __call__(
        self,
        student: S,
        real: Source,  # noqa: ARG002
        syn: SyntheticView,
        rng: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield the one term."""
        images, labels = syn.whole(derive(rng, "synthetic"))
        leaf, rows = images.detach(), labels.detach()

        def gradients(batch: dd.Batch) -> Tensor:
            return self.record_gradients(student, dd.Batch(leaf, rows), batch)

        total = self.mechanism.noised_sum(gradients, leaf.numel())
        yield (images * (total / self.expected).view_as(images)).sum()

    def record_gradients(self, student: S, synthetic: dd.Batch, batch: dd.Batch) -> Tensor:
        """Return the gradient of the loss of each record by the images of the set, (B, M*C*H*W)."""
        images = synthetic.x.detach().requires_grad_()
        gram, cross = self.compare(student, images, batch.x)
        by_gram, by_cross = self._by_kernel_values(gram.detach(), cross.detach(), synthetic.y, batch.y)
        (through_gram,) = torch.autograd.grad(gram, images, by_gram, is_grads_batched=True)

        def through_row(x: Tensor, cotangent: Tensor) -> Tensor:
            pull = vjp(lambda s: self.compare(student, s, x[None]).cross[0], images.detach())[1]
            return pull(cotangent)[0]  # type: ignore[no-any-return]

        through_cross = vmap(through_row)(batch.x, by_cross)
        return (through_gram + through_cross).flatten(1)

    def _by_kernel_values(self, gram: Tensor, cross: Tensor, labels: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient of each loss by the Gram matrix, (B, M, M), and by its own row of the other, (B, M)."""
        gram.requires_grad_()
        cross.requires_grad_()
        found = cross @ solve(gram, labels, self.ridge).values
        losses = 0.5 * (found - targets(truth)).square().sum(1)
        each = torch.eye(len(losses), dtype=losses.dtype, device=losses.device)
        (by_gram,) = torch.autograd.grad(losses, gram, each, is_grads_batched=True, retain_graph=True)
        (by_cross,) = torch.autograd.grad(losses.sum(), cross)
        return by_gram, by_cross


@final
@dataclass(frozen=True, kw_only=True)
class DPKIP(PrivateRecipe):
    """DP-KIP: kernel inducing points by differentially private gradients.

    Attributes:
        steps: Image steps, one release each.
        kernel_depth: Hidden layers of the network of infinite width of the kernel.
        features: Whether images are compared by the embeddings of one random network of `make_student` instead, which
            stays fixed; networks judge such a set, on the class of each image.
        ridge: Constant on the diagonal of the Gram matrix, in units of its mean.
        image_lr: Learning rate of the images (Adam).
        clip: Norm of the gradient of a record by all images of the set.

    The set is one for kernel machines, and is evaluated by ridge regression with the same kernel: networks that train
    on it do badly.

    Differences from the published algorithm: Poisson samples, where the paper's code shuffles and accounts as if it did
    not; constants of normalisation that are public or paid for; a start from noise or public images; the kernel of a
    fully connected ReLU network in closed form, or features of one random network of any kind, where the paper has a
    wide network of that kind, scattering and a random ResNet.

    Cost: a batched backward pass through the kernel for the records of each sample.

    References:
        Vinaroz and Park, "Differentially Private Kernel Inducing Points", 2023.
    """

    name: ClassVar[str] = "dp-kip"
    steps: PositiveInt = 200
    kernel_depth: PositiveInt = 1
    features: bool = False
    ridge: NonNegativeFloat = 1e-3
    image_lr: PositiveFloat = 0.1
    sample_rate: float = 0.002
    clip: PositiveFloat = 0.05

    def parts(self, private: PrivateData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return regression with the kernel, each gradient released when its step comes."""
        learner: Any = FullyConnectedNTK(depth=self.kernel_depth)
        compare: Any = by_kernel
        if self.features:
            refuse_bad_student(make_student, embeds=True)
            network = make_student(derive(rng, "features")).to(private.device)
            learner, compare = network.eval().requires_grad_(False), ByFeatures()
        mechanism = private.mechanism("gradients of ridge regression", releases=self.steps, **self.terms)
        return dd.Plan(
            syn=self.pixels(private, derive(rng, "start"), make_labels=_centred_scores),
            objective=NoisedRegression(
                mechanism=mechanism,
                compare=compare,
                ridge=Ridge(rule="trace", strength=self.ridge),
                expected=self.sample_rate * sum(private.class_sizes),
            ),
            students=FixedTeachers(lambda _: learner),
            make_optimizer=partial(adam_on_images, lr=self.image_lr),
            steps=self.steps,
            average=self.average,
        )

    def evaluation(self, private: PrivateData) -> dd.Evaluation:  # noqa: ARG002
        """Return kernel ridge regression with the same kernel and ridge; for features, the published protocol."""
        if self.features:
            return dataclasses.replace(dd.Evaluation.published(), labels="hard")
        return ntk_protocol(self.kernel_depth, self.ridge)


def _centred_scores(classes: Tensor, num_classes: int) -> FixedLabels:
    return FixedLabels(centred_labels(classes, num_classes, 1.0), space="scores")
