"""Why this class? The synthetic images that carry a prediction, and the training images behind them.

python examples/explain_prediction.py
"""

from pathlib import Path

import torch

import ddsdk as dd
from ddsdk_integrations.explain import Explainer, Influence, draw_explanations, leave_one_out, removal_test

train, test = dd.load_pair("digits")
recipe = dd.KIP(ipc=5, steps=100, real_batch=300, learn_labels=True)
distilled = dd.distill(recipe, train, seed=dd.generator("run"))

explainer = Explainer(distilled)
x = test.batch(torch.arange(30)).x
found = explainer.explain(x)
print(f"image 0 is a {test.class_names[int(found.classes[0])]}: its score is {float(found.own[0].sum()):.3f}")
for i in found.top(3)[0].tolist():
    of = distilled.class_names[int(distilled.owner[i])]
    print(f"  synthetic image {i} (class {of}) adds {float(found.own[0, i]):+.3f}")

# Numbers, before the explanation is believed: take away what it names, and solve again.
for count in (1, 5):
    print(removal_test(explainer, x, count, dd.generator("random")))

# Through the set to the training images, and how that compares with leaving each of them out.
influence = Influence(explainer, train)
truth = leave_one_out(explainer.machine, train, x, found.classes)
behind = influence.behind(x, 10)
shared = (behind[:, :, None] == truth.topk(10, dim=1).indices[:, None]).any(2).double().mean()
print(f"training images behind image 0: {behind[0, :5].tolist()}")
print(f"of the ten that matter most by leave-one-out, {100 * float(shared):.0f} % are among the ten that it names")

Path("out").mkdir(exist_ok=True)
draw_explanations(explainer, train, test, torch.tensor([0, 1, 2]), "out/explained.png")
