"""Wrong lines of code, each with the tests that must fail: `make mutants` applies them to a copy, one after the other.

A test whose mutants all survive checks nothing. `python tests/mutants.py NAME ...` takes some of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Mutant(NamedTuple):
    """A wrong line: the file below the root, the right text, which occurs there once, the wrong text, and the tests."""

    file: str
    right: str
    wrong: str
    tests: str


MUTANTS: dict[str, Mutant] = {
    "undo to the diverged step": Mutant(
        "ddsdk/running/loop.py",
        "self._undo_state = before",
        "self._undo_state = self._snapshot()",
        "tests/test_distill.py tests/test_run.py",
    ),
    "average with the decay on the wrong side": Mutant(
        "ddsdk/running/loop.py",
        "weight = 1 - self.plan.average",
        "weight = self.plan.average",
        "tests/test_plan_options.py tests/test_distill.py",
    ),
    "projection left out": Mutant(
        "ddsdk/running/loop.py", "        plan.syn.project_()\n", "", "tests/test_plan_options.py"
    ),
    "schedule of the rate left out": Mutant(
        "ddsdk/running/loop.py", 'group["lr"] = rate * factor', 'group["lr"] = rate', "tests/test_plan_options.py"
    ),
    "warm start for the wrong items": Mutant(
        "ddsdk/running/warm_start.py",
        "target.pixels[rows] = source.pixels[source_rows]",
        "target.pixels[rows] = source.pixels[rows]",
        "tests/test_run.py",
    ),
    "warm start in another value space": Mutant(
        "ddsdk/running/warm_start.py",
        'return real.preprocess.to("cpu")(start.preprocess.inverse(start.images)), start.owner.cpu()',
        "return start.images, start.owner.cpu()",
        "tests/test_run.py",
    ),
    "no cross term in the discrepancy of kernels": Mutant(
        "ddsdk/objectives/moments.py", "- 2 * kernels[2]", "- kernels[2]", "tests/oracle"
    ),
    "squared distances without the factor 2": Mutant(
        "ddsdk/objectives/moments.py", "(squares - 2 * x @ y.T)", "(squares - x @ y.T)", "tests/oracle"
    ),
    "cosine with the wrong sign": Mutant(
        "ddsdk/objectives/distances.py",
        "gap: Tensor = 1 - (x * y)",
        "gap: Tensor = 1 + (x * y)",
        "tests/oracle/test_gradient_parts.py tests/oracle",
    ),
    "half of the loss of a regression missing": Mutant(
        "ddsdk/objectives/ridge.py",
        "return 0.5 * (predictions - targets",
        "return (predictions - targets",
        "tests/oracle/test_regression_parts.py",
    ),
    "start and target of a trajectory swapped": Mutant(
        "ddsdk/objectives/trajectory.py",
        "yield (end - student.target)",
        "yield (end - student.start)",
        "tests/oracle/test_trajectory.py",
    ),
    "micro-batches without their sizes": Mutant(
        "ddsdk/objectives/byproducts.py",
        "share = (part.stop - part.start) / n",
        "share = 1 / len(list(pieces(n, micro_batch(student, batch.x.device, n))))",
        "tests/oracle",
    ),
    "ridge as the trace, not the mean of the diagonal": Mutant(
        "ddsdk/training/ridge.py", "gram.diagonal().mean()", "gram.diagonal().sum()", "tests/oracle"
    ),
    "truncated gradient in the place of the exact one": Mutant(
        "ddsdk/training/unroll.py",
        "self.exact and graph and weights",
        "not self.exact and graph and weights",
        "tests/oracle/test_unroll.py tests/oracle",
    ),
    "tangent kernel without the derivative of the activation": Mutant(
        "ddsdk/training/kernels.py",
        "tangent = tangent * (weight * (math.pi - angle) / (2 * math.pi))",
        "tangent = tangent * weight",
        "tests/oracle",
    ),
    "softmax over the set, not over classes": Mutant(
        "ddsdk/synthetic/labels.py",
        "self.logits[slots].softmax(1)",
        "self.logits[slots].softmax(0)",
        "tests/contract/test_labels.py tests/test_synthetic.py",
    ),
    "learned rate without its bounds": Mutant(
        "ddsdk/synthetic/rate.py",
        "        self.value.clamp_(self._low, self._high)\n",
        "",
        "tests/test_synthetic.py tests/test_run_training.py tests/oracle",
    ),
    "tiles with rows and columns swapped": Mutant(
        "ddsdk/synthetic/multiformation.py",
        ".permute(0, 2, 4, 1, 3, 5)",
        ".permute(0, 4, 2, 1, 3, 5)",
        "tests/test_multiformation.py",
    ),
    "a subset forgets that images may be mirrored": Mutant(
        "ddsdk/data/sources.py", "            mirror_safe=self.mirror_safe,\n", "", "tests/test_facts.py"
    ),
    "flip upside down": Mutant(
        "ddsdk/data/augment.py",
        "return x.flip(3) if u.item() < 0.5 else x",
        "return x.flip(2) if u.item() < 0.5 else x",
        "tests/test_augment.py",
    ),
    "hash of a tensor not compared": Mutant(
        "ddsdk/artefact/folder.py",
        "if hashlib.sha256(flat.data).hexdigest() != manifest.tensors[name].sha256:",
        "if False:",
        "tests/test_artifact.py",
    ),
    "content id not compared": Mutant(
        "ddsdk/artefact/manifest.py",
        "hashes_fit = (_content_id(raw), _seal(raw)) == (manifest.id, manifest.seal)",
        "hashes_fit = _seal(raw) == manifest.seal",
        "tests/test_artifact.py",
    ),
    "storage of a manifest not compared": Mutant(
        "ddsdk/artefact/manifest.py", "        if value != true:", "        if False:", "tests/test_lying_manifests.py"
    ),
    "link in the place of an inner folder": Mutant(
        "ddsdk/foundation/files.py", "        if path.is_symlink():", "        if False:", "tests/test_links.py"
    ),
    "every format of pictures": Mutant(
        "ddsdk/data/pictures.py", "else source, formats=FORMATS)", "else source)", "tests/test_picture_formats.py"
    ),
    "checksum of a checkpoint not compared": Mutant(
        "ddsdk/running/checkpoint.py",
        "if hashlib.sha256(data[:start] + _BLANK + data[end:]).hexdigest().encode() != data[start:end]:",
        "if False:",
        "tests/test_checkpoint.py",
    ),
    "hash of a result not compared": Mutant(
        "ddsdk/foundation/unit.py",
        "intact = bool(end) and seal.sha256 == hashlib.sha256(result).hexdigest()",
        "intact = bool(end)",
        "tests/test_work.py",
    ),
    "key of a random number without its purpose": Mutant(
        "ddsdk/foundation/rng.py",
        "return generator(rng.initial_seed(), *key)",
        "return generator(rng.initial_seed())",
        "tests/oracle tests/test_augment.py",
    ),
    "score of one seed kept for all": Mutant(
        "ddsdk/judging/scores.py", '"seed": seed,', '"seed": 0,', "tests/test_judge.py"
    ),
    "likelihood ratio with the wrong sign": Mutant(
        "ddsdk/judging/likelihood.py",
        "ratios[i] = log_densities[0] - log_densities[1]",
        "ratios[i] = log_densities[1] - log_densities[0]",
        "tests/test_membership.py",
    ),
    "another momentum of DM": Mutant(
        "ddsdk/recipes/distribution.py",
        "image_momentum: Momentum = 0.5",
        "image_momentum: Momentum = 0.9",
        "tests/test_published_constants.py",
    ),
    "rows scaled to the norm instead of clipped": Mutant(
        "integrations/ddsdk_integrations/privacy/mechanism.py",
        ".clamp_min(1e-12)).clamp_max(1)",
        ".clamp_min(1e-12))",
        "tests/privacy/test_mechanism.py",
    ),
    "noise without the clipping norm": Mutant(
        "integrations/ddsdk_integrations/privacy/mechanism.py",
        "self.release.noise_multiplier * self.release.clip * noise",
        "self.release.noise_multiplier * noise",
        "tests/privacy/test_mechanism.py",
    ),
    "budget not charged": Mutant(
        "integrations/ddsdk_integrations/privacy/budget.py",
        "            self._write(releases={**entered, self._writer: own})\n",
        "",
        "tests/privacy/test_budget.py",
    ),
    "older ledger believed": Mutant(
        "integrations/ddsdk_integrations/privacy/budget.py",
        "content = _merged(stored, self._content)",
        "content = stored",
        "tests/privacy/test_counter.py",
    ),
    "releases of threads not counted one by one": Mutant(
        "integrations/ddsdk_integrations/privacy/mechanism.py",
        "self._require_ticket(next(self._tickets, None) is not None)",
        "next(self._tickets, None)",
        "tests/privacy/test_counter.py",
    ),
    "noise added in single precision": Mutant(
        "integrations/ddsdk_integrations/privacy/mechanism.py",
        "noise = secret_normal(total.shape).to(device)",
        "noise = secret_normal(total.shape).float().to(device)",
        "tests/privacy/test_precision.py",
    ),
    "p-value without the factor 2": Mutant(
        "integrations/ddsdk_integrations/privacy/bounds.py",
        "2 * canaries * delta",
        "canaries * delta",
        "tests/privacy/test_audit.py",
    ),
    "upper median of counts": Mutant(
        "integrations/ddsdk_integrations/federated/pool.py",
        "sorted(counts)[(len(counts) - 1) // 2]",
        "sorted(counts)[len(counts) // 2]",
        "tests/federated/test_pool.py",
    ),
    "reply with infinite numbers accepted": Mutant(
        "integrations/ddsdk_integrations/federated/checks.py",
        'insist(bool(np.isfinite(value).all()), f"{name} must be finite")',
        "pass",
        "tests/federated/test_checks.py",
    ),
    "reply of any size": Mutant(
        "integrations/ddsdk_integrations/federated/checks.py",
        'insist(size <= cap, f"content must not exceed {cap} bytes, got {size}")',
        "pass",
        "tests/federated/test_checks.py::test_an_adversary_is_refused_by_its_check_and_changes_nothing",
    ),
    "digest of a reply not compared": Mutant(
        "integrations/ddsdk_integrations/federated/checks.py",
        'insist(meta["digest"] == content_digest(reply.arrays, meta), "digest must be that of the content")',
        "pass",
        "tests/federated/test_checks.py::test_a_broken_digest_is_refused",
    ),
    "classes that a client does not hold accepted": Mutant(
        "integrations/ddsdk_integrations/federated/checks.py",
        "insist(classes <= allowed,",
        "insist(bool(classes),",
        "tests/federated/test_checks.py::test_a_class_that_a_client_does_not_hold_is_refused",
    ),
    "copies judged by partition, not by arrival": Mutant(
        "integrations/ddsdk_integrations/federated/cross_client.py",
        "key=lambda contribution: contribution.arrival",
        "key=lambda contribution: contribution.node",
        "tests/federated/test_checks.py::test_a_copy_that_arrives_later_is_refused_whatever_partition_it_claims",
    ),
    "quota of a rare class without the other classes": Mutant(
        "integrations/ddsdk_integrations/federated/cross_client.py",
        "max([usual, median_low(in_class or [0])])",
        "median_low(in_class or [0])",
        "tests/federated/test_pool.py::test_one_image_of_a_class_takes_no_quota_from_its_holder",
    ),
    "weight of a client without its cap": Mutant(
        "integrations/ddsdk_integrations/federated/pool.py",
        "max(1.0, min(n, weighing.cap * median))",
        "max(1.0, n)",
        "tests/federated/test_pool.py::test_no_client_dominates_a_class_by_its_number_of_images",
    ),
    "influence of a client by its own claim": Mutant(
        "integrations/ddsdk_integrations/federated/pool.py",
        "math.inf, *counts[i + 1 :]",
        "counts[i], *counts[i + 1 :]",
        "tests/federated/test_pool.py::test_no_client_does_more_than_the_stated_influence",
    ),
    "silence counted over all rounds": Mutant(
        "integrations/ddsdk_integrations/federated/registry.py",
        "self._silent_rounds[node] = 0 if node in answers else self._silent_rounds[node] + 1",
        "self._silent_rounds[node] += node not in answers",
        "tests/federated/test_hostile.py::test_an_answer_ends_the_count_of_silent_rounds",
    ),
    "class counts of a node that was not asked": Mutant(
        "integrations/ddsdk_integrations/federated/registry.py",
        "reply.metadata.message_type == _QUESTION and reply.metadata.src_node_id in self._unanswered",
        "reply.metadata.message_type == _QUESTION",
        "tests/federated/test_checks.py::test_answers_that_are_none_are_refused",
    ),
    "few images as evidence": Mutant(
        "integrations/ddsdk_integrations/federated/agreement.py",
        "smoothed < bar and usual - smoothed > _STANDARD_ERRORS * error",
        "smoothed < bar",
        "tests/federated/test_pairs.py::test_few_images_are_no_evidence",
    ),
    "pairs without the sets of earlier rounds": Mutant(
        "integrations/ddsdk_integrations/federated/agreement.py",
        "judges = [_union(one, by_node.get(s.node)) for",
        "judges = [_union(one, None) for",
        "tests/federated/test_pairs.py::test_sets_of_earlier_rounds_judge_where_those_of_this_round_cannot",
    ),
    "weights of any size accepted by a client": Mutant(
        "integrations/ddsdk_integrations/federated/client_checks.py",
        "_insist(abs(extreme) <= limits.weight,",
        "_insist(True,",
        "tests/federated/test_hostile_server.py::test_an_attack_is_refused_by_name_rule_and_value_and_changes_nothing",
    ),
    "second noise for a repeated request": Mutant(
        "integrations/ddsdk_integrations/federated/client.py",
        "content = account.repeated(request)",
        "content = None",
        "tests/federated/test_hostile_server.py::test_a_repeated_request_draws_no_second_noise",
    ),
    "text of a client's error sent": Mutant(
        "integrations/ddsdk_integrations/federated/client.py",
        'f"the client failed with {type(error).__name__}, and its log has the details"',
        'f"the client failed with {error}"',
        "tests/federated/test_hostile_server.py::test_a_failing_answer_counts_and_its_text_stays_with_the_client",
    ),
    "memory larger than its budget": Mutant(
        "integrations/ddsdk_integrations/continual/memory.py",
        "    if part.nbytes <= budget:\n",
        "    if part.nbytes <= 2 * budget:\n",
        "tests/continual",
    ),
    "a checkpoint of any format is read": Mutant(
        "ddsdk/running/checkpoint.py", 'if header["format"] != _FORMAT:', "if not header:", "tests/test_run_faults.py"
    ),
    "a second name of a file is written": Mutant(
        "ddsdk/foundation/in_place.py", "status.st_nlink > 1", "status.st_nlink > 9", "tests/test_in_place.py"
    ),
    "a damaged description of pictures is believed": Mutant(
        "ddsdk/data/decoding.py",
        "return result if _fits(result.shape, n) and _lie_in(result.unreadable, n) else None",
        "return result",
        "tests/test_decoding.py",
    ),
    "a value beside images without its hash": Mutant(
        "ddsdk/data/on_disk.py",
        'if stored["sha256"] == _digest(stored["value"]):',
        'if stored["sha256"]:',
        "tests/test_on_disk.py",
    ),
    "short rows of a table are taken": Mutant(
        "ddsdk/data/texts.py",
        "complete = None not in row and None not in row.values()",
        "complete = True",
        "tests/nas/test_spaces.py tests/applications/test_recommend.py",
    ),
    "directed graph transposed": Mutant(
        "integrations/ddsdk_integrations/graph/propagation.py",
        "torch.sparse_coo_tensor(index.flip(0), weight",
        "torch.sparse_coo_tensor(index, weight",
        "tests/graph",
    ),
    "normalised graph without loops in the degrees": Mutant(
        "integrations/ddsdk_integrations/graph/propagation.py",
        "scale = looped.sum(-1).rsqrt()",
        "scale = adjacency.sum(-1).clamp_min(1e-6).rsqrt()",
        "tests/graph",
    ),
    "attack without projection": Mutant(
        "integrations/ddsdk_integrations/robustness/attacks.py",
        "attacked = threat.project(moved, x).detach()",
        "attacked = moved.detach()",
        "tests/robustness/test_attacks.py",
    ),
    "attack that lowers the loss": Mutant(
        "integrations/ddsdk_integrations/robustness/attacks.py",
        "attacked.detach() + step_size * threat",
        "attacked.detach() - step_size * threat",
        "tests/robustness/test_attacks.py",
    ),
    "leave-one-out without the leverage": Mutant(
        "integrations/ddsdk_integrations/explain/influence.py",
        "(truth - fitted) / (1 - leverage).clamp_min(_CERTAIN)[:, None]",
        "truth - fitted",
        "tests/applications/test_explain.py",
    ),
    "gain discounted from the second rank on": Mutant(
        "integrations/ddsdk_integrations/recommend/ranking.py",
        "1 / torch.arange(2, k + 2).double().log2()",
        "1 / torch.arange(1, k + 1).double().log2().clamp_min(1)",
        "tests/applications/test_recommend.py",
    ),
    "limits of a release reversed": Mutant(
        "integrations/ddsdk_integrations/share/release.py",
        "if sign * value <= sign * limit:",
        "if sign * value >= sign * limit:",
        "tests/applications/test_share.py",
    ),
}


def killed_by(mutant: Mutant, copy: Path) -> str:
    """Return the first test that fails with the wrong line; empty if the mutant survives."""
    path = copy / mutant.file
    text = path.read_text()
    assert text.count(mutant.right) == 1
    path.write_text(text.replace(mutant.right, mutant.wrong))
    env = {**os.environ, "PYTHONPATH": f"{copy}{os.pathsep}{copy / 'integrations'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *mutant.tests.split()]
    done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True)
    path.write_text(text)
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED tests", "ERROR tests"))]
    assert failed or done.returncode == 0, done.stdout + done.stderr
    return failed[0] if failed else ""


def main(names: list[str]) -> int:
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".venv", ".git", "out", "__pycache__", ".mypy_cache", ".ruff_cache")
        shutil.copytree(ROOT, copy, ignore=ignored)
        print("| wrong line | file | killed by |\n| --- | --- | --- |", flush=True)
        for name in names or MUTANTS:
            test = killed_by(MUTANTS[name], copy)
            survivors += not test
            print(f"| {name} | `{MUTANTS[name].file}` | {f'`{test}`' if test else '**survives**'} |", flush=True)
    return min(survivors, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
