"""Units that cost nothing but time, for tests of those who compute them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from ddsdk.foundation.files import canonical_json
from ddsdk.foundation.unit import Unit


def echo(name, *needs, seconds=0.0, **config):
    return Unit("echo", {"name": name, "seconds": seconds, **config}, (0,), tuple(u.id for u in needs))


def compute(unit, inputs):
    """Return the name of a unit with those that it needs; note each call beside the store."""
    config = unit.config
    if "log" in config:
        with Path(config["log"]).open("a") as file:
            file.write(f"{config['name']} {os.getpid()}\n")
    if "wait_for" in config:
        while not Path(config["wait_for"]).exists():
            time.sleep(0.02)
    time.sleep(config["seconds"])
    if config.get("fail"):
        raise ValueError(f"{config['name']} must not be")
    if config.get("missing"):
        raise FileNotFoundError("no data here")
    if config.get("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    return canonical_json({"name": config["name"], "of": [inputs[need].decode() for need in unit.needs]})


def calls(log):
    return [line.split()[0] for line in Path(log).read_text().splitlines()]
