"""Kill `ddsdk distill` again and again. Run as a program with a folder and a recipe; prints what happened as JSON.

One process imports everything once and forks for each attempt: a child that starts in milliseconds can be
killed at moments that are spread over start, steps and the final save. `KILLS=200` is for a long search by hand: it is
the number of kills of all recipes together.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from safetensors import safe_open

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.foundation.errors import ResumeError
from ddsdk.foundation.files import remove_stale_files
from ddsdk.running.checkpoint import has_checkpoint, read_checkpoint, read_config
from ddsdk.running.job import CHECKPOINT

STEPS = 60
# DM has no memory from one step to the next; the students of DC have one, the experts of MTT and the teacher of SRe2L
# are trained in the run and kept in a cache, and the students of FRePo are a pool that the run trains.
RECIPES = {
    "dm": ["--steps", str(STEPS), "--real-batch", "16"],
    "dc": ["--students", str(STEPS // 10), "--steps-per-student", "10", "--student-epochs", "1", "--real-batch", "16"],
    "mtt": ["--steps", str(STEPS), "--student-steps", "2", "--experts", "4", "--expert-epochs", "4"],
    "frepo": ["--steps", str(STEPS), "--pool", "3", "--student-steps", "2", "--student-batch", "4"],
    "sre2l": ["--steps", str(STEPS), "--teacher-epochs", "4"],
}
FEW = {"start": 2, "steps": 3, "end": 1}
KILLS = {"dm": {"start": 4, "steps": 8, "end": 8}, "dc": {"start": 1, "steps": 8, "end": 2}}
RECIPE = sys.argv[2] if __name__ == "__main__" else "dm"
ARGS = ["distill", "--data", "digits", "--recipe", RECIPE, *RECIPES[RECIPE], "--ipc", "1"]
ARGS += ["--width", "4", "--depth", "1", "--threads", "1", "--checkpoint-seconds", "0"]


def kills_of(recipe: str) -> dict[str, int]:
    """Return the number of kills of a recipe before the first step, between steps, and while it ends."""
    if "KILLS" not in os.environ:
        return KILLS.get(recipe, FEW)
    share, quarter = int(os.environ["KILLS"]) // len(RECIPES), int(os.environ["KILLS"]) // len(RECIPES) // 4
    return {"start": quarter, "steps": share - 2 * quarter, "end": quarter}


def cache_of(out: Path) -> Path:
    return out.with_name(f"{out.name}-cache")


def distil(out: Path, *more: str) -> int:
    os.environ["DDSDK_CACHE"] = str(cache_of(out))
    args = [*ARGS, "--out", str(out), *more]
    sys.argv = ["ddsdk", *args]
    return main(args)


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
        code = distil(out, *more)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def reap(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def stored_runs(out: Path) -> list[Path]:
    return sorted(cache_of(out).glob("run-*.safetensors"))


def open_run(path: Path) -> None:
    """Compare the weights of a trained network with the SHA-256 that is stored beside them."""
    with safe_open(path, "np") as file:
        stated = json.loads(file.metadata()["ddsdk"])["sha256"]
        if hashlib.sha256(file.get_tensor("weights").tobytes()).hexdigest() != stated:
            raise ValueError(f"{path} is damaged")


def progress(out: Path) -> int:
    """Open what the folder and the cache hold, with every check; return the step that the run has reached."""
    for run in stored_runs(out):
        open_run(run)
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


def straight(folder: Path) -> tuple[str, float]:
    """Run without a kill; return the content id and the seconds before the first step."""
    out, began = folder / "straight", time.monotonic()
    pid = spawn(out, folder / "straight.log")
    wait_for_step(out, 0)
    start = time.monotonic() - began
    if code := reap(pid):
        raise RuntimeError(f"exit code {code}: {(folder / 'straight.log').read_text()}")
    return dd.Distilled.load(out).content_id, start


class Killer:
    """Kill one run after another in one folder, and note what was met.

    A kill is noted as its phase, the step of the checkpoint, and the number of trained networks in the cache.
    """

    def __init__(self, folder: Path) -> None:
        self.out, self.log = folder / "killed", folder / "killed.log"
        self.rng = random.Random("kill moments")
        self.kills: list[tuple[str, int, int]] = []
        self.finished: list[str] = []
        self.files: list[list[str]] = []

    def attempt(self, phase: str, seconds: float, step: int | None = None) -> None:
        """Resume, wait for a step if one is given, kill within `seconds`. A run that came through is put away."""
        pid = spawn(self.out, self.log, "--resume")
        if step is not None:
            wait_for_step(self.out, step)
        time.sleep(self.rng.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        code = reap(pid)
        if code == -signal.SIGKILL:
            self.kills.append((phase, progress(self.out) if self.out.exists() else 0, len(stored_runs(self.out))))
        else:
            self.finish(code)

    def insist(self, phase: str, seconds: float, step: int | None = None) -> None:
        """Attempt it until a run is killed: on a busy machine some come through before their moment."""
        before = len(self.kills)
        while len(self.kills) == before:
            self.attempt(phase, seconds, step)

    def finish(self, code: int) -> None:
        """Note the set and the files of a run that was not killed, and make room for another."""
        self.finished.append(dd.Distilled.load(self.out).content_id if code == 0 else f"exit code {code}")
        self.files.append(names(self.out))
        shutil.rmtree(self.out)


def kill_often(folder: Path, start: float) -> dict[str, object]:
    """Kill runs before their first step, between steps, and while they end."""
    killer, wanted = Killer(folder), kills_of(RECIPE)
    for i in range(wanted["start"]):
        if i % 2 == 0:  # the other half goes on with the networks that were trained before the kill
            for started in (killer.out, cache_of(killer.out)):
                shutil.rmtree(started, ignore_errors=True)
        killer.insist("start", start)
    # On a busy machine the kills at the start come late; the ones between steps need room.
    shutil.rmtree(killer.out, ignore_errors=True)
    for step in sorted(killer.rng.choices(range(2, STEPS - 10), k=wanted["steps"])):
        killer.insist("steps", 0.03, step)
    kept = folder / "kept"
    while not kept.exists():
        killer.attempt("end", 0.0, STEPS)
        if killer.out.exists():
            shutil.copytree(killer.out, kept)
    began = time.monotonic()
    killer.finish(reap(spawn(killer.out, killer.log, "--resume")))
    ending = time.monotonic() - began
    while sum(phase == "end" for phase, _, _ in killer.kills) < wanted["end"]:
        if not killer.out.exists():
            shutil.copytree(kept, killer.out)
        killer.attempt("end", ending)
    if killer.out.exists():
        killer.finish(reap(spawn(killer.out, killer.log, "--resume")))
    report = {"kills": killer.kills, "finished": killer.finished, "files": killer.files}
    # Writers on other machines may share the cache, which is why the next write sweeps it by the age of the files.
    report["swept"] = len(remove_stale_files(cache_of(killer.out), older_than=0))
    return report | {"cache": names(cache_of(killer.out))}


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
    with contextlib.redirect_stdout(sys.stderr):
        distil(home / "first")  # so that the forks need not import what a run imports late
    expected, start = straight(home)
    report = {"id": expected, "files": names(home / "straight"), "cache": names(home / "straight-cache")}
    report |= {"killed": kill_often(home, start), "terminated": terminate(home)}
    sys.stdout.write(json.dumps(report))
