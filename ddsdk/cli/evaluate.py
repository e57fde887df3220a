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
from ddsdk.cli.options import DataOptions, NetworkOptions, fitting_options, make_student, names
from ddsdk.foundation import escape_terminal, require
from ddsdk.recipes import RECIPES
from ddsdk.training import Evaluation, Score

if TYPE_CHECKING:
    from ddsdk.data import RealData
    from ddsdk.judging import Progress


class Row(NamedTuple):
    """A score, and whether it was read from a file and not computed now."""

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
        labels: Instead of the protocol's, one or more of stored, probabilities (of each row the nearest) and hard (its
            largest class), separated by commas: what it costs to leave the method's own labels.
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
        chosen = names(self.networks)
        for network in chosen:
            require(network in networks.NETWORKS, "networks", f"be among {', '.join(networks.NETWORKS)}", network)
        evaluations = self._evaluations(distilled, chosen)
        judged = []
        for evaluation in evaluations:
            rows = judge(
                distilled,
                train,
                test,
                evaluation,
                names(self.baselines),
                results=results_folder(self.set) if self.results is None else self.results,
                seed=self.seed,
                fresh=self.fresh,
            )
            show_scores(test.name, evaluation, rows)
            judged.append(rows)
        if self.protocol == "both" or self.labels:
            show_side_by_side(test.name, judged)
        sizes = distilled.owner.bincount(minlength=distilled.num_classes).tolist()
        low, high, size = min(sizes), max(sizes), baseline_size(distilled, train)
        if low != size or high != size:
            count = f"{low} to {high}" if low < high else f"{high}"
            out(f"the set has {count} images per class, each baseline has {size}")
        return 0

    def _evaluations(self, distilled: artefact.Distilled, chosen: list[str]) -> list[Evaluation]:
        stored = Evaluation.from_dict(distilled.evaluation)
        hard = distilled.manifest.storage.labels == "hard"
        # What an ordinary user does with a set: its images, and a class for each.
        ordinary: dict[str, Any] = {} if hard else {"labels": "hard"}
        published = replace(Evaluation.published(stored.augmentation), **ordinary)
        bases = {
            "stored": [stored],
            "published": [published],
            "both": [stored, published],
            "quick": [replace(Evaluation.quick(stored.augmentation), **ordinary)],
        }[self.protocol]
        readings = names(self.labels)
        changes: dict[str, Any] = {"epochs": self.epochs, "networks": self.repeats}
        found = []
        for base in bases:
            for network in chosen or [base.network]:
                changed = base.changed(network=network, options=self._options(base, network, chosen), **changes)
                found += [_reading(changed, reading) for reading in readings] or [changed]
        return [e for i, e in enumerate(found) if e not in found[:i]]

    def _options(self, base: Evaluation, network: str, chosen: list[str]) -> dict[str, Any]:
        given = self.network_options()
        if network == base.network and base.learner == "kernel":
            return given
        require(network in networks.NETWORKS, "network", f"be among {', '.join(networks.NETWORKS)}", network)
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
        train: Where the baselines select from, in the set's value space.
        test: Held-out data, in the set's value space.
        evaluation: The protocol.
        baselines: Keys of `ddsdk.BASELINES`.
        results: Folder of kept scores.
        seed: Root of every random number.
        fresh: Compute again what was kept.
    """
    from ddsdk.judging import scoring

    for name in baselines:
        require(name in BASELINES, "baselines", f"be among {', '.join(BASELINES)}", name)
    kernel = evaluation.learner == "kernel"
    # Where a kernel is judged, herding still needs a network to look through.
    network = ("convnet", {}) if kernel else (evaluation.network, dict(evaluation.network_options))
    student = make_student(train, *network)
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
            chosen = _alike(chosen, distilled, evaluation)
            # The order of a set is a part of what was learned; that of real images tells their classes.
            shuffled = evaluation.changed(order="shuffled")
            steps = scoring(results, name, chosen, test, shuffled, seed, fresh=fresh)
            rows.append(follow(steps, name, update, each * i))
    return rows


def _reading(evaluation: Evaluation, labels: Any) -> Evaluation:  # noqa: ANN401 - checked there
    return evaluation.changed(labels=labels)


def _alike(chosen: artefact.Distilled, distilled: artefact.Distilled, evaluation: Evaluation) -> artefact.Distilled:
    """Return a baseline with centred labels where the set has scores and is judged by regression on them."""
    from ddsdk.experiments import wants_centred

    if not wants_centred(distilled, evaluation):
        return chosen
    rows = synthetic.centred_labels(chosen.owner, chosen.num_classes)
    return replace(chosen, labels=rows, label_space="scores")


def baseline_size(distilled: artefact.Distilled, train: RealData) -> int:
    """Return the images per class of a baseline that stores as many floats as the set, or as there are."""
    return min(distilled.stored_ipc, *train.class_sizes)


def follow(steps: Iterator[Progress], name: str, update: Callable[[int, str], None], before: int = 0) -> Row:
    """Go through an evaluation, show how far it is, and return what came out.

    Args:
        steps: From `ddsdk.judging.judge.evaluating` or `ddsdk.judging.scores.scoring`.
        name: What is judged.
        update: From `ddsdk.cli.console.progress`.
        before: Epochs that are done already.
    """
    for step in steps:
        update(before + step.done, escape_terminal(name, 40))
    assert step.score is not None  # the last step of every evaluation has it
    return Row(step.score, step.kept)


def _method_name(distilled: artefact.Distilled) -> str:
    recipe = str(distilled.provenance.get("recipe", "set"))
    classes = {method.__name__: name for name, method in {**RECIPES, **BASELINES}.items()}
    return classes.get(recipe, recipe.lower())


def show_scores(data: str, evaluation: Evaluation, rows: list[Row]) -> None:
    """Print scores as a table that says under which protocol they hold."""
    cells = [
        (
            escape_terminal(s.name),
            str(s.images),
            s.labels or "as stored",
            _accuracy(s),
            f"{s.seconds:.0f}{', kept' if kept else ''}",
        )
        for s, kept in rows
    ]
    columns = ("trained on", "images", "labels", "test accuracy, %", "seconds")
    title = f"{data}, {evaluation.network_label}, protocol {evaluation.protocol}"
    table(escape_terminal(title, 200), columns, cells)
    if evaluation.learner == "kernel":
        out("kernel ridge regression; no network is trained")
        return
    augmentation = evaluation.augmentation or "none"
    networks, epochs = evaluation.networks, evaluation.epochs
    out(f"{networks} networks, {epochs} epochs, loss {evaluation.loss}, augmentation {augmentation}, last epoch")


def show_side_by_side(data: str, judged: list[list[Row]]) -> None:
    """Print one column for each protocol that sets and baselines were judged under."""
    columns = ["trained on"]
    for rows in judged:
        own = rows[0].score
        columns.append(
            escape_terminal(f"{own.protocol}: {own.network}, {own.labels or 'stored'} labels, {own.loss}", 120)
        )
    cells = [
        (escape_terminal(same[0].score.name), *(_accuracy(row.score) for row in same))
        for same in zip(*judged, strict=True)
    ]
    table(escape_terminal(f"{data}, test accuracy, %", 200), tuple(columns), cells)


def _accuracy(score: Score) -> str:
    one = len(score.accuracies) == 1 and score.loss == "ridge"
    return f"{100 * score.mean:.2f}" + ("" if one else f" ± {100 * score.std:.2f}")
