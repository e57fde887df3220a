"""A convolutional network over sentences that are matrices of word vectors."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from ddsdk.foundation import require
from ddsdk.networks.network import Network
from ddsdk.networks.shapes import ImageShape, check_request

_LENGTHS = (3, 4, 5)


@final
class Phrases(nn.Module):
    """Filters over phrases of several lengths, and the maximum of each along the sentence.

    Args:
        image_shape: Shape of a sentence, (C, L, D).
        width: Filters of each length.
    """

    def __init__(self, image_shape: ImageShape, width: int) -> None:
        super().__init__()
        channels, _, dim = image_shape
        self.filters = nn.ModuleList(nn.Conv2d(channels, width, (length, dim)) for length in _LENGTHS)

    def forward(self, x: Tensor) -> Tensor:
        """Map sentences (B, C, L, D) to (B, 3 width)."""
        return torch.cat([conv(x).relu().amax((2, 3)) for conv in self.filters], 1)


def textcnn(image_shape: ImageShape, num_classes: int, *, width: int = 100) -> Network:
    """Build TextCNN: filters over phrases of 3, 4 and 5 words, the maximum over time, and a linear head.

    It begins behind the embedding layer: an image is a sentence, (1, L, D), with a word vector in each row. So real
    sentences, whose words have frozen vectors, and synthetic ones, whose rows are learned, enter in the same way. There
    is no dropout: a student that trains inside a gradient must train in the same way each time.

    Args:
        image_shape: Shape of a sentence, (C, L, D): channels, words, of which there are at least 5, and length of a
            word vector.
        num_classes: Number of classes K >= 2.
        width: Filters of each length, >= 1.

    References:
        Kim, "Convolutional Neural Networks for Sentence Classification", EMNLP 2014, arXiv:1408.5882.
    """
    check_request(image_shape, num_classes)
    require(width >= 1, "width", "be at least 1", width)
    long = f"hold at least {max(_LENGTHS)} words for TextCNN"
    require(image_shape[1] >= max(_LENGTHS), "image_shape", long, image_shape[1])
    return Network(nn.Sequential(Phrases(image_shape, width)), nn.Linear(len(_LENGTHS) * width, num_classes))
