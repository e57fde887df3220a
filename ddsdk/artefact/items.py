"""Dataset of the images and labels of a distilled set, for training code of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import Tensor
from torch.utils.data import TensorDataset


@final
class DistilledItems(TensorDataset):
    """Dataset of pairs (image, label) with an optional transform of the images.

    Args:
        images: Images (M, C, H, W).
        labels: Label rows (M, K), or class ids (M,) int64.
        transform: Function of one image (C, H, W), applied at each access. None for none.

    Examples:
        >>> import ddsdk
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), ddsdk.load("digits"))
        >>> image, label = distilled.as_dataset("ids", transform=lambda x: x.flip(-1))[3]
        >>> tuple(image.shape), int(label)
        ((1, 8, 8), 3)
    """

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable[[Tensor], Any] | None = None) -> None:
        super().__init__(images, labels)
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return the image at a position, transformed, and its label."""
        image, label = (tensor[index] for tensor in self.tensors)
        return (image if self.transform is None else self.transform(image)), label
