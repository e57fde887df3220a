"""Text data set of every Python installation: docstrings of the standard library, classified by topic of the module.

The documents are those of the running Python, so that their number and words differ slightly between its versions. It
is a small corpus for experiments; there are no published results for it.
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

# Class names and their modules, all of which are written in Python, from version 3.11 on.
_MODULES: dict[str, str] = {
    "concurrency": "asyncio concurrent multiprocessing threading queue sched",
    "files": "pathlib shutil zipfile tarfile tempfile gzip os _pyio glob filecmp",
    "markup": "email html xml json csv plistlib",
    "network": "http urllib smtplib imaplib poplib ftplib xmlrpc socketserver ipaddress",
    "testing": "unittest doctest pdb bdb trace timeit profile pstats",
}
_DocumentedNode = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_MIN_WORDS, _LENGTH, _DIM, _VOCABULARY_SIZE = 8, 32, 32, 2000


def python_docs(split: str) -> tuple[list[str], list[int]]:
    """Return the texts and class ids of the split "train" or "test".

    A document is the docstring of a module, class or function with at least 8 words. Of documents with the same
    sequence of words only the first one is used. A fixed random quarter of each class is the test split.

    Examples:
        >>> import ddsdk
        >>> texts, labels = ddsdk.data.python_docs("test")
        >>> len(texts) == len(labels), sorted(set(labels))
        (True, [0, 1, 2, 3, 4])
    """
    texts: list[str] = []
    labels: list[int] = []
    for c, documents in enumerate(_documents()):
        indices = fixed_part(len(documents), split, "python-docs", "split", c).tolist()
        texts += [documents[i] for i in indices]
        labels += [c] * len(indices)
    return texts, labels


@cache
def python_docs_vocabulary() -> Vocabulary:
    """Return the vocabulary of ``load("python-docs")``, which is fitted on the train split.

    Examples:
        >>> import ddsdk
        >>> ddsdk.data.python_docs_vocabulary().vectors.shape
        torch.Size([2001, 32])
    """
    return Vocabulary.fit(python_docs("train")[0], size=_VOCABULARY_SIZE, dim=_DIM)


def read_python_docs(split: str) -> Raw:
    """Return a split as matrices (1, 32, 32): 32 word vectors of length 32 for each document."""
    texts, labels = python_docs(split)
    matrices = python_docs_vocabulary().matrices(texts, _LENGTH)
    return Raw(matrices, torch.tensor(labels), tuple(_MODULES))


@cache
def _documents() -> tuple[tuple[str, ...], ...]:
    """Return the documents of each class."""
    seen: set[tuple[str, ...]] = set()
    classes: list[tuple[str, ...]] = []
    for modules in _MODULES.values():
        documents = []
        for path in _sources(modules.split()):
            for node in _documented_nodes(ast.parse(path.read_text(encoding="utf-8"))):
                text = ast.get_docstring(node) or ""
                words = tuple(tokens(text))
                if len(words) >= _MIN_WORDS and words not in seen:
                    documents.append(text)
                seen.add(words)
        classes.append(tuple(documents))
    return tuple(classes)


def _documented_nodes(node: _DocumentedNode) -> Iterator[_DocumentedNode]:
    """Yield a module or class and its definitions, except definitions inside of functions and conditions."""
    yield node
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _documented_nodes(child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child


def _sources(modules: list[str]) -> Iterator[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    for name in modules:
        package, module = root / name, root / f"{name}.py"
        paths = sorted(package.rglob("*.py")) if package.is_dir() else [module]
        if not paths or not paths[0].is_file():
            raise FileNotFoundError(
                f"python-docs must find the sources of the standard library, but {name} is not in {root}; "
                "install a Python that has them"
            )
        yield from paths
