"""Units as tasks of a Ray cluster: the same files as without it, and what a lost machine costs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest
from quick_units import calls

pytestmark = pytest.mark.slow

pytest.importorskip("ray")

LOST_NODE = """
import os, sys, threading, time
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="ab" * 32)
import ray
from ray.cluster_utils import Cluster
from quick_units import calls, compute, echo
from ddsdk.experiments.executors import RayTasks
from ddsdk.foundation.store import Store

folder, log, gate = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
lost = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
units = [echo(f"held{i}", log=log, wait_for=gate) for i in range(2)]
units += [echo(f"u{i}", log=log) for i in range(2)]

def lose():
    while not os.path.exists(log) or len(calls(log)) < 2:
        time.sleep(0.1)
    cluster.remove_node(lost, allow_graceful=False)
    time.sleep(2)
    open(gate, "w").close()

threading.Thread(target=lose).start()
for done in RayTasks(cluster.address).run(Store(folder), units, compute):
    assert done.failure is None, done
    print("done", done.unit.config["name"], flush=True)
ray.shutdown()
cluster.shutdown()
"""

LOCAL = """
import os, sys
from pathlib import Path

# What `ray start` leaves behind.
os.mkdir(os.environ["RAY_TMPDIR"] + "/ray")
Path(os.environ["RAY_TMPDIR"], "ray", "ray_current_cluster").write_text("127.0.0.1:1")

from quick_units import compute, echo
from ddsdk.experiments.executors import InProcess, RayTasks
from ddsdk.foundation.store import Store

def files(store):
    return {p.name: p.read_bytes() for p in (store.folder / "results").iterdir()}

first = echo("a")
units = [first, echo("b", first), echo("bad", fail=True), echo("after bad", echo("bad", fail=True))]
stores = [Store(Path(sys.argv[1]) / name) for name in ("here", "ray")]
found = []
for store, executor in zip(stores, (InProcess(), RayTasks(cpus=2)), strict=True):
    found.append({d.unit.config["name"]: d.failure for d in executor.run(store, units, compute)})
assert found[0] == found[1], found
assert files(stores[0]) == files(stores[1]) and len(files(stores[0])) == 2
import ray
assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"], ray.nodes()
assert os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) == 64
print("same")
"""

IMPORTED_BEFORE = """
import sys
import ray
from quick_units import compute, echo
from ddsdk.experiments.executors import RayTasks
from ddsdk.foundation.store import Store

def names():
    return [d.unit.config["name"] for d in RayTasks(cpus=1).run(Store(sys.argv[1]), [echo("a")], compute)]

try:
    names()
except ValueError as error:
    assert "RAY_AUTH_MODE=token" in str(error), error
else:
    raise AssertionError("an open cluster")
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
assert names() == ["a"]
print("refused once")
"""


def run(tmp_path, script, *args):
    path = tmp_path / "script.py"
    path.write_text(script)
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    # A folder of its own, for others join the cluster that was started last; with a short name, for sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        env["RAY_TMPDIR"] = folder
        done = subprocess.run(
            [sys.executable, str(path), *map(str, args)], env=env, capture_output=True, text=True, timeout=300
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_ray_gives_the_same_files_and_failures(tmp_path):
    assert "same" in run(tmp_path, LOCAL, tmp_path)


def test_ray_imported_before_without_a_token_is_refused_and_one_that_runs_is_used(tmp_path):
    assert "refused once" in run(tmp_path, IMPORTED_BEFORE, tmp_path / "store")


def test_a_lost_machine_costs_what_it_held(tmp_path):
    log = tmp_path / "log"
    out = run(tmp_path, LOST_NODE, tmp_path / "store", log, tmp_path / "gate")
    assert {f"done {name}" for name in ("held0", "held1", "u0", "u1")} <= set(out.splitlines())
    counts = sorted(calls(log).count(name) for name in ("held0", "held1"))
    assert counts == [1, 2]
    assert [calls(log).count(name) for name in ("u0", "u1")] == [1, 1]
