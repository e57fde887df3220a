"""Distillation of the real images of one moment within a time, alone or beside the remembered classes."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.nn.functional import normalize

import ddsdk as dd
from ddsdk.artefact import Codec, Components, Packed, Tiles
from ddsdk.data import Source
from ddsdk.foundation import NonNegativeFloat, PositiveFloat, check_numbers, derive, require
from ddsdk.objectives import ClassMatch, Total, embedding
from ddsdk.recipes import IterativeRecipe
from ddsdk.running import Run, WarmStart
from ddsdk.synthetic import MultiFormation, SyntheticView
from ddsdk_integrations.continual.composites import Combining, Composing, Composites


@final
@dataclass(frozen=True, kw_only=True)
class RelationMatch:
    """Distance between the relations of synthetic and of real images of each new class to the remembered classes.

    sum_c || r(S_c) - r(T_c) ||^2, where r(X)_j is the mean cosine of the embeddings of X with the mean embedding of
    remembered class j.

    Attributes:
        new: Number of new classes, the first ones; the others are remembered.
        real_batch: Real images of each class.
        augmentation: Augmentation, with one siamese draw for each class.

    Differences from the published algorithm: cosines with class means stand for the distances to single images.

    References:
        Gu et al., "Summarizing Stream Data for Memory-Constrained Online Continual Learning", AAAI 2024,
        arXiv:2305.16645.
    """

    new: int
    real_batch: int = 256
    augmentation: dd.Augmentation = field(default_factory=dd.Augmentation)

    def __call__(self, student: Any, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:  # noqa: ANN401
        """Yield a term for each new class; none where nothing is remembered."""
        embed = embedding(student)
        for c in range(self.new if self.new < real.num_classes else 0):
            key = derive(rng, "relation", c)
            draw = self.augmentation.siamese(derive(key, "augmentation"))
            with torch.no_grad():
                past = [
                    embed(draw(real.of_class(j, self.real_batch, derive(key, "past", j)).x)).mean(0)
                    for j in range(self.new, real.num_classes)
                ]
                means = normalize(torch.stack(past), dim=1)
                seen = embed(draw(real.of_class(c, self.real_batch, derive(key, "real")).x))
                wanted = (normalize(seen, dim=1) @ means.T).mean(0)
            x = draw(syn.of_class(c, sys.maxsize, derive(key, "synthetic")).x)
            if len(x):
                yield ((normalize(embed(x), dim=1) @ means.T).mean(0) - wanted).square().sum()


class Made(NamedTuple):
    """Result of a distillation.

    Attributes:
        images: Images, (M, C, H, W) in the unit range.
        classes: Class of each item, (M,) int64.
        labels: Label of each item, (M, K) probabilities.
        stored: Class to its items in the form of the recipe, if that is not images.
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
    """A recipe for the real images of a moment.

    Attributes:
        recipe: Recipe or baseline of ddsdk, or one's own subclass of `ddsdk.Recipe`. Its `ipc` follows from the bytes.
        network: Name of the students in `ddsdk.NETWORKS`. They are fresh, never the learner: a memory for one network
            serves another one less.
        network_options: Options of its builder; None for width 32 of a ConvNet, and for the usual ones of others.
        seconds: Time after which no further step is taken. A recipe without steps, and the networks that a recipe
            trains before its first one, cannot be cut short. None for all steps.
        past: Whether the remembered classes of the task stand beside the new ones: students have outputs for them and
            train on them, and their images do not change. It needs a recipe that matches class by class
            (`ddsdk.objectives.ClassMatch`).
        relation: Weight of `RelationMatch`, which compares with the remembered classes; 0 leaves it out. It needs
            `past`.
    """

    recipe: dd.Recipe
    _: KW_ONLY
    network: str = "convnet"
    network_options: Mapping[str, Any] | None = None
    seconds: PositiveFloat | None = None
    past: bool = False
    relation: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.recipe, dd.Recipe):
            raise TypeError(f"recipe must be a ddsdk.Recipe, such as ddsdk.DM(), got {self.recipe!r}")
        require(self.network in dd.NETWORKS, "network", f"be one of {', '.join(dd.NETWORKS)}", self.network)
        check_numbers(self)
        require(self.past or not self.relation, "relation", "be 0 without past", self.relation)

    @property
    def stores_no_images(self) -> bool:
        """Whether the recipe stores tiles or components, which are packed as such, and no images."""
        return isinstance(self.recipe, Composing) or getattr(self.recipe, "factor", 1) != 1

    def items_within(self, budget: int, shape: tuple[int, int, int], codec: Codec, label_bytes: int) -> int:
        """Return the largest ipc, at least 1, with which the items of a class take so many bytes."""
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
            real: Images of one moment. With `past`, the remembered classes stand behind the new ones.
            ipc: Number of items of each class.
            new: Number of new classes; None for all of them.
            rng: Root of every random number.
            start: Earlier images from which the recipe goes on, see `ddsdk.distill`; None for its own start.
                `Composing`, `Combining` and recipes without steps pass them over.
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
        """Return a plan that changes the new classes only, and compares with the others if `relation` is not 0."""
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
        require(not self.past, "recipe", "match class by class, which past wants", type(self.recipe).__name__)


def _stored(run: Run[dd.RealData], preprocess: dd.Preprocess) -> dict[int, tuple[Codec, Packed]]:
    """Return the stored items of each class of a set of canvases, or of components with weights."""
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
