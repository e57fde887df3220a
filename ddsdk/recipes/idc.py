"""IDC: gradient matching of canvases that hold several downscaled images each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk.recipes.sweeping import TiledGradientMatching

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class IDC(TiledGradientMatching):
    """Efficient parametrization: gradient matching of canvases that hold factor^2 downscaled images each.

    min_S sum_t sum_c |grad L(f(S_c); theta_t) - grad L(T_c; theta_t)|, where f cuts a canvas into factor x factor tiles
    and enlarges each tile to an image. The network theta_t trains on real images, and the gradients are those of all
    weights except the linear head. `factor=1` is the paper's IDC-I.

    Differences from the published algorithm: images are clamped to the unit range after each step, in the paper once
    for each network. For MNIST at factor 2 the authors' code has neither cutout nor CutMix, which is
    `augmentation="color+crop"` with `mix=0`. All channels have the same image learning rate, scaled by the mean of
    their standard deviations. Under ZCA whitening nothing is clamped and the rate is not scaled. Networks train on
    batches of `real_batch` images and without cutout, which is an interpretation of the paper.

    References:
        Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, arXiv:2205.14959.

    Examples:
        >>> import ddsdk
        >>> real = ddsdk.load("digits")
        >>> recipe = ddsdk.IDC(ipc=1, steps=2, student_steps=1, real_batch=16)
        >>> make_student = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> tuple(ddsdk.distill(recipe, real, make_student=make_student).images.shape)  # four tiles for each canvas
        (40, 1, 8, 8)
    """

    name: ClassVar[str] = "idc"
    needs = ("second derivatives",)

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return matching of random real images, under fresh networks that train on real data."""
        return self.sweeps(real, make_student=make_student, rng=rng)
