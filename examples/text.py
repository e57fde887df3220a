"""Distil text: learned sentences are matrices of word vectors, and the method is one for images."""

import ddsdk
from ddsdk.data import python_docs_vocabulary

# Docstrings of Python's standard library, by what their modules are for: 32 words each, with a frozen vector a word.
train, test = ddsdk.load_pair("python-docs")
student = ddsdk.network_factory("textcnn", train.image_shape, train.num_classes, width=32)

chosen = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), train, make_student=student, seed=ddsdk.generator(0))
protocol = ddsdk.TrainingProtocol(network="textcnn", network_options={"width": 32}, epochs=60, lr=0.05)
score = ddsdk.evaluate((chosen.images, chosen.labels), test, protocol, seed=0)
print(f"one real sentence of each class: {100 * score.mean:.1f} %")

recipe = ddsdk.SLDD(ipc=1, steps=100, passes=10, image_lr=0.05, student_lr=0.05, real_batch=128, start="real")
distilled = ddsdk.distill(recipe, train, make_student=student, seed=ddsdk.generator(0))
# The protocol that the set brings, with its learned rate for each step, under a network for text.
own = recipe.protocol(train).changed(network="textcnn", options={"width": 32})
own, per_step = own.with_learned(distilled.learned_lr)
learned = (distilled.images, distilled.labels)
score = ddsdk.evaluate(learned, test, own, seed=0, per_step=per_step)
print(f"one learned sentence and label of each class: {100 * score.mean:.1f} %")

# The nearest word to each learned vector: for reading only, the matrices are the set.
words = python_docs_vocabulary().nearest(distilled.preprocess.inverse(distilled.images))
for name, sentence in zip(distilled.class_names, words, strict=True):
    print(f"{name}: {' '.join(sentence)}")
