"""`python -m benchmarks.scale.files FOLDER`: a folder of many small JPEG files, one subfolder for each class."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from ddsdk.foundation import require_count


@dataclass(frozen=True, kw_only=True)
class PictureFolder:
    """Write a folder of random pictures, smooth mixtures of random colours around a colour of the class.

    Attributes:
        folder: Folder to write. Files that exist are kept.
        pictures: Number of pictures of all classes together.
        classes: Number of classes, each in a subfolder.
        side: Height and width of the pictures in pixels.
        workers: Number of processes that write pictures.
    """

    folder: tyro.conf.Positional[Path]
    pictures: int = 100_000
    classes: int = 100
    side: int = 224
    workers: int = 2

    def run(self) -> None:
        """Write the pictures."""
        for name in ("pictures", "classes", "side", "workers"):
            require_count(name, getattr(self, name))
        per_class = self.pictures // self.classes
        with ProcessPoolExecutor(self.workers) as pool:
            folders = [self.folder / f"class{c:03}" for c in range(self.classes)]
            list(pool.map(_write, range(self.classes), folders, [per_class] * self.classes, [self.side] * self.classes))


def _write(c: int, folder: Path, count: int, side: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(c)
    colour = rng.integers(40, 216, 3)
    for i in range(count):
        coarse = np.clip(colour + rng.integers(-40, 41, (4, 4, 3)), 0, 255).astype(np.uint8)
        path = folder / f"{i:05}.jpg"
        if not path.exists():
            picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR)
            picture.save(path, quality=80)


if __name__ == "__main__":
    tyro.cli(PictureFolder, prog="python -m benchmarks.scale.files").run()
    sys.exit(0)
