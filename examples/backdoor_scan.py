"""Open a back door in a distilled set of digits, and look for it in that set and in an honest one.

python examples/backdoor_scan.py
"""

import dataclasses

import ddsdk as dd
from ddsdk.judging import trained_networks
from ddsdk_integrations.robustness.backdoor import InversionSettings, Trigger, attack_success, poison, scan

TARGET = 3

train, test = dd.load_pair("digits")
train, trusted = train.split(0.1, dd.generator("trusted"))  # images that whoever scans the set has
make_student = dd.network_factory("convnet", train.image_shape, 10, width=8)
recipe = dd.DM(ipc=10, steps=40, real_batch=32, augmentation="")
protocol = dataclasses.replace(dd.TrainingProtocol.quick(""), network_options={"width": 16}, epochs=100)

# A white corner on a fifth of the images, which then stand under the label of the target.
trigger = Trigger.corner(train.image_shape, size=2)
poisoned = poison(train, trigger, target=TARGET, fraction=0.2, rng=dd.generator("poison"))

for name, real in (("honest", train), ("poisoned", poisoned.data)):
    distilled = dd.distill(recipe, real, make_student=make_student, seed=dd.generator("run"))
    networks = trained_networks(distilled, protocol, 2, dd.generator("networks"))
    success = attack_success(networks, test, trigger, TARGET)
    print(
        f"{name}: under the trigger {100 * success.stamped:.1f} % of other digits are taken for a {TARGET}, "
        f"without it {100 * success.plain:.1f} %"
    )
    quick = InversionSettings(steps=60, lr=0.2, batch=16)
    print(scan(distilled, clean=trusted, networks=networks, inversion=quick, seed=dd.generator("scan")), "\n")
