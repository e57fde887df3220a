"""Ridge classifiers on random features: agreement of clients' labels, and influence of a client on clean images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

import ddsdk as dd
from ddsdk.training import embeddings
from ddsdk_integrations.federated.payload import Contribution
from ddsdk_integrations.federated.task import FederatedTask

_RIDGE = 0.01
_STANDARD_ERRORS = 3.0
_FEWEST = 3
_LEAST_HARM = 0.05


class _Examples(NamedTuple):
    """Random features of labelled images: features, (M, D) float64, with a constant column; class ids, (M,)."""

    x: Tensor
    classes: Tensor


class _Moments(NamedTuple):
    """Weighted sums from which a ridge classifier follows; those of a union are the sums over its parts.

    Attributes:
        gram: Sum of x xᵀ, (D, D).
        cross: Sum of x times the centred one-hot label, (D, K).
        images: Sum of the weights.
    """

    gram: Tensor
    cross: Tensor
    images: float

    def classifier(self) -> Tensor:
        """Return the weights of the ridge classifier, (D, K)."""
        solution: Tensor = torch.linalg.solve(self.regularized(), self.cross)
        return solution

    def regularized(self) -> Tensor:
        """Return the Gram matrix with the ridge, (D, D)."""
        size = len(self.gram)
        ridge = _RIDGE * float(self.gram.trace()) / max(self.images, 1.0)
        return self.gram + ridge * torch.eye(size, dtype=self.gram.dtype)


def _moments(examples: _Examples, num_classes: int) -> _Moments:
    """Return the moments of one client; every class has the same weight, whatever its number of images."""
    counts = torch.bincount(examples.classes, minlength=num_classes).double()
    held = int((counts > 0).sum())
    weights = (len(examples.classes) / held / counts)[examples.classes]
    target = torch.nn.functional.one_hot(examples.classes, num_classes).double() - 1 / held
    weighted = examples.x * weights[:, None]
    return _Moments(weighted.T @ examples.x, weighted.T @ target, float(weights.sum()))


def _averaged(moments: Sequence[_Moments]) -> _Moments:
    """Return the moments of a union in which every client has the same weight."""
    gram = sum((m.gram / m.images for m in moments), torch.zeros_like(moments[0].gram))
    cross = sum((m.cross / m.images for m in moments), torch.zeros_like(moments[0].cross))
    return _Moments(gram * moments[0].images, cross * moments[0].images, moments[0].images)


@torch.no_grad()
def _features(images: Tensor, task: FederatedTask, networks: Sequence[nn.Module]) -> Tensor:
    x = task.preprocess(images)
    return torch.cat([embeddings(network, x) for network in networks], 1).double()


def _standardized(features: Sequence[Tensor]) -> list[Tensor]:
    """Return features of length 1, in units of the median deviation of the clients: no client sets the scale.

    Without equal lengths, a few images with extreme features would decide a classifier.
    """
    mean = torch.stack([f.mean(0) for f in features]).median(0).values
    scale = torch.stack([(f - mean).square().mean(0).sqrt() for f in features]).median(0).values.clamp_min(1e-6)
    directions = [torch.nn.functional.normalize((f - mean) / scale) for f in features]
    return [torch.cat([x, x.new_full((len(x), 1), x.shape[1] ** -0.5)], 1) for x in directions]


@final
class LabelAgreement:
    """Agreement of each client's labels with classifiers of the other clients, or of clean images of the server.

    A classifier is ridge regression on random features. The agreement of a client in a class is the share of its images
    that a classifier assigns to their class: the median over the other clients, so that fewer than half of them cannot
    move it beyond the values of the rest. With clean images their classifier alone counts.

    Args:
        sets: Sets of the clients.
        task: Task of the federation.
        networks: Random networks of the features, which clients must not be able to compute.
        clean: Clean images of the server; None for a comparison of the clients.
        least: Smallest number of other clients that hold a class for it to be judged; not used with clean images.

    Attributes:
        of: Agreement of each set in each judged class, in the order of the sets.
        usual: Usual agreement in each class: the median over the clients, or that of the clean images with a
            classifier of the others of them.
    """

    def __init__(
        self,
        sets: Sequence[Contribution],
        task: FederatedTask,
        networks: Sequence[nn.Module],
        clean: dd.RealData | None = None,
        *,
        least: int = 3,
    ) -> None:
        self._sets, self._task, self._least, self._clean = sets, task, least, clean is not None
        examples, anchor = _examples(sets, task, networks, clean)
        if anchor is None:
            self.of = self._among_clients(examples)
            values: dict[int, list[float]] = {}
            for agreement in self.of:
                for c, value in agreement.items():
                    values.setdefault(c, []).append(value)
            self.usual: Mapping[int, float] = {c: _median(found) for c, found in values.items()}
        else:
            held = set(anchor.classes.tolist())
            classifier = _moments(anchor, task.num_classes).classifier()
            correct = [_correct(one, classifier, held) for one in examples]
            self.of = [_by_class(one.classes, found) for one, found in zip(examples, correct, strict=True)]
            self.usual = _by_class(anchor.classes, _held_out(anchor, task.num_classes))

    def _among_clients(self, examples: Sequence[_Examples]) -> list[dict[int, float]]:
        held = [set(one.classes.tolist()) for one in examples]
        # A client with a single class has no classifier.
        judges = [j for j, classes in enumerate(held) if len(classes) > 1]
        classifiers = {j: _moments(examples[j], self._task.num_classes).classifier() for j in judges}
        agreements = []
        for i, one in enumerate(examples):
            found: dict[int, list[float]] = {}
            for j in judges:
                if i != j:
                    for c, value in _by_class(one.classes, _correct(one, classifiers[j], held[j])).items():
                        found.setdefault(c, []).append(value)
            agreements.append({c: _median(values) for c, values in found.items() if len(values) >= self._least})
        return agreements

    def low(self, i: int, share: float) -> tuple[bool, list[int]]:
        """Return whether set i as a whole, and which of its classes, agree much less than usual.

        Args:
            i: Index of the set.
            share: Share of the usual agreement below which it is low, in [0, 1]. Distilled sets agree less with clean
                images than these with each other, so half of the share counts there, from chance on.
        """
        agreement = self.of[i]
        if not agreement:
            return False, []
        counts = torch.bincount(self._sets[i].classes, minlength=self._task.num_classes).tolist()
        usual, images = _mean([self.usual[c] for c in agreement]), sum(counts[c] for c in agreement)
        if self._clean:
            chance = 1 / len(self.usual)
            return _below(self.mean(i), images, usual, chance + share / 2 * (usual - chance)), []
        low = [c for c, value in agreement.items() if _below(value, counts[c], self.usual[c], share * self.usual[c])]
        return _below(self.mean(i), images, usual, share * usual), low

    def mean(self, i: int) -> float:
        """Return the mean agreement of set i over its judged classes."""
        return _mean(list(self.of[i].values()))


def harmful(
    sets: Sequence[Contribution], task: FederatedTask, networks: Sequence[nn.Module], clean: dd.RealData
) -> dict[int, float]:
    """Return the sets without which a classifier has a lower error on the clean images, by index, with their harm.

    The set of the greatest harm is left out, and the others are judged again without it. A harm counts if it exceeds
    three standard errors over the clean images, and a twentieth of the error.

    Args:
        sets: Sets of the clients, at most one of each client.
        task: Task of the federation.
        networks: Random networks of the features.
        clean: Clean images of the server.

    Returns:
        The share of the squared error on the clean images that is due to each harmful set.
    """
    examples, anchor = _examples(sets, task, networks, clean)
    assert anchor is not None
    moments = dict(enumerate(_moments(one, task.num_classes) for one in examples))
    target = torch.nn.functional.one_hot(anchor.classes, task.num_classes).double() - 1 / task.num_classes

    def errors(chosen: Sequence[_Moments]) -> Tensor:
        return (anchor.x @ _averaged(chosen).classifier() - target).square().sum(1)

    found: dict[int, float] = {}
    while len(moments) > 1:
        together = errors(list(moments.values()))
        harm = {i: together - errors([m for j, m in moments.items() if j != i]) for i in moments}
        clear = {
            i: float(h.mean())
            for i, h in harm.items()
            if h.mean() > max(_STANDARD_ERRORS * h.std() / len(h) ** 0.5, _LEAST_HARM * together.mean())
        }
        if not clear:
            break
        worst = max(clear, key=lambda i: clear[i])
        found[worst] = clear[worst] / float(together.mean())
        del moments[worst]
    return found


def _examples(
    sets: Sequence[Contribution], task: FederatedTask, networks: Sequence[nn.Module], clean: dd.RealData | None
) -> tuple[list[_Examples], _Examples | None]:
    features = [_features(contribution.images, task, networks) for contribution in sets]
    if clean is not None:
        features.append(_features(clean.preprocess.inverse(clean.batch(torch.arange(len(clean))).x), task, networks))
    x = _standardized(features)
    examples = [_Examples(f, contribution.classes) for f, contribution in zip(x, sets, strict=False)]
    return examples, None if clean is None else _Examples(x[-1], clean.labels)


def _correct(examples: _Examples, classifier: Tensor, held: set[int]) -> Tensor:
    """Return 1 or 0 for each image that the classifier can judge, NaN for the others."""
    columns = sorted(held)
    predicted = torch.tensor(columns)[(examples.x @ classifier[:, columns]).argmax(1)]
    known = torch.isin(examples.classes, torch.tensor(columns))
    return torch.where(known, (predicted == examples.classes).double(), torch.nan)


def _held_out(anchor: _Examples, num_classes: int) -> Tensor:
    """Return whether each clean image is assigned to its class by a classifier of the other clean images."""
    moments = _moments(anchor, num_classes)
    inverse = torch.linalg.inv(moments.regularized())
    counts = torch.bincount(anchor.classes, minlength=num_classes).double()
    weights = (len(anchor.classes) / int((counts > 0).sum()) / counts)[anchor.classes]
    target = torch.nn.functional.one_hot(anchor.classes, num_classes).double() - 1 / int((counts > 0).sum())
    leverage = weights * ((anchor.x @ inverse) * anchor.x).sum(1)
    fitted = anchor.x @ inverse @ moments.cross
    # The prediction of a ridge regression without an image follows from that with it and the leverage.
    predicted = target - (target - fitted) / (1 - leverage).clamp_min(1e-6)[:, None]
    correct: Tensor = predicted.argmax(1) == anchor.classes
    return correct.double()


def _by_class(classes: Tensor, correct: Tensor) -> dict[int, float]:
    means = {int(c): float(correct[classes == c].mean()) for c in torch.unique(classes)}
    return {c: value for c, value in means.items() if value == value}


def _below(value: float, images: int, usual: float, bar: float) -> bool:
    """Return whether an agreement is below a bar, and below the usual one by more than chance explains."""
    # One more agreeing image: few images are no evidence, even if none of them agrees.
    smoothed = (value * images + 1) / (images + 1)
    # An agreement of 1 among few images is no proof that every image of the class is easy.
    error = math.sqrt(usual * max(1 - usual, 0.1) / images)
    return images >= _FEWEST and smoothed < bar and usual - smoothed > _STANDARD_ERRORS * error


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]
