"""Croissant metadata of a distilled set: JSON-LD by the Croissant format specification 1.0 of MLCommons."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from ddsdk.artefact.card import card_title
from ddsdk.artefact.manifest import Manifest
from ddsdk.foundation import readable_json, unique_names

_TERMS = (
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet", "format"),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
# The context of appendix 1 of the specification, without which readers warn.
_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
_TYPES = {".parquet": "application/x-parquet", ".json": "application/json", ".safetensors": "application/octet-stream"}


def croissant_json(
    manifest: Manifest,
    files: Mapping[str, bytes],
    *,
    pictures: str | None,
    page: str | None = None,
    licence: str | None = None,
    published: str | None = None,
) -> bytes:
    """Return the content of `croissant.json`: the data files with their SHA-256, and the columns of the pictures.

    The specification requires the entries ``url``, ``creator``, ``license`` and ``datePublished``, which a set alone
    does not have. They are absent where an argument is None.

    Args:
        manifest: Manifest of the set.
        files: Contents of the data files by their path in the folder.
        pictures: Path of the parquet file with the pictures. None describes the files without records.
        page: Address of the repository, ``https://HOST/datasets/OWNER/NAME``. None gives paths in the folder.
        licence: Identifier or address of the licence. None states no licence.
        published: Date of publication in the form YYYY-MM-DD. None states no date.
    """
    document: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": card_title(manifest),
        "description": "Distilled data set. Its exact numbers are in set.safetensors; its pictures are rounded.",
        "identifier": manifest.id,
        "keywords": ["dataset-distillation", "synthetic", "ddsdk"],
        "distribution": [_file(path, content, page) for path, content in sorted(files.items())],
        "recordSet": [] if pictures is None else [_classes(manifest), _images(manifest, pictures)],
    }
    if page is not None:
        site, owner = page.split("/datasets/")[0], page.split("/")[-2]
        document |= {"url": page, "creator": {"@type": "sc:Organization", "name": owner, "url": f"{site}/{owner}"}}
    document |= {"license": licence} if licence else {}
    document |= {"datePublished": published} if published else {}
    return readable_json(document)


def _file(path: str, content: bytes, page: str | None) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path if page is None else f"{page}/resolve/main/{path}",
        "contentSize": f"{len(content)} B",
        "encodingFormat": _TYPES["." + path.rsplit(".", 1)[1]],
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _images(manifest: Manifest, pictures: str) -> dict[str, Any]:
    def field(name: str, kind: str, description: str, **more: object) -> dict[str, Any]:
        source: dict[str, Any] = {"fileObject": {"@id": pictures}, "extract": {"column": name}}
        if kind == "sc:ImageObject":
            source["transform"] = {"jsonPath": "bytes"}
        rest = {"description": description, "dataType": kind, "source": source, **more}
        return {"@type": "cr:Field", "@id": f"images/{name}", "name": name, **rest}

    label_row = f"Label row of {len(manifest.class_names)} exact numbers: {manifest.label_space}."
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "field": [
            field("image", "sc:ImageObject", "Picture in PNG, rounded to 8 bits and clipped to the unit range."),
            field("label", "sc:Integer", "Class id of the image.", references={"field": {"@id": "classes/id"}}),
            field(manifest.label_space, "sc:Float", label_row, repeated=True),
        ],
    }


def _classes(manifest: Manifest) -> dict[str, Any]:
    kinds = {"id": "sc:Integer", "name": "sc:Text"}
    names = unique_names(manifest.class_names)
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/id"},
        "field": [{"@type": "cr:Field", "@id": f"classes/{n}", "name": n, "dataType": k} for n, k in kinds.items()],
        "data": [{"classes/id": i, "classes/name": name} for i, name in enumerate(names)],
    }
