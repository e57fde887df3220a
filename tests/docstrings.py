"""Rules of documented arguments beyond those of ruff: `python tests/docstrings.py [PATH…]` lists the breaches."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PACKAGES = ("ddsdk", "integrations/ddsdk_integrations", "benchmarks")
SECTIONS = ("Args", "Attributes")
# An argument's text begins with a noun or an adjective.
BAD_STARTS = ("Of", "How", "Which", "What", "As", "See", "Where", "Whose", "The same")
LEAST_WORDS = 4
# Nothing in a program is told, asks or knows.
BAD_WORDS = ("told", "tells", "asked", "asks", "nobody", "knows", "it says", "says so")
# The reference shows examples as code under this name alone.
BAD_SECTIONS = ("Example:",)


class Entry(NamedTuple):
    """A documented argument: where it stands, its name and its text."""

    path: Path
    line: int
    name: str
    text: str


def documented(path: Path) -> Iterator[Entry]:
    """Give the arguments and attributes that the docstrings of a file document."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            doc = ast.get_docstring(node)
            if doc:
                line = node.body[0].lineno
                yield from (Entry(path, line, name, text) for name, text in entries(doc))


def entries(doc: str) -> Iterator[tuple[str, str]]:
    """Give the names and texts of the sections of arguments of a docstring."""
    for section in re.split(r"\n\n(?=\S)", doc):
        head, _, body = section.partition("\n")
        if head.rstrip(":") in SECTIONS:
            for entry in re.split(r"\n(?=    \S)", "\n" + body):
                name, colon, text = entry.strip().partition(":")
                if colon:
                    yield name, " ".join(text.split())


def faults(entry: Entry) -> Iterator[str]:
    """Give the rules that the text of an argument breaks."""
    if re.match(rf"({'|'.join(BAD_STARTS)})\b", entry.text):
        yield f"begins with {entry.text.split()[0]!r}, and not with a noun or an adjective"
    if len(entry.text.split()) < LEAST_WORDS:
        yield f"has fewer than {LEAST_WORDS} words: {entry.text!r}"


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Give the words in docstrings and comments of a file that make persons of things."""
    pattern = re.compile(rf"\b({'|'.join(BAD_WORDS)})\b", re.IGNORECASE)
    text = path.read_text()
    yield from ((i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if line.strip() in BAD_SECTIONS)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            for found in pattern.findall(ast.get_docstring(node) or ""):
                yield node.body[0].lineno, found
    for i, line in enumerate(text.splitlines(), 1):
        for found in pattern.findall(line.partition("# ")[2]):
            yield i, found


def main(paths: list[str]) -> int:
    """Print every fault; return 1 if there is one."""
    given = [Path(p) for p in paths] or [ROOT / p for p in PACKAGES]
    files = sorted(f for p in given for f in ([p] if p.is_file() else p.rglob("*.py")))
    found = [f"{e.path}:{e.line}: {e.name} {fault}" for f in files for e in documented(f) for fault in faults(e)]
    found += [f"{f}:{line}: prose has {word!r}" for f in files for line, word in prose(f)]
    for line in found:
        print(line)
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
