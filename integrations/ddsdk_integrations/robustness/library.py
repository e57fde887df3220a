"""AutoAttack, as pyautoattack has it: parameter-free attacks that are the field's yardstick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

import pyautoattack
import torch
from torch import Tensor

from ddsdk.foundation import Checked, PositiveInt, require
from ddsdk_integrations.robustness.threat import Threat, UnitModel

_Part = Literal["apgd-ce", "apgd-t", "fab-t", "square"]
_STANDARD: tuple[_Part, ...] = get_args(_Part)
_NORMS = {"linf": "Linf", "l2": "L2"}


@final
@dataclass(frozen=True, kw_only=True)
class AutoAttack(Checked):
    """Four attacks one after another, each on what the ones before it left: AutoAttack's standard version.

    Attributes:
        parts: Some of apgd-ce, apgd-t, fab-t and square; the targeted ones, apgd-t and fab-t, need 4 classes.
        queries: Queries of square; the standard has 5000.
        batch_size: Images at once.

    References:
        Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
        Attacks", ICML 2020, arXiv:2003.01690; Andriushchenko et al., "Square Attack", ECCV 2020, arXiv:1912.00049.

    Cost: thousands of passes for each image that resists.
    """

    parts: tuple[_Part, ...] = _STANDARD
    queries: PositiveInt = 5000
    batch_size: PositiveInt = 128

    def __post_init__(self) -> None:
        known = bool(self.parts) and set(self.parts) <= set(_STANDARD)
        require(known, "parts", f"be some of {list(_STANDARD)}", self.parts)
        super().__post_init__()

    @property
    def name(self) -> str:
        """AutoAttack; Square where it is that alone; or the parts."""
        if self.parts == _STANDARD:
            return "AutoAttack" if self.queries == 5000 else f"AutoAttack, {self.queries} queries"
        return f"Square-{self.queries}" if self.parts == ("square",) else "+".join(self.parts)

    def __call__(self, model: UnitModel, x: Tensor, labels: Tensor, threat: Threat, rng: torch.Generator) -> Tensor:
        """Return attacked images; see `Attack`. The global random state is put back."""
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
        # Its nine targets are those of ten classes.
        targets = min(9, model(x[:1]).shape[1] - 1)
        library.apgd_targeted.n_target_classes = library.fab.n_target_classes = targets
        # The library's parts seed the global generators.
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            found = library.run_standard_evaluation(x, labels, batch_size=self.batch_size)
        attacked: Tensor = found[0] if isinstance(found, tuple) else found
        return attacked.detach()


def square(queries: int = 1000) -> AutoAttack:
    """Return the Square attack alone: random search, which no hidden gradient can mislead."""
    return AutoAttack(parts=("square",), queries=queries)
