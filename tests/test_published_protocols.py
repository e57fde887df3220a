"""Protocols of papers beside plain loops from their formulas: output change, early stopping, label scale, kernels."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch.nn.functional import one_hot

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.judging import TrainingSet, stopping_images, trained_network
from ddsdk.judging.early import stopped_early
from ddsdk.training import EarlyStopping, OutputChange, RandomConvNets, TrainingProtocol, weight_vector

PLAIN = {"width": 4, "depth": 1, "norm": "none", "init": "he-normal-biased"}


def made(images, labels, **facts):
    """Return real data with classes named by their numbers."""
    channels = images.shape[1]
    space = dd.Preprocess.normalise([0.5] * channels, [0.25] * channels)
    names = tuple(map(str, range(int(labels.max()) + 1)))
    return dd.RealData(images, labels, class_names=names, preprocess=space, name="made", **facts)


def few(tiny, n=9):
    return dd.Batch(*tiny.batch(torch.arange(n)))


def rfad_weights(network, x, labels, *, steps, lr, scale, decay):
    """Train in place as the code of RFAD does: full batches, f - f0, scaled labels, decay to the initial weights."""
    initial = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (network(x) - initial(x).detach() - scale * labels).square().mean() / scale**2
        for now, before in zip(network.parameters(), initial.parameters(), strict=True):
            loss = loss + decay * (now - before.detach()).square().sum()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize(("ipc", "lr", "scale", "decay"), [(1, 1e-3, 8.0, 0.0), (10, 1e-2, 8.0, 1e-3)])
def test_the_protocol_of_rfad_trains_as_its_loop_from_the_formulas(tiny, ipc, lr, scale, decay):
    grey = made(tiny.images.mean(1, keepdim=True), tiny.labels)
    x, y = few(grey)
    labels = y - 1 / 3
    protocol = dd.RFAD(ipc=ipc).protocol(grey)
    assert (protocol.subtract_initial, protocol.label_scale, protocol.loss) == (True, scale, "mse")
    assert protocol.early_stopping == EarlyStopping(images=15, every=100, patience=500)
    assert protocol.network_options == {"width": 1024, "norm": "none", "init": "he-normal-biased"}
    short = dataclasses.replace(protocol, network_options=PLAIN, epochs=5, early_stopping=None)
    ours = trained_network(TrainingSet(dd.Batch(x, labels), short), 0, rng=dd.generator(0))
    theirs = copy.deepcopy(ours.initial).requires_grad_(True)
    rfad_weights(theirs, x, labels, steps=5, lr=lr, scale=scale, decay=decay)
    assert float((weight_vector(theirs) - weight_vector(ours.initial)).norm()) > 1e-5
    torch.testing.assert_close(weight_vector(ours.network), weight_vector(theirs), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(ours(x), theirs(x) - ours.initial(x), rtol=1e-4, atol=1e-6)


def test_an_output_change_starts_at_zero_and_trains_one_network(make_student):
    network = make_student(dd.generator(0))
    change, x = OutputChange(network), torch.rand(4, 3, 8, 12)
    assert torch.equal(change(x), torch.zeros(4, 3))
    assert {id(p) for p in change.parameters() if p.requires_grad} == {id(p) for p in network.parameters()}
    with torch.no_grad():
        network.head.bias += 2.0
    torch.testing.assert_close(change(x), torch.full((4, 3), 2.0))
    batch = dd.Batch(x, torch.zeros(4, 3))
    # 4 images, strength 0.5, three biases that moved by 2: 4 * 0.5 / 2 * 12.
    assert float(change.pull(0.5)(change, batch).detach()) == pytest.approx(12.0)


class Counted(torch.nn.Module):
    """Network with one weight, which counts the epochs of its training."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def epochs(self, n):
        for i in range(1, n + 1):
            self.weight.data.fill_(i)
            yield i


@pytest.mark.parametrize(
    ("every", "patience", "scores", "taken", "kept"),
    [
        (1, None, {0: 0.1, 1: 0.5, 2: 0.9, 3: 0.9, 4: 0.2}, 4, 2),
        (2, None, {0: 0.1, 2: 0.3, 4: 0.2}, 4, 2),
        (1, 2, {0: 0.1, 1: 0.5, 2: 0.4, 3: 0.5, 4: 0.9}, 2, 1),
        (1, None, {0: 0.9, 1: 0.5, 2: 0.4, 3: 0.5, 4: 0.6}, 4, 0),
        (3, 2, {0: 0.5, 3: 0.9}, 1, 0),
    ],
)
def test_the_weights_of_the_first_best_check_are_kept(every, patience, scores, taken, kept):
    network, looked = Counted(), []

    def accuracy(given):
        looked.append(int(given.weight))
        return scores[int(given.weight)]

    stopping = EarlyStopping(images=1, every=every, patience=patience)
    assert len(list(stopped_early(network, network.epochs(4), stopping, accuracy))) == taken
    assert int(network.weight) == kept
    assert looked == sorted(set(looked))
    assert all(epoch % every == 0 for epoch in looked)


def test_early_stopping_takes_equally_many_training_images_of_each_class(tiny):
    chosen = stopping_images(tiny, EarlyStopping(images=7), dd.generator(0))
    assert chosen.labels.bincount().tolist() == [3, 2, 2]
    again = stopping_images(tiny, EarlyStopping(images=7), dd.generator(0))
    assert torch.equal(again.images, chosen.images)
    assert not torch.equal(stopping_images(tiny, EarlyStopping(images=7), dd.generator(1)).images, chosen.images)
    with pytest.raises(ValueError, match="early_stopping must find 6 training images of class 'cat', got 5"):
        stopping_images(tiny, EarlyStopping(images=18), dd.generator(0))


def test_an_evaluation_stops_by_training_images_and_says_what_is_missing(tiny, tmp_path):
    stopping = EarlyStopping(images=6, every=1)
    protocol = TrainingProtocol(network_options=PLAIN, networks=1, epochs=3, early_stopping=stopping)
    distilled = dd.distill(dd.BASELINES["random"](ipc=2), tiny)
    with pytest.raises(ValueError, match=r"pass train= or changed\(early_stopping=False\)"):
        dd.evaluate(distilled, tiny, protocol)
    last = protocol.changed(early_stopping=False)
    assert (last.name, last.early_stopping) == ("published, last epoch", None)
    assert dd.evaluate(distilled, tiny, last).accuracies
    scores = dd.evaluate(distilled, tiny, protocol, train=tiny, baselines=["random"], results=tmp_path)
    assert [score.name for score in scores] == ["random", "random"]
    # The images are part of the conditions: other ones give another score.
    other = tiny.subset(torch.arange(len(tiny) - 1))
    count = len(dd.read_scores(tmp_path))
    dd.evaluate(distilled, tiny, protocol, train=tiny, results=tmp_path)
    assert len(dd.read_scores(tmp_path)) == count
    dd.evaluate(distilled, tiny, protocol, train=other, results=tmp_path)
    assert len(dd.read_scores(tmp_path)) == count + 1


def test_the_command_says_which_epoch_is_tested(tmp_path, capsys):
    protocol = TrainingProtocol(
        network_options={"width": 4}, networks=1, epochs=2, early_stopping=EarlyStopping(images=20)
    )
    made = dd.distill(dd.BASELINES["random"](ipc=2), dd.load("digits"))
    dataclasses.replace(made, protocol=protocol.to_dict()).save(tmp_path / "set")
    assert main(["evaluate", str(tmp_path / "set"), "--data", "digits", "--baselines", ""]) == 0
    assert "augmentation none, best epoch on 20 training images" in capsys.readouterr().out


def test_new_settings_are_stored_and_old_protocols_keep_their_form():
    protocol = TrainingProtocol(
        label_scale=8.0, subtract_initial=True, early_stopping=EarlyStopping(images=5, patience=2), labels="centred"
    )
    assert TrainingProtocol.from_dict(protocol.to_dict()) == protocol
    assert not {"label_scale", "subtract_initial", "early_stopping"} & set(TrainingProtocol().to_dict())
    with pytest.raises(dd.ArtifactError, match="early_stopping"):
        TrainingProtocol.from_dict({**protocol.to_dict(), "early_stopping": {"images": 0}})


def test_centred_labels_are_one_hot_rows_less_their_mean():
    rows = dd.synthetic.read_labels(torch.tensor([[0.2, 0.5, 0.3]]), "centred")
    torch.testing.assert_close(rows, torch.tensor([[-1 / 3, 2 / 3, -1 / 3]]))


def test_the_kernel_of_random_networks_is_the_mean_of_their_inner_products():
    x, z = torch.rand(3, 1, 8, 8), torch.rand(2, 1, 8, 8)
    kernel = RandomConvNets(networks=3, width=6, depth=2, slope=2.0, bias=0.25, seed=4)
    wanted = torch.zeros(3, 2, dtype=torch.float64)
    for i in range(3):
        network = dd.network_factory("convnet", (1, 8, 8), 2, width=6, depth=2, norm="none", init="he-normal-biased")(
            dd.generator(4, "random ConvNets", i)
        )
        with torch.no_grad():
            of_x, of_z = network.embed(x).double(), network.embed(z).double()
        for a in range(3):
            for b in range(2):
                wanted[a, b] += 2.0 / 3 * float((of_x[a] * of_z[b]).sum()) / of_x.shape[1]
    torch.testing.assert_close(kernel(x, z), wanted + 0.25)
    torch.testing.assert_close(kernel(x, x), kernel(x, x).T)
    assert not torch.equal(kernel(x, z), dataclasses.replace(kernel, seed=5)(x, z))
    leaf = x.clone().requires_grad_()
    kernel(leaf, z).sum().backward()
    assert float(leaf.grad.abs().sum()) > 0


def test_wide_random_networks_approach_one_kernel():
    x = torch.rand(4, 1, 8, 8)
    spread = [
        float(torch.stack([RandomConvNets(networks=2, width=w, seed=s)(x, x) for s in range(4)]).std(0).mean())
        for w in (4, 128)
    ]
    assert spread[1] < spread[0] / 3


def test_evaluate_has_the_score_of_the_kernel(tmp_path, capsys):
    dd.distill(dd.BASELINES["random"](ipc=2), dd.load("digits")).save(tmp_path / "set")
    args = ["evaluate", str(tmp_path / "set"), "--data", "digits", "--baselines", ""]
    assert main([*args, "--protocol", "kernel", "--width", "8"]) == 0
    said = capsys.readouterr().out
    assert "random-convnets kernel" in said
    assert "kernel ridge regression, without training of networks" in said


@pytest.mark.parametrize(
    ("recipe", "channels", "mirror_safe", "operations"),
    [
        (dd.FRePo(ipc=1), 1, True, "jitter_zoom_rotate_translate_quarter-cutout"),
        (dd.FRePo(ipc=1), 3, True, "flip_jitter_zoom_rotate_translate_quarter-cutout"),
        (dd.FRePo(ipc=1), 3, False, "jitter_zoom_rotate_translate_quarter-cutout"),
        (dd.FRePo(ipc=1, augmentation=""), 3, True, ""),
        (dd.RCIG(ipc=1), 1, True, ""),
        (dd.RCIG(ipc=1, augmentation=None), 1, True, "zoom_rotate_translate_quarter-cutout"),
        (dd.RCIG(ipc=1, augmentation=None), 3, True, "flip_jitter_zoom_rotate_translate_quarter-cutout"),
        (dd.RFAD(ipc=1), 3, True, ""),
    ],
)
def test_the_augmentation_of_an_evaluation_is_that_of_the_authors(recipe, channels, mirror_safe, operations):
    images, labels = torch.rand(6, channels, 8, 8), torch.arange(6) % 3
    real = made(images, labels, mirror_safe=mirror_safe)
    protocol = recipe.protocol(real)
    assert protocol.augmentation == operations


def test_rcig_trains_as_its_code(tiny):
    protocol = dd.RCIG(ipc=1).protocol(tiny)
    assert (protocol.lr, protocol.epochs * protocol.steps_in_epoch(3), protocol.batch_size) == (1e-4, 1000, 3)
    protocol = dd.RCIG(ipc=100).protocol(tiny)
    assert (protocol.epochs, protocol.steps_in_epoch(300)) == (1000, 2)
    assert protocol.batch_size == 256
    assert protocol.network_options["doubling"] is True


def test_students_start_as_the_authors_students(tiny):
    for recipe, width in ((dd.RFAD(ipc=1), 256), (dd.FRePo(ipc=1), 128), (dd.RCIG(ipc=1), 128)):
        options = recipe.student(tiny).options
        assert (options["width"], options["doubling"]) == (width, not isinstance(recipe, dd.RFAD))
    make = dd.network_factory("convnet", tiny.image_shape, 3, width=4)
    student = (
        dd.FRePo(ipc=1).plan(tiny, make_student=make, rng=dd.generator(0)).students.next(tiny, None, dd.generator(0))
    )
    assert torch.equal(student.head.bias, torch.zeros(3))


def test_labels_of_frepo_start_scaled_and_real_labels_are_not():
    images, labels = torch.rand(80, 1, 8, 8), torch.arange(80) % 40
    real = made(images, labels)
    make = dd.network_factory("convnet", (1, 8, 8), 40, width=4)
    plan = dd.FRePo(ipc=1).plan(real, make_student=make, rng=dd.generator(0))
    rows = plan.syn.detached(dd.generator(0)).y
    torch.testing.assert_close(rows[0], (one_hot(torch.tensor(0), 40) - 1 / 40) * 0.5)
    assert plan.objective.label_scale == 1.0


@pytest.mark.parametrize(
    ("shrink", "tile"), [("nearest", [[0.0, 2.0], [8.0, 10.0]]), ("bilinear", [[2.5, 4.5], [10.5, 12.5]])]
)
def test_tiles_start_as_the_authors_shrink_them(shrink, tile):
    image = torch.arange(16.0).view(1, 1, 4, 4)
    canvases = dd.synthetic.MultiFormation(torch.zeros(1, 1, 4, 4), 2, shrink=shrink)
    canvases.encode(image.repeat(4, 1, 1, 1))
    assert canvases.canvases[0, 0, :2, :2].tolist() == tile
    smooth = dd.synthetic.MultiFormation(torch.zeros(1, 1, 4, 4), 2)
    smooth.encode(image.repeat(4, 1, 1, 1))
    assert not torch.equal(smooth.canvases, canvases.canvases)
    with pytest.raises(ValueError, match="shrink must be one of"):
        dd.synthetic.MultiFormation(torch.zeros(1, 1, 4, 4), 2, shrink="cubic")


def test_networks_of_idm_train_on_raw_images_with_weight_decay(tiny, make_student):
    recipe = dd.IDM(ipc=1, steps=3, real_batch=4, queue=1, student_steps=3, student_batch=6, student_lr=0.1)
    supply = recipe.plan(tiny, make_student=make_student, rng=dd.generator(0)).students
    first = supply.next(tiny, None, dd.generator("one")).network
    before = copy.deepcopy(first).train()
    key = dd.foundation.derive(dd.generator("two"), "lessons")
    key = dd.foundation.derive(key, "lesson", 0)
    trained = weight_vector(supply.next(tiny, None, dd.generator("two")).network)
    plain = torch.optim.SGD(before.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    dd.students.TrainOnReal(steps=3, batch_size=6)(before, plain, tiny, None, key)
    torch.testing.assert_close(weight_vector(before), trained)


def test_the_network_of_dd_for_colour_images_is_that_of_its_authors():
    network = dd.network_factory("alexnet-cifar", (3, 32, 32), 10)(dd.generator(0))
    conv1, conv2 = network.body[0][0], network.body[1][0]
    linear = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(4096, 384), (384, 192), (192, 10)]
    x = torch.rand(2, 3, 32, 32)
    norm = torch.nn.LocalResponseNorm(4, alpha=0.001 / 9.0, beta=0.75, k=1)
    h = norm(torch.nn.functional.max_pool2d(conv1(x).relu(), 3, 2, 1))
    h = torch.nn.functional.max_pool2d(norm(conv2(h).relu()), 3, 2, 1).flatten(1)
    for layer in linear[:2]:
        h = layer(h).relu()
    torch.testing.assert_close(network(x), linear[2](h))


def test_the_pool_of_ncfm_trains_as_its_authors_pool(tiny, make_student):
    recipe = dd.NCFM(ipc=1, steps=1, frequencies=4, pool=1, pool_epochs=60)
    training = recipe.runs(tiny, make_student=make_student, rng=dd.generator(0)).training
    assert [training.rate_in(epoch) for epoch in (0, 39, 40, 50, 59)] == pytest.approx([0.01, 0.01, 2e-3, 4e-4, 4e-4])
    assert (training.batch_size, training.mix, training.augmentation) == (128, 0.5, "color+crop")
    assert "decay_at" not in dd.students.Training(epochs=3).identity
    assert training.identity["decay_at"] == (2 / 3, 5 / 6)
    with pytest.raises(ValueError, match="decay_at must hold fractions"):
        dd.students.Training(epochs=3, decay_at=(2.0,))


def test_the_rate_of_a_trained_run_decays(tiny, make_student, tmp_path):
    def weights(**more):
        training = dd.students.Training(epochs=2, batch_size=20, lr=0.1, **more)
        runs = dd.students.TrainedRuns(tiny, make_student, training, count=1, seed=0, folder=tmp_path)
        return [runs.weights(0, i) for i in range(3)]

    constant, decayed = weights(), weights(decay_at=(0.5,), decay=0.25)
    assert torch.equal(constant[1], decayed[1])
    torch.testing.assert_close(decayed[2] - decayed[1], 0.25 * (constant[2] - constant[1]), rtol=1e-3, atol=1e-6)
