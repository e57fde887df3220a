"""Parametrizations whose images are combinations of components or of real images, and recipes that optimize them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.artefact import LABEL_BYTES
from ddsdk.foundation import PositiveFloat, PositiveInt, derive, require, require_count
from ddsdk.recipes import IterativeRecipe, cycled_images, start_images, unit_bounds
from ddsdk.synthetic import Bounds, Parametrization, class_slots, hard_labels

# Logits of black and white are infinite: pixels are clamped by this much to encode them.
_EDGE = 1e-3
_START_LOGIT = 4.0


@final
class Composites(Parametrization):
    """Images of a class as sigmoids of weighted sums of shared components: sigmoid(weights @ components).

    Args:
        images: Images at the start, (K*m, C, H, W) in the value space, m per class in the order of the classes.
        num_classes: Number of classes K.
        components: Number of components n of each class, at most m.
        bounds: Values of black and white in the value space.

    References:
        Wiewel and Yang, "Condensed Composite Memory Continual Learning", IJCNN 2021, arXiv:2102.09890.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.continual.composites import Composites
        >>> bounds = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
        >>> composites = Composites(torch.rand(8, 1, 6, 6), num_classes=2, components=2, bounds=bounds)
        >>> composites.stored_floats()  # 2 * 2 * 36 pixels of components and 2 * 4 * 2 weights
        160
    """

    def __init__(self, images: Tensor, num_classes: int, components: int, bounds: Bounds) -> None:
        super().__init__()
        require_count("components", components)
        m = len(images) // num_classes
        rule = f"hold equally many images of each class, at least {components}"
        require(m * num_classes == len(images) and m >= components, "images", rule, len(images))
        self._low, self._high = (bound.to(images) for bound in bounds)
        shape = images.shape[1:]
        self.components = nn.Parameter(torch.zeros(num_classes, components, *shape))
        self.weights = nn.Parameter(torch.zeros(num_classes, m, components))
        self.encode(images)

    @torch.no_grad()
    def encode(self, images: Tensor) -> None:
        """Set the components to the first n images of each class, and fit the weights of all m by least squares."""
        k, m, n = self.weights.shape
        unit = ((images - self._low) / (self._high - self._low)).clamp(_EDGE, 1 - _EDGE)
        # On the CPU, whose least squares are exact for images of less than full rank, such as repeated ones.
        logits = torch.logit(unit).view(k, m, -1).cpu()
        self.components.copy_(logits[:, :n].reshape(self.components.shape))
        weights = torch.linalg.lstsq(logits[:, :n].transpose(1, 2), logits.transpose(1, 2)).solution
        self.weights.copy_(weights.transpose(1, 2))

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the images of `slots` in the value space, and the slot of each image."""
        m = self.weights.shape[1]
        classes, members = slots // m, slots % m
        sums = torch.einsum("bn,bnp->bp", self.weights[classes, members], self.components.flatten(2)[classes])
        unit = torch.sigmoid(sums).view(-1, *self.components.shape[2:])
        return self._low + (self._high - self._low) * unit, slots

    def project_(self) -> None:
        """Do nothing: sigmoids lie in the unit range."""

    def stored_floats(self) -> int:
        """Return the number of floats in components and weights."""
        return self.components.numel() + self.weights.numel()


@final
class Combinations(Parametrization):
    """Images of a class as convex combinations of real images: weights are positive and sum to 1.

    Args:
        candidates: Real images in the value space, n for each of K classes, (K, n, C, H, W); they are not stored.
        per_class: Number of synthetic images m of each class.
        rng: Generator of the candidates near which the images start.

    References:
        Sangermano et al., "Sample Condensation in Online Continual Learning", IJCNN 2022, arXiv:2206.11849.

    Examples:
        >>> import torch
        >>> from ddsdk_integrations.continual.composites import Combinations
        >>> combinations = Combinations(torch.rand(2, 9, 1, 6, 6), 3, torch.Generator())
        >>> images, _ = combinations.decode(torch.arange(6), torch.Generator())
        >>> images.shape
        torch.Size([6, 1, 6, 6])
    """

    def __init__(self, candidates: Tensor, per_class: int, rng: torch.Generator) -> None:
        super().__init__()
        k, n = candidates.shape[:2]
        self.register_buffer("candidates", candidates, persistent=False)
        self.candidates: Tensor
        self.logits = nn.Parameter(torch.zeros(k, per_class, n))
        with torch.no_grad():
            # Image j starts with large weights on every m-th candidate after a random shift, so that all starts differ.
            shift = int(torch.randint(n, (), generator=rng))
            for j in range(per_class):
                favoured = torch.arange(j, n + j, per_class)[: max(1, n // per_class)]
                self.logits[:, j, (favoured + shift) % n] = _START_LOGIT

    def encode(self, images: Tensor) -> None:
        """Refuse a warm start: an arbitrary image is no convex combination of the candidates.

        Raises:
            ValueError: In every case.
        """
        raise ValueError(f"images must be means of the candidates, got {len(images)} others")

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the images of `slots` in the value space, and the slot of each image."""
        per_class = self.logits.shape[1]
        classes, members = slots // per_class, slots % per_class
        weights = self.logits[classes, members].softmax(1)
        return torch.einsum("bn,bnchw->bchw", weights, self.candidates[classes]), slots

    def project_(self) -> None:
        """Do nothing: a softmax is positive and sums to 1."""

    def stored_floats(self) -> int:
        """Return the number of floats of the synthetic images, which are stored in place of the candidates."""
        k, m, _ = self.logits.shape
        return k * m * self.candidates[0, 0].numel()


_MATCHING = dd.DC(students=20, steps_per_student=5, student_epochs=5, real_batch=64, student_lr=0.1)


@dataclass(frozen=True, kw_only=True)
class _Reparametrized(IterativeRecipe):
    """Recipe with the objective and the students of another recipe, and a parametrization of its own.

    Attributes:
        matching: Recipe of the objective and the students.
        lr: Learning rate of the parameters of the images (Adam), positive.
    """

    matching: IterativeRecipe = _MATCHING
    lr: PositiveFloat = 0.01

    def protocol(self, real: dd.RealData) -> dd.TrainingProtocol:
        """Return the training protocol of `matching`."""
        return self.matching.protocol(real)

    def reparametrized(
        self,
        real: dd.RealData,
        per_class: int,
        images: Parametrization,
        **arguments: Any,  # noqa: ANN401
    ) -> dd.Plan[Any]:
        """Return the plan of `matching` for `images` with `per_class` images of each class.

        Args:
            real: Real images with class ids.
            per_class: Number of synthetic images of each class.
            images: Parametrization of the synthetic images.
            **arguments: Arguments `make_student` and `rng` of `parts`.

        Returns:
            The plan, with Adam for the parameters of `images`.
        """
        plan = dataclasses.replace(self.matching, ipc=self.ipc).parts(real, **arguments)
        classes = class_slots(real.num_classes, per_class)
        labels = hard_labels(classes, real.num_classes)
        syn = dd.SyntheticSet(images, labels, classes, real.num_classes).to(real.device)
        return dataclasses.replace(
            plan, syn=syn, make_optimizer=lambda syn: torch.optim.Adam(syn.parameters(), lr=self.lr)
        )


@final
@dataclass(frozen=True, kw_only=True)
class CompositeMatching(_Reparametrized):
    """Condensed composite memory: gradient matching of images composed of the components of their class.

    The number of images per class is ``ipc * factor_images``: `ipc` counts components.

    Attributes:
        matching: Recipe of the objective and the students.
        lr: Learning rate of components and weights (Adam), positive.
        factor_images: Number of images per component.

    Differences from the published algorithm: the students are those of `matching`, and the components start as
    real images.

    References:
        Wiewel and Yang, "Condensed Composite Memory Continual Learning", IJCNN 2021, arXiv:2102.09890.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.continual import CompositeMatching
        >>> real = ddsdk.load("digits")
        >>> students = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> matching = ddsdk.DC(students=1, steps_per_student=1, student_epochs=1, real_batch=16)
        >>> recipe = CompositeMatching(ipc=2, factor_images=2, matching=matching)
        >>> len(ddsdk.distill(recipe, real, make_student=students, seed=0))
        40
    """

    name: ClassVar[str] = "composites"
    factor_images: PositiveInt = 2

    def most_components(self, budget: int, shape: tuple[int, int, int]) -> int:
        """Return the number of components of a class, at least 1, that fit into `budget` bytes.

        A component is stored as uint8 pixels, with one range of 8 bytes for all of them; a weight takes two bytes, and
        each image counts its label.
        """

        def size(n: int) -> int:
            return n * math.prod(shape) + 8 + n * self.factor_images * (2 * n + LABEL_BYTES)

        return next(n for n in itertools.count(1) if size(n + 1) > budget)

    def parts(self, real: dd.RealData, **arguments: Any) -> dd.Plan[Any]:  # noqa: ANN401
        """Return the plan; a class with fewer images than `ipc * factor_images` starts from repeated ones.

        Args:
            real: Real images without whitening.
            **arguments: Arguments `make_student` and `rng`.

        Returns:
            The plan of `matching` with composites as images.

        Raises:
            ValueError: If the preprocessing of `real` whitens.
        """
        m = self.ipc * self.factor_images
        bounds = unit_bounds(real)
        if bounds is None:
            raise ValueError("preprocess must not whiten, for composites live in the unit range, got zca")
        images = cycled_images(real, self.ipc, m, "real", arguments["rng"])
        return self.reparametrized(real, m, Composites(images, real.num_classes, self.ipc, bounds), **arguments)


@final
@dataclass(frozen=True, kw_only=True)
class CombinationMatching(_Reparametrized):
    """Online sample condensation: gradient matching of convex combinations of real images.

    Attributes:
        matching: Recipe of the objective and the students.
        lr: Learning rate of the logits of the weights (Adam), positive.
        candidates: Largest number of real images of each class in the combinations; at least `ipc` are taken.

    Differences from the published algorithm: remembered images are candidates only if the memory merges visits; the
    students are those of `matching`.

    References:
        Sangermano et al., "Sample Condensation in Online Continual Learning", IJCNN 2022, arXiv:2206.11849.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.continual import CombinationMatching
        >>> real = ddsdk.load("digits")
        >>> students = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> matching = ddsdk.DC(students=1, steps_per_student=1, student_epochs=1, real_batch=16)
        >>> recipe = CombinationMatching(ipc=2, candidates=8, matching=matching)
        >>> len(ddsdk.distill(recipe, real, make_student=students, seed=0))
        20
    """

    name: ClassVar[str] = "combinations"
    candidates: PositiveInt = 32

    def parts(self, real: dd.RealData, **arguments: Any) -> dd.Plan[Any]:  # noqa: ANN401
        """Return the plan of `matching` with combinations of random real images as images."""
        n = max(self.ipc, min(self.candidates, *real.class_sizes))
        images = start_images(real, n, "real", arguments["rng"]).view(real.num_classes, n, *real.image_shape)
        combinations = Combinations(images, self.ipc, derive(arguments["rng"], "combinations"))
        return self.reparametrized(real, self.ipc, combinations, **arguments)
