"""Text as matrices of word vectors: the vocabulary, the corpus, the network, and a method for images on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import ddsdk as dd
from ddsdk.data import Vocabulary, python_docs, python_docs_vocabulary
from ddsdk.data.words import PADDING, tokens
from ddsdk.recipes.parts import augmentation_for

TEXTS = ["The red cat sat.", "A red dog sat, and sat!", "Two cats: red, red_cat 42 x"]


@pytest.fixture(scope="module")
def docs():
    return dd.load_pair("python-docs")


def test_tokens_are_runs_of_two_letters():
    assert tokens(TEXTS[2]) == ["two", "cats", "red", "red", "cat"]
    assert tokens("") == []


def test_words_are_ordered_by_frequency_and_then_by_the_alphabet():
    found = Vocabulary.fit(TEXTS, size=4, dim=2)
    assert found.words == (PADDING, "red", "sat", "cat", "and")
    assert found.vectors.shape == (5, 2)
    assert torch.equal(found.vectors[0], torch.tensor([0.5, 0.5]))
    assert found.vectors.min() >= 0 and found.vectors.max() <= 1


def spread_out():
    """Four words whose vectors differ much."""
    vectors = torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    return Vocabulary((PADDING, "red", "sat", "cat", "and"), vectors)


def test_a_text_is_the_vectors_of_its_known_words_and_padding():
    found = spread_out()
    image = found.matrices(["a dog and the Cat", "", "red sat cat and red"], 3)
    assert image.shape == (3, 1, 3, 2)
    assert torch.equal(image[0, 0], found.vectors[[4, 3, 0]])
    assert torch.equal(image[1, 0], found.vectors[[0, 0, 0]])
    assert found.nearest(image) == [["and", "cat"], [], ["red", "sat", "cat"]]


def test_vectors_come_from_the_company_that_words_keep():
    """Against the written-out matrix and numpy's decomposition."""
    texts = ["aa bb cc aa", "bb cc dd aa bb", "dd dd cc ee ff gg hh"]
    words = sorted({w for t in texts for w in t.split()})
    counts = np.zeros((len(words), len(words)))
    for text in texts:
        row = text.split()
        for i, a in enumerate(row):
            for j, b in enumerate(row):
                if i != j and abs(i - j) <= 5:
                    counts[words.index(a), words.index(b)] += 1
    p = counts / counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        company = np.maximum(0, np.nan_to_num(np.log(p / np.outer(p.sum(1), p.sum(1))), neginf=0))
    u, s, _ = np.linalg.svd(company)
    wanted = u[:, :3] * np.sqrt(s[:3])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    found = Vocabulary.fit(texts, dim=3)
    order = [found.words.index(w) for w in words]
    mine = 2 * found.vectors[order].double().numpy() - 1
    # Up to the sign of each direction.
    np.testing.assert_allclose(mine @ mine.T, wanted @ wanted.T, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "vectors", "rule"),
    [
        (("a",), torch.zeros(1, 2), "words must begin with the padding"),
        ((PADDING, "a", "a"), torch.zeros(3, 2), "words must be distinct"),
        ((PADDING, "a"), torch.zeros(3, 2), "vectors must have 2 rows in the unit range"),
        ((PADDING, "a"), torch.full((2, 2), 1.5), "vectors must have 2 rows in the unit range"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(words, vectors, rule):
    with pytest.raises(ValueError, match=rule):
        Vocabulary(words, vectors)


def test_what_the_vocabulary_refuses():
    with pytest.raises(ValueError, match="texts must hold more than 32 different words, got 8"):
        Vocabulary.fit(TEXTS)
    found = Vocabulary.fit(TEXTS, dim=2)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        found.matrices(TEXTS, 0)
    with pytest.raises(ValueError, match=r"matrices must have shape \(N, 1, L, 2\), got \(1, 1, 4, 3\)"):
        found.nearest(torch.zeros(1, 1, 4, 3))


def test_text_of_ones_own_is_loaded_like_images():
    found = spread_out()
    pair = (found.matrices(TEXTS, 5), torch.tensor([0, 1, 0]))
    data, _ = dd.load_pair(pair, pair, pictures=False)
    for same in (data, data.subset(torch.tensor([0, 1])), data.with_preprocess(data.preprocess)):
        assert augmentation_for(same, None) == ""
    assert augmentation_for(dd.load(pair), None) != ""
    assert data.image_shape == (1, 5, 2)
    x = data.batch(torch.arange(3)).x
    assert found.nearest(data.preprocess.inverse(x)) == found.nearest(found.matrices(TEXTS, 5))


def test_the_corpus(docs):
    train, test = docs
    assert train.name == "python-docs" and train.image_shape == (1, 32, 32)
    assert train.class_names == ("concurrency", "files", "markup", "network", "testing")
    assert min(train.class_sizes) > 150 and min(test.class_sizes) > 50
    assert test.preprocess == train.preprocess
    texts = [python_docs(split)[0] for split in ("train", "test")]
    assert not set(map(str.lower, texts[0])) & set(map(str.lower, texts[1]))
    assert len(texts[0]) == len(train)
    first = tokens(texts[0][0])
    vocabulary = python_docs_vocabulary()
    assert vocabulary.nearest(train.images[:1])[0] == [w for w in first if w in vocabulary.words][:32]
    torch.manual_seed(1)
    assert dd.load("python-docs", split="test").fingerprint == test.fingerprint


def test_sentences_are_not_warped(docs):
    assert augmentation_for(docs[0], None) == ""
    assert augmentation_for(docs[0], "crop") == "crop"


def test_textcnn_matches_a_written_out_forward():
    network = dd.network_factory("textcnn", (1, 7, 4), 3, width=2)(dd.generator(0)).double()
    x = torch.randn(2, 1, 7, 4, generator=dd.generator("x")).double()
    features = []
    for conv in network.body[0].filters:
        length = conv.kernel_size[0]
        phrases = x[:, 0].unfold(1, length, 1).transpose(2, 3).flatten(2)
        answers = phrases @ conv.weight.flatten(1).T + conv.bias
        features.append(answers.relu().max(1).values)
    wanted = torch.cat(features, 1) @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(x), wanted)


def test_textcnn_has_first_and_second_derivatives():
    network = dd.network_factory("textcnn", (1, 6, 3), 2, width=2)(dd.generator(1)).double()
    x = torch.randn(1, 1, 6, 3, generator=dd.generator("x")).double().requires_grad_()
    parameters = tuple(p.detach().requires_grad_() for p in network.parameters())
    names = [name for name, _ in network.named_parameters()]

    def logits(x, *weights):
        return torch.func.functional_call(network, dict(zip(names, weights, strict=True)), (x,)).square()

    assert gradcheck(logits, (x, *parameters))
    assert gradgradcheck(logits, (x, *parameters))


def test_textcnn_refuses_short_sentences():
    with pytest.raises(ValueError, match="image_shape must hold at least 5 words for TextCNN, got 4"):
        dd.network_factory("textcnn", (1, 4, 8), 2)


def test_a_network_learns_the_corpus(docs):
    train, test = docs
    protocol = dd.TrainingProtocol(
        network="textcnn", network_options={"width": 16}, epochs=6, networks=1, batch_size=64, lr=0.1
    )
    score = dd.evaluate(train.batch(torch.arange(len(train))), test, protocol, seed=0)
    assert score.mean > 0.6


def test_learned_sentences_beat_random_ones_and_are_read_back(docs, tmp_path):
    train, test = docs
    make = dd.network_factory("textcnn", train.image_shape, train.num_classes, width=16)
    recipe = dd.DC(ipc=1, students=30, real_batch=32, start="real")
    found = dd.distill(recipe, train, make_student=make, seed=0)
    found.save(tmp_path / "set")
    found = dd.Distilled.load(tmp_path / "set")
    words = python_docs_vocabulary().nearest(found.preprocess.inverse(found.images))
    assert len(words) == 5 and all(set(sentence) - {PADDING} for sentence in words)
    protocol = dd.TrainingProtocol(network="textcnn", network_options={"width": 16}, epochs=60, networks=3, lr=0.05)
    means = []
    for seed in range(3):
        chosen = dd.distill(dd.BASELINES["random"](ipc=1), train, make_student=make, seed=dd.generator(seed))
        score = dd.evaluate((chosen.images, chosen.labels), test, protocol, seed=0)
        means.append(score.mean)
    learned = dd.evaluate((found.images, found.labels), test, protocol, seed=0).mean
    assert learned > sum(means) / 3
