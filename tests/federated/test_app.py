"""One app three ways: in this process, in Flower's simulation, and as real processes with TLS and signed nodes."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict

from ddsdk_integrations.federated import InProcessGrid

EXAMPLES = Path(__file__).parents[2] / "examples"
APP = EXAMPLES / "federated_app"
SIMULATE = """
import sys
sys.path.insert(0, {app!r})
from federated_digits import client_app, server_app
from flwr.simulation import run_simulation
run_simulation(server_app, client_app, num_supernodes=3, backend_config={{"client_resources": {{"num_cpus": 1}}}})
"""
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}
LINE = re.compile(r"^(?:round \d+: accuracy|the (?:server|clients) count).*$", re.M)


@pytest.fixture(scope="module")
def here():
    """What the app prints in this process: four lines."""
    import contextlib
    import io

    import torch

    torch.set_num_threads(1)
    app = runpy.run_path(str(APP / "federated_digits.py"))
    context = Context(1, 1, {}, RecordDict(), {})
    with contextlib.redirect_stdout(io.StringIO()) as out:
        app["main"](InProcessGrid(app["client_app"], 3), context)
    return LINE.findall(out.getvalue())


def test_the_app_learns_and_both_ends_agree(here):
    accuracies = [float(line.split()[-1]) for line in here[:3]]
    assert accuracies[0] < 0.3 < accuracies[-1]
    server, clients = (re.findall(r"\d+", line) for line in here[3:])
    assert server == clients


@pytest.mark.slow
@pytest.mark.timeout(590)
def test_the_simulation_gives_the_same_numbers(here, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    for name, value in {**QUIET, "FLWR_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(
        [sys.executable, "-c", SIMULATE.format(app=str(APP))], capture_output=True, text=True, timeout=560
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert LINE.findall(done.stdout) == here


@pytest.mark.slow
@pytest.mark.timeout(590)
def test_real_processes_with_tls_and_signed_nodes_give_the_same_numbers(here, tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "federated_deployment.py"), "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert LINE.findall(done.stdout) == here
    assert '"status": "finished:completed"' in done.stdout
    # Flower's own counter sees what we count, and its envelopes.
    up, down = map(int, re.findall(r"\d+", here[3]))
    inbound, outbound = (int(re.search(rf'"{name}-bytes": (\d+)', done.stdout)[1]) for name in ("inbound", "outbound"))
    assert 1 < inbound / up < 3
    assert 1 < outbound / down < 3
    assert (tmp_path / "out" / "federation.safetensors").exists()
