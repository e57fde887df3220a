"""IDC: gradient matching of canvases that hold several images each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

from ddsdk.recipes.sweeping import Sweeping

if TYPE_CHECKING:
    from ddsdk.recipes.signature import Generator, MakeStudent, Module, Plan, RealData


@final
@dataclass(frozen=True, kw_only=True)
class IDC(Sweeping):
    """Efficient parametrization: factor^2 small images in the place of one, matched under students of real data.

    min_S sum_t sum_c |grad L(f(S_c); theta_t) - grad L(T_c; theta_t)|, where f cuts a canvas into factor x factor
    tiles and enlarges each to an image, theta_t trains on real images, and the gradients are those of all weights
    but the linear head's. `factor=1` is the paper's IDC-I.

    Differences from the published algorithm: images are clamped to the unit range after every step and not once for
    each network. The authors' code leaves out cutout and CutMix for MNIST at factor 2: `augmentation="color+crop"`,
    `mix=0`. The one rate of the images serves all channels, with the mean of their scales. Under ZCA whitening
    nothing is clamped and the rate is used as it is. That a lesson takes batches of `real_batch` and leaves cutout out
    is this library's reading.

    References:
        Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022, arXiv:2205.14959.
    """

    name: ClassVar[str] = "idc"

    def parts(self, real: RealData, *, make_student: MakeStudent, rng: Generator) -> Plan[Module]:
        """Return matching of random real images under fresh networks that train on real data."""
        return self.sweeps(real, make_student=make_student, rng=rng)
