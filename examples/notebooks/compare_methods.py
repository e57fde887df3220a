# %% [markdown]
# # Compare methods at equal storage
#
# Methods store sets in different ways: IDM decodes four small images from the floats of one. A fair comparison counts
# stored floats,
# labels included, and trains the same networks under one protocol.

# %%
import ddsdk

train, test = ddsdk.load_pair("digits")
student = ddsdk.network_factory("convnet", train.image_shape, train.num_classes, width=16)
protocol = ddsdk.TrainingProtocol.quick().changed(networks=2, epochs=60, options={"width": 16})

# %% [markdown]
# ## Methods
#
# One image per class each. The number of steps is small, so that the script takes a minute; published settings take
# hours.

# %%
methods = {
    "random": ddsdk.BASELINES["random"](ipc=1),
    "herding": ddsdk.BASELINES["herding"](ipc=1),
    "k-means": ddsdk.BASELINES["k-means"](ipc=1),
    "dm": ddsdk.DM(ipc=1, steps=60, real_batch=64),
    "dc": ddsdk.DC(ipc=1, students=10, real_batch=64, start="real", image_lr=1.0),
    "m3d, four images in the floats of one": ddsdk.M3D(ipc=1, steps=40, real_batch=64),
}

# %% [markdown]
# ## Sets and scores

# %%
rows = []
for name, method in methods.items():
    needs = student if method.uses_networks() else None
    distilled = ddsdk.distill(method, train, make_student=needs, seed=0)
    accuracy = distilled.evaluate(test, protocol).mean
    rows.append((accuracy, name, distilled.manifest.storage.floats, len(distilled), distilled.provenance["seconds"]))

# %% [markdown]
# ## Table

# %%
print("| method | stored floats | decoded images | accuracy, % | seconds |\n| --- | --- | --- | --- | --- |")
for accuracy, name, floats, images, seconds in sorted(rows, reverse=True):
    print(f"| {name} | {floats} | {images} | {100 * accuracy:.1f} | {seconds:.0f} |")
