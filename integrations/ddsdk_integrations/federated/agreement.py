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


def _standardized(features: Sequence[Tensor], further: Sequence[Tensor] = ()) -> list[Tensor]:
    """Return features of length 1, in units of the median deviation of the clients: no client sets the scale.

    Further features are scaled in the same way, without an effect on the units. Without equal lengths, a few images
    with extreme features would decide a classifier.
    """
    mean = torch.stack([f.mean(0) for f in features]).median(0).values
    scale = torch.stack([(f - mean).square().mean(0).sqrt() for f in features]).median(0).values.clamp_min(1e-6)
    directions = [torch.nn.functional.normalize((f - mean) / scale) for f in [*features, *further]]
    return [torch.cat([x, x.new_full((len(x), 1), x.shape[1] ** -0.5)], 1) for x in directions]


@final
class LabelAgreement:
    """Agreement of each client's labels with classifiers of the other clients, or of clean images of the server.

    A classifier is ridge regression on random features. The agreement of a client in a class is the share of its images
    that a classifier assigns to their class: the median over the other clients, so that fewer than half of them cannot
    move it beyond the values of the rest. With clean images their classifier alone counts.

    The agreement in a pair of classes is the share of the images of both that a classifier assigns to their class when
    it chooses between these two only. An exchange of two classes turns it into its complement, below that of a coin,
    even where the many other classes leave little agreement in each class. Classifiers for pairs learn from the earlier
    sets of their clients too: sets that were matched around trained weights look less like real images.

    Args:
        sets: Sets of the clients.
        task: Task of the federation.
        networks: Random networks of the features, which clients must not be able to compute.
        clean: Clean images of the server; None for a comparison of the clients.
        earlier: Accepted sets of earlier rounds, at most one of each client, for the classifiers of pairs.
        least: Smallest number of other clients that hold a class for it to be judged; not used with clean images.

    Attributes:
        of: Agreement of each set in each judged class, in the order of the sets.
        usual: Usual agreement in each class: the median over the clients, or that of the clean images with a
            classifier of the others of them.
        pairs: Agreement of each set in each pair of classes, (K, K) each, NaN for pairs that are not judged; empty with
            clean images.
    """

    def __init__(
        self,
        sets: Sequence[Contribution],
        task: FederatedTask,
        networks: Sequence[nn.Module],
        clean: dd.RealData | None = None,
        *,
        earlier: Sequence[Contribution] = (),
        least: int = 3,
    ) -> None:
        self._sets, self._task, self._least, self._clean = sets, task, least, clean is not None
        self.pairs: list[Tensor] = []
        nodes = {contribution.node for contribution in sets}
        earlier = [contribution for contribution in earlier if contribution.node in nodes]
        examples, anchor, past = _examples(sets, task, networks, clean, earlier)
        if anchor is None:
            self.of = self._among_clients(examples)
            by_node = {contribution.node: one for contribution, one in zip(earlier, past, strict=True)}
            judges = [_union(one, by_node.get(s.node)) for s, one in zip(sets, examples, strict=True)]
            self.pairs = self._in_pairs(examples, judges)
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

    def _in_pairs(self, examples: Sequence[_Examples], judges: Sequence[_Examples]) -> list[Tensor]:
        classes = self._task.num_classes
        held = [torch.bincount(judge.classes, minlength=classes) > 0 for judge in judges]
        classifiers = {j: _moments(judges[j], classes).classifier() for j, own in enumerate(held) if own.sum() > 1}
        pairs = []
        for i, one in enumerate(examples):
            counts = torch.bincount(one.classes, minlength=classes).double()
            found = [torch.full((classes, classes), torch.nan, dtype=torch.float64)]
            for j, classifier in classifiers.items():
                if i != j:
                    right = counts[:, None] * _preferences(one, classifier, held[j])
                    found.append((right + right.T) / (counts[:, None] + counts))
            values = torch.stack(found)
            enough = (~values.isnan()).sum(0) >= self._least
            pairs.append(torch.where(enough, values.nanmedian(0).values, torch.nan))
        return pairs

    def exchanged(self, i: int, share: float) -> list[tuple[int, int, float]]:
        """Return the pairs of classes in which set i agrees much less than usual and than a coin, with its agreement.

        Args:
            i: Index of the set.
            share: Share of the usual agreement below which it is low, in [0, 1].
        """
        if not self.pairs:
            return []
        counts = torch.bincount(self._sets[i].classes, minlength=self._task.num_classes).tolist()
        usual, own = torch.stack(self.pairs).nanmedian(0).values, self.pairs[i]
        below = torch.nonzero(torch.triu(own < share * usual, diagonal=1)).tolist()
        found = [(a, b, float(own[a, b]), float(usual[a, b])) for a, b in below]
        return [(a, b, x) for a, b, x, u in found if _exchanged(x, counts[a] + counts[b], u, share * u)]

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
    examples, anchor, _ = _examples(sets, task, networks, clean)
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
    sets: Sequence[Contribution],
    task: FederatedTask,
    networks: Sequence[nn.Module],
    clean: dd.RealData | None,
    earlier: Sequence[Contribution] = (),
) -> tuple[list[_Examples], _Examples | None, list[_Examples]]:
    """Return the examples of the sets, of the clean images and of earlier sets."""
    features = [_features(contribution.images, task, networks) for contribution in sets]
    if clean is not None:
        features.append(_features(clean.preprocess.inverse(clean.batch(torch.arange(len(clean))).x), task, networks))
    x = _standardized(features, [_features(contribution.images, task, networks) for contribution in earlier])
    examples = [_Examples(f, contribution.classes) for f, contribution in zip(x, sets, strict=False)]
    past = [_Examples(f, contribution.classes) for f, contribution in zip(x[len(features) :], earlier, strict=True)]
    return examples, None if clean is None else _Examples(x[len(sets)], clean.labels), past


def _union(one: _Examples, other: _Examples | None) -> _Examples:
    if other is None:
        return one
    return _Examples(torch.cat([one.x, other.x]), torch.cat([one.classes, other.classes]))


def _preferences(examples: _Examples, classifier: Tensor, held: Tensor) -> Tensor:
    """Return the share of the images of class a that a classifier assigns to a rather than to b, (K, K).

    It is NaN for classes without images, and for classes that the classifier does not know.
    """
    scores = examples.x @ classifier
    right = torch.full((len(held), len(held)), torch.nan, dtype=torch.float64)
    for c in torch.unique(examples.classes).tolist():
        members = scores[examples.classes == c]
        right[c] = (members[:, c : c + 1] > members).double().mean(0)
    return torch.where(held[:, None] & held, right, torch.nan)


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


def _exchanged(value: float, images: int, usual: float, bar: float) -> bool:
    """Return whether an agreement in a pair is low, and below that of a coin by more than chance explains.

    There are many pairs, and some of them are hard: a coin would refuse honest clients of few images.
    """
    return _below(value, images, usual, bar) and 0.5 - value > _STANDARD_ERRORS * math.sqrt(0.25 / images)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]
