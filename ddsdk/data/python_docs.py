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

from ddsdk.data.raw import Raw, fixed_part
from ddsdk.data.words import Vocabulary, tokens

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


def python_docs(split: str) -> tuple[list[str], list[int]]:
    """Return texts and class ids of the split "train" or "test".

    A document is the docstring of a module, class or function with at least 8 words, of which no other has all in the
    same order. A quarter of each class, drawn once and for all, is the test split.
    """
    texts: list[str] = []
    labels: list[int] = []
    for c, documents in enumerate(_documents()):
        kept = fixed_part(len(documents), split, "python-docs", "split", c).tolist()
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
    families: list[tuple[str, ...]] = []
    for modules in _FAMILIES.values():
        documents = []
        for path in _sources(modules.split()):
            for node in _documented(ast.parse(path.read_text(encoding="utf-8"))):
                text = ast.get_docstring(node) or ""
                words = tuple(tokens(text))
                if len(words) >= _LEAST and words not in seen:
                    documents.append(text)
                seen.add(words)
        families.append(tuple(documents))
    return tuple(families)


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
            raise FileNotFoundError(f"python-docs are docstrings of the standard library; {name} is not in {root}")
        yield from found
