"""DD: dataset distillation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk.recipes.unrolled import OrderedBatches

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class DD(OrderedBatches):
    """Dataset distillation: a few batches in a fixed order, and a learning rate for each step on them.

    min_{S, rates} E_w0 l(w_N; T) with w_{k+1} = w_k - rate_k grad l(w_k; S_{k mod B}) for N = passes x B steps on the B
    batches S_0..S_{B-1} of one image of each class (eq. 4, algorithm 1); w_0 is drawn anew for every step, and the
    gradient passes through all N steps.

    Attributes:
        steps: Image steps; the paper's 400 epochs are 19 600 of CIFAR-10 and 23 600 of MNIST.
        student_lr: Start of the learned rate of each step. None takes 0.02 for grey images and 0.001 for others.

    The defaults are the paper's, for a GPU. On a CPU: a LeNet, at most some 15 steps of a student (ipc times `passes`),
    `real_batch` 256, and fewer `steps` with `anneal`.

    Differences from the published algorithm: learned rates stay in 1e-5..10. Students are drawn anew for every step;
    those of a known initialisation, whose images serve that one alone, and of trained networks are left out.

    References:
        Wang, Zhu, Torralba and Efros, "Dataset Distillation", 2018, arXiv:1811.10959.
    """

    name: ClassVar[str] = "dd"
    grey_lr: ClassVar[float] = 0.02

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return back-propagation through all steps on batches with hard labels."""
        images = self.ipc * real.num_classes
        return self.ordered(real, make_student=make_student, rng=rng, images=images, learned=False)
