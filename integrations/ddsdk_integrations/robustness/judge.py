"""The honest judge: networks that trained on a set under attacks of many radii, and attacks tried on other networks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.experiments import markdown_table
from ddsdk.foundation import Checked, PositiveInt, derive, require, root
from ddsdk.judging import trained_network
from ddsdk.training import Adversary
from ddsdk_integrations.robustness.attacks import FGSM, PGD, Attack, surviving
from ddsdk_integrations.robustness.library import AutoAttack, square
from ddsdk_integrations.robustness.report import LARGE_RADIUS, Outcome, Robustness
from ddsdk_integrations.robustness.threat import Norm, Threat, UnitModel


@final
@dataclass(frozen=True)
class Trial(Checked):
    """An attack at some radii on some images: the dear ones can be tried on fewer.

    Attributes:
        attack: Attack that is tried.
        radii: Radii in the unit range; empty for those of the judge.
        images: Number of the judge's test images, from the first on; None for all.
        networks: Number of networks, from the first on; None for all.
    """

    attack: Attack
    radii: tuple[float, ...] = ()
    images: PositiveInt | None = None
    networks: PositiveInt | None = None


_WEAK = PGD(steps=10, restarts=1)


@final
@dataclass(frozen=True, kw_only=True)
class RobustnessJudge(Checked):
    """Accuracy of networks that trained on a set under attacks on test images, with normalisation inside of them.

    Attributes:
        norm: Norm of the threats: linf or l2.
        radii: Radii in the unit range, rising. Accuracy on distilled sets is low: take some small ones.
        trials: Attacks; by default FGSM as a sanity check, PGD-50 with 5 restarts, Square alone and AutoAttack.
        images: Number of test images, as many of each class as it goes; the same for every network.
        networks: Number of networks, each of a seed of its own.
        margin: Share of the images, in 0 <= value < 1, by which a check may fail before it is told.
    """

    norm: Norm = "linf"
    radii: tuple[float, ...] = (2 / 255, 4 / 255, 8 / 255)
    trials: tuple[Trial, ...] = (Trial(FGSM()), Trial(PGD()), Trial(square()), Trial(AutoAttack()))
    images: PositiveInt = 1000
    networks: PositiveInt = 3
    margin: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        for radius in self.radii:
            Threat(self.norm, radius)
        rising = bool(self.radii) and list(self.radii) == sorted(set(self.radii))
        require(rising, "radii", "rise, with at least one", self.radii)
        require(bool(self.trials), "trials", "hold at least one", self.trials)
        names = [trial.attack.name for trial in self.trials]
        require(len(set(names)) == len(names), "trials", "have one name each", names)
        require(0 <= self.margin < 1, "margin", "lie in 0 <= value < 1", self.margin)

    def networks_of(
        self,
        batch: dd.Batch | tuple[Tensor, Tensor],
        like: dd.RealData,
        evaluation: dd.Evaluation,
        *,
        seed: int | torch.Generator = 0,
        adversary: Adversary | None = None,
    ) -> list[UnitModel]:
        """Return networks that trained on a set, those of `ddsdk.evaluate` where there is no adversary.

        Args:
            batch: Images (M, C, H, W) in the value space of `like`, and label rows (M, K).
            like: Real data of the same shape, classes and value space.
            evaluation: Protocol of their training.
            seed: Root of their seeds: an integer, or a generator, which is not advanced.
            adversary: Attack of adversarial training, see `PixelAdversary`; None for plain training.
        """
        rng = root(seed)
        made = [trained_network(batch, like, evaluation, i, rng=rng, adversary=adversary) for i in range(self.networks)]
        return [UnitModel(network, like.preprocess) for network in made]

    def test_images(self, test: dd.RealData) -> tuple[Tensor, Tensor]:
        """Return the images, (N, C, H, W) in the unit range, and labels, (N,), that attacks are tried on."""
        share = -(-self.images // test.num_classes)
        columns = [test.index_of_class(c)[:share] for c in range(test.num_classes)]
        # Class by class in turns, so that the first so many images hold every class.
        turns = [column[i : i + 1] for i in range(share) for column in columns]
        index = torch.cat(turns)[: self.images]
        unit = test.preprocess.inverse(test.batch(index).x).clamp(0, 1)
        return unit, test.labels[index.to(test.device)]

    def __call__(
        self, models: Sequence[UnitModel], test: dd.RealData, *, seed: int | torch.Generator = 0, name: str = "set"
    ) -> Robustness:
        """Attack finished networks and return what is left of their accuracy.

        Args:
            models: Networks of at least one seed, see `networks_of`.
            test: Held-out real data.
            seed: Root of the attacks' randomness: an integer, or a generator, which is not advanced.
            name: Name in tables.

        Raises:
            BrokenAttackError: If an attack leaves its bounds.
            ValueError: If there is no network.
        """
        require(len(models) > 0, "models", "hold at least one network", len(models))
        rng, began = root(seed), time.perf_counter()
        x, labels = self.test_images(test)
        outcomes = tuple(outcome for i, model in enumerate(models) for outcome in self._on(model, i, x, labels, rng))
        return Robustness(
            name=name,
            norm=self.norm,
            clean=tuple(_accuracy(model, x, labels) for model in models),
            outcomes=outcomes,
            images=len(x),
            chance=1 / test.num_classes,
            margin=self.margin,
            seconds=time.perf_counter() - began,
        )

    @property
    def _checks(self) -> list[Trial]:
        """Few steps at the last radius, which more steps must beat, and a radius at which nothing may be left."""
        known = any(trial.attack == _WEAK for trial in self.trials)
        few = [] if known else [Trial(_WEAK, self.radii[-1:])]
        return [*few, Trial(_WEAK, (LARGE_RADIUS[self.norm],))]

    def _on(self, model: UnitModel, network: int, x: Tensor, labels: Tensor, rng: torch.Generator) -> list[Outcome]:
        """Return what the trials and the checks leave of one network."""
        found = []
        for trial in (*self.trials, *self._checks):
            if trial.networks is not None and network >= trial.networks:
                continue
            shown, truth = x[: trial.images], labels[: trial.images]
            for radius in trial.radii or self.radii:
                began = time.perf_counter()
                key = derive(rng, "attack", network, trial.attack.name, str(radius))
                kept = surviving(trial.attack, model, shown, truth, Threat(self.norm, radius), key)
                seconds = time.perf_counter() - began
                found.append(Outcome(trial.attack.name, radius, network, tuple(kept.tolist()), seconds))
        return found


@dataclass(frozen=True)
class Transfer:
    """Accuracies of networks under attacks on one another.

    Attributes:
        names: Names of the networks.
        accuracy: A row for each attacked network, a column for each tested one.
        clean: Accuracy of each network without an attack.
        threat: Norm and radius.
    """

    names: tuple[str, ...]
    accuracy: tuple[tuple[float, ...], ...]
    clean: tuple[float, ...]
    threat: Threat

    def table(self) -> str:
        """Return a markdown table, in %."""
        rows = [[f"{100 * value:.1f}" for value in row] for row in (self.clean, *self.accuracy)]
        lines = [[name, *row] for name, row in zip(("none", *self.names), rows, strict=True)]
        return markdown_table([f"attacked ({self.threat.label})", *self.names], lines)


def transfer(
    models: Mapping[str, UnitModel],
    x: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    seed: int | torch.Generator = 0,
    attack: Attack = PGD(steps=50, restarts=1),  # noqa: B008 - frozen
) -> Transfer:
    """Attack every network and test all networks on the attacked images.

    Args:
        models: Networks by name, such as of several architectures.
        x: Images, (B, C, H, W) in the unit range, such as those of `RobustnessJudge.test_images`.
        labels: Classes of the images, (B,) int64.
        threat: Norm and radius of the attack.
        seed: Root of the attack's randomness: an integer, or a generator, which is not advanced.
        attack: Attack on all images, those that its network gets wrong too.

    Raises:
        BrokenAttackError: If an attack leaves its bounds.
    """
    require(len(models) > 0, "models", "hold at least one network", len(models))
    rng, rows = root(seed), []
    for name, source in models.items():
        attacked = threat.check(attack(source, x, labels, threat, derive(rng, "transfer", name)), x)
        rows.append(tuple(_accuracy(model, attacked, labels) for model in models.values()))
    clean = tuple(_accuracy(model, x, labels) for model in models.values())
    return Transfer(tuple(models), tuple(rows), clean, threat)


def _accuracy(model: UnitModel, x: Tensor, labels: Tensor) -> float:
    return float(model.correct(x, labels).float().mean())
