"""DP-KIP: kernel inducing points from noised gradients of kernel ridge regression."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, final

import torch
from torch import Tensor
from torch.func import vjp, vmap

import ddsdk as dd
from ddsdk.data import Source
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, PositiveInt, derive
from ddsdk.objectives import ByFeatures, GramFunction, by_kernel, targets
from ddsdk.recipes import adam_on_images, ntk_protocol
from ddsdk.students import FixedTeachers
from ddsdk.synthetic import FixedLabels, SyntheticView, centred_labels
from ddsdk.training import FullyConnectedNTK, Ridge, solve
from ddsdk_integrations.privacy.mechanism import Mechanism
from ddsdk_integrations.privacy.recipe import PrivateRecipe
from ddsdk_integrations.privacy.refusals import refuse_bad_student

if TYPE_CHECKING:
    from ddsdk.students import MakeStudent
    from ddsdk_integrations.privacy.data import PrivateData


S = TypeVar("S")


@final
@dataclass(frozen=True, kw_only=True)
class NoisedRegression(Generic[S]):
    """Loss of kernel ridge regression from the set to private records, with a noised gradient.

    For each record (x, y) of a Poisson sample, the gradient of ||k(x, S) (k(S, S) + r I)^-1 Y - y||^2 / 2 with respect
    to the images S is clipped. The noised sum of these gradients, divided by the expected sample size, is g; the
    objective is <S, g>, whose gradient with respect to S is g. k(S, S) depends on no record.

    Attributes:
        mechanism: Mechanism with one release for each step.
        compare: Kernel of a student, such as `ddsdk.objectives.by_kernel` or `ddsdk.objectives.ByFeatures`.
        ridge: Ridge strength r with its scaling rule.
        expected: Expected number of records in a sample, from public class sizes.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk_integrations.privacy import DPKIP, Budget, Ledger, PrivateData
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> ridge = ddsdk.training.Ridge(rule="trace", strength=1e-2)
        >>> change = lambda plan: dataclasses.replace(
        ...     plan, objective=dataclasses.replace(plan.objective, ridge=ridge)
        ... )
        >>> distilled = ddsdk.distill(DPKIP(ipc=1, steps=2), private, transform=change)
    """

    mechanism: Mechanism
    compare: GramFunction[S]
    ridge: Ridge
    expected: float

    def __call__(
        self,
        student: S,
        real: Source,  # noqa: ARG002
        syn: SyntheticView,
        rng: torch.Generator,
    ) -> Iterator[Tensor]:
        """Yield the inner product of the images and their noised gradient."""
        images, labels = syn.whole(derive(rng, "synthetic"))
        fixed_images, fixed_labels = images.detach(), labels.detach()

        def gradients(batch: dd.Batch) -> Tensor:
            return self.record_gradients(student, dd.Batch(fixed_images, fixed_labels), batch)

        total = self.mechanism.noised_sum(gradients, fixed_images.numel())
        yield (images * (total / self.expected).view_as(images)).sum()

    def record_gradients(self, student: S, synthetic: dd.Batch, batch: dd.Batch) -> Tensor:
        """Return the gradient of the loss of each record with respect to the images of the set, (B, M*C*H*W)."""
        images = synthetic.x.detach().requires_grad_()
        gram, cross = self.compare(student, images, batch.x)
        by_gram, by_cross = self._by_kernel_values(gram.detach(), cross.detach(), synthetic.y, batch.y)
        # Chain rule in two parts: through k(S, S), shared by all records, and through the row k(x, S) of a record.
        (through_gram,) = torch.autograd.grad(gram, images, by_gram, is_grads_batched=True)

        def through_row(x: Tensor, cotangent: Tensor) -> Tensor:
            pull = vjp(lambda s: self.compare(student, s, x[None]).cross[0], images.detach())[1]
            return pull(cotangent)[0]  # type: ignore[no-any-return]

        through_cross = vmap(through_row)(batch.x, by_cross)
        return (through_gram + through_cross).flatten(1)

    def _by_kernel_values(self, gram: Tensor, cross: Tensor, labels: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of each loss with respect to k(S, S), (B, M, M), and to its row k(x, S), (B, M)."""
        gram.requires_grad_()
        cross.requires_grad_()
        predictions = cross @ solve(gram, labels, self.ridge).values
        losses = 0.5 * (predictions - targets(truth)).square().sum(1)
        selectors = torch.eye(len(losses), dtype=losses.dtype, device=losses.device)
        (by_gram,) = torch.autograd.grad(losses, gram, selectors, is_grads_batched=True, retain_graph=True)
        # The loss of a record depends on its own row only, so the gradient of the sum has all rows.
        (by_cross,) = torch.autograd.grad(losses.sum(), cross)
        return by_gram, by_cross


@final
@dataclass(frozen=True, kw_only=True)
class DPKIP(PrivateRecipe):
    """DP-KIP: kernel inducing points by differentially private gradients.

    The set is made for kernel machines: it is evaluated by ridge regression with the same kernel, and networks that
    train on it reach low accuracy.

    Attributes:
        steps: Number of image steps, one release each.
        kernel_depth: Number of hidden layers of the infinitely wide network of the kernel.
        features: Whether the kernel is the inner product of embeddings of one fixed random network of `make_student`,
            in place of the neural tangent kernel. Such a set is evaluated by networks with hard labels.
        ridge: Constant added to the diagonal of the Gram matrix, in units of the mean of the diagonal.
        image_lr: Learning rate of the images (Adam).
        clip: Norm to which the gradient of a record with respect to all images of the set is clipped.

    Differences from the published algorithm: Poisson samples (the authors' code shuffles, but accounts for Poisson
    samples); public or noised constants of normalisation; initial images from noise or public data; the closed-form
    kernel of a fully connected ReLU network, or features of one random network of any kind, in place of a wide fully
    connected network, scattering and a random ResNet.

    Cost: a batched backward pass through the kernel for the records of each sample.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.privacy import DPKIP, Budget, Ledger, PrivateData
        >>> real = ddsdk.load("digits").with_preprocess(ddsdk.Preprocess.unit(1))
        >>> private = PrivateData(real, Ledger(Budget(epsilon=1, delta=1e-5)), class_size=135)
        >>> distilled = ddsdk.distill(DPKIP(ipc=1, steps=2), private)
        >>> distilled.images.shape, distilled.protocol["learner"]
        (torch.Size([10, 1, 8, 8]), 'kernel')

    References:
        Vinaroz and Park, "Differentially Private Kernel Inducing Points", 2023.
    """

    name: ClassVar[str] = "dp-kip"
    shortest: ClassVar[Mapping[str, int]] = {"steps": 1}
    steps: PositiveInt = 200
    kernel_depth: PositiveInt = 1
    features: bool = False
    ridge: NonNegativeFloat = 1e-3
    image_lr: PositiveFloat = 0.1
    sample_rate: float = 0.002
    clip: PositiveFloat = 0.05

    def parts(self, private: PrivateData, *, make_student: MakeStudent, rng: torch.Generator) -> dd.Plan[Any]:
        """Return the plan of kernel ridge regression with one noised gradient in each step."""
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

    def protocol(self, private: PrivateData) -> dd.TrainingProtocol:  # noqa: ARG002
        """Return ridge regression with the kernel of the recipe; with `features`, the published protocol."""
        if self.features:
            return dataclasses.replace(dd.TrainingProtocol.published(), labels="hard")
        return ntk_protocol(self.kernel_depth, self.ridge)


def _centred_scores(classes: Tensor, num_classes: int) -> FixedLabels:
    return FixedLabels(centred_labels(classes, num_classes, 1.0), space="scores")
