"""`ddsdk distill`: distils a data set into an artefact."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from ddsdk import artefact, data, foundation, judging, networks, planning, running, students, synthetic
from ddsdk.cli.console import err, open_line, out, readable_seconds
from ddsdk.cli.execution import finish_job, resume_hint, train_networks
from ddsdk.cli.method_choice import MethodChoice
from ddsdk.cli.options import BackboneOptions, DataOptions, NetworkOptions, student_factory
from ddsdk.foundation import DivergedError
from ddsdk.recipes import IterativeRecipe, Recipe, student_network

if TYPE_CHECKING:
    from ddsdk.artefact import Distilled
    from ddsdk.data import RealData
    from ddsdk.networks import Backbone
    from ddsdk.running import Run
    from ddsdk.students import MakeStudent


# Under a time budget: share of the training images for the validation, and images on which its network trains.
_HELD_OUT, _IMAGES_PER_LOOK, _LEAST_EPOCHS, _LEAST_CLASS = 0.1, 30_000, 50, 20
_TRAINING = 0.5
"""Largest share of a time budget for the training of experts, pools and teachers."""
_VALIDATION = ("validation", "validate_every", "validation_epochs", "validation_width")


@dataclass(frozen=True, kw_only=True)
class DistillOptions(BackboneOptions, NetworkOptions, DataOptions):
    """Distil a data set and save the distilled set as an artefact.

    Without --recipe, the method with the highest measured accuracy for the label kind and the time budget is chosen,
    with its measured settings. `ddsdk winners` lists these measurements.

    With --backbone, the students are a frozen pretrained backbone with a random linear head, and the set stores the
    protocol of a linear probe on it. Methods that match features, such as dm, suit it.

    Attributes:
        out: Folder of the artefact. During the run it holds the checkpoint.
        recipe: Name of the method; `ddsdk recipes` lists all. The parameters of the method are further options below.
            auto: DM and the two best other methods are tried for a tenth of the time budget each, and the best one
            on held-out images goes on.
        label_kind: Labels that networks will be trained with, for the choice of the method without --recipe. hard: one
            class per image, with cross-entropy. soft: the labels and the training protocol of the method.
        budget: Time budget of the run on this machine, such as 60s, 10m or 1.5h. The number of steps is reduced to fit
            it. With --recipe, give --budget or the number of steps, not both. Without --recipe: 5m by default, and an
            explicit number of steps stays.
        measured: Measured curves for the choice of the method without --recipe or by auto, a file of
            `ddsdk winners --out`. Default: the measurements in the package.
        resume: Whether the run in `out` continues from its last checkpoint. The result is identical, bit for bit, to
            that of an uninterrupted run.
        start_from: Folder of a distilled set whose images initialise the new ones, instead of the recipe's `start`. The
            first images of each class are used, as many as the recipe stores.
        seed: Seed of all random numbers.
        network: Student network: a name of the catalogue (convnet, resnet18 ...), torchvision:NAME, timm:NAME, or
            package.module:NAME of a class, function or module of your own, which is imported. Default: the network of
            the method's protocol, with its options. --width, --depth and --norm override these options.
        checkpoint_seconds: Seconds between two checkpoints.
        validation: Fraction of the training images, such as 0.1, held out to select the best set of the run, its start
            included (early stopping). 0: no images are held out and the set of the last step is saved. None: 0.1 with a
            time budget, if each class has 20 images and enough for the set, and 0 otherwise.
        validate_every: Steps between two validations. With a time budget they are spread over the run instead.
        validation_epochs: Maximum number of training epochs of the validation network; the recipe's protocol may have
            fewer.
        validation_width: Width (channels per layer) of the validation network.
        small_classes: Treatment of classes with fewer images than the set needs. refuse: an error. repeat: augmented
            repeats of their images fill the class. fewer: as repeat, but the saved set has no more images of such a
            class than the data.
    """

    out: Path
    chosen: ClassVar[MethodChoice | None] = None

    recipe: str = "dm"
    label_kind: Literal["hard", "soft"] = "hard"
    budget: str | None = None
    measured: Path | None = None
    resume: bool = False
    start_from: Path | None = None
    seed: int = 0
    network: str = ""
    checkpoint_seconds: float = 30.0
    validation: float | None = None
    validate_every: int = 100
    validation_epochs: int = 300
    validation_width: int = 64
    small_classes: Literal["refuse", "repeat", "fewer"] = "refuse"

    def run(self) -> int:
        """Return the exit code after distilling."""
        method: Recipe = self.method  # type: ignore[attr-defined]
        if self.chosen is not None and self.chosen.summary():
            out(self.chosen.summary())
        return run_recipe(method, self.train(), self, told_to_resume=self.resume)

    def students(self, method: Recipe, train: RealData) -> tuple[str, dict[str, Any]]:
        """Return the name of the student network and the options of its builder."""
        return student_network(method, train, self.network, self.network_options())

    def held_out_share(self, train: RealData) -> float:
        """Return the fraction of the training images to hold out."""
        if self.backbone and self.validation is None:
            return 0.0
        if self.validation is not None:
            return self.validation
        if self.chosen is None or self.chosen.budget is None:
            return 0.0
        least = max(_LEAST_CLASS, math.ceil(self.method.ipc / (1 - _HELD_OUT)))  # type: ignore[attr-defined]
        if min(train.class_sizes) >= least:
            return _HELD_OUT
        foundation.note(f"no images are held out to choose the best set, because a class has fewer than {least} images")
        return 0.0

    def held_out(self, train: RealData, backbone: Backbone | None = None) -> tuple[RealData, judging.Validation | None]:
        """Return the images to distil and the validation on the held-out images; None without validation."""
        if not self.validation:
            return train, None
        # The split does not depend on --seed, so that validation accuracies of several seeds are comparable.
        distilled_part, held_out = train.split(self.validation, foundation.generator("validation"))
        epochs, images = self.validation_epochs, train.num_classes * self.method.ipc  # type: ignore[attr-defined]
        if self.chosen is not None and self.chosen.budget is not None:
            epochs = min(epochs, max(_LEAST_EPOCHS, _IMAGES_PER_LOOK // images))
        return distilled_part, judging.Validation(
            held=held_out, every=self.validate_every, epochs=epochs, width=self.validation_width, backbone=backbone
        )


class Task(NamedTuple):
    """Data of the runs of a command.

    Attributes:
        train: Images to distil, without those that are held out.
        validation: Validation on held-out images; None without.
        counts: Images of each class to save; None for all images of the set.
        start: Set whose images initialise a run; None for the start of the recipe.
        backbone: Frozen backbone of the students; None for networks.
    """

    train: RealData
    validation: judging.Validation | None
    counts: list[int] | None
    start: Distilled | None
    backbone: Backbone | None = None

    def run(self, method: Recipe, options: DistillOptions) -> Run[RealData]:
        """Return the run of a method."""
        student: MakeStudent
        if self.backbone is None:
            network, network_options = options.students(method, self.train)
            student = student_factory(network, self.train, network_options)
        else:
            student = students.BackboneStudents(self.backbone, self.train)
        return running.Run(
            method, self.train, make_student=student, seed=options.seed, start=self.start, validation=self.validation
        )


def prepared(ipc: int, train: RealData, options: DistillOptions) -> tuple[DistillOptions, Task]:
    """Return the options with the fraction of held-out images, and the task of the command."""
    options = dataclasses.replace(options, validation=options.held_out_share(train))
    backbone = _backbone(options)
    train, validation = options.held_out(train, backbone)
    counts = [min(ipc, size) for size in train.class_sizes] if options.small_classes == "fewer" else None
    if options.small_classes != "refuse":
        train = data.repeat_small_classes(train, ipc)
    start = None if options.start_from is None else artefact.Distilled.load(options.start_from)
    return options, Task(train, validation, counts, start, backbone)


def _backbone(options: DistillOptions) -> Backbone | None:
    """Return the frozen backbone of the options; None without one."""
    backbone = options.load_backbone()
    # A measured method brings a network of its own, which the backbone replaces.
    chosen = options.chosen
    own = {} if chosen is None else {"network": chosen.network, **chosen.network_options}
    networks_given = {"network": options.network, **options.network_options()}
    given = {name: value for name, value in networks_given.items() if value != own.get(name)}
    given["recipe"] = options.recipe
    for name, value in given.items() if backbone is not None else ():
        refused = value == "auto" if name == "recipe" else bool(value)
        rule = "be the name of a method with --backbone" if name == "recipe" else "be left out with --backbone"
        foundation.require(not refused, name, rule, value)
    return backbone


def configuration(
    method: Recipe, task: Task, options: DistillOptions, trials: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return all values that determine the result. A checkpoint is resumed only under an equal configuration."""
    import torch

    train, start = task.train, task.start
    network, network_options = options.students(method, train)
    budget = _budget(method, options)
    own = network not in networks.NETWORKS and not networks.is_library_name(network)
    if task.backbone is not None:
        network, own = "backbone", False
        network_options = {"backbone": students.BackboneStudents(task.backbone, train).options}
    return {
        "recipe": options.recipe,
        **dataclasses.asdict(method),
        "network": network,
        **network_options,
        **({"function": _function(network, network_options, train)} if own else {}),
        **({} if budget is None else {"budget": budget}),
        "seed": options.seed,
        "data": train.fingerprint,
        **({} if start is None else {"start_from": start.content_id}),
        **({} if options.small_classes == "refuse" else {"small_classes": options.small_classes}),
        **({} if not options.validation else {name: getattr(options, name) for name in _VALIDATION}),
        **({"trials": list(trials)} if trials else {}),
        "zca": options.zca,
        "device": train.device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def run_recipe(
    method: Recipe,
    train: RealData,
    options: DistillOptions,
    *,
    told_to_resume: bool = False,
    trials: Sequence[Mapping[str, Any]] = (),
) -> int:
    """Run a recipe or baseline and save the distilled set in the folder of the options.

    Args:
        method: Recipe or baseline with its parameters.
        train: Training data to distil.
        options: Options of `ddsdk distill`, such as folder, network and seed.
        told_to_resume: Whether a missing checkpoint is reported.
        trials: Records of the trials by which the method was chosen; empty for a method that was named.

    Returns:
        Exit code: 0 for a saved set, 75 for a stopped run that can be resumed.

    Raises:
        DivergedError: If the run diverges, or the folder holds a diverged run.
        ValueError: If validation is on for a method without steps.
    """
    if options.validation and not isinstance(method, IterativeRecipe):
        raise ValueError(f"validation must be 0 for {options.recipe}, a method without steps, got {options.validation}")
    options, task = prepared(method.ipc, train, options)
    budget = _budget(method, options)
    if budget is not None and isinstance(method, IterativeRecipe):
        # A run that was stopped while its networks were trained has no configuration yet.
        stored = running.stored_config(options.out) if options.resume else None
        if stored is None:
            method = with_training_within(_TRAINING * budget, method, task, options)
        else:
            method = _with_saved_fit(method, stored)
    config = configuration(method, task, options, trials)
    with running.Job(options.out, config, resume=options.resume, every=options.checkpoint_seconds) as job:
        if job.finished:
            if job.diverged:
                raise DivergedError(
                    f"the run in {options.out} diverged; the folder holds its last finite set. "
                    "Lower --image-lr and choose another folder with --out"
                )
            out(f"the run in {options.out} is already finished")
            return 0
        if told_to_resume and not job.resumes:
            out(f"no checkpoint in {options.out}, starting at step 1")
        run = task.run(method, options)
        if not train_networks(run):
            missing = len(run.runs.missing) if run.runs is not None else 0
            err(f"stopped with {missing} networks left to train; {resume_hint(options.resume)}")
            return 75
        if task.counts is not None and run.iterative:
            _check_fewer(options.recipe, run.distillation.plan.syn)
        estimate = None
        if budget is not None and not job.resumes:
            fit = run.fit(budget)
            estimate = fit.estimate
            if fit.fits < estimate.steps:
                err(f"the time budget of {budget:g} s is too short: the first step starts after {fit.spent:.0f} s")
            out(f"{estimate.steps} of {fit.planned} steps in the time budget of {budget:g} s")
            job.settle(configuration(run.method, task, options, trials))  # type: ignore[arg-type]
        code = finish_job(
            job, run, estimate=estimate, counts=task.counts, start=options.start_from, resume=options.resume
        )
        if code:
            return code
    announce_set(options.out)
    return 0


def announce_set(folder: Path) -> None:
    """Print the folder of a saved set, and the line that opens it."""
    out(f"saved {folder}")
    out(f"open with: {open_line(folder)}")


def with_training_within(limit: float, method: IterativeRecipe, task: Task, options: DistillOptions) -> IterativeRecipe:
    """Return a recipe whose experts, pool or teacher are trained within a number of seconds."""
    runs = task.run(method, options).runs
    seconds = 0.0 if runs is None else runs.estimate()
    if seconds <= limit:
        return method
    shorter = planning.with_shorter_training(method, max(task.train.class_sizes), limit / seconds)
    fields = ", ".join(f"{name}={getattr(shorter, name)}" for name in method.training_fields)
    out(f"networks to train would take about {readable_seconds(seconds)}; their training is shortened: {fields}")
    return shorter


def _with_saved_fit(method: IterativeRecipe, stored: Mapping[str, Any]) -> IterativeRecipe:
    """Return a recipe with the number of steps and the training of networks of a stored configuration.

    The time budget is not fitted again on resuming, because a second measurement would give other numbers.
    """
    changes = {name: stored[name] for name in (method.length, *method.training_fields) if name in stored}
    return dataclasses.replace(method, **changes)


def _function(network: str, options: dict[str, Any], train: RealData) -> str:
    """Return the digest of a network of the user's, so that a run goes on under the same network alone."""
    student = student_factory(network, train, options)(foundation.generator("identity"))
    return networks.function_digest(student, train.image_shape)


def _budget(method: Recipe, options: DistillOptions) -> float | None:
    """Return the time budget of the run in seconds; None without a budget or for a method without steps."""
    iterative = isinstance(method, IterativeRecipe)
    return options.chosen.budget if iterative and options.chosen is not None else None


def _check_fewer(recipe: str, syn: synthetic.SyntheticSet) -> None:
    """Raise ValueError for a set from which single images cannot be left out."""
    plain = isinstance(syn.parametrization, synthetic.Pixels)
    plain &= syn.rate is None or not isinstance(syn.rate.rates, tuple)
    rule = f"be refuse or repeat for {recipe}, whose set is not stored as single images"
    foundation.require(plain, "small_classes", rule, "fewer")
