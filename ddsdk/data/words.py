"""Text as matrices of word vectors for networks, and the words nearest to the rows of a matrix."""

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
"""Padding after the last word of a short text; its vector is 0.5, the middle of the unit range."""

Vectors = NDArray[np.float64]

_WORD = re.compile(r"[a-z]{2,}")
_WINDOW = 5


def tokens(text: str) -> list[str]:
    """Return the words of a text: sequences of at least two letters a-z, in lower case; "_" separates words."""
    return _WORD.findall(text.lower())


@final
@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Vocabulary with one frozen vector for each word.

    A text is stored as a matrix of L word vectors of length D, in the form of an image (1, L, D) in the unit range. All
    recipes for images therefore work for text. The data set is ``ddsdk.load((vocabulary.matrices(texts, length),
    labels), pictures=False)``, without image augmentation, and the `Pixels` of a synthetic set are learned matrices of
    word vectors.

    Attributes:
        words: Distinct words, V in number, of which the first one is `PADDING`.
        vectors: Word vectors, (V, D), in the unit range; 0.5 represents zero.

    Examples:
        >>> import ddsdk
        >>> vocabulary = ddsdk.data.Vocabulary.fit(["the red cat sat", "the black dog sat"], dim=4)
        >>> matrices = vocabulary.matrices(["red dog"], 3)
        >>> matrices.shape, vocabulary.nearest(matrices)
        (torch.Size([1, 1, 3, 4]), [['red', 'dog']])
    """

    words: tuple[str, ...]
    vectors: Tensor

    def __post_init__(self) -> None:
        require(self.words[:1] == (PADDING,), "words", "begin with the padding", self.words[:1])
        require(len(set(self.words)) == len(self.words), "words", "be distinct", len(self.words))
        is_table = self.vectors.ndim == 2 and len(self.vectors) == len(self.words)
        rule = f"have {len(self.words)} rows in the unit range"
        require(is_table, "vectors", rule, tuple(self.vectors.shape))
        low, high = float(self.vectors.min()), float(self.vectors.max())
        require(low >= 0 and high <= 1, "vectors", rule, (low, high))

    @classmethod
    def fit(cls, texts: Sequence[str], *, size: int = 2000, dim: int = 32) -> Vocabulary:
        """Return a vocabulary of the most frequent words of texts, with vectors from their co-occurrence.

        Two words co-occur if at most 4 words are between them. The vectors are the truncated singular value
        decomposition of the positive pointwise mutual information, max(0, log p(a, b) / (p(a) p(b))), by scikit-learn.
        They are scaled by the square roots of the singular values, and then to unit length.

        Args:
            texts: Training texts, with more than `dim` different words.
            size: Maximum number of words without the padding; equally frequent words are taken in alphabetical order.
            dim: Length D of a word vector.

        Cost: memory for a square matrix of `size` rows in float64.

        References:
            Levy and Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", NeurIPS 2014.
        """
        require_count("size", size)
        require_count("dim", dim)
        tokenized = [tokens(text) for text in texts]
        counts = Counter(word for text in tokenized for word in text)
        words = sorted(counts, key=lambda word: (-counts[word], word))[:size]
        require(len(words) > dim, "texts", f"hold more than {dim} different words", len(words))
        vectors = _cooccurrence_vectors(tokenized, {word: i for i, word in enumerate(words)}, dim)
        padding = np.zeros((1, dim))
        return cls((PADDING, *words), torch.from_numpy(np.concatenate([padding, vectors]) / 2 + 0.5).float())

    def matrices(self, texts: Sequence[str], length: int) -> Tensor:
        """Return texts as images (N, 1, length, D): the vectors of their first words, followed by padding.

        Args:
            texts: Texts to convert; words outside the vocabulary are skipped.
            length: Number L of word vectors of each text.
        """
        require_count("length", length)
        position = {word: i for i, word in enumerate(self.words)}
        indices = torch.zeros(len(texts), length, dtype=torch.int64)
        for row, text in zip(indices, texts, strict=True):
            word_indices = [position[word] for word in tokens(text) if word in position][:length]
            row[: len(word_indices)] = torch.tensor(word_indices, dtype=torch.int64)
        return self.vectors[indices][:, None]

    def nearest(self, matrices: Tensor) -> list[list[str]]:
        """Return the word with the nearest vector, by Euclidean distance, for each row of matrices.

        Padding at the end of a text is removed. Learned rows are in general not vectors of words, so that the words are
        only a rough description of a synthetic text.

        Args:
            matrices: Matrices (N, 1, L, D) in the unit range, such as
                ``distilled.preprocess.inverse(distilled.images)``.
        """
        dim = self.vectors.shape[1]
        has_shape = matrices.ndim == 4 and (matrices.shape[1], matrices.shape[3]) == (1, dim)
        require(has_shape, "matrices", f"have shape (N, 1, L, {dim})", tuple(matrices.shape))
        distances = torch.cdist(matrices[:, 0].cpu().float().flatten(0, 1), self.vectors.cpu())
        texts = []
        for row in distances.argmin(1).view(len(matrices), -1).tolist():
            words = [self.words[i] for i in row]
            while words and words[-1] == PADDING:
                words.pop()
            texts.append(words)
        return texts


def _cooccurrence_vectors(texts: Sequence[Sequence[str]], position: Mapping[str, int], dim: int) -> Vectors:
    """Return the vectors of the words, (V, dim), each of unit length."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    counts = np.zeros((len(position), len(position)))
    for text in texts:
        # A word outside the vocabulary keeps its position, so that the distance of its neighbours does not change.
        indices = np.array([position.get(word, -1) for word in text], dtype=np.int64)
        for distance in range(1, _WINDOW + 1):
            a, b = indices[:-distance], indices[distance:]
            in_vocabulary = (a >= 0) & (b >= 0)
            np.add.at(counts, (a[in_vocabulary], b[in_vocabulary]), 1)
    pair_counts = counts + counts.T
    word_counts = np.maximum(pair_counts.sum(1), 1)
    # max(0, log x) = log(max(1, x))
    mutual_information = np.log(np.maximum(1, pair_counts * pair_counts.sum() / np.outer(word_counts, word_counts)))
    svd = TruncatedSVD(dim, random_state=0)
    # scikit-learn returns U S; the vectors of the paper are U S^1/2.
    vectors = svd.fit_transform(mutual_information) / np.sqrt(np.maximum(svd.singular_values_, 1e-12))
    unit_vectors: Vectors = normalize(vectors)
    return unit_vectors
