"""Train on a distilled set with nothing but torch and safetensors.

usage: python train_without_ddsdk.py SET TEST_IMAGES TEST_LABELS [NETWORKS [EPOCHS]]

SET is the folder of a set of grey images for a ConvNet, under the protocol that its manifest states, which must be SGD
with cross-entropy. TEST_IMAGES and TEST_LABELS are uncompressed idx files, such as FashionMNIST's
t10k-images-idx3-ubyte.
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

folder = Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
rules, space = manifest["evaluation"], manifest["preprocess"]
if unknown := rules.keys() & {"loss", "optimizer", "schedule", "warm_up", "order", "learner", "labels"}:
    sys.exit(f"this script trains with SGD and cross-entropy only, the set wants {sorted(unknown)}")
tensors = load_file(folder / "set.safetensors")
images, labels = tensors["images"], tensors["labels"]
rate = float(tensors.get("learned_lr", rules["lr"]))
height, width = images.shape[2:]
epochs = int(sys.argv[5]) if len(sys.argv) > 5 else rules["epochs"]


def read_idx(path: str) -> Tensor:
    raw = bytearray(Path(path).read_bytes())
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return torch.frombuffer(raw, dtype=torch.uint8, offset=4 + 4 * raw[3]).view(shape)


def convnet() -> nn.Sequential:
    options = rules["network_options"]
    channels = options.get("width", 128)
    depth = options.get("depth") or max(2, round(math.log2(min(height, width) / 4)))
    layers: list[nn.Module] = []
    for i in range(depth):
        padding = 3 if i == 0 and (height, width) == (28, 28) else 1
        conv = nn.Conv2d(1 if i == 0 else channels, channels, 3, padding=padding)
        layers += [conv, nn.GroupNorm(channels, channels), nn.ReLU(), nn.AvgPool2d(2)]
    features = nn.Sequential(*layers)(images[:1]).numel()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, labels.shape[1]))


def warp(x: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    zero = torch.zeros_like(a)
    theta = torch.stack([torch.stack([a, b, zero], 1), torch.stack([c, d, zero], 1)], 1)
    return grid_sample(x, affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


def window(start: Tensor, length: int, side: int) -> Tensor:
    at = torch.arange(side)
    return (at >= start[:, None]) & (at < start[:, None] + length)


def augment(x: Tensor, op: str) -> Tensor:
    n, zero = len(x), torch.zeros(len(x))
    u, v, w = torch.rand(3, n)
    shape = (n, 1, 1, 1)
    if op == "color":
        x = x + (u - 0.5).view(shape)  # saturation leaves grey images alone
        mean = x.mean((1, 2, 3), keepdim=True)
        return (x - mean) * (w + 0.5).view(shape) + mean
    if op == "flip":
        return torch.where((u < 0.5).view(shape), x.flip(3), x)
    if op == "scale":
        return warp(x, u * (1.2 - 1 / 1.2) + 1 / 1.2, zero, zero, v * (1.2 - 1 / 1.2) + 1 / 1.2)
    if op == "rotate":
        angle = (u - 0.5) * math.pi / 6
        return warp(x, angle.cos(), -angle.sin(), angle.sin(), angle.cos())
    if op == "crop":
        down, right = int(height / 8 + 0.5), int(width / 8 + 0.5)
        wide = nn.functional.pad(x, (right, right, down, down))
        moved = []
        for image, i, j in zip(wide, (u * (2 * down + 1)).long(), (v * (2 * right + 1)).long(), strict=True):
            moved.append(image[:, i : i + height, j : j + width])
        return torch.stack(moved)
    assert op == "cutout"
    tall, broad = int(height / 2 + 0.5), int(width / 2 + 0.5)
    rows = window((u * (height + 1 - tall % 2)).long() - tall // 2, tall, height)
    columns = window((v * (width + 1 - broad % 2)).long() - broad // 2, broad, width)
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])


def cutmix(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    share, *centre = torch.rand(3).tolist()
    inside, order = torch.ones(height, width), torch.randperm(len(x))
    for axis, side in enumerate((height, width)):
        half, middle = side * math.sqrt(share) / 2, centre[axis] * side
        low, high = max(0, round(middle - half)), min(side, round(middle + half))
        inside = inside * window(torch.tensor([low]), high - low, side).view((-1, 1) if axis == 0 else (1, -1))
    area = inside.mean()
    return torch.where(inside > 0, x[order], x), (1 - area) * y + area * y[order]


def train(network: nn.Module) -> None:
    # One operation of each group: "flip+crop_scale" flips half of the images, and then crops or scales all of them.
    groups = [group.split("_") for group in rules["augmentation"].split("+") if group]
    decays = rules["decay_at"] if isinstance(rules["decay_at"], list) else [rules["decay_at"]]
    sgd = torch.optim.SGD(network.parameters(), lr=rate, momentum=rules["momentum"], weight_decay=rules["weight_decay"])
    for epoch in range(epochs):
        passed = sum(epoch >= max(1, int(epochs * at)) for at in decays)
        sgd.param_groups[0]["lr"] = rate * rules["decay"] ** passed
        for part in torch.randperm(len(images)).split(rules["batch_size"]):
            x, y = images[part], labels[part]
            for names in groups:
                x = augment(x, names[int(torch.randint(len(names), ()))])
            if torch.rand(()) < rules.get("mix", 0):
                x, y = cutmix(x, y)
            sgd.zero_grad()
            cross_entropy(network(x), y).backward()
            sgd.step()


test = (read_idx(sys.argv[2]).float().unsqueeze(1) / 255 - space["mean"][0]) / space["std"][0]
truth = read_idx(sys.argv[3]).long()
found = []
for seed in range(int(sys.argv[4]) if len(sys.argv) > 4 else 3):
    torch.manual_seed(seed)
    network = convnet()
    train(network)
    with torch.no_grad():
        batches = zip(test.split(250), truth.split(250), strict=True)
        hits = sum(int((network(x).argmax(1) == y).sum()) for x, y in batches)
    found.append(100 * hits / len(test))
    print(f"network {seed}: {found[-1]:.2f} %", flush=True)
print(f"mean {sum(found) / len(found):.2f} %")
