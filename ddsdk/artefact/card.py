"""The dataset card of a distilled set: markdown with a YAML head, in the form of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from ddsdk.artefact.folder import CARD_MARK
from ddsdk.artefact.manifest import Manifest
from ddsdk.foundation import clean, escape_markdown, escape_yaml, unique_names

_UNTRAINED_PROTOCOL = ("protocol", "learner", "network", "network_options", "labels", "probe")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
# A file that does not exist: without it, `datasets.load_dataset` would return the manifest as a data set of one row.
# Its name is in the error that a reader sees.
_NO_PICTURES = "missing-pictures-are-written-by-ddsdk-export-to-hub.parquet"
_NEVER_PICTURES = "missing-this-set-has-no-pictures.parquet"
_LEARNED = (("learning rate", "learned_lr", "lr"), ("momentum", "learned_momentum", "momentum"))


@cache
def page_template(name: str) -> Template:
    """Return a template of this package.

    HTML templates escape all inserted values. Markdown templates escape them with the filters `md` and `yaml`.

    Examples:
        >>> from ddsdk.artefact import page_template
        >>> page_template("card.md").name
        'card.md'
    """
    environment = Environment(
        loader=PackageLoader("ddsdk.artefact"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"md": escape_markdown, "yaml": escape_yaml}
    return environment.get_template(name)


def card_markdown(
    manifest: Manifest, *, pictures: str | None = None, repo: str | None = None, licence: str | None = None
) -> str:
    """Return the content of `README.md`, in which all texts of the manifest are escaped.

    Args:
        manifest: Manifest of the set.
        pictures: Path of the parquet file with the pictures, relative to the folder. None for a folder without it.
        repo: Name of the repository on the hub, ``"owner/name"``. None for a folder that has none.
        licence: Identifier of the licence on the hub, such as ``"mit"``. None states no licence.
    """
    learner = str(manifest.protocol.get("learner", "network"))
    # A kernel machine or a probe trains no network: epochs and learning rates of its protocol would mislead.
    trained = learner not in ("kernel", "probe")
    protocol = {k: v for k, v in manifest.protocol.items() if trained or k in _UNTRAINED_PROTOCOL}
    return page_template("card.md").render(
        manifest=manifest,
        mark=CARD_MARK,
        title=card_title(manifest),
        size=next((name for limit, name in _SIZES if manifest.image_shape[0] < limit), "n>1M"),
        pictures=pictures,
        missing=_NO_PICTURES if pictorial(manifest) else _NEVER_PICTURES,
        pictorial=pictorial(manifest),
        names=unique_names(manifest.class_names),
        repo=repo,
        licence=licence,
        learner=learner,
        trained=trained,
        facts=main_facts(manifest),
        protocol=list(flatten(protocol)),
        provenance=list(flatten(manifest.provenance)),
        learned=[row for row in _LEARNED if row[1] in manifest.tensors],
        mean=_numbers(manifest.preprocess.get("mean")),
        std=_numbers(manifest.preprocess.get("std")),
        eps=_numbers([manifest.preprocess.get("eps")]),
    )


def pictorial(manifest: Manifest) -> bool:
    """Return whether the images of a set become PNG pictures: 1 or 3 channels, and no nodes of a graph."""
    return manifest.image_shape[1] in (1, 3) and "edge_index" not in manifest.tensors


def card_title(manifest: Manifest) -> str:
    """Return the title "recipe of data" as far as the provenance has them, not escaped."""
    facts = dict(flatten(manifest.provenance))
    recipe = facts.get("recipe") or facts.get("recipe.name") or "Distilled set"
    data = facts.get("data") or facts.get("data.name")
    return clean(f"{recipe} of {data}" if data else recipe, 80)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested JSON values as pairs (dotted name, text), not escaped.

    Examples:
        >>> from ddsdk.artefact import flatten
        >>> list(flatten({"recipe": "dm", "parameters": {"ipc": 1, "image_lr": 0.5}}))
        [('recipe', 'dm'), ('parameters.ipc', '1'), ('parameters.image_lr', '0.5')]
    """
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            yield name, ", ".join(str(v) for v in value[:20]) + (", …" if len(value) > 20 else "")
        else:
            yield name, f"{value:.6g}" if isinstance(value, float) else str(value)


def main_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the main facts of a set as pairs (name, text), not escaped.

    Examples:
        >>> import ddsdk
        >>> from ddsdk.artefact import main_facts
        >>> distilled = ddsdk.distill(ddsdk.BASELINES["random"](ipc=1), ddsdk.load("digits"))
        >>> main_facts(distilled.manifest)[0]
        ('images', '10 of 1 x 8 x 8 (channels, height, width)')
    """
    m, c, h, w = manifest.image_shape
    cost, low_high = manifest.storage, manifest.value_range
    edges = manifest.tensors.get("edge_weight")
    return [
        ("images", f"{m} of {c} x {h} x {w} (channels, height, width)"),
        *([] if edges is None else [("edges", f"{edges.shape[0]} between the {m * h} rows of the images")]),
        ("classes", str(len(manifest.class_names))),
        ("labels", f"{cost.labels}, {manifest.label_space}"),
        ("value space", f"{manifest.space}, values from {low_high[0]:.4g} to {low_high[1]:.4g}"),
        *_stored(manifest),
        ("privacy", manifest.privacy),
        ("content id", manifest.id),
    ]


def _stored(manifest: Manifest) -> list[tuple[str, str]]:
    cost, packing = manifest.storage, manifest.packing
    if packing:
        kept = f"{packing.kept_labels} entries of each label" if packing.kept_labels else "class ids"
        settings = [f"{key} {value}" for key, value in packing.codec.items() if key != "name"]
        return [
            ("packed as", f"{', '.join([str(packing.codec.get('name')), *settings])}; {kept}"),
            ("storage", f"{cost.bytes} bytes"),
        ]
    return [
        ("stored floats", f"{cost.floats} ({cost.image_floats} images, {cost.label_floats} labels)"),
        ("storage", f"{cost.bytes} bytes; decoded tensors in the file: {cost.tensor_bytes} bytes"),
    ]


def _numbers(values: object) -> str:
    """Return a list of numbers as Python code; an empty list for any other value.

    The card shows the list in code that a reader may run, so that texts of an untrusted manifest must not get there.
    """
    ok = isinstance(values, list) and all(isinstance(v, int | float) for v in values)
    return "[" + ", ".join(repr(v) for v in values) + "]" if ok and isinstance(values, list) else "[]"
