"""`ddsdk demo`: the whole job on scikit-learn's digits, in a minute or two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddsdk import artefact, data, foundation, recipes
from ddsdk.cli.console import open_line, out, progress
from ddsdk.cli.distill import DistillOptions, run_recipe
from ddsdk.cli.evaluate import follow, judge, show_scores
from ddsdk.cli.look import write_report
from ddsdk.training import Evaluation

# Digits must not be flipped, and at 8x8 pixels a cutout of half the side leaves nothing to read.
_AUGMENTATION = "color_crop_scale_rotate"
_FULL_EPOCHS = 40


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Distil scikit-learn's digits (real images, offline) and show the result.

    Attributes:
        out: Folder of the artefact.
        ipc: Images per class.
        steps: Image steps of the recipe (DM).
        seed: Root of every random number.
    """

    out: Path = Path("out/digits-dm")
    ipc: int = 1
    steps: int = 200
    seed: int = 0

    def run(self) -> int:
        """Distil, judge, and say where everything is."""
        import torch

        from ddsdk.judging import evaluating, results_folder

        train, test = data.load_pair("digits")
        threads = torch.get_num_threads()
        options = DistillOptions(data="digits", out=self.out, width=64, seed=self.seed, resume=True, threads=threads)
        method = recipes.DM(ipc=self.ipc, steps=self.steps, augmentation=_AUGMENTATION)
        code = run_recipe(method, train, options)
        if code:
            return code
        distilled = artefact.Distilled.load(self.out)
        evaluation = Evaluation.quick(_AUGMENTATION)
        baselines, results = ["random", "herding", "k-means"], results_folder(self.out)
        out("training fresh networks on the set, on the baselines, and on everything ...")
        rows = judge(distilled, train, test, evaluation, baselines, results=results, seed=self.seed)
        everything = train.batch(torch.arange(len(train)))
        # As many epochs as the set gets would be 130 times its steps; accuracy is flat from here on.
        fewer = evaluation.changed(epochs=_FULL_EPOCHS)
        name = f"full training set, {_FULL_EPOCHS} epochs"
        steps = evaluating(everything, test, fewer, rng=foundation.generator(self.seed), name=name)
        with progress("judging", fewer.rounds) as update:
            rows.append(follow(steps, "full training set", update))
        show_scores("digits", evaluation, rows)
        page, sheet = self.out / "report.html", self.out / "sheet.png"
        write_report((self.out,), page, (results,))
        out(f"artefact       {self.out}\ncontact sheet  {sheet}\nHTML card      {page}")
        out(f"open it        {open_line(self.out)}")
        return 0
