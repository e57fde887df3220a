"""Share images of people as a set: one release is refused by its limits, another is let out with its card.

python examples/share_release.py
"""

import torch

import ddsdk as dd
from ddsdk_integrations.share import (
    ExportLimits,
    ExportRefusedError,
    ReleaseTerms,
    TeacherLabels,
    prepare_release,
    reproduces_accuracy,
    simulated_patients,
)

# In place of medical images: digits that belong to people, ten of each. Yours come with a column of patients.
digits = dd.load("digits")
half = digits.subset(torch.cat([digits.index_of_class(c)[:90] for c in range(10)]))
records, patients = simulated_patients(half, 10, dd.generator("patients"))

options = {"width": 12, "depth": 2}
make_student = dd.network_factory("convnet", records.image_shape, 10, **options)
protocol = dd.TrainingProtocol(name="quick", network_options=options, networks=1, epochs=60, lr=0.03)
terms = ReleaseTerms(
    title="Digits of nobody", intended_use="To try the command; not for diagnosis.", licence="That of the source."
)
limits = ExportLimits(membership_auc=0.65, membership_at_1=0.1, near_copies=0)

for start in ("real", "noise"):
    recipe = TeacherLabels(recipe=dd.DM(ipc=3, steps=80, start=start, augmentation=""))
    made = prepare_release(
        records,
        patients,
        recipe=recipe,
        make_student=make_student,
        seed=dd.generator("release"),
        terms=terms,
        protocol=protocol,
        networks=1,
    )
    print(f"from {start}: {made.audit.record}")
    try:
        made.export("out/release", limits)
    except ExportRefusedError as error:
        print("  refused:", error)
        continue
    loaded = dd.Distilled.load("out/release")
    held_out, groups = records.subset(made.held_out), patients[made.held_out]
    ok, figures = reproduces_accuracy(loaded, held_out, groups, seed=dd.generator("again"), networks=1)
    print("  let out:", loaded.privacy)
    print(f"  trained again: {100 * figures.accuracy:.1f} %, as recorded: {ok}")
