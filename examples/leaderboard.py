"""Make more than twenty small sets of the digits in the folder `board`, score each by one table, and write their page.

Finished sets and scores are kept, so a stopped run continues with the missing ones.
"""

from pathlib import Path

import numpy as np
import torch

import ddsdk
from ddsdk.cli import main

OUT = Path("board")
DATA = ["--data", "digits", "--threads", "1"]
SHORT = ["--width", "8", "--steps", "40", "--real-batch", "32"]
STUDENTS = ["--width", "8", "--students", "4", "--real-batch", "32"]
TEACHER = ["--width", "16", "--teacher-epochs", "10"]

# Method, images per class, options.
METHODS = [
    ("dm", 1, [*SHORT, "--image-lr", "1.0"]),
    ("dm", 5, [*SHORT, "--image-lr", "1.0"]),
    ("dsa", 1, STUDENTS),
    ("dsa", 5, STUDENTS),
    ("dc", 1, STUDENTS),
    ("m3d", 1, SHORT),
    ("datadam", 1, SHORT),
    ("cafe", 1, SHORT),
    ("idc", 1, SHORT),
    ("rfad", 1, ["--steps", "40", "--real-batch", "32"]),
    ("frepo", 1, SHORT),
    ("krr", 1, []),
    ("rded", 1, [*TEACHER, "--temperature", "4"]),
    ("rded", 5, [*TEACHER, "--temperature", "4"]),
    ("random", 1, []),
    ("random", 5, []),
    ("k-means", 1, []),
    ("k-means", 5, []),
    ("means", 1, []),
    ("herding", 5, []),
    ("moderate", 5, ["--width", "8"]),
    ("el2n", 5, ["--width", "8", "--skip", "0.3"]),
]
# A short training of narrow networks, so that the folder is scored in minutes; protocols with many epochs lose by it.
SCORING = ["--compare", "--epochs", "40", "--repeats", "2", "--width", "8", "--full-epochs", "30"]


def released(folder):
    """Write sets of other code by the rules of its files, and yield name, file and options of the import."""
    folder.mkdir(parents=True, exist_ok=True)
    train = ddsdk.load("digits")
    chosen = ddsdk.distill(ddsdk.BASELINES["k-means"](ipc=1), train, seed=1)
    images, unit, ids, rows = chosen.images, chosen.unit_images(), chosen.owner, chosen.labels
    torch.save({"data": [[images, ids]], "accs_all_exps": {}}, folder / "res_DSA_digits_ConvNet_1ipc.pt")
    yield "released-dsa", folder / "res_DSA_digits_ConvNet_1ipc.pt", []
    for name, labels in (("tesla", 0.9 * rows + 0.01), ("datm", 4 * rows)):
        (folder / name).mkdir(exist_ok=True)
        torch.save(images, folder / name / "images_best.pt")
        torch.save(labels, folder / name / "labels_best.pt")
        torch.save(torch.tensor(0.02), folder / name / "lr_best.pt")
        yield f"released-{name}", folder / name / "images_best.pt", ["--space", "normalised"]
    tiles = torch.nn.functional.avg_pool2d(unit, 2).tile(1, 1, 2, 2)
    torch.save([tiles, ids], folder / "data.pt")
    yield "released-idc", folder / "data.pt", ["--factor", "2"]
    np.savez(folder / "best.npz", images=images.numpy(), labels=(rows - 0.1).numpy(), k=np.float32(1))
    yield "released-rfad", folder / "best.npz", []


def run(*words):
    """Run one command of ddsdk."""
    command = [str(word) for word in words]
    print("ddsdk", *command, flush=True)
    if main(command) != 0:
        raise SystemExit(f"failed: ddsdk {' '.join(command)}")


def make():
    """Make the missing sets."""
    for method, ipc, options in METHODS:
        folder = OUT / "sets" / f"{method}-{ipc}"
        if not (folder / "manifest.json").is_file():
            run("distill", *DATA, "--recipe", method, "--ipc", ipc, *options, "--out", folder)
    for name, file, options in released(OUT / "released"):
        folder = OUT / "sets" / name
        if not (folder / "manifest.json").is_file():
            run("import", file, "--data", "digits", *options, "--out", folder)


if __name__ == "__main__":
    make()
    for manifest in sorted((OUT / "sets").glob("*/manifest.json")):
        run("evaluate", manifest.parent, *DATA, *SCORING, "--results", OUT / "scores")
    run("leaderboard", OUT / "sets", "--results", OUT / "scores", "--html", OUT / "board.html")
