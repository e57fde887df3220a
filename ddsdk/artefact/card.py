"""The dataset card of a set: YAML head and markdown, in the form that the hub reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from ddsdk.artefact.folder import CARD_MARK
from ddsdk.artefact.manifest import Manifest
from ddsdk.foundation import clean, escape_markdown, escape_yaml

_OF_KERNELS = ("protocol", "learner", "network", "network_options", "labels")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LEARNED = (("learning rate", "learned_lr", "lr"), ("momentum", "learned_momentum", "momentum"))


@cache
def page_template(name: str) -> Template:
    """Return a template of this room. HTML escapes what is put into it; markdown has the filters `md` and `yaml`."""
    environment = Environment(
        loader=PackageLoader("ddsdk.artefact"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"md": escape_markdown, "yaml": escape_yaml}
    return environment.get_template(name)


def card_markdown(manifest: Manifest) -> str:
    """Return the content of `README.md`, where texts from outside are escaped for the place where they stand."""
    kernel = manifest.evaluation.get("learner") == "kernel"
    # Epochs and rates of a network's training say nothing of a kernel machine, and read as if they did.
    protocol = {k: v for k, v in manifest.evaluation.items() if not kernel or k in _OF_KERNELS}
    return page_template("card.md").render(
        manifest=manifest,
        mark=CARD_MARK,
        title=card_title(manifest),
        size=next((name for limit, name in _SIZES if manifest.image_shape[0] < limit), "n>1M"),
        kernel=kernel,
        facts=fact_rows(manifest),
        protocol=list(flatten(protocol)),
        provenance=list(flatten(manifest.provenance)),
        learned=[row for row in _LEARNED if row[1] in manifest.tensors],
        mean=_numbers(manifest.preprocess.get("mean")),
        std=_numbers(manifest.preprocess.get("std")),
        eps=_numbers([manifest.preprocess.get("eps")]),
    )


def card_title(manifest: Manifest) -> str:
    """Return a title of the set: the recipe and the data where provenance has them. Not escaped."""
    facts = dict(flatten(manifest.provenance))
    recipe = facts.get("recipe") or facts.get("recipe.name") or "Distilled set"
    data = facts.get("data") or facts.get("data.name")
    return clean(f"{recipe} of {data}" if data else recipe, 80)


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
    """Return the facts that a reader asks for first, as (name, text). Not escaped."""
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


def _numbers(values: object) -> str:
    """Show a list of numbers, and nothing else: it goes into code that a reader may run."""
    ok = isinstance(values, list) and all(isinstance(v, int | float) for v in values)
    return "[" + ", ".join(repr(v) for v in values) + "]" if ok and isinstance(values, list) else "[]"
