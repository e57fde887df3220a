"""The survey's tables: what they judge, that they go on where they stopped, and that they print what was measured."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics

import pytest

import ddsdk as dd
from ddsdk.baselines import Random
from ddsdk.cli import main
from ddsdk.experiments.dd_ranking import label_robust_score
from ddsdk.experiments.protocol_columns import COLUMNS, TRANSFER_NETWORKS, EvaluationCost
from ddsdk.experiments.published import PUBLISHED, TRANSFER, comparable_kind, published
from ddsdk.experiments.table import ProtocolAccuracies, ProtocolResult, Table, TableRow, read_table
from ddsdk.experiments.table_view import dd_ranking_scores, table_html, table_markdown
from ddsdk.experiments.units import TableEntry, UnitFactory, WorkerContext, compute_in
from ddsdk.foundation.errors import ArtifactError
from ddsdk.foundation.store import Store, Timing
from ddsdk.foundation.unit import Unit
from ddsdk.judging import TrainingSet, evaluate, needs_centred_labels, network_accuracy
from ddsdk.training.protocol import TrainingProtocol

QUICK = ["--width", "4", "--judge-epochs", "2", "--judge-width", "4", "--repeats", "2", "--threads", "1"]


def bench(out, *words, table="survey-1", recipes="dm"):
    base = ["bench", "--table", table, "--data", "digits", "--recipes", recipes]
    short = ["--set", "dm.steps=2"] if "dm" in recipes.split(",") else []
    return main([*base, *short, *QUICK, "--out", str(out), *words])


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    out = tmp_path_factory.mktemp("survey")
    assert bench(out, "--set", "sldd.steps=2", "--sets", "2", recipes="dm,sldd,krr") == 0
    return out


def test_a_table_has_every_method_under_every_protocol(survey):
    rows = read_table(survey / "table.json").rows
    assert [row.method for row in rows] == ["dm", "sldd", "krr"]
    assert [[cell.column for cell in row.cells] for row in rows] == [
        ["hard labels"],
        ["hard labels", "own"],
        ["hard labels", "own"],
    ]
    for row in rows:
        assert (row.data, row.ipc, row.note) == ("digits", 1, "")
        assert len(row.sets) == len(row.seconds) == 2
        for cell in row.cells:
            networks = 1 if cell.protocol.get("learner") == "kernel" else 2
            assert [len(found) for found in cell.own.accuracies] == [networks] * 2
            assert set(cell.baselines) == {"random", "k-means"}
    assert [row.labels for row in rows] == ["hard", "scores", "hard"]
    assert rows[0].parameters["anneal"] is True
    assert rows[0].student["options"] == {"width": 4}
    # A set of ten images and their classes; label rows of ten numbers, and three learned rates.
    assert [row.floats for row in rows] == [650, 743, 650]
    assert [row.learned_lr for row in rows] == [False, True, False]


def test_a_figure_of_the_table_is_that_of_the_commands(survey, tmp_path, capsys):
    """Seed 1 of a table is `ddsdk distill --seed 1`, and its networks are those of `ddsdk evaluate`."""
    row = read_table(survey / "table.json").rows[0]
    words = "--data digits --recipe dm --ipc 1 --steps 2 --real-batch 64 --width 4 --seed 1 --threads 1 --anneal"
    assert main(["distill", *words.split(), "--out", str(tmp_path / "set")]) == 0
    found = dd.Distilled.load(tmp_path / "set")
    assert found.content_id == row.sets[1]
    assert dd.Distilled.load(survey / "sets" / "dm-1-1").content_id == row.sets[1]
    _, test = dd.load_pair("digits")
    protocol = TrainingProtocol.from_dict(row.cells[0].protocol)
    score = evaluate(found, test, protocol, seed=0)
    assert score.accuracies == row.cells[0].own.accuracies[1]


def test_one_network_is_the_same_alone_and_among_others():
    train, test = dd.load_pair("digits")
    batch = train.batch(train.index_of_class(0)[:20])
    protocol = TrainingProtocol.published().changed(options={"width": 4}, epochs=2, networks=3)
    whole = evaluate(batch, test, protocol, seed=5)
    alone = tuple(network_accuracy(TrainingSet(batch, protocol), test, i, rng=dd.generator(5)) for i in range(3))
    assert alone == whole.accuracies
    with pytest.raises(ValueError, match="index must be at least 0"):
        network_accuracy(TrainingSet(batch, protocol), test, -1, rng=dd.generator(5))


def test_the_same_command_computes_nothing_twice(survey, capsys):
    results = survey / "store" / "results"
    before = {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
    text = (survey / "table.md").read_text()
    assert bench(survey, "--set", "sldd.steps=2", "--sets", "2", recipes="dm,sldd,krr") == 0
    assert {path.name: path.stat().st_mtime_ns for path in results.iterdir()} == before
    assert (survey / "table.md").read_text() == text
    assert bench(survey, "--sets", "3", recipes="dm") == 0
    new = {path.name for path in results.iterdir()} - set(before)
    # One more set, two networks; as many real images of each kind, and two networks for these.
    assert len(new) == 1 + 2 + 2 + 4


@pytest.mark.slow
def test_processes_give_the_same_files(survey, tmp_path):
    assert bench(tmp_path, "--workers", "2", recipes="dm,krr") == 0
    for path in (tmp_path / "store" / "results").iterdir():
        assert path.read_bytes() == (survey / "store" / "results" / path.name).read_bytes()


def test_workers_elsewhere_can_do_all_of_it(tmp_path, capsys):
    import threading

    codes = []
    driver = threading.Thread(target=lambda: codes.append(bench(tmp_path, "--engine", "shared", "--repeats", "1")))
    driver.start()
    while driver.is_alive():
        if (tmp_path / "store").is_dir():
            assert main(["worker", "--store", str(tmp_path / "store")]) == 0
        driver.join(timeout=0.1)
    assert codes == [0]
    assert read_table(tmp_path / "table.json").rows[0].cells[0].own is not None
    assert "distil" in capsys.readouterr().out


def test_networks_that_a_method_needs_are_units_too(tmp_path, monkeypatch):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "cache"))
    words = [f"mtt.{word}" for word in ("steps=1", "experts=2", "expert_epochs=3", "student_steps=1")]
    changes = [part for word in words for part in ("--set", word)]
    assert bench(tmp_path / "out", *changes, "--repeats", "1", "--baselines", "", recipes="mtt") == 0
    kinds = [Unit.read(p.read_bytes()) for p in (tmp_path / "out/store/asked").iterdir()]
    networks = [unit for unit in kinds if unit.kind == "network"]
    assert sorted(unit.key for unit in networks) == [(0, 0), (0, 1)]
    (made,) = [unit for unit in kinds if unit.kind == "distil"]
    assert set(made.needs) == {unit.id for unit in networks}
    assert len(list((tmp_path / "cache").glob("run-*.safetensors"))) == 2
    (row,) = read_table(tmp_path / "out" / "table.json").rows
    assert row.learned_lr
    assert [cell.column for cell in row.cells] == ["hard labels"]
    store = Store(tmp_path / "out" / "store")
    took = [store.timing(unit.id).seconds for unit in (made, *networks)]
    assert row.seconds == (round(sum(took), 1),)


def test_a_budget_is_planned_once(tmp_path, capsys):
    base = ("--set", "dm.steps=100000", "--budget", "3s", "--repeats", "1", "--baselines", "")
    assert bench(tmp_path, *base) == 0
    (length,) = lengths = list(Store(tmp_path / "store").results("length"))
    (row,) = read_table(tmp_path / "table.json").rows
    assert 1 <= row.parameters["steps"] < 100_000
    assert row.seconds[0] < 30
    assert bench(tmp_path, *base) == 0
    assert list(Store(tmp_path / "store").results("length")) == lengths
    Store(tmp_path / "store").publish(length[0], b'{"plans": 3}', Timing(1.0, 1.0, "here"), replace=True)
    assert bench(tmp_path, *base) == 2
    assert "the store must hold a length of dm" in capsys.readouterr().err


def test_tables_share_their_sets_in_one_store(survey, tmp_path):
    results = survey / "store" / "results"
    before = {path.name for path in results.iterdir()}
    words = ("--store", str(survey / "store"), "--networks", "mlp,convnet", "--baselines", "")
    assert bench(tmp_path / "out", *words, table="cross-architecture") == 0
    new = {path.name for path in results.iterdir()} - before
    # Two networks of each kind; those of the ConvNet were judged before.
    assert len(new) == 2
    (row,) = read_table(tmp_path / "out" / "table.json").rows
    assert [cell.column for cell in row.cells] == ["mlp", "convnet"]
    assert not (tmp_path / "out" / "store").exists()


def test_a_method_that_fails_costs_its_row(tmp_path, capsys):
    words = ("--set", "rtp.bases=9000", "--repeats", "1", "--baselines", "")
    assert bench(tmp_path, *words, recipes="dm,rtp") == 0
    first, second = read_table(tmp_path / "table.json").rows
    assert first.cells
    assert not second.cells
    assert "bases must leave an address" in second.note
    assert "bases must leave an address" in capsys.readouterr().err
    assert "bases must leave" in (tmp_path / "table.md").read_text().replace("\\", "")


def test_a_method_that_fails_while_it_is_planned_costs_its_row_too(tmp_path, monkeypatch):
    monkeypatch.setenv("DDSDK_CACHE", str(tmp_path / "cache"))
    words = ["--set", "rtp.bases=9000", "--budget", "2s", "--repeats", "1", "--baselines", ""]
    # A rate that no network survives.
    words += [part for word in ("experts=1", "expert_epochs=3", "expert_lr=1e30") for part in ("--set", f"mtt.{word}")]
    assert bench(tmp_path / "out", *words, recipes="rtp,mtt,dm") == 0
    first, second, third = read_table(tmp_path / "out" / "table.json").rows
    assert "bases must leave an address" in first.note
    assert "are not finite" in second.note
    assert (first.cells, second.cells) == ((), ())
    assert third.cells
    assert not third.note


def test_a_table_that_is_stopped_at_its_start_says_so_and_nothing_else(tmp_path, monkeypatch, capsys):
    from ddsdk.experiments.table import TableRun

    def stopped(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(TableRun, "_networks", stopped)
    assert bench(tmp_path) == 75
    assert "stopped" in capsys.readouterr().err
    (row,) = read_table(tmp_path / "table.json").rows
    assert row.cells == ()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipes", "dmm"], "recipes must be among"),
        (["--recipes", ""], "recipes must name at least one"),
        (["--baselines", "best"], "baselines must be among"),
        (["--networks", "resnet9"], "networks must be among"),
        (["--budget", "soon"], "budget must be a time"),
        (["--sets", "0"], "sets must be at least 1, got 0"),
        (["--workers", "-1"], "workers must be at least 0, got -1"),
        (["--ipc", "0"], "ipc must be whole numbers"),
        (["--set", "dc.steps=3"], "set must name one of the methods"),
        (["--judge-width", "0"], "judge_width must be at least 1"),
    ],
)
def test_what_a_table_cannot_be_made_of_is_refused(tmp_path, capsys, words, message):
    assert bench(tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_worker_needs_a_store(tmp_path, capsys):
    assert main(["worker", "--store", str(tmp_path / "none")]) == 2
    assert "store must be the folder of a store" in capsys.readouterr().err


def distilled(labels="hard", **options):
    real, _ = dd.load_pair("digits")
    method = dd.RFAD(ipc=1, steps=1) if labels == "scores" else Random(ipc=1, **options)
    make = dd.network_factory("convnet", real.image_shape, 10, width=2)
    return dd.distill(method, real, make_student=make, seed=0)


def test_columns_of_each_table():
    hard, scores = distilled(augmentation="crop"), distilled("scores")
    judging = EvaluationCost(networks=2)
    names = {table: [c.name for c in of(hard, judging)] for table, of in COLUMNS.items()}
    assert names["survey-1"] == ["hard labels"]
    assert names["cross-architecture"] == list(TRANSFER_NETWORKS)
    assert names["robustness-to-recipe"][:3] == ["sgd, none", "adam, none", "sgd, crop"]
    assert names["fair-scores"] == ["hard labels", "own", "own, no augmentation"]
    assert [c.name for c in COLUMNS["survey-1"](scores, judging)] == ["hard labels", "own"]
    for table in COLUMNS:
        for example in (hard, scores):
            columns = COLUMNS[table](example, judging)
            told = [(c.protocol.name, c.protocol.augmentation) for c in columns]
            different = {json.dumps(c.protocol.to_dict() | {"protocol": ""}, sort_keys=True) for c in columns}
            assert len(set(told)) == len(different) or table == "fair-scores", "a protocol's name tells it apart"
            assert all(c.protocol.networks == 2 for c in columns)
    first, second = COLUMNS["survey-1"](scores, judging)
    assert (first.protocol.labels, second.protocol.loss) == ("hard", "mse")
    assert needs_centred_labels(scores, second.protocol)
    assert not needs_centred_labels(scores, first.protocol)
    assert not needs_centred_labels(hard, second.protocol)


def test_a_cheaper_judge_says_so():
    cheap = EvaluationCost(networks=1, epochs=7, width=8)
    own = distilled("scores")
    for column in COLUMNS["survey-1"](own, cheap):
        assert "width 8" in column.protocol.name
        assert column.protocol.network_options["width"] == 8
    hard, mine = COLUMNS["survey-1"](own, cheap)
    assert hard.protocol.epochs == 7
    assert "7 epochs" in hard.protocol.name
    assert mine.protocol.epochs == 20_000, "a method's own epochs belong to its rates"
    assert mine.protocol.early_stopping is not None


def test_published_figures_stand_beside_what_is_comparable_alone():
    plain, augmented = TrainingProtocol.published(), TrainingProtocol.published("crop")
    own = dd.MTT().protocol(dd.load("digits"))
    assert comparable_kind(plain) == "plain"
    assert comparable_kind(dataclasses.replace(augmented, networks=9, labels="hard")) == "augmented"
    assert comparable_kind(plain.changed(epochs=3)) is None
    assert comparable_kind(dataclasses.replace(plain, lr=0.5), own) is None
    special = dataclasses.replace(plain, name="x", lr=0.5)
    assert comparable_kind(dataclasses.replace(special, networks=1), special) == "own"
    kernel = dd.KIP(ipc=1).protocol(dd.load("digits"))
    assert comparable_kind(kernel, kernel) is None, "the published figure is that of finite networks"
    assert published("fashion-mnist", "dc", 1, "plain") == 70.5
    assert published("fashion-mnist", "dc", 1, "augmented") is None
    assert published("fashion-mnist", "cafe", 1, "plain") is None, "that figure has the augmentation of DSA"
    assert published("fashion-mnist", "rfad", 1, "own") == 78.6
    assert published("fashion-mnist", "rfad", 2, "own") is None
    assert TRANSFER["cifar10", "mtt", 10]["resnet152"] == 15.9
    assert ("cifar10", "mtt", 1) not in TRANSFER


def test_slips_of_the_survey_are_put_right():
    assert published("mnist", "dc", 10, "augmented") == 97.4
    assert published("fashion-mnist", "dsa", 10, "augmented") == 84.6
    assert published("mnist", "dm", 50, "augmented") != published("mnist", "herding", 50, "plain")
    for entry in PUBLISHED.values():
        assert entry.source
        assert all(value is None or 0 < value < 100 for value in entry.accuracies)


def test_spreads_over_networks_and_over_sets():
    rows = ((0.5, 0.7), (0.9, 0.7))
    found = ProtocolAccuracies(accuracies=rows)
    assert found.mean == pytest.approx(0.7)
    assert found.over_networks == pytest.approx(statistics.stdev((0.5, 0.7)))
    assert found.over_sets == pytest.approx(statistics.stdev((0.6, 0.8)))
    one = ProtocolAccuracies(accuracies=((0.5,),))
    assert (one.over_networks, one.over_sets) == (None, None)


def cell(column, mean, random=None, **options):
    return ProtocolResult(
        column=column,
        protocol=TrainingProtocol.published("crop_flip").to_dict(),
        network="convnet",
        own=ProtocolAccuracies(accuracies=((mean,),)),
        baselines={} if random is None else {"random": ProtocolAccuracies(accuracies=((random,),))},
        **options,
    )


def row(*cells, **options):
    base = {"data": "some|<data>", "ipc": 1, "method": "dm", "parameters": {}, "student": {}}
    return TableRow(**base, floats=650, labels="hard", cells=cells, **options)


def test_a_table_in_markdown_says_what_was_measured():
    shown = row(cell("hard labels", 0.5, 0.25, published=70.7), note="a | note")
    text = table_markdown(Table(table="survey-1", rows=(shown,)))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "50.0" in lines[2]
    assert "70.7" in lines[2].replace("\\", "")
    assert "25.0" in lines[2]
    assert "crop flip" in lines[2]
    assert "<data>" not in text
    assert "a \\| note" in text


def test_many_protocols_stand_side_by_side():
    shown = row(cell("convnet", 0.5, 0.25, published=50.5), cell("mlp", 0.125))
    text = table_markdown(Table(table="cross-architecture", rows=(shown,))).replace("\\", "")
    head, _, first, second = [line for line in text.splitlines() if line.startswith("|")]
    assert head.endswith("| convnet | mlp |")
    assert first.endswith("| 50.0 [50.5] | 12.5 |")
    assert second.endswith("| random, for dm | 25.0 | – |")


def test_fair_scores_come_from_the_cells():
    whole = ProtocolAccuracies(accuracies=((0.9,),))
    of = row(cell("hard labels", 0.6), cell("own", 0.7, 0.5), cell("own, no augmentation", 0.65, 0.5))
    found = dd_ranking_scores(of, whole)
    assert found.recovery == pytest.approx(0.3)
    assert found.improvement == pytest.approx(0.2)
    assert found.lrs == pytest.approx(label_robust_score(0.3, 0.2))
    assert 0 < found.ars < 1
    assert dd_ranking_scores(of, None).lrs is None
    assert dd_ranking_scores(row(cell("own", 0.7)), whole).improvement is None
    assert "0.300" in table_markdown(Table(table="fair-scores", rows=(of,), whole=whole)).replace("\\", "")


def test_the_page_needs_nothing_else_and_shows_no_markup_of_others():
    shown = row(cell("hard labels", 0.5, 0.25, published=70.7), note="<b>note</b>")
    table = Table(table="survey-1", rows=(shown,), machine={"torch": "<x>"})
    page = table_html("a <title>", table, {"dm<1>": distilled()})
    assert page.count("<svg") == 1
    assert "data:image/png;base64," in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for bad in ("<b>note", "a <title>", "dm<1>", "<x>", "<data>", "<script"):
        assert bad not in page


@pytest.mark.parametrize("content", [b"", b"{}", b'{"table": "x", "rows": [{"ipc": "1"}]}', b"\xff"])
def test_a_file_that_holds_no_table_is_refused(tmp_path, content):
    (tmp_path / "table.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="must hold a table"):
        read_table(tmp_path / "table.json")


def test_units_of_other_versions_and_kinds_and_data_are_refused():
    real, _ = dd.load_pair("digits")
    task = UnitFactory(data={"data": "digits"}, fingerprint=real.fingerprint)
    entry = TableEntry("random", Random(ipc=1), "convnet", {"width": 4})
    compute = compute_in(WorkerContext())
    good = task.distil(entry, 0)
    assert compute(good, {}) == compute(good, {})
    for change, message in (
        ({"versions": {"torch": "0.1"}}, "versions must be those of this worker"),
        ({"fingerprint": "0" * 64}, "fingerprint must be that of the loaded data"),
        ({"recipe": "dmm"}, "recipe must be among"),
        ({"parameters": {"ipc": "one"}}, "parameters must fit random"),
        ({"parameters": {"lr": 1}}, "parameters must be those of random"),
    ):
        with pytest.raises(ValueError, match=message):
            compute(Unit("distil", {**good.config, **change}, good.key), {})
    with pytest.raises(ValueError, match="kind must be among"):
        compute(Unit("guess", good.config, good.key), {})


def test_networks_on_all_of_the_data(tmp_path):
    words = ("--whole-epochs", "1", "--repeats", "1", "--baselines", "random")
    assert bench(tmp_path, *words, table="fair-scores") == 0
    told = json.loads((tmp_path / "table.json").read_text())
    ((whole,),) = told["whole"]["accuracies"]
    assert 0.05 < whole <= 1
    assert "All of" in (tmp_path / "table.md").read_text() or "all of" in (tmp_path / "table.md").read_text()
