# %% [markdown]
# # Train on a set with plain PyTorch
#
# A set opens as a `torch.utils.data.Dataset`. Any training loop takes it: this one, Lightning's or skorch's.

# %%
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ddsdk

train, test = ddsdk.load_pair("digits")
student = ddsdk.network_factory("convnet", train.image_shape, train.num_classes, width=16)
ddsdk.distill(ddsdk.DM(ipc=5, steps=60, real_batch=64), train, make_student=student, seed=0).save("digits-set")

# %% [markdown]
# ## Open and batch
#
# Labels are rows of probabilities; `"hard"` gives one-hot rows of the largest class.

# %%
distilled = ddsdk.Distilled.load("digits-set")
loader = DataLoader(
    distilled.as_dataset("hard"), batch_size=25, shuffle=True, generator=torch.Generator().manual_seed(0)
)
images, labels = next(iter(loader))
print(images.shape, labels.shape)

# %% [markdown]
# ## Train a network of your own

# %%
torch.manual_seed(0)
network = nn.Sequential(
    *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 10)),
)
optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
for _ in range(60):
    for images, labels in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

# %% [markdown]
# ## Test
#
# Images of the set are in its value space. Test images must go through the same map, `distilled.preprocess`.

# %%
held_out = TensorDataset(distilled.preprocess(test.unit_images()), test.labels)
with torch.no_grad():
    right = sum(int((network(x).argmax(1) == y).sum()) for x, y in DataLoader(held_out, batch_size=256))
print(f"{100 * right / len(held_out):.1f} % on {len(held_out)} test images, from {len(distilled)} synthetic ones")
