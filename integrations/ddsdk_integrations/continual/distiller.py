"""Distillation of the real images of one experience within a time budget, alone or beside the remembered classes."""

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
from ddsdk.objectives import ClassMatch, WeightedSum, embedding
from ddsdk.recipes import IterativeRecipe
from ddsdk.running import Run, WarmStart
from ddsdk.synthetic import MultiFormation, SyntheticView
from ddsdk_integrations.continual.composites import CombinationMatching, CompositeMatching, Composites


@final
@dataclass(frozen=True, kw_only=True)
class RelationMatch:
    """Objective that preserves the similarity of each new class to the remembered classes.

    sum_c || r(S_c) - r(T_c) ||^2, where r(X)_j is the mean cosine similarity between the embeddings of X and the mean
    embedding of the remembered class j.

    Attributes:
        new: Number of new classes; they are the first class ids, and the others are remembered classes.
        real_batch: Real images of each class in one step.
        augmentation: Differentiable augmentation with one siamese draw for each class.

    Differences from the published algorithm: similarities to class means replace the distances to single images.

    References:
        Gu et al., "Summarizing Stream Data for Memory-Constrained Online Continual Learning", AAAI 2024,
        arXiv:2305.16645.

    Examples:
        >>> import dataclasses, ddsdk
        >>> from ddsdk_integrations.continual import RelationMatch
        >>> real = ddsdk.load("digits")  # classes 0 to 7 are new, 8 and 9 are remembered
        >>> students = ddsdk.network_factory("convnet", real.image_shape, 10, width=4)
        >>> plan = ddsdk.DM(ipc=1, steps=1).plan(real, make_student=students, rng=ddsdk.generator(0))
        >>> terms = RelationMatch(new=8)(students(ddsdk.generator(1)), real, plan.syn, ddsdk.generator(2))
        >>> len(list(terms))
        8
    """

    new: int
    real_batch: int = 256
    augmentation: dd.Augmentation = field(default_factory=dd.Augmentation)

    def __call__(self, student: Any, real: Source, syn: SyntheticView, rng: torch.Generator) -> Iterator[Tensor]:  # noqa: ANN401
        """Yield one term for each new class, or nothing if no class is remembered."""
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
                embedded_real = embed(draw(real.of_class(c, self.real_batch, derive(key, "real")).x))
                target = (normalize(embedded_real, dim=1) @ means.T).mean(0)
            x = draw(syn.of_class(c, sys.maxsize, derive(key, "synthetic")).x)
            if len(x):
                yield ((normalize(embed(x), dim=1) @ means.T).mean(0) - target).square().sum()


class DistilledImages(NamedTuple):
    """Result of a distillation.

    Attributes:
        images: Images, (M, C, H, W) in the unit range.
        classes: Class of each item, (M,) int64.
        labels: Label of each item, (M, K) probabilities.
        stored: Codec and packed items of each class, for recipes that store tiles or components; empty for images.
        seconds: Duration of the distillation in seconds.
    """

    images: Tensor
    classes: Tensor
    labels: Tensor
    stored: Mapping[int, tuple[Codec, Packed]]
    seconds: float


@final
@dataclass(frozen=True)
class Distiller:
    """A recipe with its student networks and a time budget, for the distillations of a replay memory.

    Students are fresh networks and never the continual learner: images distilled for one network transfer worse to
    another one.

    Attributes:
        recipe: Recipe or baseline of ddsdk, or a user-defined subclass of `ddsdk.Recipe`. Its `ipc` is replaced by
            the number of items that the storage budget allows.
        network: Name of the student network in `ddsdk.NETWORKS`.
        network_options: Options of the network, such as ``{"width": 16}``; None for a ConvNet of width 32, or for the
            default options of any other network.
        seconds: Time budget of one distillation in seconds; None for all steps of the recipe. No step starts after it.
            Recipes without steps, and expert networks trained before the first step, ignore it.
        past: Whether remembered classes of the same task join the distillation. Students are trained on them too;
            their images stay fixed. The recipe must match class by class (`ddsdk.objectives.ClassMatch`).
        relation: Weight of `RelationMatch` in the objective, at least 0; 0 omits it. A positive weight requires
            `past`.

    Raises:
        TypeError: If `recipe` is not a `ddsdk.Recipe`.

    Examples:
        >>> import ddsdk
        >>> from ddsdk_integrations.continual import Distiller
        >>> recipe = ddsdk.DM(steps=1, real_batch=16)
        >>> distiller = Distiller(recipe, network_options={"width": 4}, seconds=60)
        >>> distiller(ddsdk.load("digits"), 2, rng=ddsdk.generator(0)).images.shape
        torch.Size([20, 1, 8, 8])
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
        require(self.past or not self.relation, "relation", "be 0 unless past=True", self.relation)

    @property
    def stores_no_images(self) -> bool:
        """Whether the recipe stores tiles or components, which have codecs of their own, instead of images."""
        return isinstance(self.recipe, CompositeMatching) or getattr(self.recipe, "factor", 1) != 1

    def items_within(self, budget: int, shape: tuple[int, int, int], codec: Codec, label_bytes: int) -> int:
        """Return the number of items of a class, at least 1, that fit into `budget` bytes."""
        if isinstance(self.recipe, CompositeMatching):
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
    ) -> DistilledImages:
        """Return `real` distilled to `ipc` items per class.

        The number of items is reduced to the size of the smallest new class.

        Args:
            real: Real images of one experience; with `past`, the remembered classes follow the new ones.
            ipc: Number of items of each class.
            rng: Generator from which all random numbers derive.
            new: Number of new classes; None for all classes of `real`.
            start: Warm start from earlier images, see `ddsdk.distill`; None for the start of the recipe.
                `CompositeMatching`, `CombinationMatching` and recipes without steps ignore it.
        """
        began = time.monotonic()
        recipe = dataclasses.replace(self.recipe, ipc=min(ipc, *real.class_sizes[:new]))
        default_options = {"width": 32} if self.network == "convnet" else {}
        options = default_options if self.network_options is None else dict(self.network_options)
        make_student = dd.network_factory(self.network, real.image_shape, real.num_classes, **options)
        if isinstance(recipe, IterativeRecipe):
            # Composites and combinations are parametrized by real images and cannot encode earlier synthetic ones.
            start = None if isinstance(recipe, CompositeMatching | CombinationMatching) else start
            transform = partial(self._with_fixed_past, new=real.num_classes if new is None else new)
            run = Run(recipe, real, make_student=make_student, seed=rng, start=start, transform=transform)
        else:
            self._refuse_past()
            run = Run(recipe, real, make_student=make_student, seed=rng)
        distilled = run.complete(lambda: self.seconds is not None and time.monotonic() - began >= self.seconds)
        labels = distilled.as_dataset("probabilities").tensors[1].cpu()
        classes, stored = distilled.owner, _stored_items(run, distilled.preprocess)
        if stored:
            # An item may decode to several images with the same label; the memory keeps one label for each item.
            classes = run.distillation.plan.syn.classes
            labels = labels[:: len(labels) // len(classes)]
        return DistilledImages(distilled.unit_images().cpu(), classes.cpu(), labels, stored, time.monotonic() - began)

    def _with_fixed_past(self, plan: dd.Plan[Any], new: int) -> dd.Plan[Any]:
        """Return the plan with an objective of the new classes only, plus the weighted relation term."""
        match = plan.objective
        if not isinstance(match, ClassMatch):
            self._refuse_past()
            return plan
        objective: Any = dataclasses.replace(match, classes=tuple(range(new)))
        if self.relation:
            relation = RelationMatch(new=new, real_batch=match.real_batch, augmentation=match.augmentation)
            objective = WeightedSum(((1.0, objective), (self.relation, relation)))
        return dataclasses.replace(plan, objective=objective)

    def _refuse_past(self) -> None:
        rule = "match class by class if past=True, such as ddsdk.DM() or ddsdk.DC()"
        require(not self.past, "recipe", rule, type(self.recipe).__name__)


def _stored_items(run: Run[dd.RealData], preprocess: dd.Preprocess) -> dict[int, tuple[Codec, Packed]]:
    """Return the packed tiles or components of each class; empty for a set that stores images."""
    if not (run.iterative and isinstance(run.distillation.plan.syn.parametrization, MultiFormation | Composites)):
        return {}
    syn = run.distillation.result
    stored = syn.parametrization
    items: dict[int, tuple[Codec, Packed]] = {}
    for c in range(syn.num_classes):
        if isinstance(stored, MultiFormation) and stored.factor > 1:
            canvases = stored.canvases.detach()[syn.slots_of_class(c)]
            tiles = Tiles(stored.factor)
            items[c] = (tiles, tiles.pack(preprocess.inverse(canvases).clamp(0, 1).cpu()))
        elif isinstance(stored, Composites):
            components, weights = stored.components.detach()[c].cpu(), stored.weights.detach()[c].cpu()
            items[c] = (Components(), Components().pack_parts(components, weights))
    return items
