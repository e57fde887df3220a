"""Agreement in pairs of classes: by hand, for exchanged classes, and with classifiers of earlier rounds."""

from __future__ import annotations

import pytest
import torch
from federation import TASK, TRAIN
from test_pool import SCREEN, contribution

import ddsdk as dd
from ddsdk_integrations.federated import agreement as agreement_module
from ddsdk_integrations.federated.agreement import LabelAgreement
from ddsdk_integrations.federated.cross_client import FeatureNetworks

K = TASK.num_classes
NETWORKS = FeatureNetworks.of(TASK, dd.generator("pairs"))


def drawn(node, per_class, *, exchange=(), noise=0.0, classes=range(K)):
    """Return a random sample of the digits with noise, in which the classes of a pair have each other's images."""
    rng = dd.generator("drawn for pairs", node)
    rows, labels = [], []
    for c in classes:
        real = sum(exchange) - c if c in exchange else c
        members = TRAIN.index_of_class(real)
        rows.append(members[torch.randperm(len(members), generator=rng)[:per_class]])
        labels += [c] * per_class
    images = TRAIN.images[torch.cat(rows)].float()
    return contribution(node, labels, images=images + noise * torch.randn(images.shape, generator=rng))


def refused_classes(sets, earlier=()):
    _, refused = SCREEN(sets, TASK, dd.generator("screen"), features=NETWORKS, earlier=earlier)
    return {(refusal.node, refusal.class_id) for refusal in refused}


def test_the_agreement_in_a_pair_is_that_of_plain_loops():
    sets = [drawn(i, 3, exchange=(3, 8) if i == 4 else ()) for i in range(4)]
    sets += [drawn(4, 4, exchange=(3, 8), classes=range(1, K)), drawn(5, 2, classes=[5])]
    earlier = [drawn(10, 6), drawn(0, 6)]
    earlier[1] = contribution(0, earlier[1].classes.tolist(), images=earlier[1].images)
    found = LabelAgreement(sets, TASK, NETWORKS.random, earlier=earlier)
    features = [agreement_module._features(one.images, TASK, NETWORKS.random) for one in sets]
    x = agreement_module._standardized(features, [agreement_module._features(earlier[1].images, TASK, NETWORKS.random)])
    examples = [agreement_module._Examples(f, one.classes) for f, one in zip(x, sets, strict=False)]
    # The first client has an earlier set; the set of a node without one of this round has no effect.
    judges = list(examples)
    classes = torch.cat([sets[0].classes, earlier[1].classes])
    judges[0] = agreement_module._Examples(torch.cat([x[0], x[6]]), classes)
    for i, one in enumerate(examples):
        for a in range(K):
            for b in range(a + 1, K):
                values = []
                for j, judge in enumerate(judges):
                    held = set(judge.classes.tolist())
                    if i == j or not {a, b} <= held or not {a, b} <= set(one.classes.tolist()):
                        continue
                    scores = one.x @ agreement_module._moments(judge, K).classifier()
                    right = [
                        float(scores[m, c] > scores[m, a + b - c])
                        for m, c in enumerate(one.classes.tolist())
                        if c in (a, b)
                    ]
                    values.append(sum(right) / len(right))
                value = float(found.pairs[i][a, b])
                if len(values) < 3:
                    assert value != value
                else:
                    assert value == pytest.approx(sorted(values)[(len(values) - 1) // 2])


@pytest.mark.parametrize("seed", range(4))
def test_an_exchange_of_two_classes_is_refused_and_no_one_else(seed):
    sets = [drawn(20 * seed + i, 10, exchange=(3, 8) if i < 3 else ()) for i in range(9)]
    assert refused_classes(sets) == {(20 * seed + i, c) for i in range(3) for c in (3, 8)}
    honest = [drawn(20 * seed + i, 10) for i in range(9)]
    assert refused_classes(honest) == set()


@pytest.mark.parametrize("base", [0, 50, 100])
def test_sets_of_earlier_rounds_judge_where_those_of_this_round_cannot(base):
    """With much noise the sets of a round agree little; those of earlier rounds distinguish two classes."""
    sets = [drawn(base + i, 10, exchange=(3, 8)) for i in range(3)]
    sets += [drawn(base + i, 5, noise=0.4) for i in range(3, 9)]
    earlier = [drawn(base + i, 10) for i in range(3, 9)]
    assert refused_classes(sets) == set()
    assert refused_classes(sets, earlier) == {(base + i, c) for i in range(3) for c in (3, 8)}


def test_pairs_may_be_the_only_evidence():
    """Two clients hold both classes today, and one of yesterday: no class has enough judges, and the pair has."""
    sets = [drawn(0, 12, exchange=(0, 1), classes=[0, 1]), *(drawn(i, 12, classes=[0, 1]) for i in (1, 2))]
    sets.append(drawn(3, 12, classes=[0]))
    earlier = [drawn(3, 12, classes=[1])]
    accepted, refused = SCREEN(sets, TASK, dd.generator("screen"), features=NETWORKS, earlier=earlier)
    assert {refusal.node for refusal in refused} <= {0}
    assert {one.node for one in accepted} >= {1, 2, 3}
    for refusal in refused:
        assert "agree with" in refusal.reason or "refuse all classes" in refusal.reason


def test_clean_images_judge_no_pairs():
    sets = [drawn(i, 5) for i in range(4)]
    clean = TRAIN.subset(torch.cat([TRAIN.index_of_class(c)[:5] for c in range(K)]))
    found = LabelAgreement(sets, TASK, NETWORKS.random, clean)
    assert found.pairs == []
    assert found.exchanged(0, 0.5) == []


@pytest.mark.parametrize(
    ("value", "images", "usual", "below"),
    [
        # Three standard errors of the usual agreement: 0.85 with three images, 0.21 with fifty.
        (0.0, 3, 0.6, False),
        (0.0, 50, 0.6, True),
        (0.25, 50, 0.6, True),
        (0.35, 50, 0.6, False),
        (0.0, 2, 1.0, False),
        (0.0, 5, 1.0, True),
    ],
)
def test_few_images_are_no_evidence(value, images, usual, below):
    assert agreement_module._below(value, images, usual, 0.5 * usual) == below


def test_a_coin_refuses_no_pair():
    exchanged = agreement_module._exchanged
    assert exchanged(0.15, 20, 0.7, 0.35) and exchanged(0.0, 10, 0.9, 0.45)
    # A client of two images of each class has one of four right by chance, in some of its many pairs.
    assert not exchanged(0.25, 4, 1.0, 0.5)
    assert not exchanged(0.2, 20, 0.9, 0.45)
