"""One-line notes about what the library converts or assumes."""

from __future__ import annotations

import logging
import sys

from ddsdk.foundation.text import clean

_LOGGER = logging.getLogger("ddsdk")
_LINE_LIMIT = 1000


def note(text: str) -> None:
    """Write one line about a conversion or an assumption.

    The line is logged at level INFO by the logger "ddsdk". If the application has configured no handlers of log
    records, the line is written to standard error. ``logging.getLogger("ddsdk").setLevel(logging.WARNING)`` silences
    the notes.

    Args:
        text: Text of one line, which may contain untrusted names; control characters are removed.

    Examples:
        >>> note("labels 1..3 are classes 0..2, named by their old ids")
    """
    line = clean(text, _LINE_LIMIT)
    if _LOGGER.hasHandlers():
        _LOGGER.info(line)
    elif _LOGGER.level <= logging.INFO:
        sys.stderr.write(f"ddsdk: {line}\n")
