"""`ddsdk evaluate`: judge a set beside the baselines, under one protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import tyro

from ddsdk import artefact, foundation, networks, running, synthetic
from ddsdk.baselines import BASELINES
from ddsdk.cli.console import out, progress, table
from ddsdk.cli.options import DataOptions, NetworkOptions, fitting_options, names
from ddsdk.foundation import escape_terminal, require
from ddsdk.recipes import RECIPES
from ddsdk.training import Evaluation, Score

if TYPE_CHECKING:
    from ddsdk.data import RealData
    from ddsdk.judging import Progress


class Row(NamedTuple):
    """A score, and whether it was read from a file."""

    score: Score
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Evaluate(NetworkOptions, DataOptions):
    """Train fresh networks on a set, test them once, and print the baselines under the same protocol.

    Attributes:
        set: Folder of the artefact.
        test: Test data, a folder or parquet file, where `data` has no test split of its own.
        networks: Networks to train, separated by commas. Empty takes the one of the protocol.
        protocol: stored: the one in the artefact, with labels and loss of the method. published: that of DC, DSA and
            DM, an ordinary network trained by cross-entropy on hard labels. both: these two, side by side. quick: as
            published but for small machines, not comparable with papers. A changed one is named after its changes.
        labels: Labels instead of the protocol's, one or more of stored, probabilities (the nearest of each row) and
            hard (the largest class), separated by commas: the cost of leaving the method's own labels.
        repeats: Fresh networks of each kind; None takes the protocol's.
        epochs: Epochs; None takes the protocol's.
        baselines: Baselines of the same size, separated by commas.
        results: Folder of the scores, so that none is computed twice; `SET-results`, beside the set, if not given.
        fresh: Compute every score again.
        seed: Root of every random number.
    """

    set: tyro.conf.Positional[Path]
    test: str | None = None
    networks: str = ""
    protocol: Literal["stored", "published", "both", "quick"] = "stored"
    labels: str = ""
    repeats: int | None = None
    epochs: int | None = None
    baselines: str = "random,herding,k-means"
    results: Path | None = None
    fresh: bool = False
    seed: int = 0

    def run(self) -> int:
        """Evaluate and print."""
        from ddsdk.judging import results_folder

        distilled = artefact.Distilled.load(self.set)
        train, test = (data.with_preprocess(distilled.preprocess) for data in self.pair(self.test))
        chosen, baselines = names(self.networks, "networks", networks.NETWORKS), names(self.baselines)
        results = results_folder(self.set) if self.results is None else self.results
        judged = []
        for evaluation in self._evaluations(distilled, chosen):
            rows = judge(
                distilled, train, test, evaluation, baselines, results=results, seed=self.seed, fresh=self.fresh
            )
            show_scores(test.name, evaluation, rows)
            judged.append(rows)
        if self.protocol == "both" or self.labels:
            _show_side_by_side(test.name, judged)
        sizes = distilled.owner.bincount(minlength=distilled.num_classes).tolist()
        low, high, size = min(sizes), max(sizes), baseline_size(distilled, train)
        if low != size or high != size:
            count = f"{low} to {high}" if low < high else f"{high}"
            out(f"the set has {count} images per class, each baseline has {size}")
        return 0

    def _evaluations(self, distilled: artefact.Distilled, chosen: list[str]) -> list[Evaluation]:
        stored = Evaluation.from_dict(distilled.evaluation)
        # An ordinary user takes the images of a set, and a class for each.
        hard = distilled.manifest.storage.labels == "hard"
        ordinary: dict[str, Any] = {} if hard else {"labels": "hard"}
        published = replace(Evaluation.published(stored.augmentation), **ordinary)
        bases = {
            "stored": [stored],
            "published": [published],
            "both": [stored, published],
            "quick": [replace(Evaluation.quick(stored.augmentation), **ordinary)],
        }[self.protocol]
        readings: list[Any] = names(self.labels)
        found = []
        for base in bases:
            for network in chosen or [base.network]:
                options = self._options(base, network, chosen)
                changed = base.changed(network=network, options=options, epochs=self.epochs, networks=self.repeats)
                found += [changed.changed(labels=reading) for reading in readings] or [changed]
        return [e for i, e in enumerate(found) if e not in found[:i]]

    def _options(self, base: Evaluation, network: str, chosen: list[str]) -> dict[str, Any]:
        given = self.network_options()
        if network == base.network and base.learner == "kernel":
            return given
        names(network, "network", networks.NETWORKS)
        return fitting_options(network, chosen or [network], given)


def judge(
    distilled: artefact.Distilled,
    train: RealData,
    test: RealData,
    evaluation: Evaluation,
    baselines: list[str],
    *,
    results: Path,
    seed: int,
    fresh: bool = False,
) -> list[Row]:
    """Score a set, and baselines that store as many floats, under the same protocol.

    Args:
        distilled: The set.
        train: Data that the baselines select from, in the set's value space.
        test: Held-out data, in the set's value space.
        evaluation: Protocol of the judgement.
        baselines: Keys of `ddsdk.baselines.BASELINES`.
        results: Folder of kept scores.
        seed: Root of every random number.
        fresh: Whether kept scores are computed again.
    """
    from ddsdk.experiments import wants_centred
    from ddsdk.judging import scoring

    for name in baselines:
        require(name in BASELINES, "baselines", f"be among {', '.join(BASELINES)}", name)
    kernel = evaluation.learner == "kernel"
    # Where a kernel is judged, herding still needs a network to look through.
    network, options = ("convnet", {}) if kernel else (evaluation.network, evaluation.network_options)
    student = networks.network_factory(network, train.image_shape, train.num_classes, **options)
    each, rows = evaluation.rounds, []
    with progress("judging", each * (1 + len(baselines))) as update:
        own = _method_name(distilled)
        steps = scoring(results, own, distilled, test, evaluation, seed, fresh=fresh)
        rows.append(follow(steps, own, update))
        for i, name in enumerate(baselines, 1):
            size = baseline_size(distilled, train)
            selection = BASELINES[name](ipc=size, augmentation=evaluation.augmentation)
            update(each * i, f"selecting {name}")
            chosen = running.distill(selection, train, make_student=student, seed=foundation.generator(seed, name))
            # Where a set has scores and is judged by regression on them, a baseline has centred labels.
            if wants_centred(distilled, evaluation):
                centred = synthetic.centred_labels(chosen.owner, chosen.num_classes)
                chosen = replace(chosen, labels=centred, label_space="scores")
            # The order of a set is a part of what was learned; that of real images tells their classes.
            shuffled = evaluation.changed(order="shuffled")
            steps = scoring(results, name, chosen, test, shuffled, seed, fresh=fresh)
            rows.append(follow(steps, name, update, each * i))
    return rows


def baseline_size(distilled: artefact.Distilled, train: RealData) -> int:
    """Return the images per class of a baseline that stores as many floats as the set, or as there are."""
    return min(distilled.stored_ipc, *train.class_sizes)


def follow(steps: Iterator[Progress], name: str, update: Callable[[int, str], None], before: int = 0) -> Row:
    """Go through an evaluation, show its progress behind so many epochs, and return its score."""
    for step in steps:
        update(before + step.done, escape_terminal(name, 40))
    assert step.score is not None  # the last step of every evaluation has it
    return Row(step.score, step.kept)


def _method_name(distilled: artefact.Distilled) -> str:
    recipe = str(distilled.provenance.get("recipe", "set"))
    classes = {method.__name__: name for name, method in {**RECIPES, **BASELINES}.items()}
    return classes.get(recipe, recipe.lower())


def show_scores(data: str, evaluation: Evaluation, rows: list[Row]) -> None:
    """Print scores as a table with their protocol."""
    columns = ("trained on", "images", "labels", "test accuracy, %", "seconds")
    cells = []
    for s, kept in rows:
        seconds = f"{s.seconds:.0f}{', kept' if kept else ''}"
        cells.append((escape_terminal(s.name), str(s.images), s.labels or "as stored", _accuracy(s), seconds))
    title = f"{data}, {evaluation.network_label}, protocol {evaluation.protocol}"
    table(escape_terminal(title, 200), columns, cells)
    if evaluation.learner == "kernel":
        out("kernel ridge regression; no network is trained")
        return
    augmentation = evaluation.augmentation or "none"
    networks, epochs = evaluation.networks, evaluation.epochs
    out(f"{networks} networks, {epochs} epochs, loss {evaluation.loss}, augmentation {augmentation}, last epoch")


def _show_side_by_side(data: str, judged: list[list[Row]]) -> None:
    """Print one column for each protocol that sets and baselines were judged under."""
    own = [rows[0].score for rows in judged]
    columns = [f"{s.protocol}: {s.network}, {s.labels or 'stored'} labels, {s.loss}" for s in own]
    cells = [
        (escape_terminal(same[0].score.name), *(_accuracy(row.score) for row in same))
        for same in zip(*judged, strict=True)
    ]
    heads = ("trained on", *(escape_terminal(column, 120) for column in columns))
    table(escape_terminal(f"{data}, test accuracy, %", 200), heads, cells)


def _accuracy(score: Score) -> str:
    one = len(score.accuracies) == 1 and score.loss == "ridge"
    return f"{100 * score.mean:.2f}" + ("" if one else f" ± {100 * score.std:.2f}")
