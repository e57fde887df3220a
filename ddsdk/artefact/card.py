"""The dataset card of a set: YAML head and markdown, in the form that the hub reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ddsdk.artefact.folder import CARD_MARK
from ddsdk.artefact.manifest import Manifest
from ddsdk.foundation import clean, escape_markdown, escape_yaml

_ROWS, _NAMES = 60, 30
_OF_KERNELS = ("protocol", "learner", "network", "network_options", "labels")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def card_markdown(manifest: Manifest, *, parquet: str | None = None) -> str:
    """Return the content of `README.md`.

    Every text that comes from outside is escaped for the place where it stands.

    Args:
        manifest: Of the set.
        parquet: Path, inside the folder, of a file from `to_parquet`, which the hub's viewer should show.
    """
    head = _yaml_head(manifest, parquet)
    return "\n".join([*head, *_body(manifest)]) + "\n"


def card_title(manifest: Manifest) -> str:
    """Return what to call the set: the recipe and the data where provenance tells them. Not escaped."""
    facts = dict(flatten(manifest.provenance))
    recipe = facts.get("recipe") or facts.get("recipe.name")
    data = facts.get("data") or facts.get("data.name")
    title = f"{recipe or 'Distilled set'} of {data}" if data else f"{recipe or 'Distilled set'}"
    return clean(title, 80)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give the leaves of nested JSON as (dotted name, text). Not escaped."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(str(v) for v in value[:20]) + (", …" if len(value) > 20 else "")
        else:
            yield name, f"{value:.6g}" if isinstance(value, float) else str(value)


def fact_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the facts that a reader asks for first, as (what, text). Not escaped."""
    m, c, h, w = manifest.image_shape
    cost, low_high = manifest.storage, manifest.value_range
    edges = manifest.tensors.get("edge_weight")
    return [
        ("images", f"{m} of {c} x {h} x {w} (channels, height, width)"),
        *([] if edges is None else [("edges", f"{edges.shape[0]} between the {m * h} rows of the images")]),
        ("classes", str(len(manifest.class_names))),
        ("labels", f"{cost.labels}, {manifest.label_space}"),
        ("value space", f"{manifest.space}, values from {low_high[0]:.4g} to {low_high[1]:.4g}"),
        ("stored floats", f"{cost.floats} ({cost.image_floats} images, {cost.label_floats} labels)"),
        ("storage", f"{cost.bytes} bytes; decoded tensors in the file: {cost.tensor_bytes} bytes"),
        ("privacy", manifest.privacy),
        ("content id", manifest.id),
    ]


def _yaml_head(manifest: Manifest, parquet: str | None) -> list[str]:
    size = next((name for limit, name in _SIZES if manifest.image_shape[0] < limit), "n>1M")
    lines = ["---", f"pretty_name: {escape_yaml(card_title(manifest))}", "task_categories:"]
    task = "graph-ml" if "edge_index" in manifest.tensors else "image-classification"
    lines += [f"- {task}", "tags:", "- dataset-distillation", "- synthetic", "- ddsdk"]
    lines += ["size_categories:", f"- {size}"]
    if parquet is None:  # the contact sheet is no data
        lines += ["viewer: false"]
    else:
        lines += ["configs:", "- config_name: default", "  data_files:", "  - split: train"]
        lines += [f"    path: {escape_yaml(parquet, 200)}"]
    return [*lines, "---", CARD_MARK, ""]


def _body(manifest: Manifest) -> list[str]:
    facts = [(what, escape_markdown(text, 400)) for what, text in fact_rows(manifest)]
    learner = "kernel ridge regression" if _for_kernel(manifest) else "networks trained"
    return [
        f"# {escape_markdown(card_title(manifest))}",
        "",
        f"A small synthetic set: {learner} on it should do on the real test data as if it had been the real",
        "training data. The pictures need not look like anything.",
        "",
        "![Contact sheet](sheet.png)",
        "",
        *_table(("fact", "value"), facts),
        "",
        "## Open it",
        "",
        *_how_to_open(manifest),
        "",
        "## What the values are",
        "",
        *_values(manifest),
        "",
        "## How to use it" if _for_kernel(manifest) else "## How to train on it",
        "",
        *_evaluation(manifest),
        "",
        "## Classes",
        "",
        _class_list(manifest),
        "",
        "## Where it comes from",
        "",
        *_json_table(manifest.provenance, "Nothing is recorded."),
        "",
        "## Privacy",
        "",
        f"Statement: {escape_markdown(manifest.privacy, 1000)}.",
        *_privacy(manifest),
    ]


def _privacy(manifest: Manifest) -> list[str]:
    if not manifest.certificate:
        return ["Images, labels and statistics of the set can reveal the real data."]
    rows = [(escape_markdown(a), escape_markdown(b, 400)) for a, b in manifest.certificate.facts]
    return ["This is what its makers state; the file cannot prove it.", "", *_table(("entry", "value"), rows)]


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    return [f"| {head[0]} | {head[1]} |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in rows)]


def _json_table(values: Mapping[str, Any], empty: str) -> list[str]:
    rows = [(escape_markdown(name), escape_markdown(text, 200)) for name, text in flatten(values)]
    if not rows:
        return [empty]
    more = [f"and {len(rows) - _ROWS} more in `manifest.json`"] if len(rows) > _ROWS else []
    return [*_table(("entry", "value"), rows[:_ROWS]), *(["", *more] if more else [])]


def _how_to_open(manifest: Manifest) -> list[str]:
    normal = manifest.space == "normalised"
    unit = "images * std + mean" if normal else "images" if manifest.space == "unit" else None
    lines = ["With ddsdk, after all its checks:", "", "```python"]
    lines += ['import ddsdk; distilled = ddsdk.Distilled.load(".")', "```", ""]
    lines += ["With torch and safetensors alone, unchecked:", "", "```python"]
    lines += ["from safetensors.torch import load_file", "", 'tensors = load_file("set.safetensors")']
    lines += ['images, labels = tensors["images"], tensors["labels"]  # (M, C, H, W), (M, K)']
    if unit and normal:
        mean, std = (_numbers(manifest.preprocess.get(key)) for key in ("mean", "std"))
        lines += [f"mean, std = images.new_tensor({mean}), images.new_tensor({std})"]
        unit = unit.replace("std", "std[:, None, None]").replace("mean", "mean[:, None, None]")
    if unit:
        lines += [f"unit = ({unit}).clamp(0, 1)  # to look at"]
    return [*lines, "```"]


def _numbers(values: object) -> str:
    """Show a list of numbers, and nothing else: it goes into code that a reader may run."""
    ok = isinstance(values, list) and all(isinstance(v, int | float) for v in values)
    return "[" + ", ".join(repr(v) for v in values) + "]" if ok and isinstance(values, list) else "[]"


def _values(manifest: Manifest) -> list[str]:
    mean, std = (_numbers(manifest.preprocess.get(key)) for key in ("mean", "std"))
    told = {
        "unit": ["Pixels in the unit range [0, 1], as they are; values outside it are part of the set."],
        "normalised": [
            "Pixels of the unit range [0, 1], normalised by channel as (x − mean) / std.",
            "",
            f"- mean: {mean}",
            f"- std: {std}",
        ],
        "zca": [
            f"Pixels of the unit range [0, 1], normalised with mean {mean} and std {std}, then whitened.",
            "The tensors `zca_mean`, `zca_basis` (U) and `zca_eigenvalues` (S) lie in the file: the way back",
            "is U (S + eps)^½ Uᵀ x + zca_mean, with eps " + _numbers([manifest.preprocess.get("eps")]) + ",",
            "then times std plus mean.",
        ],
    }
    return told.get(manifest.space, [f"In the space {escape_markdown(manifest.space)}."])


def _for_kernel(manifest: Manifest) -> bool:
    return manifest.evaluation.get("learner") == "kernel"


def _evaluation(manifest: Manifest) -> list[str]:
    unset = "No protocol is recorded."
    if _for_kernel(manifest):
        # Epochs and rates of a network's training say nothing here, and read as if they did.
        read = {k: v for k, v in manifest.evaluation.items() if k in _OF_KERNELS}
        return [
            "This set does not train networks: it is made for a kernel machine, and networks that train on it may do",
            "worse than on as many real images. Kernel ridge regression on its images and labels gives the classes of",
            "new images: the kernel `network` with `network_options`; `ddsdk evaluate` does that. Nothing is trained.",
            "",
            *_json_table(read, unset),
        ]
    protocol = _json_table(manifest.evaluation, unset)
    lines = ["Train a fresh network on all images and labels, under this protocol:", "", *protocol]
    return [*lines, *_scores(manifest), *_pace(manifest)]


def _scores(manifest: Manifest) -> list[str]:
    if manifest.label_space == "probabilities":
        return []
    return [
        "",
        "The labels are scores, any real numbers and no probabilities. They belong to the loss of the protocol: `mse`",
        "is half the sum of (output − label)² over the classes, the cross-entropy −Σ label log softmax(output), both",
        'as the mean over a batch. `Distilled.as_dataset(labels="probabilities")` gives the nearest distributions;',
        "what that costs, `ddsdk evaluate --labels stored,probabilities,hard` measures.",
    ]


def _pace(manifest: Manifest) -> list[str]:
    lines = []
    for name, entry, replaced in (("learning rate", "learned_lr", "lr"), ("momentum", "learned_momentum", "momentum")):
        if entry not in manifest.tensors:
            continue
        shape = manifest.tensors[entry].shape
        if shape:
            told = f"For each of {shape[0]} steps a {name} was learned with the set: `{entry}` in the file. Take the"
            lines += ["", told, "images in their stored order, pass after pass, in batches of `batch_size`."]
        else:
            told = f"A {name} was learned with the set: `{entry}` in the file. Use it in place of `{replaced}`."
            lines += ["", told]
    return lines


def _class_list(manifest: Manifest) -> str:
    names = [escape_markdown(name) for name in manifest.class_names[:_NAMES]]
    rest = len(manifest.class_names) - len(names)
    return ", ".join(f"{i}: {name}" for i, name in enumerate(names)) + (f" and {rest} more" if rest else "")
