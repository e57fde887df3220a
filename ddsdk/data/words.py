"""Words as vectors: text becomes matrices for networks, and is read back from them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddsdk.foundation import require, require_count

PADDING = ""
"""Word behind the last one of a short text; its vector is the middle of the unit range."""

Vectors = NDArray[np.float64]

_WORD = re.compile(r"[a-z]{2,}")
_WINDOW = 5


def tokens(text: str) -> list[str]:
    """Return the words of a text: runs of at least two letters a-z, in lower case; an underscore parts words."""
    return _WORD.findall(text.lower())


@final
@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words with a frozen vector each.

    A text is a matrix of L word vectors of length D, and is stored as an image (1, L, D) in the unit range. All that
    works with images works with text then: `ddsdk.load((vocabulary.matrices(texts), labels), pictures=False)` is a data
    set that nothing rotates, and `Pixels` are learned embedding matrices.

    Attributes:
        words: Distinct words, V of them; the first one is `PADDING`.
        vectors: Vectors (V, D) in the unit range, 0.5 standing for zero.
    """

    words: tuple[str, ...]
    vectors: Tensor

    def __post_init__(self) -> None:
        require(self.words[:1] == (PADDING,), "words", "begin with the padding", self.words[:1])
        require(len(set(self.words)) == len(self.words), "words", "be distinct", len(self.words))
        fits = self.vectors.ndim == 2 and len(self.vectors) == len(self.words)
        rule = f"have {len(self.words)} rows in the unit range"
        require(fits, "vectors", rule, tuple(self.vectors.shape))
        low, high = float(self.vectors.min()), float(self.vectors.max())
        require(low >= 0 and high <= 1, "vectors", rule, (low, high))

    @classmethod
    def fit(cls, texts: Sequence[str], *, size: int = 2000, dim: int = 32) -> Vocabulary:
        """Take the most frequent words of `texts`, and vectors from the company that they keep.

        Two words keep company where at most 4 words stand between them. The vectors are the truncated singular value
        decomposition of max(0, log p(a, b) / (p(a) p(b))), scaled by the roots of the singular values and then to
        unit length, by scikit-learn.

        Args:
            texts: Training texts with more than `dim` different words.
            size: Number of words at most, beside the padding; equally frequent ones in the order of the alphabet.
            dim: Length D of a vector.

        Cost: a square matrix of `size` rows in float64.

        References:
            Levy and Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", NeurIPS 2014.
        """
        require_count("size", size)
        require_count("dim", dim)
        found = [tokens(text) for text in texts]
        counts = Counter(word for text in found for word in text)
        words = sorted(counts, key=lambda word: (-counts[word], word))[:size]
        require(len(words) > dim, "texts", f"hold more than {dim} different words", len(words))
        vectors = _from_company(found, {word: i for i, word in enumerate(words)}, dim)
        middle = np.zeros((1, dim))
        return cls((PADDING, *words), torch.from_numpy(np.concatenate([middle, vectors]) / 2 + 0.5).float())

    def matrices(self, texts: Sequence[str], length: int) -> Tensor:
        """Return the texts as images (N, 1, length, D): the vectors of their first known words, then padding.

        Args:
            texts: Texts, whose words outside the vocabulary are left out.
            length: Number L of words of each.
        """
        require_count("length", length)
        at = {word: i for i, word in enumerate(self.words)}
        rows = torch.zeros(len(texts), length, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            known = [at[word] for word in tokens(text) if word in at][:length]
            row[: len(known)] = torch.tensor(known, dtype=torch.int64)
        return self.vectors[rows][:, None]

    def nearest(self, matrices: Tensor) -> list[list[str]]:
        """Return the word nearest to each row of `matrices`, by Euclidean distance, without padding at the end.

        Learned rows are no words: this is for reading, and loses most of the matrix.

        Args:
            matrices: Matrices (N, 1, L, D) in the unit range, such as
                ``distilled.preprocess.inverse(distilled.images)``.
        """
        dim = self.vectors.shape[1]
        fits = matrices.ndim == 4 and (matrices.shape[1], matrices.shape[3]) == (1, dim)
        require(fits, "matrices", f"have shape (N, 1, L, {dim})", tuple(matrices.shape))
        distances = torch.cdist(matrices[:, 0].cpu().float().flatten(0, 1), self.vectors.cpu())
        found = []
        for row in distances.argmin(1).view(len(matrices), -1).tolist():
            words = [self.words[i] for i in row]
            while words and words[-1] == PADDING:
                words.pop()
            found.append(words)
        return found


def _from_company(texts: Sequence[Sequence[str]], at: Mapping[str, int], dim: int) -> Vectors:
    """Return a vector of length 1 for each word, (V, dim)."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    counts = np.zeros((len(at), len(at)))
    for text in texts:
        # A word that is not known keeps its place, so that its neighbours come no closer.
        row = np.array([at.get(word, -1) for word in text], dtype=np.int64)
        for step in range(1, _WINDOW + 1):
            a, b = row[:-step], row[step:]
            known = (a >= 0) & (b >= 0)
            np.add.at(counts, (a[known], b[known]), 1)
    both = counts + counts.T
    each = np.maximum(both.sum(1), 1)
    company = np.log(np.maximum(1, both * both.sum() / np.outer(each, each)))
    svd = TruncatedSVD(dim, random_state=0)
    vectors = svd.fit_transform(company) / np.sqrt(np.maximum(svd.singular_values_, 1e-12))
    found: Vectors = normalize(vectors)
    return found
