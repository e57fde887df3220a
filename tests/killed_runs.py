"""Kill `ddsdk distill` again and again. Run as a program with a folder and a recipe; prints what happened as JSON.

One process imports everything once and forks for each attempt: a child that starts in milliseconds can be
killed at moments that are spread over start, steps and the final save.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.foundation.errors import ResumeError
from ddsdk.running.checkpoint import has_checkpoint, read_checkpoint, read_config
from ddsdk.running.job import CHECKPOINT

STEPS = 60
# DM has no memory from one step to the next; the students of DC have one.
RECIPES = {
    "dm": ["--steps", str(STEPS)],
    "dc": ["--students", str(STEPS // 10), "--steps-per-student", "10", "--student-epochs", "1"],
}
KILLS = {"dm": {"start": 4, "steps": 8, "end": 8}, "dc": {"start": 1, "steps": 8, "end": 2}}
RECIPE = sys.argv[2] if __name__ == "__main__" else "dm"
ARGS = ["distill", "--data", "digits", "--recipe", RECIPE, *RECIPES[RECIPE], "--ipc", "1"]
ARGS += ["--real-batch", "16", "--width", "4", "--depth", "1", "--threads", "1", "--checkpoint-seconds", "0"]


def spawn(out: Path, log: Path, *more: str) -> int:
    """Run the command line in a fork; return the process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        args = [*ARGS, "--out", str(out), *more]
        sys.argv = ["ddsdk", *args]
        code = main(args)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def reap(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def progress(out: Path) -> int:
    """Open what the folder holds, with every check; return the step that it has reached."""
    if (out / "manifest.json").exists():
        dd.Distilled.load(out)
    path = out / CHECKPOINT
    if not has_checkpoint(path):
        return STEPS if (out / "manifest.json").exists() else 0
    return int(read_checkpoint(path, read_config(path))["distillation"]["index"])


def wait_for_step(out: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            try:
                if (out / CHECKPOINT).exists() and progress(out) >= step:
                    return
            except ResumeError:
                # Gone since we looked: the run has just ended.
                if (out / CHECKPOINT).exists():
                    raise
            if (out / "manifest.json").exists():
                return
        time.sleep(0.002)
    raise TimeoutError(f"step {step} was not reached")


def straight(folder: Path) -> tuple[str, float, float]:
    """Run without a kill; return the content id, seconds before the first step, and seconds of the final save."""
    out, began = folder / "straight", time.monotonic()
    pid = spawn(out, folder / "straight.log")
    wait_for_step(out, 0)
    start = time.monotonic() - began
    wait_for_step(out, STEPS)
    saving = time.monotonic()
    code = reap(pid)
    if code:
        raise RuntimeError(f"exit code {code}: {(folder / 'straight.log').read_text()}")
    return dd.Distilled.load(out).content_id, start, time.monotonic() - saving


class Killer:
    """Kill one run after another in one folder, and note what was met."""

    def __init__(self, folder: Path) -> None:
        self.out, self.log = folder / "killed", folder / "killed.log"
        self.rng = random.Random("kill moments")
        self.kills: list[tuple[str, int]] = []
        self.finished: list[str] = []

    def attempt(self, phase: str, seconds: float, step: int | None = None) -> None:
        """Resume, wait for a step if one is given, kill within `seconds`. A run that came through is put away."""
        pid = spawn(self.out, self.log, "--resume")
        if step is not None:
            wait_for_step(self.out, step)
        time.sleep(self.rng.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        code = reap(pid)
        if code == -signal.SIGKILL:
            self.kills.append((phase, progress(self.out) if self.out.exists() else 0))
        else:
            self.finish(code)

    def insist(self, phase: str, seconds: float, step: int | None = None) -> None:
        """Attempt it until a run is killed: on a busy machine some come through before their moment."""
        before = len(self.kills)
        while len(self.kills) == before:
            self.attempt(phase, seconds, step)

    def finish(self, code: int) -> None:
        """Note the set of a run that was not killed, and make room for another."""
        self.finished.append(dd.Distilled.load(self.out).content_id if code == 0 else f"exit code {code}")
        shutil.rmtree(self.out)


def kill_often(folder: Path, start: float, save: float) -> dict[str, object]:
    """Kill runs before their first step, between steps, and while they end."""
    killer, wanted = Killer(folder), KILLS[RECIPE]
    for _ in range(wanted["start"]):
        killer.insist("start", start)
    # On a busy machine the kills at the start come late; the ones between steps need room.
    shutil.rmtree(killer.out, ignore_errors=True)
    for step in sorted(killer.rng.sample(range(2, STEPS - 10), wanted["steps"])):
        killer.insist("steps", 0.03, step)
    kept = folder / "kept"
    while not kept.exists():
        killer.attempt("end", 0.0, STEPS)
        if killer.out.exists():
            shutil.copytree(killer.out, kept)
    while sum(phase == "end" for phase, _ in killer.kills) < wanted["end"]:
        if not killer.out.exists():
            shutil.copytree(kept, killer.out)
        killer.attempt("end", start + 2 * save)
    if killer.out.exists():
        killer.finish(reap(spawn(killer.out, killer.log, "--resume")))
    return {"kills": killer.kills, "finished": killer.finished}


def terminate(folder: Path) -> dict[str, object]:
    """Ask a run to stop, then let it finish."""
    out, log = folder / "terminated", folder / "terminated.log"
    pid = spawn(out, log)
    wait_for_step(out, 5)
    os.kill(pid, signal.SIGTERM)
    code = reap(pid)
    stopped = {"code": code, "step": progress(out), "log": log.read_text()}
    refused = reap(spawn(out, log))
    stopped |= {"without_resume": refused, "refusal": log.read_text()}
    stopped["resumed"] = reap(spawn(out, log, "--resume"))
    stopped["id"] = dd.Distilled.load(out).content_id
    stopped["again"] = reap(spawn(out, log, "--resume"))
    stopped["checkpoint"] = (out / CHECKPOINT).exists()
    return stopped


if __name__ == "__main__":
    home = Path(sys.argv[1])
    dd.load_pair("digits")  # so that the forks need not import what reads it
    expected, start, save = straight(home)
    killed = kill_often(home, start, save)
    sys.stdout.write(json.dumps({"id": expected, "killed": killed, "terminated": terminate(home)}))
