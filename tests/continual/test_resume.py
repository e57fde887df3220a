"""Killed in the middle of a stream, and gone on with: the same bits as without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from avalanche.training.plugins import ReplayPlugin
from streams import naive, network, stream

import ddsdk as dd
from ddsdk.foundation.errors import ResumeError
from ddsdk_integrations.continual import DistilledBuffer, Distiller, LowRank, Streaming, resume_run, save_run

EXPERIENCES = [[0, 1], [2, 3], [4, 5], [0, 3]]


def setting(*, streaming=None, size=12, codec=None, classes=6):
    recipe = dd.DM(steps=2, real_batch=8, augmentation="")
    buffer = DistilledBuffer(
        size, Distiller(recipe, network="mlp", network_options={}), merge=True, streaming=streaming, codec=codec
    )
    net = network(classes)
    return naive(net, [ReplayPlugin(size, storage_policy=buffer)]), buffer


def learnt(strategy, experiences):
    for experience in experiences:
        strategy.train(experience)


def state_of(strategy, buffer):
    weights = [tensor.clone() for tensor in strategy.model.state_dict().values()]
    return weights, [part.images() for part in buffer.parts], buffer.waiting


STREAMINGS = {"experiences": None, "pieces": Streaming(every=3, room=30)}


@pytest.mark.parametrize("codec", [None, LowRank(2)], ids=["bytes", "low rank"])
@pytest.mark.parametrize("streaming", STREAMINGS.values(), ids=STREAMINGS)
def test_a_run_goes_on_bit_for_bit(tmp_path, streaming, codec):
    pieces = list(stream(*EXPERIENCES).train_stream)
    torch.manual_seed(5)
    whole, kept = setting(streaming=streaming, codec=codec)
    learnt(whole, pieces)

    torch.manual_seed(5)
    first, buffer = setting(streaming=streaming, codec=codec)
    learnt(first, pieces[:2])
    save_run(tmp_path / "run.safetensors", first, buffer, pieces=2)

    torch.manual_seed(99)
    second, other = setting(streaming=streaming, codec=codec)
    done = resume_run(tmp_path / "run.safetensors", second, other)
    assert done == 2 and other.calls == buffer.calls
    learnt(second, pieces[done:])
    for a, b in zip(state_of(whole, kept), state_of(second, other), strict=True):
        assert (
            torch.equal(torch.cat([t.flatten() for t in a]), torch.cat([t.flatten() for t in b]))
            if isinstance(a, list)
            else a == b
        )
    assert second.clock.train_exp_counter == whole.clock.train_exp_counter == 4


def test_the_file_is_data_and_small(tmp_path):
    strategy, buffer = setting()
    learnt(strategy, list(stream([0, 1]).train_stream))
    save_run(tmp_path / "run.safetensors", strategy, buffer, pieces=1)
    raw = (tmp_path / "run.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert "__metadata__" in header
    assert len(raw) < 60_000


def test_a_run_of_something_else_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "run.safetensors"
    strategy, buffer = setting()
    learnt(strategy, list(stream([0, 1]).train_stream))
    save_run(path, strategy, buffer, pieces=1)

    wide, empty = setting(classes=7)
    before = state_of(wide, empty)[0]
    with pytest.raises(ResumeError, match=r"belongs to another network: 1\.bias, 1\.weight differ"):
        resume_run(path, wide, empty)
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(wide, empty)[0], strict=True))

    same, other = setting(codec=LowRank(1))
    with pytest.raises(ResumeError, match="the buffer was made with other settings: codec was"):
        resume_run(path, same, other)
    assert len(other.buffer) == 0

    with pytest.raises(ResumeError):
        resume_run(tmp_path / "none.safetensors", same, other)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ResumeError):
        resume_run(tmp_path / "cut", *setting())


KILLED = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path[:0] = {paths!r}
import torch
from test_resume import EXPERIENCES, learnt, setting, state_of
from streams import stream
from ddsdk_integrations.continual import Streaming, resume_run, save_run
from pathlib import Path

torch.set_num_threads(1)
torch.manual_seed(7)
path = Path({path!r})
strategy, buffer = setting(streaming=Streaming(every=3, room=30))
pieces = list(stream(*EXPERIENCES).train_stream)
done = resume_run(path, strategy, buffer) if path.exists() else 0
for i in range(done, len(pieces)):
    strategy.train(pieces[i])
    save_run(path, strategy, buffer, pieces=i + 1)
    if {kill} and i == 1:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
buffer.flush()
import hashlib
weights, images, _ = state_of(strategy, buffer)
print(hashlib.sha256(b"".join(t.numpy().tobytes() for t in weights + images)).hexdigest())
"""


def run_script(path, kill):
    code = KILLED.format(paths=[str(Path(__file__).parent)], path=str(path), kill=kill)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.slow
def test_a_killed_process_costs_nothing_that_was_saved(tmp_path):
    whole = run_script(tmp_path / "whole", kill=False)
    assert whole.returncode == 0, whole.stderr
    killed = run_script(tmp_path / "killed", kill=True)
    assert killed.returncode == -9
    again = run_script(tmp_path / "killed", kill=False)
    assert again.returncode == 0, again.stderr
    assert again.stdout == whole.stdout
