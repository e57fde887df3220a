"""Distil digits 5 to 9 for a network that was trained on 0 to 4, and teach it by one image of each class.

python examples/finetune_backbone.py
"""

import torch

import ddsdk as dd
from ddsdk.training import accuracy, embeddings
from ddsdk_integrations.finetune import FrozenBackbone, LinearGradientMatching, fine_tuned, probe_accuracy
from ddsdk_integrations.finetune.benchmark import Setting, pretrained, some_classes

everything, held_out = dd.load_pair("digits")
train, test = (some_classes(data, range(5, 10)) for data in (everything, held_out))

# Any module that makes features of images will do; this one is trained here.
backbone = pretrained(some_classes(everything, range(5)), Setting(width=16, pretraining=15), dd.generator("old"))
features = embeddings(backbone, train.batch(torch.arange(1)).x).shape[1]
make_student = FrozenBackbone(backbone, features=features, num_classes=5)

recipes = {
    "random real images": dd.BASELINES["random"](ipc=1),
    "linear gradient matching": LinearGradientMatching(ipc=1, steps=150, augmentation="", start="real"),
    "distribution matching": dd.DM(ipc=1, steps=100, augmentation=""),
}
tuning = dd.Evaluation(epochs=40, lr=0.005)
for name, recipe in recipes.items():
    distilled = dd.distill(recipe, train, make_student=make_student, seed=dd.generator("run"))
    probe = probe_accuracy(backbone, distilled, test)
    tuned = fine_tuned(backbone, distilled, tuning, seed=dd.generator("tuning"))
    after = accuracy(tuned, test.batch(torch.arange(len(test))).x, test.labels)
    print(f"{name}: linear probe {100 * probe:.1f} %, fine-tuned {100 * after:.1f} %")
