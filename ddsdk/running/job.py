"""A distillation with an output folder that is locked, checkpointed, and resumed bit for bit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, final

from ddsdk.artefact import Distilled, check_overwrite, current_manifest, read_manifest_summary
from ddsdk.foundation import ResumeError, lock, make_folder, remove_stale_files, require
from ddsdk.running.checkpoint import (
    check_config,
    has_checkpoint,
    read_checkpoint,
    read_config,
    remove_checkpoint,
    write_checkpoint,
)
from ddsdk.running.plan import Step
from ddsdk.running.run import Run

CHECKPOINT = "checkpoint.safetensors"


def stored_config(folder: Path) -> dict[str, Any] | None:
    """Return the configuration of the finished or unfinished run in a folder, or None for a folder without a run."""
    if has_checkpoint(folder / CHECKPOINT):
        return read_config(folder / CHECKPOINT)
    manifest = current_manifest(folder)
    return None if manifest is None else dict(manifest.provenance.get("configuration", {}))


@final
class Job:
    """A context manager that runs a distillation in an output folder, with checkpoints from which it can be resumed.

    Args:
        folder: Output folder. It is made if it does not exist, and locked while the job runs.
        config: Configuration that determines the result, as JSON values. A checkpoint of another configuration is
            refused.
        resume: Whether a run that the folder already holds is continued.
        every: Time between two checkpoints, in seconds.

    Raises:
        FolderBusyError: On entering, if another process writes to the folder.
        ResumeError: On entering, if the folder holds a set or a checkpoint and `resume` is false, or if they belong to
            another configuration.
        StorageError: On entering, if the folder cannot be made, or holds a file of a set's file names that ddsdk has
            not written.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.running import Run
        >>> run = Run(ddsdk.DM(ipc=1, steps=2, real_batch=16), ddsdk.load("digits"), seed=0)
        >>> with ddsdk.Job("dm-digits", {"recipe": "dm", "ipc": 1, "steps": 2, "seed": 0}) as job:
        ...     numbers = [step.number for step in job.steps(run)]
        ...     content_id = job.finish(run.distilled())
        >>> numbers, len(ddsdk.Distilled.load("dm-digits"))
        ([1, 2], 10)
    """

    def __init__(
        self, folder: str | Path, config: Mapping[str, Any], *, resume: bool = False, every: float = 30.0
    ) -> None:
        self.folder = Path(folder)
        self._config = dict(config)
        self._resume = resume
        self._every = every
        self._stack = ExitStack()
        self._checkpoint = self.folder / CHECKPOINT
        self._checkpoint_steps: int | None = None

    def __enter__(self) -> Job:
        """Make and lock the folder, and read the checkpoint.

        Returns:
            This job.

        Raises:
            ResumeError: If the folder holds a set or a checkpoint and the job does not resume.
        """
        make_folder(self.folder)
        with ExitStack() as stack:
            stack.enter_context(lock(self.folder))
            remove_stale_files(self.folder, older_than=0)
            check_overwrite(self.folder, current_manifest(self.folder))
            if not self._resume and (has_checkpoint(self._checkpoint) or self._holds_set):
                raise ResumeError(
                    f"{str(self.folder)!r} already holds a run; pass --resume to go on with it, or name another folder"
                )
            if self.finished:
                stored_config = read_manifest_summary(self.folder).provenance.get("configuration", {})
                check_config(self.folder, stored_config, self._config)
            elif has_checkpoint(self._checkpoint):
                state = read_checkpoint(self._checkpoint, self._config)
                self._checkpoint_steps = int(state["distillation"]["index"])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        """Release the lock of the folder."""
        self._stack.close()

    @property
    def _holds_set(self) -> bool:
        return (self.folder / "manifest.json").exists()

    @property
    def finished(self) -> bool:
        """Whether the folder already holds the result of the run."""
        return self._holds_set and not has_checkpoint(self._checkpoint)

    @property
    def diverged(self) -> bool:
        """Whether the set in the folder is the last finite set of a run that diverged."""
        return self._holds_set and read_manifest_summary(self.folder).provenance.get("diverged") is True

    @property
    def steps_taken(self) -> int:
        """Number of outer steps in the checkpoint that was read on entering; 0 without a checkpoint."""
        return self._checkpoint_steps or 0

    @property
    def resumes(self) -> bool:
        """Whether the job continues from a checkpoint."""
        return self._checkpoint_steps is not None

    def settle(self, config: Mapping[str, Any]) -> None:
        """Replace the configuration before the first step, such as by one with the steps that fit into a time budget.

        A job whose folder already holds a run keeps its configuration: ValueError.
        """
        started = self.resumes or self._holds_set
        require(not started, "config", "stay that of the run in the folder", str(self.folder))
        self._config = dict(config)

    def steps(self, run: Run[Any]) -> Iterator[Step]:
        """Yield the remaining steps of a run.

        A checkpoint is written before the first step, at the interval of the job, and when the loop ends or is left.
        """
        if has_checkpoint(self._checkpoint):
            run.load_state_dict(read_checkpoint(self._checkpoint, self._config))
        self._save(run)
        saved = time.monotonic()
        try:
            for step in run:
                now = time.monotonic()
                if now - saved >= self._every:
                    self._save(run)
                    saved = now
                yield step
        finally:
            # `Distillation` undoes a step that an exception interrupts, so the state is always that of a whole step.
            self._save(run)

    def finish(self, distilled: Distilled) -> str:
        """Save the set with the configuration of the job, and delete the checkpoint.

        Returns:
            The content id of the set.
        """
        provenance = {**distilled.provenance, "configuration": self._config}
        content_id = dataclasses.replace(distilled, provenance=provenance).save(self.folder)
        remove_checkpoint(self._checkpoint)
        return content_id

    def _save(self, run: Run[Any]) -> None:
        write_checkpoint(self._checkpoint, self._config, run.state_dict())
