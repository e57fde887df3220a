"""Train on a distilled set with nothing but torch and safetensors.

usage: python train_without_ddsdk.py SET TEST_IMAGES TEST_LABELS [WIDTH [NETWORKS]]

SET is the folder of a set of grey images whose evaluation has no augmentation (`ddsdk inspect SET` shows it);
TEST_IMAGES and TEST_LABELS are uncompressed idx files, such as FashionMNIST's t10k-images-idx3-ubyte.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

folder, width = Path(sys.argv[1]), int(sys.argv[4]) if len(sys.argv) > 4 else 128
manifest = json.loads((folder / "manifest.json").read_text())
rules, space = manifest["evaluation"], manifest["preprocess"]
tensors = load_file(folder / "set.safetensors")
images, labels = tensors["images"], tensors["labels"]


def read_idx(path: str) -> torch.Tensor:
    raw = bytearray(Path(path).read_bytes())
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return torch.frombuffer(raw, dtype=torch.uint8, offset=4 + 4 * raw[3]).view(shape)


def convnet(classes: int) -> nn.Sequential:
    side = images.shape[2]
    depth = 3 if side >= 28 else 2
    layers: list[nn.Module] = []
    for i in range(depth):
        padding = 3 if i == 0 and side == 28 else 1
        conv = nn.Conv2d(1 if i == 0 else width, width, 3, padding=padding)
        layers += [conv, nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
    features = nn.Sequential(*layers)(images[:1]).numel()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, classes))


def train(network: nn.Module) -> None:
    sgd = torch.optim.SGD(
        network.parameters(), lr=rules["lr"], momentum=rules["momentum"], weight_decay=rules["weight_decay"]
    )
    for epoch in range(rules["epochs"]):
        if epoch == int(rules["epochs"] * rules["decay_at"]):
            sgd.param_groups[0]["lr"] *= rules["decay"]
        for part in torch.randperm(len(images)).split(rules["batch_size"]):
            sgd.zero_grad()
            cross_entropy(network(images[part]), labels[part]).backward()
            sgd.step()


if rules["augmentation"]:
    sys.exit("this script trains without augmentation; the set asks for " + rules["augmentation"])
test = (read_idx(sys.argv[2]).float().unsqueeze(1) / 255 - space["mean"][0]) / space["std"][0]
truth = read_idx(sys.argv[3]).long()
found = []
for seed in range(int(sys.argv[5]) if len(sys.argv) > 5 else 3):
    torch.manual_seed(seed)
    network = convnet(labels.shape[1])
    train(network)
    with torch.no_grad():
        hits = sum(
            int((network(x).argmax(1) == y).sum())
            for x, y in zip(test.split(250), truth.split(250), strict=True)
        )
    found.append(100 * hits / len(test))
    print(f"network {seed}: {found[-1]:.2f} %", flush=True)
print(f"mean {sum(found) / len(found):.2f} %")
