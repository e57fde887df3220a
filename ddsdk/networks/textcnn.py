"""TextCNN, a convolutional network for sentences given as matrices of word vectors."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ddsdk.foundation import require
from ddsdk.networks.network import Network
from ddsdk.networks.shapes import ImageShape, check_request

_PHRASE_LENGTHS = (3, 4, 5)


@final
class Phrases(nn.Module):
    """Convolutional filters over phrases of 3, 4 and 5 words, each with its maximum over the sentence.

    Args:
        image_shape: Shape of a sentence, (C, L, D): channels, words, and length of a word vector.
        width: Number of filters of each phrase length.
    """

    def __init__(self, image_shape: ImageShape, width: int) -> None:
        super().__init__()
        channels, _, dim = image_shape
        self.filters = nn.ModuleList(nn.Conv2d(channels, width, (length, dim)) for length in _PHRASE_LENGTHS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, (B, 3 * width), of sentences (B, C, L, D)."""
        return torch.cat([conv(x).relu().amax((2, 3)) for conv in self.filters], 1)


def textcnn(image_shape: ImageShape, num_classes: int, *, width: int = 100) -> Network:
    """Return a TextCNN: filters over phrases of 3, 4 and 5 words, the maximum over time, and a linear head.

    The network has no embedding layer. Its input is a sentence as an image, (1, L, D), with one word vector in each
    row. Real sentences have frozen word vectors; the rows of synthetic sentences are learned. The network has no
    dropout, because the training of a student inside an unrolled gradient must be repeatable.

    Args:
        image_shape: Shape of a sentence, (C, L, D): channels, number of words (at least 5), and length of a word
            vector.
        num_classes: Number of classes K >= 2.
        width: Number of filters of each phrase length, >= 1.

    Examples:
        >>> import ddsdk
        >>> import torch
        >>> student = ddsdk.network_factory("textcnn", (1, 32, 16), 5, width=4)(ddsdk.generator(0))
        >>> student(torch.zeros(2, 1, 32, 16)).shape
        torch.Size([2, 5])

    References:
        Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014, arXiv:1408.5882.
    """
    check_request(image_shape, num_classes)
    require(width >= 1, "width", "be at least 1", width)
    rule = f"hold at least {max(_PHRASE_LENGTHS)} words for TextCNN"
    require(image_shape[1] >= max(_PHRASE_LENGTHS), "image_shape", rule, image_shape[1])
    return Network(nn.Sequential(Phrases(image_shape, width)), nn.Linear(len(_PHRASE_LENGTHS) * width, num_classes))
