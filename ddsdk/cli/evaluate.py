"""`ddsdk evaluate`: test accuracy of a distilled set and of the baselines under the same protocol."""

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
from ddsdk.training import Score, TrainingProtocol

if TYPE_CHECKING:
    from ddsdk.data import RealData
    from ddsdk.judging import EvaluationProgress


class Row(NamedTuple):
    """Row of the printed table.

    Attributes:
        score: Test accuracies and protocol of one set.
        kept: Whether the score was read from a file instead of computed.
    """

    score: Score
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Evaluate(NetworkOptions, DataOptions):
    """Train networks on a distilled set and on baselines of equal size and print their test accuracies.

    Attributes:
        set: Folder of the artefact.
        test: Test data, a folder or parquet file. None: the test split of --data.
        networks: Names of the networks to train, separated by commas. Default: the network of the protocol.
        protocol: Training protocol. stored: the protocol in the artefact, with the labels and the loss of the method.
            published: the protocol of DC, DSA and DM, cross-entropy on hard labels. both: stored and published side by
            side. quick: a shorter published protocol for small machines, not comparable with papers. The printed name
            of a protocol includes all changes by other options.
        labels: Replacement of the protocol's labels, one or more of stored, probabilities (projection of each label row
            to the simplex) and hard (class with the largest value), separated by commas.
        repeats: Number of networks for each accuracy. None: the number of the protocol.
        epochs: Number of training epochs. None: the number of the protocol.
        baselines: Baselines of equal size, separated by commas: random, herding, k-means, k-center.
        results: Folder of the scores; existing scores are not computed again. Default: `SET-results` beside the set.
        fresh: Whether existing scores are computed again.
        seed: Seed of all random numbers.
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
        """Return exit code 0 after printing the accuracies of the set and of the baselines."""
        from ddsdk.judging import results_folder

        distilled = artefact.Distilled.load(self.set)
        train, test = (data.with_preprocess(distilled.preprocess) for data in self.pair(self.test))
        chosen, baselines = names(self.networks, "networks", networks.NETWORKS), names(self.baselines)
        results = results_folder(self.set) if self.results is None else self.results
        tables = []
        for protocol in self._protocols(distilled, chosen):
            rows = score_with_baselines(
                distilled, train, test, protocol, baselines, results=results, seed=self.seed, fresh=self.fresh
            )
            show_scores(test.name, protocol, rows)
            tables.append(rows)
        if self.protocol == "both" or self.labels:
            _show_side_by_side(test.name, tables)
        sizes = distilled.owner.bincount(minlength=distilled.num_classes).tolist()
        low, high, size = min(sizes), max(sizes), baseline_size(distilled, train)
        if low != size or high != size:
            count = f"{low} to {high}" if low < high else f"{high}"
            out(f"the distilled set has {count} images per class, each baseline has {size} (equal storage budget)")
        return 0

    def _protocols(self, distilled: artefact.Distilled, chosen: list[str]) -> list[TrainingProtocol]:
        stored = TrainingProtocol.from_dict(distilled.protocol)
        # The published protocol trains on hard labels, whichever labels the set stores.
        hard = distilled.manifest.storage.labels == "hard"
        hard_labels: dict[str, Any] = {} if hard else {"labels": "hard"}
        published = replace(TrainingProtocol.published(stored.augmentation), **hard_labels)
        bases = {
            "stored": [stored],
            "published": [published],
            "both": [stored, published],
            "quick": [replace(TrainingProtocol.quick(stored.augmentation), **hard_labels)],
        }[self.protocol]
        label_kinds: list[Any] = names(self.labels)
        protocols = []
        for base in bases:
            for network in chosen or [base.network]:
                options = self._options(base, network, chosen)
                changed = base.changed(network=network, options=options, epochs=self.epochs, networks=self.repeats)
                protocols += [changed.changed(labels=kind) for kind in label_kinds] or [changed]
        return [protocol for i, protocol in enumerate(protocols) if protocol not in protocols[:i]]

    def _options(self, base: TrainingProtocol, network: str, chosen: list[str]) -> dict[str, Any]:
        options = self.network_options()
        if network == base.network and base.learner == "kernel":
            return options
        names(network, "network", networks.NETWORKS)
        return fitting_options(network, chosen or [network], options)


def score_with_baselines(
    distilled: artefact.Distilled,
    train: RealData,
    test: RealData,
    protocol: TrainingProtocol,
    baselines: list[str],
    *,
    results: Path,
    seed: int,
    fresh: bool = False,
) -> list[Row]:
    """Return the scores of a distilled set and of baselines with an equal storage budget under the same protocol.

    Args:
        distilled: Distilled set to evaluate.
        train: Real training data of the baselines, preprocessed like the set.
        test: Test data, preprocessed like the set.
        protocol: Training protocol of the evaluated networks.
        baselines: Names of baselines, keys of `ddsdk.baselines.BASELINES`.
        results: Folder of the scores, which is read and written.
        seed: Seed of all random numbers.
        fresh: Whether existing scores are computed again.
    """
    from ddsdk.experiments import needs_centred_labels
    from ddsdk.judging import cached_score_steps

    for name in baselines:
        require(name in BASELINES, "baselines", f"be among {', '.join(BASELINES)}", name)
    kernel = protocol.learner == "kernel"
    # Herding selects by the features of a network, which kernel ridge regression does not have.
    network, options = ("convnet", {}) if kernel else (protocol.network, protocol.network_options)
    student = networks.network_factory(network, train.image_shape, train.num_classes, **options)
    rounds, rows = protocol.rounds, []
    with progress("evaluating", rounds * (1 + len(baselines))) as update:
        method = _method_name(distilled)
        steps = cached_score_steps(results, method, distilled, test, protocol, seed, fresh=fresh)
        rows.append(follow_progress(steps, method, update))
        for i, name in enumerate(baselines, 1):
            size = baseline_size(distilled, train)
            selection = BASELINES[name](ipc=size, augmentation=protocol.augmentation)
            update(rounds * i, f"selecting {name}")
            chosen = running.distill(selection, train, make_student=student, seed=foundation.generator(seed, name))
            # A set with scores is evaluated by regression on them; the comparable labels of real images are centred.
            if needs_centred_labels(distilled, protocol):
                centred = synthetic.centred_labels(chosen.owner, chosen.num_classes)
                chosen = replace(chosen, labels=centred, label_space="scores")
            # The stored order of a distilled set is learned. A baseline is sorted by class and has to be shuffled.
            shuffled = protocol.changed(order="shuffled")
            steps = cached_score_steps(results, name, chosen, test, shuffled, seed, fresh=fresh)
            rows.append(follow_progress(steps, name, update, rounds * i))
    return rows


def baseline_size(distilled: artefact.Distilled, train: RealData) -> int:
    """Return the images per class of a baseline with the storage budget (floats) of the set.

    The smallest class of the training data is the upper bound.
    """
    return min(distilled.stored_ipc, *train.class_sizes)


def follow_progress(
    steps: Iterator[EvaluationProgress], name: str, update: Callable[[int, str], None], before: int = 0
) -> Row:
    """Run an evaluation and show its progress.

    Args:
        steps: Progress of the evaluation, which is computed on iteration.
        name: Name of the set for the progress bar.
        update: Function that updates the progress bar.
        before: Epochs on the progress bar before this evaluation.

    Returns:
        Score of the evaluation.
    """
    for step in steps:
        update(before + step.done, escape_terminal(name, 40))
    assert step.score is not None  # set in the last step of every evaluation
    return Row(step.score, step.kept)


def _method_name(distilled: artefact.Distilled) -> str:
    recipe = str(distilled.provenance.get("recipe", "set"))
    classes = {method.__name__: name for name, method in {**RECIPES, **BASELINES}.items()}
    return classes.get(recipe, recipe.lower())


def show_scores(data: str, protocol: TrainingProtocol, rows: list[Row]) -> None:
    """Print a table of scores and the protocol behind them."""
    columns = ("trained on", "images", "labels", "test accuracy, %", "seconds")
    cells = []
    for s, kept in rows:
        seconds = f"{s.seconds:.0f}{', cached' if kept else ''}"
        cells.append((escape_terminal(s.name), str(s.images), s.labels or "as stored", _accuracy(s), seconds))
    title = f"{data}, {protocol.network_label}, protocol {protocol.name}"
    table(escape_terminal(title, 200), columns, cells)
    if protocol.learner == "kernel":
        out("kernel ridge regression, without training of networks")
        return
    augmentation = protocol.augmentation or "none"
    networks, epochs = protocol.networks, protocol.epochs
    out(f"{networks} networks, {epochs} epochs, loss {protocol.loss}, augmentation {augmentation}, last epoch")


def _show_side_by_side(data: str, tables: list[list[Row]]) -> None:
    """Print a table with a row for each set or baseline and a column for each protocol."""
    first_scores = [rows[0].score for rows in tables]
    columns = [f"{s.protocol}: {s.network}, {s.labels or 'stored'} labels, {s.loss}" for s in first_scores]
    cells = [
        (escape_terminal(rows[0].score.name), *(_accuracy(row.score) for row in rows))
        for rows in zip(*tables, strict=True)
    ]
    heads = ("trained on", *(escape_terminal(column, 120) for column in columns))
    table(escape_terminal(f"{data}, test accuracy, %", 200), heads, cells)


def _accuracy(score: Score) -> str:
    # Kernel ridge regression is deterministic: one accuracy without a standard deviation.
    exact = len(score.accuracies) == 1 and score.loss == "ridge"
    return f"{100 * score.mean:.2f}" + ("" if exact else f" ± {100 * score.std:.2f}")
