"""`python -m benchmarks.robustness`: clean and robust accuracy of robust sets, and of what needs no such set."""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch

import ddsdk as dd
from benchmarks.kit import Axis, Benchmark, Cell, Column, Group, Plot, first_images, mean_of, percent_of
from ddsdk.foundation import derive, require, require_count, require_rate
from ddsdk.judging import trained_network
from ddsdk.training import kernel_machine, probabilities
from ddsdk_integrations.robustness import (
    FGSM,
    PGD,
    AdversarialLearning,
    AutoAttack,
    KernelClassifier,
    PixelAdversary,
    RobustMatching,
    RobustnessJudge,
    Threat,
    Trial,
    UnitModel,
    square,
)

STEPS = 200
"""Largest number of steps, in batches of at most 256, for which networks train on a set."""

_ATTACK = 3
"""Steps of an attack in training and distillation; the judge takes 50."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Values that all cells share.

    Attributes:
        radii: Radii of the attacks, linf in the unit range, rising.
        train_radius: Radius of the attacks in training and distillation, one of `radii`.
        attacked: Test images under attack.
        auto_attacked: Number of these under AutoAttack, at `train_radius` and one network; 0 leaves it out.
        square_queries: Queries of Square, which tries the first network on 50 images.
        restarts: Restarts of PGD-50.
        width: Width of all ConvNets.
        networks: Networks that train on each set.
        teacher_images: Real images of each class for rows of real images and robust teachers.
        teacher_epochs: Epochs on these.
    """

    radii: tuple[float, ...] = (0.02, 0.05, 0.1)
    train_radius: float = 0.05
    attacked: int = 100
    auto_attacked: int = 20
    square_queries: int = 200
    restarts: int = 2
    width: int = 16
    networks: int = 3
    teacher_images: int = 500
    teacher_epochs: int = 10

    def __post_init__(self) -> None:
        for name in ("attacked", "square_queries", "restarts", "width", "networks", "teacher_images", "teacher_epochs"):
            require_count(name, getattr(self, name))
        require_count("auto_attacked", self.auto_attacked, least=0)
        require_rate("train_radius", self.train_radius)
        require(self.train_radius in self.radii, "train_radius", f"be one of {self.radii}", self.train_radius)
        _ = self.judge

    @property
    def threat(self) -> Threat:
        """Threat of the attacks in training and distillation."""
        return Threat("linf", self.train_radius)

    @property
    def judge(self) -> RobustnessJudge:
        """The attacks."""
        auto = Trial(AutoAttack(), (self.train_radius,), images=self.auto_attacked or 1, networks=1)
        trials = (
            Trial(FGSM()),
            Trial(PGD(restarts=self.restarts)),
            Trial(square(self.square_queries), images=50, networks=1),
            *([auto] if self.auto_attacked else []),
        )
        return RobustnessJudge(
            norm="linf", radii=self.radii, trials=trials, images=self.attacked, networks=self.networks
        )


@dataclass(frozen=True, kw_only=True)
class Method:
    """Choices of a row.

    Attributes:
        make: Function from images per class and the threat to the recipe or baseline; None for the real images.
        adversarial: Whether networks train adversarially on it.
        robust_labels: Whether an adversarially trained teacher labels the set.
        kernel: Whether the kernel of the recipe is judged in place of networks.
        sizes: Images per class for which it is measured; 0 for all images.
    """

    make: Callable[[int, Threat], Any] | None
    adversarial: bool = False
    robust_labels: bool = False
    kernel: bool = False
    sizes: tuple[int, ...] = (1, 10, 50)


def _random(ipc: int, threat: Threat) -> Any:  # noqa: ANN401, ARG001
    return dd.BASELINES["random"](ipc=ipc)


def _dm(ipc: int, threat: Threat) -> dd.DM:  # noqa: ARG001
    return dd.DM(ipc=ipc, steps=300, real_batch=64, augmentation="")


def _bptt(ipc: int, threat: Threat) -> dd.RaTBPTT:  # noqa: ARG001
    return dd.RaTBPTT(
        ipc=ipc, steps=100, student_steps=10, window=5, student_lr=3e-3, image_lr=0.01, real_batch=256, augmentation=""
    )


def _sre2l(ipc: int, threat: Threat, curvature: float = 0.0) -> dd.SRe2L:  # noqa: ARG001
    return dd.SRe2L(
        ipc=ipc,
        steps=300,
        start="real",
        teacher_epochs=10,
        teacher_images=500,
        teacher_curvature=curvature,
        teacher_curvature_step=1.0,
    )


def _kip(ipc: int, threat: Threat) -> dd.KIP:  # noqa: ARG001
    return dd.KIP(ipc=ipc, steps=300, real_batch=500)


def _learned(make: Callable[[int, Threat], Any]) -> Callable[[int, Threat], AdversarialLearning]:
    return lambda ipc, threat: AdversarialLearning(recipe=make(ipc, threat), threat=threat, attack_steps=_ATTACK)


def _matched(ipc: int, threat: Threat) -> RobustMatching:
    return RobustMatching(
        recipe=_dm(ipc, threat), threat=threat, attack_steps=_ATTACK, students="robust", network_images=500
    )


METHODS: Mapping[str, Method] = {
    "random images": Method(make=_random),
    "random images + adversarial training": Method(make=_random, adversarial=True),
    "dm": Method(make=_dm),
    "dm + adversarial training": Method(make=_dm, adversarial=True),
    "dm + robust labels": Method(make=_dm, robust_labels=True),
    "robust matching of dm": Method(make=_matched, sizes=(10,)),
    "sre2l": Method(make=_sre2l, sizes=(10,)),
    "guard": Method(make=partial(_sre2l, curvature=10.0), sizes=(10,)),
    "rat-bptt": Method(make=_bptt, sizes=(10,)),
    "robust data set learning": Method(make=_learned(_bptt), sizes=(10,)),
    "kip (kernel)": Method(make=_kip, kernel=True, sizes=(10,)),
    "adversarial kip (kernel)": Method(make=_learned(_kip), kernel=True, sizes=(10,)),
    "adversarial kip": Method(make=_learned(_kip), sizes=(10,)),
    "real images": Method(make=None, sizes=(0,)),
    "real images + adversarial training": Method(make=None, adversarial=True, sizes=(0,)),
}
"""All networks are of one kind, so that rows differ by the set and by the training alone."""


def values(method: str, axis: str, known: Sequence[Any]) -> list[Any]:  # noqa: ARG001
    """Return the images per class of a method that are wanted; 0 for real images."""
    return [size for size in METHODS[method].sizes if size in (0, *known)]


def about(cell: Cell, setting: Setting) -> dict[str, Any]:
    """Return the class and the parameters of a cell's recipe or baseline."""
    make = METHODS[cell.method].make
    if make is None:
        return {"class": "real"}
    made = make(cell["ipc"], setting.threat)
    return {"class": type(made).__name__, **dataclasses.asdict(made)}


def measure(cell: Cell, setting: Setting, train: dd.RealData, test: dd.RealData) -> dict[str, Any]:
    """Return what attacks leave, warnings and seconds."""
    rng = dd.generator("robustness", cell.seed)
    made = row_networks(cell, setting, setting.judge, train, rng)
    report = setting.judge(made.models, test, seed=derive(rng, "attack"), name=cell.method).to_dict()
    auto = [left for name, _, left in report["attacks"] if name == "AutoAttack"]
    return {
        **report,
        **{_key(radius): left for radius, left in report["worst"]},
        "auto": auto[0] if auto else None,
        "seconds_distil": made.seconds_distil,
        "seconds_train": made.seconds_train / len(made.models),
    }


class Row(NamedTuple):
    """Networks of a row, and the seconds of the distillation and of all trainings."""

    models: list[UnitModel]
    seconds_distil: float
    seconds_train: float


def row_networks(cell: Cell, setting: Setting, judge: RobustnessJudge, train: dd.RealData, rng: torch.Generator) -> Row:
    """Return as many networks as the judge has, trained as the method of a cell says."""
    method = METHODS[cell.method]
    shown = first_images(train, setting.teacher_images)
    batch, own = shown.batch(torch.arange(len(shown))), None
    seconds = 0.0
    if method.make is not None:
        distilled, seconds = _kept_set(method.make(cell["ipc"], setting.threat), train, setting.width, cell.seed)
        batch = dd.Batch(distilled.images.to(train.device), distilled.labels.to(train.device))
        own = dd.Evaluation.from_dict(distilled.evaluation)
    adversary = PixelAdversary(preprocess=train.preprocess, threat=setting.threat, steps=_ATTACK)
    began = time.perf_counter()
    if method.robust_labels:
        real, key = shown.batch(torch.arange(len(shown))), derive(rng, "teacher")
        teacher = trained_network(real, train, _training(setting, None), 0, rng=key, adversary=adversary)
        batch = dd.Batch(batch.x, probabilities(teacher.eval(), batch.x))
    distilled_at = time.perf_counter()
    if method.kernel and own is not None:
        machine = kernel_machine(own.network, **own.network_options)
        models = [UnitModel(KernelClassifier(machine, batch), train.preprocess)]
    else:
        training = _training(setting, None if method.make is None else len(batch.x))
        attack = adversary if method.adversarial else None
        models = judge.networks_of(batch, train, training, seed=derive(rng, "judge"), adversary=attack)
    return Row(models, seconds + distilled_at - began, time.perf_counter() - distilled_at)


@lru_cache(maxsize=4)
def _kept_set(recipe: Any, train: dd.RealData, width: int, seed: int) -> tuple[dd.Distilled, float]:  # noqa: ANN401
    """Return a set with the seconds that it took, made once for the rows of a command that train on it."""
    make = dd.network_factory("convnet", train.image_shape, train.num_classes, width=width)
    began = time.perf_counter()
    distilled = dd.distill(recipe, train, make_student=make, seed=dd.generator("robustness", seed))
    return distilled, time.perf_counter() - began


def _training(setting: Setting, images: int | None) -> dd.Evaluation:
    """Return the protocol of training on so many images of a set; on the real ones for None."""
    # Few epochs on many images want more steps in each.
    epochs, batch = (setting.teacher_epochs, 64) if images is None else (min(300, STEPS // -(-images // 256)), 256)
    return dataclasses.replace(
        dd.Evaluation.published(),
        network_options={"width": setting.width},
        epochs=epochs,
        batch_size=batch,
        labels="probabilities",
    )


def _key(radius: float) -> str:
    return f"linf {radius:g}"


def _points(row: Group) -> list[tuple[float | None, float]]:
    """Return the radii, 0 for no attack, and what the worst attack leaves in percent."""
    keys = {0.0: "clean", **{radius: _key(radius) for radius, _ in row.results[0]["worst"]}}
    return [(x, 100 * statistics.fmean(statistics.fmean(r[key]) for r in row.results)) for x, key in keys.items()]


def _ordered(groups: Sequence[Group]) -> list[Group]:
    """Return the groups by images per class, those of real images last, and by accuracy at the largest radius."""
    return sorted(groups, key=lambda group: (group.at["ipc"] or sys.maxsize, -_points(group)[-1][1]))


def _columns(rows: Sequence[Group]) -> list[Column]:
    return [
        percent_of("clean, %", "clean"),
        *(percent_of(f"{_key(radius)}, %", _key(radius)) for radius, _ in rows[0].results[0]["worst"]),
        percent_of("AutoAttack, %", "auto"),
        mean_of("s to distil", "seconds_distil", digits=0),
        mean_of("s to train", "seconds_train", digits=0),
        mean_of("s to attack", "seconds", digits=0),
        Column("warnings", lambda row: str(sum(len(result["warnings"]) for result in row.results))),
    ]


def _notes(groups: Sequence[Group]) -> str:
    lines = [
        f"- {group.method}, {group.at['ipc'] or 'real'}: {warning}\n"
        for group in groups
        for result in group.results
        for warning in result["warnings"]
    ]
    return "".join(lines)


BENCHMARK = Benchmark(
    prog="python -m benchmarks.robustness",
    text="Make sets, train networks on them, attack these, and print what is left beside adversarial training.",
    setting=Setting,
    methods=METHODS,
    axes={"ipc": Axis("1,10,50", "Images per class, separated by commas; 0 stands for real images.")},
    values=values,
    about=about,
    measure=measure,
    rows=_ordered,
    columns=_columns,
    notes=_notes,
    line=lambda r: ", ".join(f"{x:g}: {100 * statistics.fmean(y):.1f}" for x, y in [[0, r["clean"]], *r["worst"]]),
    plot=Plot(
        lambda group: f"radii-{group.at['ipc'] or 'real'}.png",
        _points,
        "radius (linf, unit range)",
        "accuracy under the worst attack, %",
    ),
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.run())
