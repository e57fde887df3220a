"""A text data set that is in every Python: docstrings of the standard library, by what their modules are for.

The documents are those of the Python that runs, so that the counts and the words differ a little between its versions
and hardly within one. It is a small corpus for trying things out; no published figure is about it.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

from ddsdk.data.raw import Raw
from ddsdk.data.words import Vocabulary, tokens
from ddsdk.foundation import generator

# Modules that are written in Python, in 3.11 and in those after it.
_FAMILIES: dict[str, str] = {
    "concurrency": "asyncio concurrent multiprocessing threading queue sched",
    "files": "pathlib shutil zipfile tarfile tempfile gzip os _pyio glob filecmp",
    "markup": "email html xml json csv plistlib",
    "network": "http urllib smtplib imaplib poplib ftplib xmlrpc socketserver ipaddress",
    "testing": "unittest doctest pdb bdb trace timeit profile pstats",
}
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_LEAST, _LENGTH, _DIM, _WORDS = 8, 32, 32, 2000
_TEST_FRACTION = 0.25


def python_docs(split: str) -> tuple[list[str], list[int]]:
    """Return texts and class ids of a split.

    A document is the docstring of a module, class or function with at least 8 words, of which no other has all in the
    same order. A quarter of each class, drawn once and for all, is the test split.

    Args:
        split: "train" or "test".

    Raises:
        FileNotFoundError: If this Python keeps no sources of its standard library.
    """
    texts: list[str] = []
    labels: list[int] = []
    for c, documents in enumerate(_documents()):
        order = torch.randperm(len(documents), generator=generator("python-docs", "split", c)).tolist()
        cut = round(_TEST_FRACTION * len(order))
        kept = sorted(order[:cut] if split == "test" else order[cut:])
        texts += [documents[i] for i in kept]
        labels += [c] * len(kept)
    return texts, labels


@cache
def python_docs_vocabulary() -> Vocabulary:
    """Return the words of the train split with the vectors that ``load("python-docs")`` gives them."""
    return Vocabulary.fit(python_docs("train")[0], size=_WORDS, dim=_DIM)


def read_python_docs(split: str) -> Raw:
    """Return a split as matrices of 32 word vectors of length 32."""
    texts, labels = python_docs(split)
    matrices = python_docs_vocabulary().matrices(texts, _LENGTH)
    return Raw(matrices, torch.tensor(labels), tuple(_FAMILIES))


@cache
def _documents() -> tuple[tuple[str, ...], ...]:
    """Return the documents of each family."""
    seen: set[tuple[str, ...]] = set()
    return tuple(
        tuple(text for text in _docstrings(modules.split()) if _is_new(text, seen)) for modules in _FAMILIES.values()
    )


def _is_new(text: str, seen: set[tuple[str, ...]]) -> bool:
    words = tuple(tokens(text))
    new = len(words) >= _LEAST and words not in seen
    seen.add(words)
    return new


def _docstrings(modules: list[str]) -> Iterator[str]:
    for path in _sources(modules):
        for node in _documented(ast.parse(path.read_text(encoding="utf-8"))):
            yield ast.get_docstring(node) or ""


def _documented(node: _Documented) -> Iterator[_Documented]:
    """Give a module or class, and what it defines: what lies deeper in functions and conditions is nobody's API."""
    yield node
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _documented(child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child


def _sources(modules: list[str]) -> Iterator[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    for name in modules:
        package, module = root / name, root / f"{name}.py"
        found = sorted(package.rglob("*.py")) if package.is_dir() else [module]
        if not found or not found[0].is_file():
            raise FileNotFoundError(
                f"python-docs are docstrings of the standard library, whose {name} is not in {root}"
            )
        yield from found
