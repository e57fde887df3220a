"""`ddsdk evaluate`: test accuracy of a distilled set and of the baselines under the same protocol."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import tyro

from ddsdk import artefact, judging
from ddsdk.cli.comparing import common_protocol, show_comparison
from ddsdk.cli.console import err, out, progress, readable_seconds, table
from ddsdk.cli.options import BackboneOptions, DataOptions, NetworkOptions, chosen_networks, fitting_options, names
from ddsdk.foundation import NonNegativeInt, PositiveInt, check_numbers, escape_terminal, require
from ddsdk.training import Score, TrainingProtocol

if TYPE_CHECKING:
    from ddsdk.data import RealData
    from ddsdk.judging import EvaluationProgress
    from ddsdk.networks import Backbone, NetworkSpec

_SAY_SECONDS, _ASK_SECONDS = 60, 600
_BASELINES = {False: "random,herding,k-means", True: "random,k-means,moderate"}
_MEASURED_EPOCHS, _MEASURED_SECONDS = 5, 5


class Row(NamedTuple):
    """Row of the printed table.

    Attributes:
        score: Test accuracies and protocol of one set.
        kept: Whether the score was read from a file instead of computed.
    """

    score: Score
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Evaluate(BackboneOptions, NetworkOptions, DataOptions):
    """Train networks on a distilled set and on baselines of equal size and print their test accuracies.

    A set that was distilled for a frozen backbone is judged by a linear probe on the same backbone, see --backbone.
    Another backbone shows the transfer.

    Attributes:
        set: Folder of the artefact.
        test: Test data, a folder or parquet file. None: the test split of --data.
        networks: Networks to train, separated by commas: names of the catalogue (convnet, resnet18 ...),
            torchvision:NAME, timm:NAME, or package.module:NAME of a class, function or module of your own, which is
            imported. Default: the network of the protocol.
        protocol: Training protocol. stored: the protocol in the artefact, with the labels and the loss of the method.
            published: the protocol of DC, DSA and DM, cross-entropy on hard labels. both: stored and published side by
            side. quick: a shorter published protocol for small machines, not comparable with papers. kernel: ridge
            regression with the kernel of random ConvNets, without training. The printed name of a protocol includes all
            changes by other options.
        labels: Replacement of the protocol's labels, one or more of stored, probabilities (projection of each label row
            to the simplex) and hard (class with the largest value), separated by commas.
        repeats: Number of networks for each accuracy. None: the number of the protocol.
        epochs: Number of training epochs. None: the number of the protocol.
        baselines: Baselines of equal size, separated by commas: random, herding, k-means, k-center, moderate, el2n ...
            None: random, herding and k-means; with --compare random, k-means and moderate.
        compare: Whether one table shows the set and real images under its own protocol, without augmentation, and under
            the common protocol with hard labels and the networks of --networks, with the scores of DD-Ranking.
        seeds: Number of seeds of --compare, from --seed on; each trains --repeats networks on new real images.
        full_epochs: Number of epochs on the full training set, for --compare. None: 5000 steps, at most 300 epochs.
            0: no network on the full training set, so that HLR and labels for real images are missing.
        markdown: Markdown file of the table of --compare. None: no file.
        results: Folder of the scores; existing scores are not computed again. Default: `SET-results` beside the set.
        fresh: Whether existing scores are computed again.
        seed: Seed of all random numbers.
        trust_protocol: Whether the protocol in the artefact is trained without bounds on its epochs, networks and
            network size, and without the question before a long evaluation.
    """

    set: tyro.conf.Positional[Path]
    test: str | None = None
    networks: str = ""
    protocol: Literal["stored", "published", "both", "quick", "kernel"] = "stored"
    labels: str = ""
    repeats: int | None = None
    epochs: int | None = None
    baselines: str | None = None
    compare: bool = False
    seeds: PositiveInt = 1
    full_epochs: NonNegativeInt | None = None
    markdown: Path | None = None
    results: Path | None = None
    fresh: bool = False
    seed: int = 0
    trust_protocol: bool = False

    def run(self) -> int:
        """Return exit code 0 after printing the accuracies of the set and of the baselines."""
        check_numbers(self)
        distilled = artefact.Distilled.load(self.set)
        train, test = self.pair(self.test, judging.stored_reading(distilled))
        chosen = chosen_networks("networks", self.networks)
        baselines = names(_BASELINES[self.compare] if self.baselines is None else self.baselines)
        results = judging.results_folder(self.set) if self.results is None else self.results
        backbone, probes = self._probed(distilled, train)
        if self.compare:
            return self._compare(distilled, train, test, chosen, baselines, results)
        tables, stored = [], judging.stored_protocol(distilled)
        for protocol in self._protocols(distilled, chosen) if backbone is None else probes:
            options: dict[str, Any] = {"results": results, "seed": self.seed, "fresh": self.fresh}
            options |= {"network": chosen.get(protocol.network), "backbone": backbone}
            own = (protocol.epochs, protocol.networks) != (stored.epochs, stored.networks)
            options["ask"] = not self.trust_protocol and not own
            rows = score_with_baselines(distilled, train, test, protocol, baselines, **options)
            show_scores(test.name, protocol, rows)
            tables.append(rows)
        if self.protocol == "both" or self.labels:
            _show_side_by_side(test.name, tables)
        sizes = distilled.owner.bincount(minlength=distilled.num_classes).tolist()
        low, high, size = min(sizes), max(sizes), judging.baseline_size(distilled, train)
        if low != size or high != size:
            count = f"{low} to {high}" if low < high else f"{high}"
            out(f"the distilled set has {count} images per class, each baseline has {size} (equal storage budget)")
        if distilled.packing is not None:
            packed = distilled.manifest.storage.bytes
            out(f"the set is packed into {packed} bytes; baselines count a byte for each channel of a pixel")
        elif distilled.stored_floats != distilled.images.numel():
            stated, held = distilled.stored_floats, distilled.images.numel()
            out(f"the set states a storage of {stated} floats for {held} pixel values; its file cannot prove it")
        return 0

    def _compare(
        self,
        distilled: artefact.Distilled,
        train: RealData,
        test: RealData,
        chosen: Mapping[str, NetworkSpec],
        baselines: list[str],
        results: Path,
    ) -> int:
        """Return exit code 0 after printing the set and real images under its own protocol and the common one."""
        from ddsdk.experiments import SetComparison

        rule = "be left out with --compare, whose table has all protocols and labels"
        require(self.protocol == "stored" and not self.labels, "protocol and labels", rule, self.protocol)
        stored, common = judging.stored_protocol(distilled), common_protocol(distilled, train)
        self._check_cost(distilled, stored, self.network_options())
        trained = {stored.network: stored.network} if stored.learner == "network" else {}
        everything = {common.network: common.network, **trained, **chosen}

        def changed(base: TrainingProtocol, network: str) -> TrainingProtocol:
            # Options such as --width are those of networks, and not of the kernel or probe of a set.
            untrained = base.learner != "network" and network == base.network
            options = {} if untrained else fitting_options(network, everything, self.network_options())
            return base.changed(network=network, options=options, epochs=self.epochs, networks=self.repeats)

        comparison = SetComparison(
            distilled,
            train,
            test,
            results=results,
            own=changed(stored, stored.network),
            common=changed(common, common.network),
            networks={name: (changed(common, name), spec) for name, spec in chosen.items() if name != common.network},
            baselines=baselines,
            seeds=range(self.seed, self.seed + self.seeds),
            full_epochs=self.full_epochs,
            fresh=self.fresh,
        )
        follow_progress(comparison.steps(), comparison.rounds, ask=not self.trust_protocol)
        show_comparison(comparison, self.markdown)
        return 0

    def _check_cost(self, distilled: artefact.Distilled, stored: TrainingProtocol, own: dict[str, Any]) -> None:
        if self.trust_protocol:
            return
        chosen_here = {name: 1 for name in ("epochs", "repeats") if getattr(self, name) is not None}
        bounded = stored.changed(epochs=chosen_here.get("epochs"), networks=chosen_here.get("repeats"), options=own)
        judging.check_cost(bounded, distilled)

    def _probed(self, distilled: artefact.Distilled, train: RealData) -> tuple[Backbone | None, list[TrainingProtocol]]:
        """Return the backbone with the protocols of its probe; None and no protocols without --backbone."""
        from ddsdk.training import protocol_on

        backbone = self.load_backbone()
        if backbone is None:
            return None, []
        given = {
            name: getattr(self, name) for name in ("networks", "repeats", "epochs", "compare") if getattr(self, name)
        }
        given |= self.network_options() | ({} if self.protocol == "stored" else {"protocol": self.protocol})
        for name, value in given.items():
            require(False, name, "be left out with --backbone, whose probe trains no network", value)
        own = judging.in_space_of(distilled, train, "train")
        protocol, backbone = protocol_on(backbone, judging.stored_protocol(distilled), own)
        label_kinds: list[Any] = names(self.labels)
        return backbone, [protocol.changed(labels=kind) for kind in label_kinds] or [protocol]

    def _protocols(self, distilled: artefact.Distilled, chosen: Mapping[str, NetworkSpec]) -> list[TrainingProtocol]:
        stored = judging.stored_protocol(distilled)
        if self.protocol in ("stored", "both"):
            own = self.network_options() if not chosen or stored.network in chosen else {}
            self._check_cost(distilled, stored, own)
        published = judging.published_protocol(distilled, stored.augmentation)
        quick = judging.with_hard_labels(TrainingProtocol.quick(stored.augmentation), distilled)
        kernel = judging.kernel_protocol(distilled)
        choices = {"stored": [stored], "published": [published], "quick": [quick], "kernel": [kernel]}
        bases = [stored, published] if self.protocol == "both" else choices[self.protocol]
        label_kinds: list[Any] = names(self.labels)
        protocols = []
        for base in bases:
            for network in chosen or [base.network]:
                options = self._options(base, network, chosen)
                changed = base.changed(network=network, options=options, epochs=self.epochs, networks=self.repeats)
                protocols += [changed.changed(labels=kind) for kind in label_kinds] or [changed]
        return [protocol for i, protocol in enumerate(protocols) if protocol not in protocols[:i]]

    def _options(self, base: TrainingProtocol, network: str, chosen: Mapping[str, NetworkSpec]) -> dict[str, Any]:
        options = self.network_options()
        if network == base.network and base.learner != "network":
            return options
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
    network: NetworkSpec | None = None,
    backbone: Backbone | None = None,
    ask: bool = False,
) -> list[Row]:
    """Return the scores of `ddsdk.judging.comparison_steps`, and show their progress.

    Args:
        distilled: Distilled set to evaluate.
        train: Real training data of the baselines.
        test: Test data of all sets.
        protocol: Training protocol of the evaluated networks.
        baselines: Names of baselines, keys of `ddsdk.baselines.BASELINES`.
        results: Folder of the scores, which is read and written.
        seed: Seed of all random numbers.
        fresh: Whether existing scores are computed again.
        network: Network that the command line names. None for that of the protocol.
        backbone: Backbone of a protocol that probes. None for other protocols.
        ask: Whether a long evaluation is confirmed in a terminal, see `follow_progress`.
    """
    from ddsdk.judging import comparison_steps

    options: dict[str, Any] = {"train": train, "results": results, "seed": seed, "fresh": fresh, "network": network}
    options["backbone"] = backbone
    steps = comparison_steps(distilled, test, protocol, baselines, **options)
    return follow_progress(steps, protocol.rounds * (1 + len(baselines)), ask=ask)


def follow_progress(steps: Iterator[EvaluationProgress], total: int, *, ask: bool = False) -> list[Row]:
    """Return the rows of an evaluation's scores, and show its progress.

    Some epochs after the first one give an estimate of the time, which is printed if it exceeds a minute.

    Args:
        steps: Progress of the evaluation, which is computed on iteration.
        total: Number of epochs of all networks together.
        ask: Whether an evaluation of more than ten minutes is confirmed in a terminal. The answer "no" raises
            KeyboardInterrupt.
    """
    rows: list[Row] = []
    first: tuple[float, int] | None = None
    # The question comes before the bar, which would overwrite it.
    for step in steps:
        if step.score is not None:
            rows.append(Row(step.score, step.kept))
        if step.kept:
            continue
        if first is None:
            # The first epoch includes one-time costs.
            first = time.monotonic(), step.done
        elif step.done - first[1] >= _MEASURED_EPOCHS or time.monotonic() - first[0] >= _MEASURED_SECONDS:
            per_epoch = (time.monotonic() - first[0]) / max(1, step.done - first[1])
            announce_duration(per_epoch * (total - step.done), ask=ask)
            break
    with progress("evaluating", total) as update:
        for step in steps:
            update(step.done, escape_terminal(step.name, 40))
            if step.score is not None:
                rows.append(Row(step.score, step.kept))
    return rows


def announce_duration(seconds: float, *, ask: bool) -> None:
    """Print the estimated duration of a long evaluation, and ask in a terminal whether it shall go on.

    Args:
        seconds: Estimated seconds that are left.
        ask: Whether an evaluation of more than ten minutes is confirmed in a terminal.

    Raises:
        KeyboardInterrupt: If the answer is "no".
    """
    if seconds < _SAY_SECONDS:
        return
    err(f"the evaluation takes about {readable_seconds(seconds)}; --epochs and --repeats shorten it")
    if ask and seconds >= _ASK_SECONDS and sys.stdin.isatty():
        err("the set itself demands this length; go on? [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise KeyboardInterrupt


def show_scores(data: str, protocol: TrainingProtocol, rows: list[Row]) -> None:
    """Print a table of scores and the protocol behind them."""
    columns = ("trained on", "images", "labels", "test accuracy, %", "seconds")
    cells = []
    for s, kept in rows:
        seconds = f"{s.seconds:.0f}{', cached' if kept else ''}"
        cells.append((escape_terminal(s.name), str(s.images), s.labels or "as stored", s.accuracy_text, seconds))
    title = f"{data}, {protocol.network_label}, protocol {protocol.name}"
    table(escape_terminal(title, 200), columns, cells)
    if protocol.learner == "kernel":
        out("kernel ridge regression, without training of networks")
        return
    if protocol.probe is not None:
        facts = f"sha256 {protocol.probe.sha256[:12]}, side {protocol.probe.side or 'of the images'}"
        out(f"linear probe on a frozen backbone ({facts}), without training of networks")
        return
    augmentation = protocol.augmentation or "none"
    networks, epochs = protocol.networks, protocol.epochs
    early = protocol.early_stopping
    which = "last epoch" if early is None else f"best epoch on {early.images} training images"
    out(f"{networks} networks, {epochs} epochs, loss {protocol.loss}, augmentation {augmentation}, {which}")


def _show_side_by_side(data: str, tables: list[list[Row]]) -> None:
    """Print a table with a row for each set or baseline and a column for each protocol."""
    first_scores = [rows[0].score for rows in tables]
    columns = [f"{s.protocol}: {s.network}, {s.labels or 'stored'} labels, {s.loss}" for s in first_scores]
    cells = [
        (escape_terminal(rows[0].score.name), *(row.score.accuracy_text for row in rows))
        for rows in zip(*tables, strict=True)
    ]
    heads = ("trained on", *(escape_terminal(column, 120) for column in columns))
    table(escape_terminal(f"{data}, test accuracy, %", 200), heads, cells)
