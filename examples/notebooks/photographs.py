# %% [markdown]
# # From a folder of photographs to a data set card
#
# Set `FOLDER` to your own folder: one subfolder of pictures for each class. Without one, this script draws pictures of
# three
# shapes, so that it runs anywhere.

# %%
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import ddsdk
from ddsdk.judging import mirror_check

FOLDER = Path("photographs")


def draw_shapes(folder: Path, count: int = 30) -> None:
    """Write pictures of circles, squares and triangles in different sizes and colours."""
    rng = np.random.default_rng(0)
    for shape in ("circle", "square", "triangle"):
        (folder / shape).mkdir(parents=True)
        for i in range(count):
            width, height = (int(n) for n in rng.integers(24, 48, 2))
            picture = Image.new("RGB", (width, height), tuple(int(n) for n in rng.integers(0, 90, 3)))
            pen, colour = ImageDraw.Draw(picture), tuple(int(n) for n in rng.integers(150, 255, 3))
            box = (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
            if shape == "circle":
                pen.ellipse(box, fill=colour)
            elif shape == "square":
                pen.rectangle(box, fill=colour)
            else:
                pen.polygon([(box[0], box[3]), (box[2], box[3]), (width // 2, box[1])], fill=colour)
            picture.save(folder / shape / f"{i}.png")


if not FOLDER.exists():
    draw_shapes(FOLDER)

# %% [markdown]
# ## Read
#
# The pictures have different sizes, so `resize` is needed. A part of each class is held out for the test.

# %%
data = ddsdk.load(FOLDER, resize=(24, 24))
train, test = data.split(0.3, ddsdk.generator("test"))
print(train.class_names, train.class_sizes, train.image_shape)

# %% [markdown]
# ## May images be mirrored?
#
# A small network is trained. If its accuracy falls on mirrored held-out images, recipes must not mirror.

# %%
check = mirror_check(train, epochs=10)
train = train.with_mirror_safe(check.safe)
print(f"as they are {check.plain:.0%}, mirrored {check.mirrored:.0%}: mirror-safe {check.safe}")

# %% [markdown]
# ## Distil
#
# Two images per class by distribution matching.

# %%
student = ddsdk.network_factory("convnet", train.image_shape, train.num_classes, width=16)
distilled = ddsdk.distill(ddsdk.DM(ipc=2, steps=40, real_batch=32), train, make_student=student, seed=0)

# %% [markdown]
# ## Judge
#
# Random real images under the same protocol are the baseline.

# %%
protocol = ddsdk.TrainingProtocol.quick().changed(networks=2, epochs=40, options={"width": 16})
print(distilled.evaluate(test, protocol, baselines=["random"], train=train))

# %% [markdown]
# ## Keep
#
# The folder has the tensors, the manifest, a picture and the card.

# %%
distilled.save("shapes")
print(Path("shapes/README.md").read_text()[:400])
