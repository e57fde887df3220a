"""Distil data of your own: any Dataset, pair of arrays, image folder or parquet file."""

import numpy as np

import ddsdk

# 3 uneven classes of 12x20 colour images, as arrays; a folder or a file would be given by its path.
rng = np.random.default_rng(0)
labels = np.repeat([0, 1, 2], [40, 25, 60])
images = (60 * labels[:, None, None, None] + rng.integers(0, 60, (125, 12, 20, 3))).astype(np.uint8)

data = ddsdk.load((images, labels))
student = ddsdk.network_factory("convnet", data.image_shape, data.num_classes, width=16)
distilled = ddsdk.distill(ddsdk.DM(ipc=2, steps=10), data, make_student=student, seed=ddsdk.generator(0))
print(distilled.images.shape, distilled.class_names)
ddsdk.to_npz(distilled, "own.npz")
