"""Distil digits 5 to 9 for a network that was trained on 0 to 4, and teach it by one image of each class.

python examples/finetune_backbone.py
"""

import torch

import ddsdk as dd
from ddsdk.training import accuracy, embeddings, train
from ddsdk_integrations.finetune import FrozenBackbone, LinearGradientMatching, fine_tune, probe_accuracy


def five_classes(real: dd.RealData, first: int) -> dd.RealData:
    """Return the images of five classes, numbered from 0."""
    index = torch.cat([real.index_of_class(c) for c in range(first, first + 5)])
    names = real.class_names[first : first + 5]
    return dd.RealData(real.images[index], real.labels[index] - first, class_names=names, preprocess=real.preprocess)


everything, held_out = dd.load_pair("digits")
old, new, test = five_classes(everything, 0), five_classes(everything, 5), five_classes(held_out, 5)

# Any module that makes features of images will do; this one is trained here.
backbone = dd.network_factory("convnet", old.image_shape, 5, width=16, depth=2)(dd.generator("backbone"))
for _ in train(
    backbone, old.batch(torch.arange(len(old))), dd.TrainingProtocol(epochs=15, lr=0.02), dd.generator("old")
):
    pass
features = embeddings(backbone, new.batch(torch.arange(1)).x).shape[1]
make_student = FrozenBackbone(backbone, features=features, num_classes=5)

recipes = {
    "random real images": dd.BASELINES["random"](ipc=1),
    "linear gradient matching": LinearGradientMatching(ipc=1, steps=150, augmentation="", start="real"),
    "distribution matching": dd.DM(ipc=1, steps=100, augmentation=""),
}
tuning = dd.TrainingProtocol(epochs=40, lr=0.005)
for name, recipe in recipes.items():
    distilled = dd.distill(recipe, new, make_student=make_student, seed=dd.generator("run"))
    probe = probe_accuracy(backbone, distilled, test)
    tuned = fine_tune(backbone, distilled, tuning, seed=dd.generator("tuning"))
    after = accuracy(tuned, test.batch(torch.arange(len(test))).x, test.labels)
    print(f"{name}: linear probe {100 * probe:.1f} %, fine-tuned {100 * after:.1f} %")
