"""A distillation that owns an output folder: locked, checkpointed, and resumed bit for bit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, final

from ddsdk.artefact import Distilled, current_manifest, read_manifest_summary, refuse_foreign
from ddsdk.foundation import ResumeError, StorageError, lock, require, sweep
from ddsdk.running.checkpoint import check_config, read_checkpoint, read_config, write_checkpoint
from ddsdk.running.loop import Step
from ddsdk.running.run import Run

CHECKPOINT = "checkpoint.safetensors"


def found_config(folder: Path) -> dict[str, Any] | None:
    """Return the configuration of the run in a folder, finished or not; None if there is none."""
    if (folder / CHECKPOINT).exists():
        return read_config(folder / CHECKPOINT)
    made = current_manifest(folder)
    return None if made is None else dict(made.provenance.get("configuration", {}))


@final
class Job:
    """A context manager that runs a distillation in a folder of its own.

    Args:
        folder: Folder, made if it does not exist, and locked while the job runs.
        config: Everything that the result depends on, as JSON values; a checkpoint made under another one is
            refused.
        resume: Whether a checkpoint in the folder is continued.
        every: Seconds between checkpoints.

    Raises:
        FolderBusyError: On entering, if another process writes to the folder.
        ResumeError: On entering, if the folder holds a set or a checkpoint and `resume` is false, or one made under
            another configuration.
        StorageError: On entering, if the folder cannot be made, or holds a README.md or manifest.json of something
            else.
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
        self._taken: int | None = None

    def __enter__(self) -> Job:
        """Make and lock the folder, and read the checkpoint: a wrong folder is refused before any work."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make folder {str(self.folder)!r}: {error.strerror}") from error
        with ExitStack() as stack:
            stack.enter_context(lock(self.folder))
            sweep(self.folder, older_than=0)
            refuse_foreign(self.folder, current_manifest(self.folder))
            if not self._resume and (self._checkpoint.exists() or self._holds_set):
                raise ResumeError(
                    f"{str(self.folder)!r} already holds a run; pass --resume to go on with it, or name another folder"
                )
            if self.finished:
                made = read_manifest_summary(self.folder).provenance.get("configuration", {})
                check_config(self.folder, made, self._config)
            elif self._checkpoint.exists():
                state = read_checkpoint(self._checkpoint, self._config)
                self._taken = int(state["distillation"]["index"])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        """Release the folder."""
        self._stack.close()

    @property
    def _holds_set(self) -> bool:
        return (self.folder / "manifest.json").exists()

    @property
    def finished(self) -> bool:
        """Whether the folder already holds the set that the run was for."""
        return self._holds_set and not self._checkpoint.exists()

    @property
    def diverged(self) -> bool:
        """Whether the set in the folder is the last finite one of a run that diverged."""
        return self._holds_set and read_manifest_summary(self.folder).provenance.get("diverged") is True

    @property
    def steps_taken(self) -> int:
        """Steps of the checkpoint that was found on entering; 0 where there was none."""
        return self._taken or 0

    @property
    def resumes(self) -> bool:
        """Whether there was a checkpoint to go on from."""
        return self._taken is not None

    def settle(self, config: Mapping[str, Any]) -> None:
        """Replace the configuration by one that the start of the run has decided; ValueError for a run under way."""
        started = self.resumes or self._holds_set
        require(not started, "config", "stay that of the run in the folder", str(self.folder))
        self._config = dict(config)

    def steps(self, run: Run[Any]) -> Iterator[Step]:
        """Give the steps that are left of a run, with a checkpoint at the start, now and then, and however it ends."""
        if self._checkpoint.exists():
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
            # A step is whole or it was undone: the state is sound wherever the loop was left.
            self._save(run)

    def finish(self, distilled: Distilled) -> str:
        """Save the set with the job's configuration, then drop the checkpoint; return the content id."""
        provenance = {**distilled.provenance, "configuration": self._config}
        content_id = dataclasses.replace(distilled, provenance=provenance).save(self.folder)
        self._checkpoint.unlink(missing_ok=True)
        return content_id

    def _save(self, run: Run[Any]) -> None:
        write_checkpoint(self._checkpoint, self._config, run.state_dict())
