"""Cleaning and escaping of untrusted text, such as class names and the fields of data cards.

Control and invisible characters are removed first. Then the text is escaped for the place where it is printed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

NAME_LIMIT = 200
TEXT_LIMIT = 20_000

# The table is fixed, because the Unicode categories differ between versions of Python, and a name that one version
# writes must be accepted by all. It holds C0, DEL and C1 controls, soft hyphen, direction marks and isolates, invisible
# fillers and operators, line and paragraph separators, surrogates, byte order mark, annotation marks, noncharacters and
# tag characters. Joiners (U+200C, U+200D) are allowed, because scripts and emoji need them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e0fff]"
)
_MARKDOWN = re.compile(r"""[\\`*_{}\[\]#+!|~$=^@]|:(?=//)|\.(?!\d)|^-""")


def clean(text: str, limit: int = NAME_LIMIT) -> str:
    r"""Return text as one printable line of at most `limit` characters.

    Line breaks and tabs become spaces. Control, direction and invisible characters are removed. Text that is too
    long is cut and ends in an ellipsis. Cleaning a clean text changes nothing.

    Examples:
        >>> clean("cat\ndog", limit=6)
        'cat d…'
    """
    line = _UNSAFE.sub("", re.sub(r"[\t\r\n]+", " ", text))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def clean_json(value: Any, limit: int = TEXT_LIMIT) -> Any:  # noqa: ANN401 - JSON has no smaller type
    """Return a JSON value whose keys and strings are all cleaned, and whose tuples are lists.

    Args:
        value: JSON value of any depth.
        limit: Maximum length of a string, in characters; keys have at most `NAME_LIMIT`.

    Raises:
        TypeError: If `value` holds anything else than JSON values, or a key that is not a string.
        ValueError: If two keys are equal after cleaning.

    Examples:
        >>> clean_json({"shape": (1, 8, 8)})
        {'shape': [1, 8, 8]}
    """
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
    cleaned = {clean(k): clean_json(v, limit) for k, v in value.items()}
    if len(cleaned) != len(value):
        raise ValueError("two keys are the same once control characters are stripped")
    return cleaned


def escape_terminal(text: str, limit: int = 80) -> str:
    """Return text that is safe to print to a terminal: it cannot move the cursor, change colours or reorder letters."""
    return clean(text, limit)


def escape_markdown(text: str, limit: int = 80) -> str:
    r"""Return text that Markdown, and HTML inside it, renders literally, also within a table cell.

    Examples:
        >>> escape_markdown("*cat* <b>")
        '\\*cat\\* &lt;b&gt;'
    """
    line = _MARKDOWN.sub(r"\\\g<0>", clean(text, limit))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def escape_yaml(text: str, limit: int = 80) -> str:
    r"""Return text as a double-quoted YAML scalar without HTML tags, because some viewers render YAML headers as HTML.

    Examples:
        >>> escape_yaml("cat: <b>")
        '"cat: \\u003cb\\u003e"'
    """
    line = json.dumps(clean(text, limit), ensure_ascii=False)
    return line.replace("<", "\\u003c").replace(">", "\\u003e")


def file_stem(text: str, limit: int = 50) -> str:
    """Return text as part of a file name, with letters, digits, ``-`` and ``_`` only.

    The result may be empty, and two texts may have the same result; a number before it makes file names distinct.

    Examples:
        >>> file_stem("grey cat/dog")
        'grey_cat_dog'
    """
    return re.sub(r"[^\w-]+", "_", clean(text, 4 * limit)).strip("_")[:limit]


def unique_names(names: Iterable[str]) -> list[str]:
    """Return names without duplicates: a repeated name gets its position as a suffix.

    Examples:
        >>> unique_names(["cat", "cat", "dog"])
        ['cat', 'cat (1)', 'dog']
    """
    seen: set[str] = set()
    distinct = []
    for position, name in enumerate(names):
        unique = name
        while unique in seen:
            unique = f"{unique} ({position})"
        seen.add(unique)
        distinct.append(unique)
    return distinct
