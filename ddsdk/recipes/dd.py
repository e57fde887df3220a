"""DD: dataset distillation by back-propagation through the training of a student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk.recipes.unrolled import OrderedBatches

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class DD(OrderedBatches):
    """Dataset distillation: a few batches in a fixed order, with a learned learning rate for each training step.

    min_{S, rates} E_w0 l(w_N; T) with w_{k+1} = w_k - rate_k grad l(w_k; S_{k mod B}), for N = passes x B training
    steps on the B batches S_0..S_{B-1} of one image per class (eq. 4, algorithm 1). The initial weights w_0 are drawn
    anew for each image step, and the gradient passes through all N training steps.

    Attributes:
        steps: Image steps. The paper's 400 epochs are 19 600 for CIFAR-10 and 23 600 for MNIST.
        student_lr: Initial value of the learned rate of each training step. None for 0.02 on grey images, 0.001 on
            others.

    The defaults are the paper's, for a GPU. On a CPU use a LeNet, at most about 15 training steps of a student (ipc
    times `passes`), `real_batch` 256, and fewer `steps` with `anneal`.

    Differences from the published algorithm: learned rates stay between 1e-5 and 10. Students always have random
    initial weights; the paper's variants for one fixed initialisation and for pretrained networks are left out.

    References:
        Wang, Zhu, Torralba and Efros, "Dataset Distillation", 2018, arXiv:1811.10959.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.DD(ipc=1, steps=1, passes=2, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> len(ddsdk.distill(recipe, real, make_student=make_student).learned_lr)  # one rate for each training step
        2
    """

    name: ClassVar[str] = "dd"
    needs = ("second derivatives",)
    grey_lr: ClassVar[float] = 0.02

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return back-propagation through all training steps, on batches with hard labels."""
        images = self.ipc * real.num_classes
        return self.ordered(real, make_student=make_student, rng=rng, images=images, learned=False)
