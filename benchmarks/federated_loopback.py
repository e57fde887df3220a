"""Attacked federations as real processes on this machine: a SuperLink and one SuperNode for each client, with TLS."""

from __future__ import annotations

import dataclasses
import json
import runpy
import tempfile
import time
from pathlib import Path

from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from safetensors.torch import load_file, save_file

from benchmarks.attacked_federation import AttackedFederation, ExperimentConfig
from ddsdk.data import Preprocess
from ddsdk_integrations.federated import FederatedTask, RoundReport

_ROOT = Path(__file__).parents[1]
_EXAMPLES = _ROOT / "examples"
_SETTINGS, _DATA, _WEIGHTS, _REPORTS = "settings.json", "data.safetensors", "weights.safetensors", "reports.json"
# The timeout of a silent client is short, because a quarter of it is waited for in each of two rounds.
_TIMEOUT, _SILENT_TIMEOUT = 1200.0, 480.0
_APP = """from benchmarks.federated_loopback import client_app, server_app

__all__ = ["client_app", "server_app"]
"""


def deployed(federation: AttackedFederation) -> tuple[ArrayRecord, list[RoundReport], frozenset[int]]:
    """Return the final weights, the reports of the rounds and the nodes of the attackers of a deployment.

    Start-up, TLS, keys of the nodes and the switches for telemetry are those of ``examples/federated_deployment.py``.

    Args:
        federation: Federation whose clients run in one SuperNode each.
    """
    example = runpy.run_path(str(_EXAMPLES / "federated_deployment.py"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared, app = folder / "shared", folder / "source"
        shared.mkdir()
        _write(federation, shared)
        app.mkdir()
        project = (example["APP"] / "pyproject.toml").read_text(encoding="utf-8")
        (app / "pyproject.toml").write_text(project.replace("federated_digits", "attacked"), encoding="utf-8")
        (app / "LICENSE").write_bytes((example["APP"] / "LICENSE").read_bytes())
        (app / "attacked.py").write_text(_APP, encoding="utf-8")
        example["run"](
            folder,
            app,
            federation.clients,
            f'out="{shared}"',
            paths=(_ROOT, _ROOT / "integrations"),
            seconds=3 * _TIMEOUT,
        )
        found = json.loads((shared / _REPORTS).read_text(encoding="utf-8"))
        weights = ArrayRecord(load_file(shared / _WEIGHTS))
    reports = [RoundReport.from_json(report) for report in found["reports"]]
    attackers = frozenset(node for node, i in found["partitions"] if i < federation.attack.attackers)
    return weights, reports, attackers


def _write(federation: AttackedFederation, folder: Path) -> None:
    """Write what each process needs: settings, images and class ids."""
    task = federation.task
    settings = {
        "method": federation.method,
        "seed": federation.seed,
        "config": dataclasses.asdict(federation.config),
        "task": {
            "class_names": task.class_names,
            "image_shape": task.image_shape,
            "pictures": task.pictures,
            "mirror_safe": task.mirror_safe,
            "network": task.network,
            "network_options": dict(task.network_options),
        },
        "mean": task.preprocess.mean,
        "std": task.preprocess.std,
    }
    (folder / _SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    save_file({"images": federation.images.contiguous(), "labels": federation.labels}, folder / _DATA)


def _read(context: Context) -> tuple[AttackedFederation, Path]:
    """Return the federation of a run, and the folder that its processes share."""
    folder = Path(str(context.run_config["out"]))
    settings, data = json.loads((folder / _SETTINGS).read_text(encoding="utf-8")), load_file(folder / _DATA)
    task = settings["task"]
    task |= {name: tuple(task[name]) for name in ("class_names", "image_shape")}
    preprocess = Preprocess.normalise(settings["mean"], settings["std"])
    federation = AttackedFederation(
        method=settings["method"],
        seed=settings["seed"],
        config=ExperimentConfig(**settings["config"]),
        task=FederatedTask(preprocess=preprocess, **task),
        **data,
    )
    return federation, folder


class _Client(ClientApp):
    """Client app of the federation of a run, by the partition of the node."""

    def __call__(self, message: Message, context: Context) -> Message:
        federation, folder = _read(context)
        partition = int(context.node_config["partition-id"])
        silent = federation.attack.silent and partition < federation.attack.attackers
        if silent and message.metadata.message_type.startswith("train"):
            until = time.monotonic() + 3 * _SILENT_TIMEOUT
            while time.monotonic() < until and not (folder / _REPORTS).exists():
                time.sleep(1.0)
            raise RuntimeError("a silent client has no answer")
        return federation.app(partition)(message, context)


client_app = _Client()
server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds, and write the final weights and the reports.

    Args:
        grid: Grid of Flower with the connected nodes.
        context: Context of Flower with the folder of the run.
    """
    federation, folder = _read(context)
    strategy = federation.strategy(min_available_nodes=federation.clients)
    timeout = _SILENT_TIMEOUT if federation.attack.silent else _TIMEOUT
    weights = federation.task.initial_arrays(federation.seed)
    result = strategy.start(grid, weights, federation.config.rounds, timeout=timeout)
    save_file(result.arrays.to_torch_state_dict(), folder / _WEIGHTS)
    found = {
        "reports": [report.to_json() for report in strategy.reports],
        "partitions": list(strategy.partitions.items()),
    }
    (folder / _REPORTS).write_text(json.dumps(found), encoding="utf-8")
