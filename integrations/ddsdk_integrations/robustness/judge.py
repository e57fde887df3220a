"""Robust accuracy of networks that were trained on a set, and transfer of attacks between networks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.experiments import markdown_table
from ddsdk.foundation import CheckedDataclass, PositiveInt, as_generator, derive, require
from ddsdk.judging import TrainingSet, trained_network
from ddsdk.training import InputAttack
from ddsdk_integrations.robustness.attacks import FGSM, PGD, Attack, surviving
from ddsdk_integrations.robustness.library import AutoAttack, square
from ddsdk_integrations.robustness.report import LARGE_RADIUS, AttackOutcome, Robustness
from ddsdk_integrations.robustness.threat import Norm, Threat, UnitModel


@final
@dataclass(frozen=True)
class AttackTrial(CheckedDataclass):
    """One attack of an evaluation, with its radii; an expensive attack may be limited to some images and networks.

    Attributes:
        attack: Attack that is run.
        radii: Radii in the unit range; empty for the radii of the judge.
        images: Number of test images, from the first one; None for all.
        networks: Number of networks, from the first one; None for all.

    Examples:
        >>> from ddsdk_integrations.robustness import AttackTrial, AutoAttack
        >>> AttackTrial(AutoAttack(), images=200, networks=1).attack.name
        'AutoAttack'
    """

    attack: Attack
    radii: tuple[float, ...] = ()
    images: PositiveInt | None = None
    networks: PositiveInt | None = None


_FEW_STEPS = PGD(steps=10, restarts=1)


@final
@dataclass(frozen=True, kw_only=True)
class RobustnessJudge(CheckedDataclass):
    """Evaluation of robust accuracy: networks train on a set and are attacked on test images of the unit range.

    Attributes:
        norm: Norm of the perturbations, ``"linf"`` or ``"l2"``.
        radii: Radii in the unit range, in rising order. Clean accuracy on distilled sets is low, so small radii matter.
        trials: Attacks of the evaluation; by default FGSM as a sanity check, PGD-50 with 5 restarts, Square and
            AutoAttack.
        images: Number of test images, balanced over classes if possible; the same images for every network.
        networks: Number of networks, each with its own seed.
        margin: Share of the images, in 0 <= value < 1, by which a check may fail before it causes a warning.

    Examples:
        >>> import ddsdk, torch
        >>> from ddsdk_integrations.robustness import PGD, AttackTrial, RobustnessJudge
        >>> train, test = ddsdk.load_pair("digits")
        >>> judge = RobustnessJudge(radii=(0.1,), trials=(AttackTrial(PGD(steps=2)),), images=20, networks=1)
        >>> protocol = ddsdk.TrainingProtocol(epochs=2, network_options={"width": 4})
        >>> models = judge.networks_of(train.batch(torch.arange(20)), train, protocol)
        >>> judge(models, test).attacks
        ['PGD-2 x 5', 'PGD-10']
    """

    norm: Norm = "linf"
    radii: tuple[float, ...] = (2 / 255, 4 / 255, 8 / 255)
    trials: tuple[AttackTrial, ...] = (
        AttackTrial(FGSM()),
        AttackTrial(PGD()),
        AttackTrial(square()),
        AttackTrial(AutoAttack()),
    )
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
        protocol: dd.TrainingProtocol,
        *,
        seed: int | torch.Generator = 0,
        adversary: InputAttack | None = None,
    ) -> list[UnitModel]:
        """Return networks that are trained on a set; without an adversary they are the networks of `ddsdk.evaluate`.

        Args:
            batch: Images (M, C, H, W) in the value space of `like`, and label rows (M, K).
            like: Real data of the same shape, classes and value space.
            protocol: Protocol of the networks' training.
            seed: Root of the networks' seeds: an integer, or a generator, which is not advanced.
            adversary: Attack of adversarial training, see `TrainingPGD`; None for plain training.
        """
        rng, training_set = as_generator(seed), TrainingSet(dd.Batch(*batch), protocol)
        training_set.check(like)
        trained = [trained_network(training_set, i, rng=rng, adversary=adversary) for i in range(self.networks)]
        return [UnitModel(network, like.preprocess) for network in trained]

    def test_images(self, test: dd.RealData) -> tuple[Tensor, Tensor]:
        """Return the attacked images, (N, C, H, W) in the unit range, and their labels, (N,)."""
        per_class = -(-self.images // test.num_classes)
        class_indices = [test.index_of_class(c)[:per_class] for c in range(test.num_classes)]
        # Classes alternate, so that the first images, to which a trial may be limited, are balanced.
        alternating = [indices[i : i + 1] for i in range(per_class) for indices in class_indices]
        index = torch.cat(alternating)[: self.images]
        unit = test.preprocess.inverse(test.batch(index).x).clamp(0, 1)
        return unit, test.labels[index.to(test.device)]

    def __call__(
        self, models: Sequence[UnitModel], test: dd.RealData, *, seed: int | torch.Generator = 0, name: str = "set"
    ) -> Robustness:
        """Return clean and robust accuracies of trained networks.

        `BrokenAttackError` is raised if an attack leaves the ball or the unit range.

        Args:
            models: Networks of one or more seeds, see `networks_of`.
            test: Held-out real data of the same classes.
            seed: Root of the attacks' random numbers: an integer, or a generator, which is not advanced.
            name: Name of the set in tables.
        """
        require(len(models) > 0, "models", "hold at least one network", len(models))
        rng, started = as_generator(seed), time.perf_counter()
        x, labels = self.test_images(test)
        outcomes = tuple(
            outcome for i, model in enumerate(models) for outcome in self._attacked(model, i, x, labels, rng)
        )
        return Robustness(
            name=name,
            norm=self.norm,
            clean=tuple(_accuracy(model, x, labels) for model in models),
            outcomes=outcomes,
            images=len(x),
            chance=1 / test.num_classes,
            margin=self.margin,
            seconds=time.perf_counter() - started,
        )

    @property
    def _checks(self) -> list[AttackTrial]:
        """PGD with few steps at the last radius, for the step check, and at the large radius of the masking check."""
        included = any(trial.attack == _FEW_STEPS for trial in self.trials)
        few = [] if included else [AttackTrial(_FEW_STEPS, self.radii[-1:])]
        return [*few, AttackTrial(_FEW_STEPS, (LARGE_RADIUS[self.norm],))]

    def _attacked(
        self, model: UnitModel, network: int, x: Tensor, labels: Tensor, rng: torch.Generator
    ) -> list[AttackOutcome]:
        """Return the results of all trials and checks on one network."""
        outcomes = []
        for trial in (*self.trials, *self._checks):
            if trial.networks is not None and network >= trial.networks:
                continue
            images, truth = x[: trial.images], labels[: trial.images]
            for radius in trial.radii or self.radii:
                started = time.perf_counter()
                key = derive(rng, "attack", network, trial.attack.name, str(radius))
                survived = surviving(trial.attack, model, images, truth, Threat(self.norm, radius), key)
                seconds = time.perf_counter() - started
                outcomes.append(AttackOutcome(trial.attack.name, radius, network, tuple(survived.tolist()), seconds))
        return outcomes


@dataclass(frozen=True)
class Transfer:
    """Transfer of attacks: accuracy of each network on the images of attacks on each other network.

    Attributes:
        names: Names of the networks.
        accuracy: Accuracies in [0, 1]: one row for each attacked network, one column for each tested network.
        clean: Accuracy of each network without an attack, in [0, 1].
        threat: Norm and radius of the perturbations.
    """

    names: tuple[str, ...]
    accuracy: tuple[tuple[float, ...], ...]
    clean: tuple[float, ...]
    threat: Threat

    def table(self) -> str:
        """Return the accuracies in % as a markdown table, with a first row without attack."""
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
    """Return the accuracy of all networks on images that were attacked for each network.

    `BrokenAttackError` is raised if the attack leaves the ball or the unit range.

    Args:
        models: Networks by name, for example of several architectures.
        x: Original images, (B, C, H, W) in the unit range, such as those of `RobustnessJudge.test_images`.
        labels: True class of each image, (B,) int64.
        threat: Norm and radius of the perturbation.
        seed: Root of the attack's random numbers: an integer, or a generator, which is not advanced.
        attack: Attack on all images, also on those that the attacked network classifies wrongly.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.robustness import FGSM, Threat, UnitModel, transfer
        >>> real = ddsdk.load("digits")
        >>> nets = {name: ddsdk.network_factory(name, real.image_shape, 10, width=4) for name in ("convnet", "mlp")}
        >>> models = {name: UnitModel(nets[name](ddsdk.generator(name)), real.preprocess) for name in nets}
        >>> x, labels = real.unit_images()[:20], real.labels[:20]
        >>> transfer(models, x, labels, Threat("linf", 0.1), attack=FGSM()).names
        ('convnet', 'mlp')
    """
    require(len(models) > 0, "models", "hold at least one network", len(models))
    rng, rows = as_generator(seed), []
    for name, source in models.items():
        attacked = threat.check(attack(source, x, labels, threat, derive(rng, "transfer", name)), x)
        rows.append(tuple(_accuracy(model, attacked, labels) for model in models.values()))
    clean = tuple(_accuracy(model, x, labels) for model in models.values())
    return Transfer(tuple(models), tuple(rows), clean, threat)


def _accuracy(model: UnitModel, x: Tensor, labels: Tensor) -> float:
    return float(model.correct(x, labels).float().mean())
