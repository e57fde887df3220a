"""`ddsdk compress`: a distilled set in a number of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ddsdk import artefact, foundation, judging
from ddsdk.cli.console import out, table
from ddsdk.cli.distill import announce_set
from ddsdk.cli.options import DataOptions, names
from ddsdk.foundation import require


@dataclass(frozen=True, kw_only=True)
class Compress(DataOptions):
    """Pack the images and labels of a distilled set into a number of bytes.

    Packed forms with different codecs, numbers of images and numbers of label entries are trained on and compared on
    held-out training images; the best one is saved. The test images are not read.

    Attributes:
        set: Folder of the artefact.
        bytes: Largest number of bytes of images, labels and learned rates. The description in manifest.json is not
            counted.
        out: Folder of the packed artefact.
        codecs: Codecs to try, separated by commas: cosine, palette, uint8, half, low-rank. Default: all.
        held_out: Fraction of the training images on which the forms are compared, as of `ddsdk distill --validation`.
        epochs: Largest number of training epochs in the comparison.
        width: Number of channels of the networks in the comparison.
        repeat: Number of networks for each form.
        seed: Seed of the networks of the comparison.
    """

    set: tyro.conf.Positional[Path]
    bytes: int
    out: Path
    codecs: str = ""
    held_out: float = 0.1
    epochs: int = 300
    width: int = 64
    repeat: int = 1
    seed: int = 0

    def run(self) -> int:
        """Return exit code 0 after saving the best form."""
        require(0 < self.held_out < 1, "held_out", "lie between 0 and 1", self.held_out)
        distilled = artefact.Distilled.load(self.set)
        _, held = self.train().split(self.held_out, foundation.generator("validation"))
        stated = judging.stored_protocol(distilled)
        # A protocol with the stored order can have a learned rate for each step, and so needs all of its epochs.
        epochs = None if stated.order == "stored" else self.epochs
        steps = judging.compression_steps(
            distilled,
            self.bytes,
            held,
            families=names(self.codecs) or judging.CODEC_FAMILIES,
            protocol=judging.reduced_protocol(stated, networks=self.repeat, epochs=epochs, width=self.width),
            seed=self.seed,
        )
        trials = []
        for trial in steps:
            trials.append(trial)
            out(f"{trial.codec}: {100 * trial.accuracy:.1f} %")
        best = max(trials, key=lambda trial: trial.accuracy)
        rows = [
            (t.codec, str(len(t.distilled)), str(t.distilled.manifest.storage.bytes), f"{t.error:.3f}", _percent(t))
            for t in sorted(trials, key=lambda trial: -trial.accuracy)
        ]
        headings = ("codec", "images", "bytes", "error of a pixel", "held-out accuracy, %")
        table(f"{self.set.name} in {self.bytes} bytes", headings, rows)
        best.distilled.save(self.out)
        before = distilled.manifest.storage.bytes
        out(f"{best.distilled.manifest.storage.bytes} bytes in place of {before}: {best.codec}")
        announce_set(self.out)
        return 0


def _percent(trial: judging.CompressionTrial) -> str:
    return f"{100 * trial.accuracy:.1f}"
