"""Distil text: learned sentences are matrices of word vectors, and the method is one for images."""

import ddsdk
from ddsdk.data import python_docs_vocabulary

# Docstrings of Python's standard library, by what their modules are for: 32 words each, with a frozen vector a word.
train, test = ddsdk.load_pair("python-docs")
student = ddsdk.network_factory("textcnn", train.image_shape, train.num_classes, width=32)

chosen = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), train, make_student=student, seed=ddsdk.generator(0))
protocol = ddsdk.TrainingProtocol(network="textcnn", network_options={"width": 32}, epochs=60, lr=0.05)
accuracy = chosen.evaluate(test, protocol).mean
print(f"one real sentence of each class: {100 * accuracy:.1f} %")

recipe = ddsdk.SLDD(ipc=1, steps=100, passes=10, image_lr=0.05, student_lr=0.05, real_batch=128, start="real")
distilled = ddsdk.distill(recipe, train, make_student=student, seed=ddsdk.generator(0))
# The protocol of the method, with a network for text. The learned rate of each step is in the set.
own = recipe.protocol(train).changed(network="textcnn", options={"width": 32})
accuracy = distilled.evaluate(test, own).mean
print(f"one learned sentence and label of each class: {100 * accuracy:.1f} %")

# The nearest word to each learned vector: for reading only, the matrices are the set.
words = python_docs_vocabulary().nearest(distilled.preprocess.inverse(distilled.images))
for name, sentence in zip(distilled.class_names, words, strict=True):
    print(f"{name}: {' '.join(sentence)}")
