"""Clean and robust accuracy of every way to a robust set, beside what needs no such set."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch

import ddsdk as dd
from ddsdk.foundation import derive, require, require_count, require_rate
from ddsdk.judging import trained_network
from ddsdk.training import kernel_machine, probabilities
from ddsdk_integrations.robustness.adversary import PixelAdversary
from ddsdk_integrations.robustness.attacks import FGSM, PGD
from ddsdk_integrations.robustness.judge import RobustnessJudge, Trial
from ddsdk_integrations.robustness.library import AutoAttack, square
from ddsdk_integrations.robustness.recipes import AdversarialLearning, RobustMatching
from ddsdk_integrations.robustness.threat import Threat
from ddsdk_integrations.robustness.transfer import transfer
from ddsdk_integrations.robustness.unit_model import KernelClassifier, UnitModel

_STEPS = 200
"""Steps, in batches of at most 256, for which networks train on a set at most."""

_ATTACK = 3
"""Steps of an attack in training and distillation; the judge takes 50."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all cells of a table share.

    Attributes:
        radii: Of the attacks, linf in the unit range, rising.
        train_radius: Of the attacks in training and distillation.
        images: Test images under attack.
        auto_images: Of these, those under AutoAttack, at `train_radius` and one network; 0 leaves it out.
        square_queries: Of Square.
        restarts: Of PGD-50.
        width: Of all ConvNets.
        networks: Trained on each set; Square and AutoAttack try the first one, Square on 50 images.
        teacher_images: Real images of each class for whole-data rows and robust teachers.
        teacher_epochs: Of these.
    """

    radii: tuple[float, ...] = (0.02, 0.05, 0.1)
    train_radius: float = 0.05
    images: int = 100
    auto_images: int = 20
    square_queries: int = 200
    restarts: int = 2
    width: int = 16
    networks: int = 3
    teacher_images: int = 500
    teacher_epochs: int = 10

    def __post_init__(self) -> None:
        for name in ("images", "square_queries", "restarts", "width", "networks", "teacher_images", "teacher_epochs"):
            require_count(name, getattr(self, name))
        require_count("auto_images", self.auto_images, least=0)
        require_rate("train_radius", self.train_radius)
        require(self.train_radius in self.radii, "train_radius", f"be one of {self.radii}", self.train_radius)

    @property
    def threat(self) -> Threat:
        """Of the attacks in training and distillation."""
        return Threat("linf", self.train_radius)

    @property
    def judge(self) -> RobustnessJudge:
        """The attacks."""
        auto = Trial(AutoAttack(), (self.train_radius,), images=self.auto_images or 1, networks=1)
        trials = (
            Trial(FGSM()),
            Trial(PGD(restarts=self.restarts)),
            Trial(square(self.square_queries), images=50, networks=1),
            *([auto] if self.auto_images else []),
        )
        return RobustnessJudge(norm="linf", radii=self.radii, trials=trials, images=self.images, networks=self.networks)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: a method, images per class (0 for all real images), and a seed."""

    method: str
    ipc: int
    seed: int

    def __post_init__(self) -> None:
        require_count("ipc", self.ipc, least=0)


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Images that were attacked on a network of one row, shown to those of the others.

    Attributes:
        methods: The rows.
        ipc: Images per class, of those that are made of a set.
        seed: Of the runs.
    """

    methods: tuple[str, ...]
    ipc: int
    seed: int

    @property
    def cells(self) -> list[Cell]:
        """The rows as cells."""
        return [Cell(method=name, ipc=self.ipc if METHODS[name].make else 0, seed=self.seed) for name in self.methods]


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a cell is made.

    Attributes:
        make: From images per class and the threat to the recipe or baseline; None for the real images themselves.
        adversarial: Whether networks train adversarially on it.
        robust_labels: Whether an adversarially trained teacher labels the set.
        kernel: Whether a kernel is judged and no network.
        sizes: Images per class for which it is measured; 0 for all images.
    """

    make: Callable[[int, Threat], Any] | None
    adversarial: bool = False
    robust_labels: bool = False
    kernel: bool = False
    sizes: tuple[int, ...] = (1, 10, 50)


def _dm(ipc: int) -> dd.DM:
    return dd.DM(ipc=ipc, steps=300, real_batch=64, augmentation="")


def _bptt(ipc: int) -> dd.RaTBPTT:
    return dd.RaTBPTT(
        ipc=ipc, steps=100, student_steps=10, window=5, student_lr=3e-3, image_lr=0.01, real_batch=256, augmentation=""
    )


def _sre2l(ipc: int, curvature: float) -> dd.SRe2L:
    return dd.SRe2L(
        ipc=ipc,
        steps=300,
        start="real",
        teacher_epochs=10,
        teacher_images=500,
        teacher_curvature=curvature,
        teacher_curvature_step=1.0,
    )


def _kip(ipc: int) -> dd.KIP:
    return dd.KIP(ipc=ipc, steps=300, real_batch=500)


METHODS: dict[str, Method] = {
    "random images": Method(make=lambda ipc, _: dd.BASELINES["random"](ipc=ipc)),
    "random images + adversarial training": Method(
        make=lambda ipc, _: dd.BASELINES["random"](ipc=ipc), adversarial=True
    ),
    "dm": Method(make=lambda ipc, _: _dm(ipc)),
    "dm + adversarial training": Method(make=lambda ipc, _: _dm(ipc), adversarial=True),
    "dm + robust labels": Method(make=lambda ipc, _: _dm(ipc), robust_labels=True),
    "robust matching of dm": Method(
        make=lambda ipc, threat: RobustMatching(
            recipe=_dm(ipc), threat=threat, attack_steps=_ATTACK, students="robust", network_images=500
        ),
        sizes=(10,),
    ),
    "sre2l": Method(make=lambda ipc, _: _sre2l(ipc, 0.0), sizes=(10,)),
    "guard": Method(make=lambda ipc, _: _sre2l(ipc, 10.0), sizes=(10,)),
    "rat-bptt": Method(make=lambda ipc, _: _bptt(ipc), sizes=(10,)),
    "robust data set learning": Method(
        make=lambda ipc, threat: AdversarialLearning(recipe=_bptt(ipc), threat=threat, attack_steps=_ATTACK),
        sizes=(10,),
    ),
    "kip (kernel)": Method(make=lambda ipc, _: _kip(ipc), kernel=True, sizes=(10,)),
    "adversarial kip (kernel)": Method(
        make=lambda ipc, threat: AdversarialLearning(recipe=_kip(ipc), threat=threat, attack_steps=_ATTACK),
        kernel=True,
        sizes=(10,),
    ),
    "adversarial kip": Method(
        make=lambda ipc, threat: AdversarialLearning(recipe=_kip(ipc), threat=threat, attack_steps=_ATTACK), sizes=(10,)
    ),
    "real images": Method(make=None, sizes=(0,)),
    "real images + adversarial training": Method(make=None, adversarial=True, sizes=(0,)),
}
"""Rows of the table."""


def described(cell: Cell, setting: Setting) -> dict[str, Any]:
    """Return what a cell's method is, for its key."""
    method = METHODS[cell.method]
    if method.make is None:
        return {"class": "real"}
    made = method.make(cell.ipc, setting.threat)
    return {"class": type(made).__name__, **asdict(made)}


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Run one cell and return what the table needs, JSON values.

    Args:
        cell: The row.
        setting: What all share.
        train: What sets are made of.
        test: Attacked in the end.
    """
    rng = dd.generator("robustness", cell.seed)
    made = _made(cell, setting, setting.judge, train, rng)
    report = setting.judge(made.models, test, seed=derive(rng, "attack"), name=cell.method)
    return {
        "cell": asdict(cell),
        **report.to_dict(),
        "seconds_distil": made.seconds_distil,
        "seconds_train": made.seconds_train / len(made.models),
    }


def measure_transfer(crossing: Crossing, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Attack the first network of each row, show the images to all of them, and return the matrix, JSON values.

    Args:
        crossing: The rows.
        setting: What all share; the attack has `train_radius`.
        train: What sets are made of.
        test: Attacked in the end.
    """
    rng, judge = (dd.generator("robustness", crossing.seed), dataclasses.replace(setting.judge, networks=1))
    models = {cell.method: _made(cell, setting, judge, train, rng).models[0] for cell in crossing.cells}
    x, labels = judge.test_images(test)
    matrix = transfer(models, x, labels, setting.threat, seed=derive(rng, "transfer"))
    return {"crossing": asdict(crossing), "table": matrix.table()}


class _Made(NamedTuple):
    models: list[UnitModel]
    seconds_distil: float
    seconds_train: float


def _made(cell: Cell, setting: Setting, judge: RobustnessJudge, train: dd.RealData, rng: torch.Generator) -> _Made:
    method = METHODS[cell.method]
    shown = _part(train, setting.teacher_images)
    batch, own = shown.batch(torch.arange(len(shown))), None
    seconds = 0.0
    if method.make is not None:
        recipe = method.make(cell.ipc, setting.threat)
        distilled, seconds = _kept_set(recipe, train, setting.width, cell.seed)
        batch = dd.Batch(distilled.images.to(train.device), distilled.labels.to(train.device))
        own = dd.Evaluation.from_dict(distilled.evaluation)
    adversary = PixelAdversary(preprocess=train.preprocess, threat=setting.threat, steps=_ATTACK)
    began = time.perf_counter()
    if method.robust_labels:
        teacher = trained_network(
            shown.batch(torch.arange(len(shown))),
            train,
            _training(setting, None),
            0,
            rng=derive(rng, "teacher"),
            adversary=adversary,
        )
        batch = dd.Batch(batch.x, probabilities(teacher.eval(), batch.x))
    distilled_at = time.perf_counter()
    if method.kernel and own is not None:
        machine = kernel_machine(own.network, **own.network_options)
        models = [UnitModel(KernelClassifier(machine, batch), train.preprocess)]
    else:
        models = judge.networks_of(
            batch,
            train,
            _training(setting, None if cell.ipc == 0 else len(batch.x)),
            seed=derive(rng, "judge"),
            adversary=adversary if method.adversarial else None,
        )
    return _Made(models, seconds + distilled_at - began, time.perf_counter() - distilled_at)


@lru_cache(maxsize=4)
def _kept_set(recipe: Any, train: dd.RealData, width: int, seed: int) -> tuple[dd.Distilled, float]:  # noqa: ANN401
    """Return a set with the seconds that it took, made once for the rows of a command that train on it."""
    make = dd.network_factory("convnet", train.image_shape, train.num_classes, width=width)
    began = time.perf_counter()
    distilled = dd.distill(recipe, train, make_student=make, seed=dd.generator("robustness", seed))
    return distilled, time.perf_counter() - began


def _part(real: dd.RealData, images: int) -> dd.RealData:
    return real.subset(torch.cat([real.index_of_class(c)[:images] for c in range(real.num_classes)]))


def _training(setting: Setting, images: int | None) -> dd.Evaluation:
    """Return how networks train on so many images of a set; on the real ones for None."""
    # Few epochs on many images want more steps in each.
    epochs, batch = (setting.teacher_epochs, 64) if images is None else (min(300, _STEPS // -(-images // 256)), 256)
    options: Mapping[str, Any] = {"width": setting.width}
    return dataclasses.replace(
        dd.Evaluation.published(), network_options=options, epochs=epochs, batch_size=batch, labels="probabilities"
    )
