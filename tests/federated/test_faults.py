"""Clients that fail, are silent, slow, late or poor, weights that diverge, and states that are damaged."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from federation import CLIENTS, QUICK, TASK, TRAIN, load, participant, run, strategy, told, vector
from flwr.app import ArrayRecord, MetricRecord
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from ddsdk.foundation.errors import ArtifactError, ResumeError
from ddsdk.running import previous_checkpoint, read_checkpoint, read_config, write_checkpoint
from ddsdk_integrations.federated import InProcessGrid, SetStrategy, TrainOnPool, UpdateEncoding, fed_dm, fed_synth

AVERAGING = {"fraction_evaluate": 0.0, "min_available_nodes": 1, "min_train_nodes": 1}


def test_a_state_of_something_else_is_refused(tmp_path):
    grid = InProcessGrid(participant().app(), CLIENTS)
    strategy(folder=tmp_path).start(grid, TASK.initial_arrays(), 1)
    with pytest.raises(ResumeError, match="has another ask; name a new folder"):
        strategy(folder=tmp_path, radius=2.0).start(grid, TASK.initial_arrays(), 2)
    other = TrainOnPool(protocol=QUICK, radius=0.5)
    with pytest.raises(ResumeError, match="has another seed and learn; name a new folder"):
        SetStrategy(TASK, ask=strategy().ask, learn=other, seed=77, folder=tmp_path).start(
            grid, TASK.initial_arrays(), 2
        )


STATE = "federation.safetensors"
DAMAGES = {
    "junk": lambda path: path.write_bytes(b"junk"),
    "a flipped bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "another format": lambda path: write_checkpoint(path, {"format": 99}, {}),
    "settings that are no object": lambda path: write_checkpoint(path, {"format": 2, "about": 4}, {}),
    "less": lambda path: write_checkpoint(path, read_config(path), {"round": 1}),
    "an older version": lambda path: path.rename(path.with_name("federation.json")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_refused(damage, tmp_path):
    grid = InProcessGrid(participant().app(), CLIENTS)
    strategy(folder=tmp_path).start(grid, TASK.initial_arrays(), 1)
    DAMAGES[damage](tmp_path / STATE)
    previous_checkpoint(tmp_path / STATE).unlink(missing_ok=True)
    with pytest.raises((ArtifactError, ResumeError)):
        strategy(folder=tmp_path).start(grid, TASK.initial_arrays(), 2)


def test_the_round_before_a_damaged_one_is_gone_on_with(tmp_path, caplog):
    caplog.set_level(logging.INFO, "ddsdk")
    whole, again = strategy(remember=2), strategy(remember=2, folder=tmp_path)
    run(again, rounds=2)
    DAMAGES["a flipped bit"](tmp_path / STATE)
    again = strategy(remember=2, folder=tmp_path)
    assert torch.equal(run(whole, rounds=3), run(again, rounds=3))
    assert "going on with the checkpoint before it" in caplog.text
    assert [report.round_number for report in again.reports] == [1, 2, 3]


class Deadly(ClientApp):
    """Takes the server with it in the second round."""

    def __init__(self):
        super().__init__()
        self._honest = participant().app()

    def __call__(self, message, context):
        if message.content["config"].get("server-round") == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._honest(message, context)


def serve_until_killed(moment, folder):
    """Run in a process of its own, which dies while the second round is served, or half saved."""
    apps, replace = [participant().app()] * CLIENTS, os.replace

    def deadly(source, target):
        if Path(target).name == STATE and Path(folder, STATE).with_name("federation.previous.safetensors").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    if moment == "serving":
        apps[-1] = Deadly()
    else:
        os.replace = deadly
    run(strategy(remember=2, folder=folder), apps, rounds=3)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["serving", "saving"])
def test_a_server_that_was_killed_goes_on_with_the_same_bits(moment, tmp_path):
    code = f"import test_faults; test_faults.serve_until_killed({moment!r}, {str(tmp_path)!r})"
    child = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    config = read_config(tmp_path / STATE)
    assert read_checkpoint(tmp_path / STATE, config)["round"] == 1
    whole, again = strategy(remember=2), strategy(remember=2, folder=tmp_path)
    assert torch.equal(run(whole, rounds=3), run(again, rounds=3))
    assert told(again) == told(whole)


class Broken(ClientApp):
    """Says what it holds, and then fails, or sleeps."""

    def __init__(self, seconds=None):
        super().__init__()
        self._honest, self._seconds = participant().app(), seconds

    def __call__(self, message, context):
        if message.metadata.message_type == "train.distill":
            if self._seconds is None:
                raise RuntimeError("no power")
            time.sleep(self._seconds)
        return self._honest(message, context)


def alone_with_nine(app):
    """Only the last client holds nines, and it runs `app`."""

    def without_nines(context):
        images, labels = load(context)
        return images[labels != 9], labels[labels != 9]

    return [participant(load=without_nines).app()] * (CLIENTS - 1) + [app]


def test_a_failing_client_costs_its_set_and_the_missing_class_is_named(caplog):
    made = strategy()
    with caplog.at_level(logging.WARNING, "ddsdk.federated"):
        run(made, alone_with_nine(Broken()))
    (report,) = made.reports
    assert (report.taken, report.missing) == (CLIENTS - 1, (TASK.class_names[9],))
    assert "RuntimeError: no power" in report.failed[0][1]
    assert f"no images of the classes {TASK.class_names[9]}, which clients hold" in caplog.text


def test_a_silent_client_does_not_stop_a_round(caplog):
    made = strategy()
    apps = alone_with_nine(participant().app())
    grid = InProcessGrid(apps, CLIENTS)
    silent = list(grid.contexts)[-1]

    def hush(server_round, arrays):
        grid._silent = {silent} if server_round == 1 else set()

    with caplog.at_level(logging.WARNING, "ddsdk.federated"):
        made.start(grid, TASK.initial_arrays(), 2, timeout=8, evaluate_fn=hush)
    assert made.reports[-1].silent == (silent,)
    assert made.reports[-1].missing == (TASK.class_names[9],)
    assert f"nodes {silent} did not answer in time" in caplog.text


def test_a_slow_client_is_left_behind_when_the_round_is_over():
    made = strategy()
    apps = [*[participant().app()] * (CLIENTS - 1), Broken(seconds=3.0)]
    grid = InProcessGrid(apps, CLIENTS)
    result = made.start(grid, TASK.initial_arrays(), 1, timeout=2.5)
    assert made.reports[0].taken == CLIENTS - 1
    assert len(made.reports[0].silent) == 1
    assert torch.isfinite(vector(result.arrays)).all()


def test_a_client_that_is_late_to_say_what_it_holds_takes_part_from_the_next_round_on(caplog):
    made = strategy()
    grid = InProcessGrid(participant().app(), CLIENTS, silent=[2])
    node = list(grid.contexts)[2]

    def speak(server_round, arrays):
        if server_round == 1:
            grid._silent = set()

    with caplog.at_level(logging.WARNING, "ddsdk.federated"):
        made.start(grid, TASK.initial_arrays(), 3, timeout=8, evaluate_fn=speak)
    # It says what it holds beside the second round.
    assert [r.asked for r in made.reports] == [CLIENTS - 1, CLIENTS - 1, CLIENTS]
    assert f"node {node} did not state its class counts" in caplog.text


def test_a_client_that_never_says_what_it_holds_is_asked_three_times():
    made = strategy()
    messages = []

    class Listening(ClientApp):
        def __call__(self, message, context):
            messages.append(message.metadata.message_type)
            raise RuntimeError("no")

    run(made, [*[participant().app()] * (CLIENTS - 1), Listening()], rounds=4)
    assert messages == ["query.stats"] * 3
    assert [r.asked for r in made.reports] == [CLIENTS - 1] * 4


@pytest.mark.parametrize("told", [{"class-counts": [1]}, {"partition-id": 0.5}, {"class-counts": [-1] * 10}, {}])
def test_a_census_of_nonsense_is_not_believed(told):
    class Lying(ClientApp):
        def __call__(self, message, context):
            reply = participant().app()(message, context)
            if "stats" in reply.content:
                reply.content["stats"] = MetricRecord({**reply.content["stats"], **told} if told else {})
            return reply

    made = strategy()
    run(made, [*[participant().app()] * (CLIENTS - 1), Lying()])
    assert made.reports[0].asked == CLIENTS - 1


def test_clients_of_one_class_take_part():
    """As under a strong skew: each client has the images of one class alone."""

    def one_class(context):
        mine = TRAIN.labels == context.node_config["partition-id"]
        return TRAIN.images[mine], TRAIN.labels[mine]

    for make, how in ((fed_dm, {}), (fed_synth, {"encoding": UpdateEncoding(images=4, steps=2)})):
        made = strategy(make)
        run(made, participant(load=one_class, **how).app())
        assert (made.reports[0].taken, made.reports[0].failed) == (CLIENTS, ())
    grid = InProcessGrid(participant(load=one_class).app(), CLIENTS)
    result = FedAvg(**AVERAGING).start(grid, TASK.initial_arrays(), 1)
    assert result.train_metrics_clientapp[1]["steps"] > 0


def test_without_any_set_the_weights_stay(caplog):
    made = strategy()
    with caplog.at_level(logging.WARNING, "ddsdk.federated"):
        found = run(made, Broken())
    assert torch.equal(found, vector(TASK.initial_arrays()))
    assert "no set was taken" in caplog.text
    assert made.reports[0].missing == TASK.class_names
    assert made.reports[0].codec_error is None


def test_weights_that_diverge_are_not_taken(caplog):
    made = strategy(fed_dm, protocol=dataclasses.replace(QUICK, lr=1e6))
    with caplog.at_level(logging.WARNING, "ddsdk.federated"):
        found = run(made)
    assert torch.equal(found, vector(TASK.initial_arrays()))
    assert "training diverged, the weights stay as they are" in caplog.text


def test_weights_of_another_network_are_an_error():
    with pytest.raises(RuntimeError, match="Missing key"):
        TASK.loaded(ArrayRecord({"weight": torch.zeros(1)}))
