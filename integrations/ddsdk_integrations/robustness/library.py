"""AutoAttack by pyautoattack: the standard ensemble of parameter-free attacks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

import pyautoattack
import torch
from torch import Tensor

from ddsdk.foundation import CheckedDataclass, PositiveInt, require
from ddsdk_integrations.robustness.threat import Threat, UnitModel

_Part = Literal["apgd-ce", "apgd-t", "fab-t", "square"]
_STANDARD: tuple[_Part, ...] = get_args(_Part)
_NORMS = {"linf": "Linf", "l2": "L2"}


@final
@dataclass(frozen=True, kw_only=True)
class AutoAttack(CheckedDataclass):
    """AutoAttack, standard version: four attacks in sequence, each on the images that are still correct.

    Attributes:
        parts: Attacks of the sequence, among apgd-ce, apgd-t, fab-t and square; apgd-t and fab-t need 4 classes.
        queries: Number of queries of Square for each image; the standard version uses 5000.
        batch_size: Number of images in one batch.

    References:
        Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
        Attacks", ICML 2020, arXiv:2003.01690; Andriushchenko et al., "Square Attack", ECCV 2020, arXiv:1912.00049.

    Cost: thousands of forward passes for each image that stays correct.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness import AutoAttack, Threat, UnitModel
        >>> real = ddsdk.load("digits")
        >>> network = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)(ddsdk.generator("weights"))
        >>> model, x, labels = UnitModel(network, real.preprocess), real.unit_images()[:5], real.labels[:5]
        >>> attack = AutoAttack(parts=("apgd-ce",))
        >>> attack(model, x, labels, Threat("linf", 0.1), ddsdk.generator("attack")).shape
        torch.Size([5, 1, 8, 8])
    """

    parts: tuple[_Part, ...] = _STANDARD
    queries: PositiveInt = 5000
    batch_size: PositiveInt = 128

    def __post_init__(self) -> None:
        valid = bool(self.parts) and set(self.parts) <= set(_STANDARD)
        require(valid, "parts", f"be some of {list(_STANDARD)}", self.parts)
        super().__post_init__()

    @property
    def name(self) -> str:
        """Name: AutoAttack, or Square with its queries if it is the only part, or the parts joined by "+"."""
        if self.parts == _STANDARD:
            return "AutoAttack" if self.queries == 5000 else f"AutoAttack, {self.queries} queries"
        return f"Square-{self.queries}" if self.parts == ("square",) else "+".join(self.parts)

    def __call__(self, model: UnitModel, x: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator) -> Tensor:
        """Return attacked images; see `Attack`. The global random state is restored afterwards."""
        library = pyautoattack.AutoAttack(
            model,
            version="standard",
            norm=_NORMS[threat.norm],
            eps=threat.radius,
            seed=rng.initial_seed() % 2**31,
            device=x.device,
        )
        library.attacks_to_run = list(self.parts)
        library.square.n_queries = self.queries
        # The default of nine target classes fits ten classes; with fewer classes the library would fail.
        targets = min(9, model(x[:1]).shape[1] - 1)
        library.apgd_targeted.n_target_classes = library.fab.n_target_classes = targets
        # The attacks of the library seed the global random generators.
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            evaluation = library.run_standard_evaluation(x, labels, batch_size=self.batch_size)
        attacked: Tensor = evaluation[0] if isinstance(evaluation, tuple) else evaluation
        return attacked.detach()


def square(queries: int = 1000) -> AutoAttack:
    """Return the Square attack: random search without gradients, which gradient masking does not affect.

    Args:
        queries: Number of queries for each image.

    Examples:
        >>> from ddsdk_integrations.robustness import square
        >>> square(500).name
        'Square-500'
    """
    return AutoAttack(parts=("square",), queries=queries)
