"""Recommending from few users: closed forms against direct solves, metrics against loops, draws against autograd."""

from __future__ import annotations

import math

import pytest
import torch

import ddsdk as dd
from benchmarks.recommend import BENCHMARK, nearest_user
from ddsdk.foundation import derive
from ddsdk.running import DirectMethod, Run
from ddsdk.training import kernel_machine
from ddsdk_integrations.recommend import (
    EASE,
    DistillCF,
    GumbelUsers,
    Interactions,
    WideAutoencoder,
    popularity_scores,
    propensities,
    ranking_metrics,
    sampled_users,
    simulated_interactions,
    write_users,
)
from ddsdk_integrations.recommend.users import _draw

HOW = {"tastes": 6, "sharpness": 8.0, "skew": 0.8}


@pytest.fixture(scope="module")
def table():
    return simulated_interactions(200, 80, dd.generator("people"), mean_items=20, **HOW)


def ntk_by_hand(a, b):
    """The tangent kernel of one hidden ReLU layer, W_std sqrt 2 and b_std 0.1, of two vectors."""
    d = len(a)
    s = [2 * float(x @ y) / d + 0.01 for x, y in ((a, b), (a, a), (b, b))]
    cosine = max(-1.0, min(1.0, s[0] / math.sqrt(s[1] * s[2])))
    angle = math.acos(cosine)
    nngp = 2 * math.sqrt(s[1] * s[2]) * (math.sin(angle) + (math.pi - angle) * cosine) / (2 * math.pi) + 0.01
    return nngp + s[0] * 2 * (math.pi - angle) / (2 * math.pi)


def test_the_autoencoder_is_a_direct_solve(table):
    users, new = table.matrix[:7].double(), table.matrix[50:54].double()
    gram = torch.tensor([[ntk_by_hand(a, b) for b in users] for a in users], dtype=torch.float64)
    cross = torch.tensor([[ntk_by_hand(a, b) for b in users] for a in new], dtype=torch.float64)
    system = gram + 0.3 * gram.trace() / 7 * torch.eye(7)
    slow = cross @ torch.linalg.inv(system) @ users
    found = WideAutoencoder(ridge=0.3).scores(table.matrix[:7], table.matrix[50:54])
    torch.testing.assert_close(found, slow, rtol=1e-6, atol=1e-8)


def test_the_kernel_is_that_of_a_wide_network():
    rng = dd.generator("wide")
    a, b = torch.rand(2, 6, generator=rng).double()
    width, found = 40_000, []
    for i in range(4):
        key = derive(rng, i)
        w, v = torch.randn(width, 6, generator=key).double(), torch.randn(width, generator=key).double()
        bias = torch.randn(width, generator=key).double()
        hidden = [math.sqrt(2 / 6) * w @ x + 0.1 * bias for x in (a, b)]
        out = (2 / width) * (hidden[0].relu() @ hidden[1].relu()) + 0.01
        slope = v.square() * (hidden[0] > 0) * (hidden[1] > 0)
        inner = 2 * float(a @ b) / 6 + 0.01
        found.append(float(out + (2 / width) * slope.sum() * inner))
    assert sum(found) / 4 == pytest.approx(ntk_by_hand(a, b), rel=0.02)


def test_ease_is_the_best_linear_map_without_a_diagonal(table):
    x = table.matrix[:60, :9].double()
    found = EASE(ridge=2.0).scores(x, torch.eye(9))
    assert float(found.diagonal().abs().max()) < 1e-12
    for j in range(9):
        others = [i for i in range(9) if i != j]
        a = x[:, others]
        slow = torch.linalg.solve(a.T @ a + 2 * torch.eye(8).double(), a.T @ x[:, j])
        torch.testing.assert_close(found[others, j], slow, rtol=1e-8, atol=1e-10)


def test_metrics_are_those_of_a_loop():
    rng = dd.generator("m")
    scores = torch.rand(5, 8, generator=rng)
    seen = (torch.rand(5, 8, generator=rng) < 0.3).float()
    held = ((torch.rand(5, 8, generator=rng) < 0.4) & (seen == 0)).float()
    held[4] = 0
    weight = propensities(torch.tensor([1, 5, 9, 2, 30, 4, 7, 3]))
    found = ranking_metrics(scores, seen, held, weight, k=3)
    hits, gains, precisions = [], [], []
    for u in range(5):
        liked = [i for i in range(8) if held[u, i]]
        if not liked:
            continue
        order = sorted((i for i in range(8) if not seen[u, i]), key=lambda i: -float(scores[u, i]))[:3]
        hits.append(len(set(order) & set(liked)) / min(3, len(liked)))
        gain = sum(1 / math.log2(r + 2) for r, i in enumerate(order) if i in liked)
        gains.append(gain / sum(1 / math.log2(r + 2) for r in range(min(3, len(liked)))))
        worth = sorted((1 / float(weight[i]) for i in liked), reverse=True)[:3]
        precisions.append(sum(1 / float(weight[i]) for i in order if i in liked) / sum(worth))
    for value, slow in ((found.hits, hits), (found.ndcg, gains), (found.psp, precisions)):
        assert value == pytest.approx(sum(slow) / len(slow), rel=1e-9)


def test_propensity_rises_with_popularity():
    counts = torch.tensor([1.0, 10.0, 100.0])
    found = propensities(counts)
    c = (math.log(111) - 1) * 2.5**0.55
    assert found.tolist() == pytest.approx([1 / (1 + c * (n + 1.5) ** -0.55) for n in (1, 10, 100)], rel=1e-9)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_backward_pass_that_draws_again_is_autograd(temperature):
    """Slow: all draws in one graph, in float64."""
    logits = torch.randn(4, 9, generator=dd.generator("l")).double()
    users = GumbelUsers(logits, draws=12, temperature=temperature).double()
    images, owners = users.decode(torch.tensor([2, 0, 3]), dd.generator("draws"))
    weights = torch.randn(3, 9, generator=dd.generator("w")).double()
    (images[:, 0, 0] * weights).sum().backward()

    slow = logits.clone().requires_grad_()
    rng = dd.generator("draws")
    total = sum(_draw(slow[[2, 0, 3]], temperature, derive(rng, i)) for i in range(12)).clamp_max(1)
    (total * weights).sum().backward()
    torch.testing.assert_close(images[:, 0, 0], total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(users.logits.grad, slow.grad, rtol=1e-10, atol=1e-12)
    assert owners.tolist() == [2, 0, 3]
    assert bool((total == 1).any()) or temperature > 1


def test_draws_of_a_user_fall_among_its_items(table):
    users = GumbelUsers(torch.zeros(5, table.matrix.shape[1]), draws=100, temperature=0.1)
    users.encode(table.matrix[:5, None, None])
    found = users.decode(torch.arange(5), dd.generator(0))[0][:, 0, 0].detach()
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    inside = (found * table.matrix[:5]).sum() / found.sum()
    assert float(inside) > 0.95
    assert users.stored_floats() == 5 * table.matrix.shape[1]


def test_splits_hold_out_items_of_each_user(table):
    rest, validation, test = table.split(dd.generator("s"))
    assert torch.equal(rest.matrix + validation + test, table.matrix)
    assert int(rest.matrix.sum(1).min()) >= 1
    assert int(test.sum(1).min()) >= 1
    assert float(test.sum() / table.matrix.sum()) == pytest.approx(0.1, abs=0.04)


def test_simulated_items_are_skewed_and_people_differ(table):
    flat = simulated_interactions(200, 80, dd.generator("people"), mean_items=20, **{**HOW, "skew": 0.0})
    shares = [float(t.matrix[:, :8].sum() / t.matrix.sum()) for t in (table, flat)]
    assert shares[0] > 1.4 * shares[1]
    assert abs(shares[1] - 0.1) < 0.03
    assert int(table.matrix.sum(1).min()) >= 5


@pytest.fixture(scope="module")
def distilled(table):
    train, *_ = table.split(dd.generator("s"))
    recipe = DistillCF(users=15, steps=40, draws=40)
    return train, dd.distill(recipe, train, seed=dd.generator("d"))


def test_learned_users_recommend_better_than_those_that_they_started_from(table, distilled):
    _, made = distilled
    train, validation, _ = table.split(dd.generator("s"))
    run = Run(DistillCF(users=15, steps=1, draws=40), train, seed=dd.generator("d"))
    start = run.distillation.plan.syn.detached(dd.generator(0)).x
    weight = propensities(train.matrix.sum(0))
    found = [
        ranking_metrics(WideAutoencoder().scores(x[:, 0, 0], train.matrix), train.matrix, validation, weight).ndcg
        for x in (start, made.images)
    ]
    popular = ranking_metrics(popularity_scores(train.matrix, train.matrix), train.matrix, validation, weight).ndcg
    assert found[1] > found[0] + 0.02
    assert found[1] > popular


def test_a_set_of_users_is_an_artefact_like_any_other(distilled, tmp_path):
    train, made = distilled
    made.save(tmp_path / "users")
    loaded = dd.Distilled.load(tmp_path / "users")
    assert torch.equal(loaded.images, made.images)
    own = dd.TrainingProtocol.from_dict(loaded.protocol)
    machine = kernel_machine(own.network, **own.network_options)
    rows = loaded.images[:, 0, 0]
    torch.testing.assert_close(
        machine.fitted(rows, rows)(train.matrix), WideAutoencoder(ridge=1.0).scores(rows, train.matrix)
    )


def test_a_method_without_networks_records_none_and_takes_none(table, distilled):
    _, made = distilled
    assert "student" not in made.provenance
    given = dd.network_factory("mlp", (1, 1, 80), 2)
    with pytest.raises(ValueError, match="make_student must be left out for distill-cf, which has no networks"):
        dd.distill(DistillCF(users=5, steps=1), table, make_student=given)


def test_a_plan_that_calls_for_a_network_that_is_not_there_says_so(table):
    class Calls(DirectMethod):
        name = "calls"

        def protocol(self, real):
            raise AssertionError

        def source(self, real):
            raise AssertionError

        def described(self, real):
            raise AssertionError

        def make(self, real, *, make_student, rng):
            return make_student(rng)

    with pytest.raises(TypeError, match="make_student must be a factory of networks for this plan of calls"):
        dd.distill(Calls(), table)


def test_sparse_users_come_back_from_their_file(distilled, tmp_path):
    train, made = distilled
    sparse = sampled_users(made, 7)
    assert sparse.images.sum((1, 2, 3)).tolist() == [7] * 15
    assert sparse.stored_floats == 15 * 7
    for user, chosen in zip(made.images[:, 0, 0], sparse.images[:, 0, 0], strict=True):
        assert float(user[chosen == 1].min()) >= float(user[chosen == 0].max())
    write_users(sparse, train.items, tmp_path / "users.csv")
    back = Interactions.from_csv(tmp_path / "users.csv")
    assert back.users == tuple(f"synthetic {i}" for i in range(15))
    for u, row in enumerate(back.matrix):
        own = {back.items[i] for i in torch.nonzero(row).flatten().tolist()}
        assert own == {train.items[i] for i in torch.nonzero(sparse.images[u, 0, 0]).flatten().tolist()}
    with pytest.raises(ValueError, match="distilled must come from sampled_users"):
        write_users(made, train.items, tmp_path / "no.csv")
    with pytest.raises(ValueError, match="items must name 80 items"):
        write_users(sparse, train.items[:3], tmp_path / "no.csv")
    with pytest.raises(ValueError, match=r"items must lie in 1\.\.80, got 81"):
        sampled_users(made, 81)


def test_nearest_users_are_found(table):
    assert nearest_user(table.matrix[:3], table.matrix) == 1
    assert nearest_user(1 - table.matrix[:1], table.matrix[:1]) == 0
    half = torch.tensor([[1.0, 0.5, 0.0]])
    assert nearest_user(half, torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])) == 0.75


def test_tables_are_read(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_text("user,item,rating\nann,tea,5\nbob,tea,2\nann,rum,4\nbob,rum,5\n")
    found = Interactions.from_csv(path, least_rating=3)
    assert found.users == ("ann", "bob")
    assert found.items == ("tea", "rum")
    assert found.matrix.tolist() == [[1, 1], [0, 1]]
    assert Interactions.from_csv(path, rating=None).matrix.sum() == 4
    assert found.as_real().image_shape == (1, 1, 2)
    with pytest.raises(ValueError, match="columns must hold 'who'"):
        Interactions.from_csv(path, user="who")
    with pytest.raises(ValueError, match="rows must hold a rating of at least 9"):
        Interactions.from_csv(path, least_rating=9)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"ann,tea", "row 0 of .* must have 3 cells"),
        (b"ann,tea,many", "ratings must be finite numbers, got 'many'"),
        (b"ann,tea,nan", "ratings must be finite numbers, got 'nan'"),
        (b"", "path must hold at least one row"),
        (b"ann,\xff,1", "must be a table in UTF-8"),
    ],
)
def test_damaged_tables_are_refused(tmp_path, content, rule):
    path = tmp_path / "ratings.csv"
    path.write_bytes(b"user,item,rating\n" + content)
    with pytest.raises(ValueError, match=rule):
        Interactions.from_csv(path)


def test_bad_input_is_refused(table):
    with pytest.raises(ValueError, match="matrix must hold zeros and ones"):
        Interactions(torch.full((1, 1), 0.5), ("a",), ("b",))
    with pytest.raises(ValueError, match="matrix must have an item for each user"):
        Interactions(torch.zeros(1, 1), ("a",), ("b",))
    with pytest.raises(ValueError, match="held_out must have no seen item"):
        ranking_metrics(table.matrix, table.matrix, table.matrix, torch.ones(80))
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.80"):
        ranking_metrics(table.matrix, 0 * table.matrix, table.matrix, torch.ones(80), k=81)
    with pytest.raises(ValueError, match="ridge must be finite and not negative"):
        WideAutoencoder(ridge=-1)
    with pytest.raises(ValueError, match="ridge must be positive"):
        EASE(ridge=0)
    with pytest.raises(ValueError, match="users must not exceed 200, got 500"):
        dd.distill(DistillCF(users=500, steps=1), table, seed=0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        GumbelUsers(torch.zeros(2, 3), temperature=0)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        DistillCF(draws=0)
    with pytest.raises(ValueError, match="test must lie in"):
        table.split(dd.generator(0), test=0.7)
    with pytest.raises(ValueError, match="mean_items must be above 5"):
        simulated_interactions(5, 5, dd.generator(0), mean_items=2)


def test_the_benchmark_refuses_more_users_than_there_are(tmp_path, capsys):
    (tmp_path / "own.csv").write_text("user,item,rating\nann,tea,5\n")
    assert BENCHMARK.run(["--data", "own.csv", "--root", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "users must not exceed 1, got 50" in capsys.readouterr().err
