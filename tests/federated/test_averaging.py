"""Averaging of weights against slow and obvious versions, and DynaFed beside FedAvg."""

from __future__ import annotations

import torch
from federation import CLIENTS, TASK, load, participant, run, vector
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg, FedProx

import ddsdk as dd
from benchmarks.averaging import FedNova, Scaffold, client_of
from ddsdk.foundation import derive
from ddsdk_integrations.federated import (
    CountingGrid,
    DynaFed,
    InProcessGrid,
    LocalData,
    LocalTraining,
    ServerTrajectory,
)

AVERAGING = {"fraction_evaluate": 0.0, "min_available_nodes": 1, "min_train_nodes": 1}


def averaged(made, rounds=2, clients=CLIENTS, **training):
    app = client_of(participant(training=LocalTraining(**{"lr": 0.05, "batch_size": 32, **training})))
    return run(made, app, rounds=rounds, clients=clients)


def test_scaffold_starts_as_fedavg_and_fednova_is_fedavg_for_equal_clients():
    plain = averaged(FedAvg(**AVERAGING), 1)
    assert torch.allclose(averaged(Scaffold(TASK, **AVERAGING), 1), plain, atol=1e-6)
    # One client: every normalisation and every correction cancels.
    alone = averaged(FedAvg(**AVERAGING), 3, clients=1)
    for made in (Scaffold(TASK, **AVERAGING), FedNova(**AVERAGING)):
        assert torch.allclose(averaged(made, 3, clients=1), alone, atol=1e-4)
    assert not torch.allclose(averaged(FedNova(**AVERAGING), 1), plain, atol=1e-4)
    assert not torch.allclose(averaged(Scaffold(TASK, **AVERAGING), 2), averaged(FedAvg(**AVERAGING), 2), atol=1e-4)


def test_fednova_by_hand():
    start = vector(TASK.initial_arrays())
    app = participant().app()
    grid = InProcessGrid(app, 2)
    found = vector(FedNova(**AVERAGING).start(grid, TASK.initial_arrays(), 1).arrays)
    moves, steps, sizes = [], [], []
    for i in range(2):
        alone = InProcessGrid(app, 2, silent=[1 - i])
        moved = vector(FedAvg(**AVERAGING).start(alone, TASK.initial_arrays(), 1).arrays)
        size = len(load(alone.contexts[list(alone.contexts)[i]])[1])
        moves.append(start - moved)
        steps.append(-(-size // 32))
        sizes.append(size)
    p = [n / sum(sizes) for n in sizes]
    tau = sum(a * b for a, b in zip(p, steps, strict=True))
    wanted = start - tau * sum(a * d / t for a, d, t in zip(p, moves, steps, strict=True))
    assert torch.allclose(found, wanted, atol=1e-6)


def gradient_steps(weights, network, data, training, rng, correct):
    """SGD in slow motion: the same batches, each gradient by autograd, each step by hand."""
    from ddsdk.training.fit import epoch

    names = [name for name, _ in network.named_parameters()]
    for part in epoch(data.batch(), training.batch_size, dd.Augmentation(""), derive(rng, "epoch", 0)):
        leaves = [w.clone().requires_grad_() for w in weights]
        out = torch.func.functional_call(network, dict(zip(names, leaves, strict=True)), (part.x,))
        loss = torch.nn.functional.cross_entropy(out, part.y)
        gradients = torch.autograd.grad(loss, leaves)
        weights = [w - training.lr * (g + c) for w, g, c in zip(weights, gradients, correct, strict=True)]
    return weights


def test_scaffold_by_hand_over_two_rounds():
    training, clients, rounds = LocalTraining(lr=0.05, batch_size=32), 2, 2
    app = client_of(participant(training=training))
    grid = InProcessGrid(app, clients)
    found = vector(Scaffold(TASK, **AVERAGING).start(grid, TASK.initial_arrays(), rounds).arrays)

    network = TASK.make(dd.generator("task"))
    network.load_state_dict(TASK.initial_arrays().to_torch_state_dict())
    weights = [p.detach().clone() for p in network.parameters()]
    server = [torch.zeros_like(w) for w in weights]
    own = [[torch.zeros_like(w) for w in weights] for _ in range(clients)]
    parts = [LocalData.of(TASK, *load(context)) for context in grid.contexts.values()]
    sizes = [len(part.real) for part in parts]
    for turn in range(1, rounds + 1):
        ends, moved = [], []
        for i, data in enumerate(parts):
            rng = dd.generator("client", 0, turn, i)
            correct = [c - mine for c, mine in zip(server, own[i], strict=True)]
            end = gradient_steps(weights, network, data, training, rng, correct)
            steps = -(-sizes[i] // training.batch_size)
            new = [
                mine - c + (w - e) / (steps * training.lr)
                for mine, c, w, e in zip(own[i], server, weights, end, strict=True)
            ]
            moved.append([n - mine for n, mine in zip(new, own[i], strict=True)])
            own[i] = new
            ends.append(end)
        server = [c + sum(m[j] for m in moved) / clients for j, c in enumerate(server)]
        weights = [
            sum(n * end[j] for n, end in zip(sizes, ends, strict=True)) / sum(sizes) for j in range(len(weights))
        ]
    assert torch.allclose(found, torch.cat([w.flatten() for w in weights]), atol=2e-5)


def test_scaffolds_variate_moves_by_the_share_that_took_part():
    made = Scaffold(TASK, **{**AVERAGING, "fraction_train": 0.5})
    half = Scaffold(TASK, **AVERAGING)
    run(made, client_of(participant()))
    run(half, client_of(participant()))
    small, large = (torch.cat([c.flatten() for c in one.control.values()]).norm() for one in (made, half))
    assert 0.3 * large < small < 0.8 * large


def test_the_proximal_term_holds_clients_back():
    start = vector(TASK.initial_arrays())
    near = averaged(FedProx(**AVERAGING, proximal_mu=5.0), 1)
    far = averaged(FedAvg(**AVERAGING), 1)
    same = averaged(FedProx(**AVERAGING, proximal_mu=0.0), 1)
    assert (near - start).norm() < 0.8 * (far - start).norm()
    assert torch.allclose(same, far, atol=1e-6)


def test_a_client_without_the_term_refuses_fedprox():
    weights = TASK.initial_arrays()
    grid = InProcessGrid(participant().app(), 1)
    content = {"arrays": weights, "config": ConfigRecord({"server-round": 1, "proximal-mu": 0.1})}
    (reply,) = grid.send_and_receive([Message(RecordDict(content), *grid.get_node_ids(), "train")])
    assert "proximal-mu must be 0" in reply.error.reason


def test_dynafed_costs_what_fedavg_costs_and_tunes_after_its_rounds():
    trajectory = ServerTrajectory(rounds=2, ipc=1, span=1, student_steps=2, steps=3, tune_steps=3)

    def traffic(made, rounds):
        grid = CountingGrid(InProcessGrid(participant().app(), CLIENTS))
        arrays = made.start(grid, TASK.initial_arrays(), rounds).arrays
        return vector(arrays), grid.traffic.total

    made = DynaFed(TASK, trajectory, **AVERAGING)
    found, total = traffic(made, 3)
    plain, same = traffic(FedAvg(**AVERAGING), 3)
    assert total == same
    assert not torch.allclose(found, plain, atol=1e-5)
    assert made.made is not None
    assert made.made.ipc == 1
    early, _ = traffic(DynaFed(TASK, trajectory, **AVERAGING), 1)
    assert torch.allclose(early, traffic(FedAvg(**AVERAGING), 1)[0], atol=1e-6)
