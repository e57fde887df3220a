"""Release a private set of digits with its certificate, run out of budget, and audit a release that cheats.

python examples/private_release.py
"""

import dataclasses
from pathlib import Path

import torch

import ddsdk as dd
from ddsdk.synthetic import Pixels
from ddsdk_integrations.privacy import (
    NDPDC,
    Budget,
    BudgetSpentError,
    Ledger,
    PrivacyError,
    PrivateData,
    audit_in_one_run,
    mislabelled,
)

# Constants that were not computed from the records: statistics of them would have to be paid for.
PUBLIC = dd.Preprocess.normalise([0.3], [0.4])
CLAIM = Budget(epsilon=1, delta=1e-4)

train, test = (data.with_preprocess(PUBLIC) for data in dd.load_pair("digits"))
make_student = dd.network_factory("convnet", train.image_shape, 10, width=16, depth=2)
recipe = NDPDC(ipc=5, releases=30, steps=150, image_lr=50.0, sample_rate=0.5)


def sealed(records, ledger):
    """Return records that no method can draw; about 140 of a class is public knowledge."""
    return PrivateData(records, ledger, class_size=140, statistics="constants chosen beforehand")


# The ledger is a file: what a run spends is spent for all that come after it, also if it crashes.
Path("out").mkdir(exist_ok=True)
Path("out/ledger.json").unlink(missing_ok=True)
private = sealed(train, Ledger(CLAIM, "out/ledger.json"))
distilled = dd.distill(recipe, private, make_student=make_student, seed=dd.generator("run"))
distilled.save("out/private-digits")
judge = dd.TrainingProtocol(network_options={"width": 16, "depth": 2}, networks=2, epochs=150, lr=0.03)
accuracy = distilled.evaluate(test, judge, seed=dd.generator("judge")).mean
print(f"{100 * accuracy:.1f} % with", distilled.privacy)
for what, text in distilled.certificate.facts:
    print(f"  {what}: {text}")

try:
    dd.distill(
        recipe, sealed(train, Ledger(CLAIM, "out/ledger.json")), make_student=make_student, seed=dd.generator("again")
    )
except BudgetSpentError as error:
    print("a second run:", error)
try:
    NDPDC(start="real")
except PrivacyError as error:
    print("real images to start from:", error)


def cheat(records, rng):
    """Claim the same epsilon, but start from records: what no check of the plan can see."""
    start = torch.cat([records.of_class(c, 40, rng).x for c in range(10)])

    def from_records(plan):
        parts = plan.syn.labels, plan.syn.classes, plan.syn.num_classes
        return dataclasses.replace(plan, syn=dd.SyntheticSet(Pixels(start), *parts), steps=2)

    larger, hidden = dataclasses.replace(recipe, ipc=40), sealed(records, Ledger(CLAIM))
    return dd.distill(larger, hidden, make_student=make_student, seed=rng, transform=from_records)


def honest(records, rng):
    """Distil as above."""
    return dd.distill(recipe, sealed(records, Ledger(CLAIM)), make_student=make_student, seed=rng)


keep = torch.cat([train.index_of_class(c)[:20] for c in range(10)])
rest = torch.cat([train.index_of_class(c)[20:80] for c in range(10)])
records, canaries = train.subset(keep), mislabelled(train.subset(rest), dd.generator("canaries"))
for name, distil in (("honest", honest), ("cheating", cheat)):
    found = audit_in_one_run(
        distil, records, canaries, delta=1e-4, seed=dd.generator("audit"), networks=1, protocol=judge
    )
    verdict = "refuted" if found.refutes(CLAIM.epsilon) else "not refuted"
    print(f"{name}: the claim of epsilon {CLAIM.epsilon:g} is {verdict}: {found}")
