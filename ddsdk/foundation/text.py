"""Hostile text made harmless: class names and card fields come from strangers.

Every string is first stripped of what no reader should act on, then escaped for the place where it is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

NAME_LIMIT = 200
TEXT_LIMIT = 20_000

# A fixed table and not the Unicode categories of the running Python: what one version writes, all must
# accept. C0, DEL and C1 controls, soft hyphen, direction marks and isolates, invisible fillers and operators,
# line and paragraph separators, surrogates, byte order mark, annotation marks, noncharacters, tag characters.
# Joiners (U+200C, U+200D) stay: scripts and emoji need them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e0fff]"
)
_MARKDOWN = re.compile(r"""[\\`*_{}\[\]#+!|~$=^@]|:(?=//)|\.(?!\d)|^-""")


def clean(text: str, limit: int = NAME_LIMIT) -> str:
    """Return one printable line of at most `limit` characters.

    Line breaks and tabs become spaces; control, direction and invisible characters are dropped; what is too
    long ends in an ellipsis. Cleaning a clean text changes nothing.
    """
    line = _UNSAFE.sub("", re.sub(r"[\t\r\n]+", " ", text))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def clean_json(value: Any, limit: int = TEXT_LIMIT) -> Any:  # noqa: ANN401 - JSON has no smaller type
    """Return a JSON value with every key and string `clean`, and tuples as lists."""
    if isinstance(value, str):
        return clean(value, limit)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [clean_json(v, limit) for v in value]
    if not isinstance(value, dict):
        raise TypeError(f"a JSON value must be a dict, list, str, int, float, bool or None, got {value!r}")
    if not all(isinstance(k, str) for k in value):
        raise TypeError(f"the keys of a JSON object must be strings, got {list(value)[:5]!r}")
    found = {clean(k): clean_json(v, limit) for k, v in value.items()}
    if len(found) != len(value):
        raise ValueError("two keys are the same once control characters are stripped")
    return found


def escape_terminal(text: str, limit: int = 80) -> str:
    """Return text that cannot move the cursor, change colours or reorder what is read."""
    return clean(text, limit)


def escape_markdown(text: str, limit: int = 80) -> str:
    """Return text that markdown and the HTML inside it show letter by letter, also within a table cell."""
    line = _MARKDOWN.sub(r"\\\g<0>", clean(text, limit))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def escape_yaml(text: str, limit: int = 80) -> str:
    """Return a double-quoted YAML scalar that also holds no HTML, for viewers that do not know the head."""
    line = json.dumps(clean(text, limit), ensure_ascii=False)
    return line.replace("<", "\\u003c").replace(">", "\\u003e")


def file_stem(text: str, limit: int = 50) -> str:
    """Return the part of a file name that can be made of `text`: letters, digits, ``-`` and ``_``.

    The result may be empty and may repeat: put a number before it.
    """
    return re.sub(r"[^\w-]+", "_", clean(text, 4 * limit)).strip("_")[:limit]


def unique_names(names: Iterable[str]) -> list[str]:
    """Return the names, with the position appended to each one that was seen before."""
    seen: set[str] = set()
    result = []
    for position, name in enumerate(names):
        unique = name
        while unique in seen:
            unique = f"{unique} ({position})"
        seen.add(unique)
        result.append(unique)
    return result
