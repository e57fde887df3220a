"""Texts with labels, from tables of text, and their conversion to matrices of word vectors."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ddsdk.data.columns import TEXT_COLUMNS, choose_column, choose_label
from ddsdk.data.labels import class_labels
from ddsdk.data.raw import Raw, Texts
from ddsdk.data.splits import files_of_split
from ddsdk.data.words import Vocabulary, tokens
from ddsdk.foundation import note, require, require_memory

TABLES = (".csv", ".tsv")
LENGTH = 32
"""Number of words of each text; later words are left out, as in "python-docs"."""

_DIM = 32
_LARGEST_CELL = 2**24


def read_csv(path: Path, split: str, text: str | None, label: str | None) -> Raw:
    """Return the texts and labels of one split of a CSV file with a header, or of a folder of such files.

    Args:
        path: File with the suffix .csv or .tsv in UTF-8, or folder of them with the split in their names.
        split: Split to read, "train" or "test".
        text: Name of the column of texts; None takes one with a usual name, such as "text".
        label: Name of the column of labels; None takes one with a usual name, such as "label".
    """
    texts: list[str] = []
    labels: list[str] = []
    for file in files_of_split(path, split, TABLES):
        rows, where = csv_rows(file), f"{str(file)!r}"
        types = dict.fromkeys(rows[0] if rows else (), "text")
        text_name = choose_column("text_column", text, types, _no_fault, TEXT_COLUMNS, where)
        label_name = choose_label(label, {name: t for name, t in types.items() if name != text_name}, _no_fault, where)
        for row in rows:
            texts.append(row[text_name])
            labels.append(row[label_name])
    require(bool(texts), "data", "hold at least one row", str(path))
    ids, names = class_labels(labels)
    return Raw(Texts(tuple(texts)), ids, names)


def _no_fault(_: str) -> None:
    return None


def csv_rows(file: Path) -> list[dict[str, str]]:
    r"""Return the rows of a CSV file with a header, each with a cell for every column.

    Args:
        file: File in UTF-8; the suffix .tsv means tabs between the cells, and every other one commas.

    Raises:
        ValueError: If the file is no such table, or a row has more or fewer cells than the header.

    Examples:
        >>> from pathlib import Path
        >>> from ddsdk.data import csv_rows
        >>> _ = Path("table.csv").write_text("text,label\na good one,1\n")
        >>> csv_rows(Path("table.csv"))
        [{'text': 'a good one', 'label': '1'}]
    """
    csv.field_size_limit(_LARGEST_CELL)
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter="\t" if file.suffix == ".tsv" else ",")
            rows, columns = list(reader), len(reader.fieldnames or ())
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"file {str(file)!r} must be a table in UTF-8, got an error: {error}") from error
    for i, row in enumerate(rows):
        # A short row has None for missing cells, and a long row has the key None.
        complete = None not in row and None not in row.values()
        require(complete, f"row {i} of {str(file)!r}", f"have {columns} cells", row)
    return rows


def fit_vocabulary(texts: Sequence[str]) -> Vocabulary:
    """Return the vocabulary of train texts, with a note that names tokenizer and embedding."""
    distinct = len({word for text in texts for word in tokens(text)})
    vocabulary = Vocabulary.fit(texts, dim=min(_DIM, max(1, distinct - 1)))
    words, dim = len(vocabulary.words) - 1, vocabulary.vectors.shape[1]
    note(
        f"texts are their first {LENGTH} words of a vocabulary of {words} words, fitted on the train texts, for "
        f"the network textcnn: words of letters a-z, vectors of length {dim} from their co-occurrence (PMI and SVD)"
    )
    return vocabulary


def matrices(vocabulary: Vocabulary, texts: Texts, split: str) -> Tensor:
    """Return texts as images (N, 1, L, D) of word vectors; a text without a known word is noted.

    Args:
        vocabulary: Vocabulary of the train texts.
        texts: Texts of a split.
        split: Name of the split in messages.
    """
    needed = 4 * len(texts) * LENGTH * vocabulary.vectors.shape[1]
    require_memory(needed, f"texts of {split} as matrices of word vectors", "pass fewer texts")
    known = set(vocabulary.words)
    empty = [i for i, text in enumerate(texts.values) if not known.intersection(tokens(text))]
    if empty:
        note(f"{len(empty)} of {len(texts)} texts of {split} have no word of the vocabulary, first item {empty[0]}")
    return vocabulary.matrices(texts.values, LENGTH)


def vocabulary_state(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return length, size and a digest of the words, for the provenance of a distilled set."""
    digest = hashlib.sha256("\0".join(vocabulary.words).encode()).hexdigest()
    return {"length": LENGTH, "words": len(vocabulary.words) - 1, "sha256": digest}
