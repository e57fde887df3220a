"""From the real images of one moment to what is kept of them: any recipe of ddsdk, within a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

import ddsdk as dd
from ddsdk.artefact import LABEL_BYTES, Codec, Components, Packed, Tiles
from ddsdk.foundation import require, require_rate
from ddsdk.objectives import ClassMatch, Total
from ddsdk.recipes import IterativeRecipe
from ddsdk.running import Run, WarmStart
from ddsdk.synthetic import MultiFormation
from ddsdk_integrations.continual.composites import Combining, Composing, Composites
from ddsdk_integrations.continual.relation import RelationMatch


class Made(NamedTuple):
    """Result of a distillation.

    Attributes:
        images: Images, (M, C, H, W) in the unit range.
        classes: Class of each item, (M,) int64.
        labels: Label of each item, (M, K) probabilities.
        stored: Class to its items as the recipe stores them, where that is not as images.
        seconds: Time of the distillation.
    """

    images: Tensor
    classes: Tensor
    labels: Tensor
    stored: Mapping[int, tuple[Codec, Packed]]
    seconds: float


@final
@dataclass(frozen=True)
class Distiller:
    """Runs a recipe on real images.

    Attributes:
        recipe: Recipe or baseline of ddsdk, or one's own subclass of `ddsdk.Recipe`. Its `ipc` is set anew by the bytes
            that there are.
        network: Name in `ddsdk.NETWORKS` of the students. Fresh ones, never the learner: a memory that is made
            for one network serves another one less.
        network_options: Options of its builder; None for width 32 of a ConvNet, and for the usual ones of others.
        seconds: Time after which no further step is taken; the set is what it is by then. A recipe without steps, and
            the networks that a recipe trains before its first one, cannot be cut short. None for all steps.
        past: Whether what is remembered of the task stands beside the new classes as further ones: students have
            outputs for them and train on them, and their images do not change. It needs a recipe that matches class by
            class (`ddsdk.objectives.ClassMatch`).
        relation: Weight of `RelationMatch`, which compares with what is remembered; 0 leaves it out. It needs `past`.

    Raises:
        TypeError: If `recipe` is no `ddsdk.Recipe`.
        ValueError: If the network is unknown or `seconds` is not positive.
    """

    recipe: dd.Recipe
    _: KW_ONLY
    network: str = "convnet"
    network_options: Mapping[str, Any] | None = None
    seconds: float | None = None
    past: bool = False
    relation: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.recipe, dd.Recipe):
            raise TypeError(f"recipe must be a ddsdk.Recipe, such as ddsdk.DM(), got {self.recipe!r}")
        require(self.network in dd.NETWORKS, "network", f"be one of {', '.join(dd.NETWORKS)}", self.network)
        if self.seconds is not None:
            require_rate("seconds", self.seconds)
        require(self.relation >= 0, "relation", "not be negative", self.relation)
        require(self.past or not self.relation, "relation", "be 0 without past", self.relation)

    @property
    def stores_no_images(self) -> bool:
        """Whether the recipe stores no images, but tiles or components: they are packed as such, whatever codec."""
        return isinstance(self.recipe, Composing) or getattr(self.recipe, "factor", 1) != 1

    def items_within(
        self, budget: int, shape: tuple[int, int, int], codec: Codec, label_bytes: int = LABEL_BYTES
    ) -> int:
        """Return the ipc with which what the recipe makes of a class takes so many bytes at most, and 1 at least.

        Args:
            budget: Bytes of a class.
            shape: Shape of an image, (C, H, W).
            codec: Codec of the images, for recipes that make images.
            label_bytes: Bytes of the label of an item.
        """
        if isinstance(self.recipe, Composing):
            return self.recipe.most_components(budget, shape)
        return max(1, budget // (codec.item_bytes(shape) + label_bytes))

    def __call__(
        self,
        real: dd.RealData,
        ipc: int,
        *,
        rng: torch.Generator,
        new: int | None = None,
        start: WarmStart | None = None,
    ) -> Made:
        """Distil `real` to `ipc` items of each class, or as many as its smallest new class has images.

        Args:
            real: Images of one moment. With `past`, what is remembered stands behind its new classes.
            ipc: Items of each class.
            new: Number of its classes that are new; None for all of them.
            rng: Root of every random number.
            start: Earlier images from which the recipe goes on, class by class and as far as they go, see
                `ddsdk.distill`; None for its own start. `Composing`, `Combining` and recipes without steps pass them
                over.

        Raises:
            ValueError: If `past` is asked for, and the recipe does not match class by class.
        """
        began = time.monotonic()
        recipe = dataclasses.replace(self.recipe, ipc=min(ipc, *real.class_sizes[:new]))
        usual = {"width": 32} if self.network == "convnet" else {}
        options = usual if self.network_options is None else dict(self.network_options)
        make = dd.network_factory(self.network, real.image_shape, real.num_classes, **options)
        if isinstance(recipe, IterativeRecipe):
            # Their images are made of real ones, not of earlier ones.
            start = None if isinstance(recipe, Composing | Combining) else start
            beside = partial(self._beside_past, new=real.num_classes if new is None else new)
            run = Run(recipe, real, make_student=make, seed=rng, start=start, transform=beside)
        else:
            self._refuse_past()
            run = Run(recipe, real, make_student=make, seed=rng)
        made = run.complete(lambda: self.seconds is not None and time.monotonic() - began >= self.seconds)
        labels = made.as_dataset("probabilities").tensors[1].cpu()
        classes, stored = made.owner, _stored(run, made.preprocess)
        if stored:
            # One label for each item, which may decode to several images.
            classes = run.distillation.plan.syn.classes
            labels = labels[:: len(labels) // len(classes)]
        return Made(made.unit_images().cpu(), classes.cpu(), labels, stored, time.monotonic() - began)

    def _beside_past(self, plan: dd.Plan[Any], new: int) -> dd.Plan[Any]:
        """Return a plan that changes the new classes only, and compares with the others where that is asked for."""
        match = plan.objective
        if not isinstance(match, ClassMatch):
            self._refuse_past()
            return plan
        mine: Any = dataclasses.replace(match, classes=tuple(range(new)))
        if self.relation:
            relation = RelationMatch(new=new, real_batch=match.real_batch, augmentation=match.augmentation)
            mine = Total(((1.0, mine), (self.relation, relation)))
        return dataclasses.replace(plan, objective=mine)

    def _refuse_past(self) -> None:
        name = type(self.recipe).__name__
        require(not self.past, "recipe", "match class by class, which past wants", name)


def _stored(run: Run[dd.RealData], preprocess: dd.Preprocess) -> dict[int, tuple[Codec, Packed]]:
    """Return, for each class, what a set stores where that is not images: canvases, or components with weights."""
    if not (run.iterative and isinstance(run.distillation.plan.syn.parametrization, MultiFormation | Composites)):
        return {}
    syn = run.distillation.result
    stored = syn.parametrization
    found: dict[int, tuple[Codec, Packed]] = {}
    for c in range(syn.num_classes):
        if isinstance(stored, MultiFormation) and stored.factor > 1:
            canvases = stored.canvases.detach()[syn.slots_of_class(c)]
            tiles = Tiles(stored.factor)
            found[c] = (tiles, tiles.pack(preprocess.inverse(canvases).clamp(0, 1).cpu()))
        elif isinstance(stored, Composites):
            parts = stored.components.detach()[c].cpu(), stored.weights.detach()[c].cpu()
            found[c] = (Components(), Components().pack_parts(*parts))
    return found
