"""Sets whose images are combinations: of components that a class shares, or of real images."""

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

_EDGE = 1e-3


@final
class Composites(Parametrization):
    """Images of a class as sigmoids of weighted sums of its components: sigmoid(weights @ components).

    Args:
        images: Images at the start, (K*m, C, H, W) in the value space, m of each class in order.
        num_classes: Number of classes K.
        components: Number of components of each class, n.
        bounds: Values of black and white in the value space.

    References:
        Wiewel and Yang, "Condensed Composite Memory Continual Learning", IJCNN 2021, arXiv:2102.09890.
    """

    def __init__(self, images: Tensor, num_classes: int, components: int, bounds: Bounds) -> None:
        super().__init__()
        require_count("components", components)
        m = len(images) // num_classes
        require(m * num_classes == len(images) and m >= components, "images", "be n of each class at least", m)
        self._low, self._high = bounds
        shape = images.shape[1:]
        self.components = nn.Parameter(torch.zeros(num_classes, components, *shape))
        self.weights = nn.Parameter(torch.zeros(num_classes, m, components))
        self.encode(images)

    @torch.no_grad()
    def encode(self, images: Tensor) -> None:
        """Take the first images of each class as components, and the weights of least squares for all of them."""
        k, m, n = self.weights.shape
        unit = ((images - self._low) / (self._high - self._low)).clamp(_EDGE, 1 - _EDGE)
        logits = torch.logit(unit).view(k, m, -1)
        self.components.copy_(logits[:, :n].reshape(self.components.shape))
        found = torch.linalg.lstsq(logits[:, :n].transpose(1, 2), logits.transpose(1, 2)).solution
        self.weights.copy_(found.transpose(1, 2))

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return an image for each of `slots`."""
        m = self.weights.shape[1]
        of, which = slots // m, slots % m
        sums = torch.einsum("bn,bnp->bp", self.weights[of, which], self.components.flatten(2)[of])
        unit = torch.sigmoid(sums).view(-1, *self.components.shape[2:])
        return self._low + (self._high - self._low) * unit, slots

    def project_(self) -> None:
        """Do nothing: sigmoids lie in the unit range."""

    def stored_floats(self) -> int:
        """Return the floats of components and weights."""
        return self.components.numel() + self.weights.numel()


@final
class Combined(Parametrization):
    """Images of a class as weighted means of real ones, with weights that are positive and sum to 1.

    Args:
        candidates: Real images in the value space, (K, n, C, H, W); they are not stored.
        per_class: Number of images of each class, m.
        rng: Generator of the candidates near which the images start.

    References:
        Sangermano et al., "Sample Condensation in Online Continual Learning", IJCNN 2022, arXiv:2206.11849.
    """

    def __init__(self, candidates: Tensor, per_class: int, rng: torch.Generator) -> None:
        super().__init__()
        k, n = candidates.shape[:2]
        self.register_buffer("candidates", candidates, persistent=False)
        self.candidates: Tensor
        self.logits = nn.Parameter(torch.zeros(k, per_class, n))
        with torch.no_grad():
            # Image j leans on every m-th candidate from a random one on, so that no two start alike.
            shift = int(torch.randint(n, (), generator=rng))
            for j in range(per_class):
                mine = torch.arange(j, n + j, per_class)[: max(1, n // per_class)]
                self.logits[:, j, (mine + shift) % n] = 4.0

    def encode(self, images: Tensor) -> None:
        """Raise ValueError, for not every image is a mean of the candidates."""
        raise ValueError(f"images must be means of the candidates, got {len(images)} others")

    def decode(self, slots: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return an image for each of `slots`."""
        per_class = self.logits.shape[1]
        of, which = slots // per_class, slots % per_class
        weights = self.logits[of, which].softmax(1)
        return torch.einsum("bn,bnchw->bchw", weights, self.candidates[of]), slots

    def project_(self) -> None:
        """Do nothing: a softmax is positive and sums to 1."""

    def stored_floats(self) -> int:
        """Return the floats of the images: the candidates are not kept, so the means are."""
        k, m, _ = self.logits.shape
        return k * m * self.candidates[0, 0].numel()


_MATCHING = dd.DC(students=20, steps_per_student=5, student_epochs=5, real_batch=64, student_lr=0.1)


@dataclass(frozen=True, kw_only=True)
class _Swapped(IterativeRecipe):
    """A recipe with another parametrization in it.

    Attributes:
        matching: Recipe that gives objective and students.
        lr: Learning rate of the parameters behind the images (Adam).
    """

    matching: IterativeRecipe = _MATCHING
    lr: PositiveFloat = 0.01

    def evaluation(self, real: dd.RealData) -> dd.Evaluation:
        """Return the protocol of `matching`."""
        return self.matching.evaluation(real)

    def swapped(self, real: dd.RealData, per_class: int, images: Parametrization, **how: Any) -> dd.Plan[Any]:  # noqa: ANN401
        """Return the plan of `matching` with other images, `per_class` of each class."""
        plan = dataclasses.replace(self.matching, ipc=self.ipc).parts(real, **how)
        classes = class_slots(real.num_classes, per_class)
        labels = hard_labels(classes, real.num_classes)
        syn = dd.SyntheticSet(images, labels, classes, real.num_classes).to(real.device)
        return dataclasses.replace(
            plan, syn=syn, make_optimizer=lambda syn: torch.optim.Adam(syn.parameters(), lr=self.lr)
        )


@final
@dataclass(frozen=True, kw_only=True)
class Composing(_Swapped):
    """Condensed composite memory: gradient matching of images that are made of components of their class.

    Attributes:
        factor_images: Images for each component.

    Differences from the published algorithm: the students are those of `matching`, and the components start as
    real images.
    """

    name: ClassVar[str] = "composites"
    factor_images: PositiveInt = 2

    def most_components(self, budget: int, shape: tuple[int, int, int]) -> int:
        """Return the number of components of a class, at least 1, that fit into so many bytes.

        Components are bytes with their range, weights half floats; the labels of the images count too.
        """

        def size(n: int) -> int:
            return n * math.prod(shape) + 8 + n * self.factor_images * (2 * n + LABEL_BYTES)

        return next(n for n in itertools.count(1) if size(n + 1) > budget)

    def parts(self, real: dd.RealData, **how: Any) -> dd.Plan[Any]:  # noqa: ANN401
        """Return the plan; a class with few images has some of them twice."""
        m = self.ipc * self.factor_images
        bounds = unit_bounds(real)
        if bounds is None:
            raise ValueError("preprocess must not whiten, for composites live in the unit range, got zca")
        drawn = cycled_images(real, self.ipc, m, "real", how["rng"])
        return self.swapped(real, m, Composites(drawn, real.num_classes, self.ipc, bounds), **how)


@final
@dataclass(frozen=True, kw_only=True)
class Combining(_Swapped):
    """Online sample condensation: gradient matching of weighted means of the images that came.

    Attributes:
        candidates: Number of images of each class that may be combined.

    Differences from the published algorithm: old images are candidates only where the memory merges; the students
    are those of `matching`.
    """

    name: ClassVar[str] = "combinations"
    candidates: PositiveInt = 32

    def parts(self, real: dd.RealData, **how: Any) -> dd.Plan[Any]:  # noqa: ANN401
        """Return the plan."""
        n = max(self.ipc, min(self.candidates, *real.class_sizes))
        images = start_images(real, n, "real", how["rng"]).view(real.num_classes, n, *real.image_shape)
        combined = Combined(images, self.ipc, derive(how["rng"], "combinations"))
        return self.swapped(real, self.ipc, combined, **how)
