"""The privacy counter under threads, forks, re-entry, copies and older files: what is released is what was entered."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import pickle
import sys
import threading

import pytest
from private_records import flat, mechanism, records, sealed

from ddsdk.artefact import NoisedRelease
from ddsdk_integrations.privacy import budget as budget_module
from ddsdk_integrations.privacy.budget import Budget, BudgetSpentError, Ledger
from ddsdk_integrations.privacy.refusals import PrivacyError

BUDGET = Budget(epsilon=10, delta=1e-5)


def entry(count=1, what="sums", noise=1e5):
    """Full samples, whose epsilon has a closed form: a thousand of them cost next to nothing and no time."""
    return NoisedRelease(what=what, clip=1.0, noise_multiplier=noise, sample_rate=1.0, count=count)


def in_threads(work, threads=4):
    """Run a function in threads that change places as often as Python lets them, and return the errors."""
    errors, barrier, interval = [], threading.Barrier(threads), sys.getswitchinterval()

    def run():
        barrier.wait()
        try:
            work()
        except Exception as error:
            errors.append(error)

    sys.setswitchinterval(1e-6)
    try:
        started = [threading.Thread(target=run) for _ in range(threads)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    return errors


def in_fork(work):
    """Return the exit status of a fork that runs a function: 0, or 3 for a PrivacyError, or 4 for another error."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except PrivacyError:
            os._exit(3)
        except BaseException:
            os._exit(4)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def entered(ledger):
    return sum(release.count for release in ledger.releases)


@pytest.mark.parametrize("kind", ["memory", "file", pytest.param("long", marks=pytest.mark.slow)])
def test_reservations_of_four_threads_all_count(kind, tmp_path):
    each = 20 if kind == "file" else 200
    path = None if kind == "memory" else tmp_path / "ledger.json"
    ledger = Ledger(BUDGET, path)

    def work():
        # Every thread has an own ledger on the file and shares one in memory.
        mine = ledger if path is None else Ledger(BUDGET, path)
        for _ in range(each):
            mine.reserve(entry())

    assert in_threads(work) == []
    assert entered(ledger) == 4 * each
    assert len(ledger.releases) == 1


def test_threads_together_do_not_exceed_a_budget():
    budget = Budget(epsilon=1, delta=1e-5)
    noise = Ledger(budget).noise_for(sample_rate=1.0, releases=30)
    ledger = Ledger(budget)
    errors = in_threads(lambda: [ledger.reserve(entry(noise=noise)) for _ in range(30)])
    assert {type(error) for error in errors} == {BudgetSpentError}
    assert entered(ledger) == 30
    assert ledger.epsilon <= 1


@pytest.mark.parametrize("each", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_reservations_of_four_processes_all_count(each, tmp_path):
    """Forks of one ledger and of one another, with a thread of the parent that enters in the meantime."""
    ledger = Ledger(BUDGET, tmp_path / "ledger.json")
    ledger.reserve(entry())

    def work():
        for _ in range(each):
            ledger.reserve(entry())

    def family():
        child = os.fork()
        work()
        if child and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise RuntimeError("a grandchild failed")

    def forked():
        assert in_fork(family) == 0

    busy = threading.Thread(target=work)
    busy.start()
    forked()
    work()
    busy.join()
    assert entered(ledger) == 1 + 4 * each
    assert entered(Ledger(BUDGET, tmp_path / "ledger.json")) == 1 + 4 * each


def test_a_ledger_in_memory_is_refused_in_a_fork_that_it_cannot_count():
    ledger = Ledger(BUDGET)
    for work in (lambda: ledger.reserve(entry()), lambda: ledger.epsilon, lambda: ledger.assume("x")):
        assert in_fork(work) == 3
    ledger.reserve(entry())
    assert entered(ledger) == 1


def test_an_entry_during_an_entry_is_refused(monkeypatch, tmp_path):
    """As from a signal handler, between the cost and the count."""
    real = budget_module.epsilon_of
    for path in (None, tmp_path / "ledger.json"):
        ledger = Ledger(BUDGET, path)

        def nested(*args, ledger=ledger):
            assert entered(ledger) == 0  # reading is allowed
            with pytest.raises(PrivacyError, match="a ledger must not be changed during a change"):
                ledger.reserve(entry())
            return real(*args)

        monkeypatch.setattr(budget_module, "epsilon_of", nested)
        ledger.reserve(entry())
        monkeypatch.setattr(budget_module, "epsilon_of", real)
        assert entered(ledger) == 1
        ledger.reserve(entry())
        assert entered(ledger) == 2


def test_a_cost_that_is_no_number_is_refused(monkeypatch):
    ledger = Ledger(BUDGET)
    monkeypatch.setattr(budget_module, "epsilon_of", lambda *_: float("nan"))
    with pytest.raises(BudgetSpentError, match="would bring epsilon to nan"):
        ledger.reserve(entry())
    assert ledger.releases == ()


@pytest.mark.parametrize("paid", [1, 7])
def test_threads_make_each_paid_release_once(paid):
    made, found = mechanism(releases=paid, sample_rate=1.0), []

    def work():
        for _ in range(paid):
            found.append(made.noised_sum(flat, 64))

    errors = in_threads(work)
    assert len(found) == paid
    assert {type(error) for error in errors} == {BudgetSpentError}
    assert made.left == 0


def test_rows_that_call_the_mechanism_again_get_no_further_release():
    made, found = mechanism(sample_rate=1.0), []

    def again(batch):
        with contextlib.suppress(BudgetSpentError):
            found.append(made.noised_sum(flat, 64))
        return flat(batch)

    with pytest.raises(BudgetSpentError, match="all 1 releases of flat are made"):
        found.append(made.noised_sum(again, 64))
    assert len(found) == 1
    on_records = mechanism(sample_rate=1.0)

    def in_the_release(batch):
        if len(batch.x) == 40:  # the records, and not the noise images before them
            with pytest.raises(BudgetSpentError):
                on_records.noised_sum(flat, 64)
        return flat(batch)

    assert on_records.noised_sum(in_the_release, 64).shape == (64,)


def test_a_fork_makes_no_release_that_its_parent_paid_for():
    made = mechanism(sample_rate=1.0)
    assert [in_fork(lambda: made.noised_sum(flat, 64)) for _ in range(2)] == [3, 3]
    made.noised_sum(flat, 64)
    with pytest.raises(BudgetSpentError):
        made.noised_sum(flat, 64)


def test_counts_and_limits_cannot_be_set():
    private = sealed()
    made = private.mechanism("flat", releases=1, sample_rate=1.0, noise_multiplier=1.0)
    for owner, name, value in (
        (made, "left", 5),
        (made, "release", entry(5)),
        (private, "ledger", Ledger(BUDGET)),
        (private, "class_sizes", (1, 1, 1)),
        (private.ledger, "budget", BUDGET),
        (private.ledger, "releases", ()),
    ):
        with pytest.raises(AttributeError):
            setattr(owner, name, value)
    with pytest.raises(TypeError, match="releases must be NoisedRelease, got str"):
        private.ledger.reserve("flat")


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])  # noqa: S301
def test_a_copy_of_a_ledger_is_the_same_count_or_none(how, tmp_path):
    with pytest.raises(PrivacyError, match="a ledger in memory must not be copied or stored"):
        how(Ledger(BUDGET))
    ledger = Ledger(BUDGET, tmp_path / "ledger.json")
    how(ledger).reserve(entry(3))
    assert entered(ledger) == 3
    with pytest.raises(PrivacyError, match="a ledger in memory must not be copied or stored"):
        copy.deepcopy(sealed(records()))


def test_an_older_file_does_not_lower_the_count_of_a_living_process(tmp_path, caplog):
    path = tmp_path / "ledger.json"
    ledger = Ledger(BUDGET, path)
    ledger.reserve(entry(3, noise=2.0))
    older, low = path.read_bytes(), ledger.epsilon
    ledger.reserve(entry(4, noise=2.0), entry(2, "others", noise=3.0))
    high = ledger.epsilon
    assert high > 1.2 * low
    with caplog.at_level(logging.INFO, "ddsdk"):
        path.write_bytes(older)
        assert (ledger.epsilon, ledger.epsilon) == (high, high)
        assert caplog.text.count("an older file was put back, or the file was removed; the larger count is kept") == 1
        # What another process enters after the fall adds to all that was there before it.
        Ledger(BUDGET, path).reserve(entry(5, noise=2.0))
        assert [(r.what, r.count) for r in ledger.releases] == [("sums", 12), ("others", 2)]
        ledger.assume("repaired")
        assert [(r.what, r.count) for r in Ledger(BUDGET, path).releases] == [("sums", 12), ("others", 2)]
        path.unlink()
        assert entered(ledger) == 14
        ledger.reserve(entry(1, noise=2.0))
        assert entered(Ledger(BUDGET, path)) == 15
        assert caplog.text.count("the larger count is kept") == 2


def test_files_of_before_the_counts_of_owners_and_files_with_a_kind_twice_are_summed(tmp_path):
    path = tmp_path / "ledger.json"
    one = {"what": "sums", "clip": 1.0, "noise_multiplier": 5.0, "sample_rate": 1.0, "count": 2}
    terms = {"epsilon": 10, "delta": 1e-5, "accountant": "rdp"}
    path.write_text(json.dumps({"budget": terms, "releases": [one, one], "assumptions": ["x"]}))
    ledger = Ledger(BUDGET, path)
    assert (entered(ledger), ledger.assumptions) == (4, ("x",))
    ledger.reserve(entry(1, noise=5.0))
    assert entered(ledger) == entered(Ledger(BUDGET, path)) == 5


def test_a_ledger_that_cannot_be_kept_is_refused_when_it_is_opened(tmp_path):
    with pytest.raises(ValueError, match=r"path must lie in an existing folder: make it first, got '.*missing'"):
        Ledger(BUDGET, tmp_path / "missing" / "ledger.json")
    with pytest.raises(ValueError, match="path must be a file"):
        Ledger(BUDGET, tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="path must be a file, got 'pipe'"):
        Ledger(BUDGET, tmp_path / "pipe")
    left = [tmp_path / f".ddsdk-{digit * 16}.tmp" for digit in "ab"]
    for file in left:
        file.touch()
    os.utime(left[0], (0, 0))
    assert Ledger(BUDGET, tmp_path / "new.json").releases == ()
    # A killed writer's file is swept, and that of a living one is not.
    assert [file.exists() for file in left] == [False, True]
    assert (tmp_path / "new.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"releases": [{"count": 10**400}]}, "count must be at most"),
        ({"releases": [{"count": -3}]}, "count must be at least 1"),
        ({"releases": [{"noise_multiplier": 1e-155}]}, "noise_multiplier must lie in 1e-12"),
        ({"releases": [{"sample_rate": 1e-300}]}, "sample_rate must be at least 1e-12"),
        ({"releases": [{"more": 1}]}, "path must hold a ledger"),
        ({"assumptions": ["a\nb"]}, "assumption must be one line"),
        ({"budget": {"epsilon": 10, "delta": 1e-5, "accountant": "\x1b[2J"}}, r"budget must be that of the ledger"),
    ],
)
def test_damaged_and_hostile_ledgers_are_refused(change, message, tmp_path):
    one = {"what": "sums", "clip": 1.0, "noise_multiplier": 5.0, "sample_rate": 1.0, "count": 2}
    releases = [{**one, **release} for release in change.pop("releases", [{}])]
    content = {"budget": {"epsilon": 10, "delta": 1e-5, "accountant": "rdp"}, "releases": releases, **change}
    (tmp_path / "ledger.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        Ledger(BUDGET, tmp_path / "ledger.json")
    assert "\x1b" not in str(caught.value)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="path must hold a ledger"):
        Ledger(BUDGET, tmp_path / "deep.json")
