"""What the parsers under the fuzzer share: a folder for their files, and the refusals that they may raise."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from ddsdk.foundation.errors import ArtifactError, ResumeError, StorageError

FOLDER = Path(tempfile.mkdtemp())
# Nothing here has to survive a power cut, and the disk would set the pace.
os.fsync = lambda handle: None


def written(name, data):
    """Return a file with the fuzzer's bytes."""
    path = FOLDER / name
    path.write_bytes(data)
    return path


def empty(name):
    """Return a folder that exists and is empty."""
    path = FOLDER / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def refused_or(read):
    """A reader of data refuses with ValueError or TypeError, both with a text of ours."""
    try:
        return read()
    except (ValueError, TypeError) as error:
        if not str(error):
            raise
    return None


def refusing(read):
    """A reader of stored state refuses with the errors that name the file."""
    with contextlib.suppress(ArtifactError, ResumeError, StorageError):
        return read()
