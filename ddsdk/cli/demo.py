"""`ddsdk demo`: distillation and evaluation on scikit-learn's digits in one to two minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddsdk import artefact, data, foundation, judging, recipes
from ddsdk.cli.console import open_line, out
from ddsdk.cli.distill import DistillOptions, run_recipe
from ddsdk.cli.evaluate import follow_progress, score_with_baselines, show_scores
from ddsdk.cli.inspection import write_report
from ddsdk.training import TrainingProtocol

# Without flips, which turn digits into other shapes, and without cutout, which hides too much of 8x8 pixels.
_AUGMENTATION = "color_crop_scale_rotate"
_FULL_EPOCHS = 40


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Distil scikit-learn's digits by distribution matching (DM) and compare the set with baselines, without downloads.

    Attributes:
        out: Folder of the artefact.
        ipc: Images per class of the distilled set.
        steps: Number of steps of distribution matching (DM).
        seed: Seed of all random numbers.
    """

    out: Path = Path("out/digits-dm")
    ipc: int = 1
    steps: int = 200
    seed: int = 0

    def run(self) -> int:
        """Return the exit code after distilling, evaluating and writing the report."""
        import torch

        train, test = data.load_pair("digits")
        threads = torch.get_num_threads()
        options = DistillOptions(data="digits", out=self.out, width=64, seed=self.seed, resume=True, threads=threads)
        method = recipes.DM(ipc=self.ipc, steps=self.steps, augmentation=_AUGMENTATION)
        code = run_recipe(method, train, options)
        if code:
            return code
        distilled = artefact.Distilled.load(self.out)
        protocol = TrainingProtocol.quick(_AUGMENTATION)
        baselines, results = ["random", "herding", "k-means"], judging.results_folder(self.out)
        out("training networks on the distilled set, on the baselines and on the full training set ...")
        rows = score_with_baselines(distilled, train, test, protocol, baselines, results=results, seed=self.seed)
        full_set = train.batch(torch.arange(len(train)))
        # An epoch of the full set has about 130 times the steps; the accuracy does not rise after these few.
        full_protocol = protocol.changed(epochs=_FULL_EPOCHS)
        name = f"full training set, {_FULL_EPOCHS} epochs"
        training_set = judging.TrainingSet(full_set, full_protocol)
        rng = foundation.generator(self.seed)
        rows += follow_progress(judging.evaluation_steps(training_set, test, rng=rng, name=name), full_protocol.rounds)
        show_scores("digits", protocol, rows)
        page, sheet = self.out / "report.html", self.out / "sheet.png"
        write_report((self.out,), page, (results,))
        out(f"artefact       {self.out}\ncontact sheet  {sheet}\nHTML card      {page}")
        out(f"open with      {open_line(self.out)}")
        return 0
