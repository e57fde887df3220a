"""Hook of MkDocs: reference pages from the doors of the rooms, formulas as MathML, links to files outside docs."""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
ROOMS = [
    "ddsdk",
    *(f"ddsdk.{room}" for room in ("data", "networks", "training", "synthetic", "students", "objectives")),
    *(
        f"ddsdk.{room}"
        for room in ("artefact", "running", "recipes", "baselines", "judging", "planning", "experiments")
    ),
    "ddsdk.foundation",
]
_LINK = re.compile(r"\]\(((?!https?:|#)[^)#\s]+)\)")
INTEGRATIONS = [
    *("continual", "federated", "privacy", "robustness", "nas", "graph"),
    *("explain", "share", "texture", "finetune", "recommend"),
]
PAGES = [*ROOMS, *(f"ddsdk_integrations.{name}" for name in INTEGRATIONS)]


def _public(room: str) -> dict[str, str]:
    """Return the public names of a room with the module of each, from its stub or its `__init__`."""
    folder = ROOT / "/".join(room.split("."))
    if not folder.exists():
        folder = ROOT / "integrations" / "/".join(room.split("."))
    stub = folder / "__init__.pyi"
    path = stub if stub.exists() else folder / "__init__.py"
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            module = f"{room}.{node.module}" if node.level else str(node.module)
            if node.module is None or not module.startswith(room):
                continue
            found |= {a.asname or a.name: module for a in node.names if not (a.asname or a.name).startswith("_")}
    return found


def _page(room: str) -> str:
    lines = [f"# `{room}`", ""]
    for name, module in sorted(_public(room).items(), key=lambda pair: pair[0].lower()):
        lines += [f"::: {module}.{name}", ""]
    return "\n".join(lines)


def _file(room: str) -> str:
    return f"reference/{room.removeprefix('ddsdk_integrations.').removeprefix('ddsdk.')}.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the reference into the navigation."""
    rooms = [{room: _file(room)} for room in PAGES]
    assert config.nav is not None
    config.nav[-1]["Reference"].extend(rooms)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each room and integration, and the page for contributors."""
    for room in PAGES:
        files.append(File.generated(config, _file(room), content=_page(room)))
    files.append(File.generated(config, "contributing.md", content=_contributing()))
    return files


def _contributing() -> str:
    """Return CONTRIBUTING.md with links that are relative to docs/."""

    def moved(match: re.Match[str]) -> str:
        target = match.group(1)
        return f"]({target.removeprefix('docs/') if target.startswith('docs/') else f'../{target}'})"

    return _LINK.sub(moved, (ROOT / "CONTRIBUTING.md").read_text())


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Lead links to files outside of docs/ to the repository, and put marks in the place of formulas."""

    def outside(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), match.group(1)))
        if target.startswith("docs/"):
            return match.group(0)
        return f"]({config.repo_url}/blob/main/{target})"

    formulas: list[str] = []

    def mark(match: re.Match[str]) -> str:
        if match.group(1) is None:
            formulas.append(convert(match.group(2)))
        else:
            # On a narrow screen a long formula scrolls, and is not cut off.
            block = convert(match.group(1), display="block")
            formulas.append(f'<span style="display: block; overflow-x: auto; overflow-y: hidden">{block}</span>')
        return f"@formula{len(formulas) - 1}@"

    linked = _LINK.sub(outside, markdown)
    # Code keeps its dollar signs.
    parts = re.split(r"(```.*?```|`[^`\n]*`)", linked, flags=re.DOTALL)
    parts[::2] = [re.sub(r"\$\$(.+?)\$\$|\$([^$\n]+)\$", mark, part, flags=re.DOTALL) for part in parts[::2]]
    page.meta["formulas"] = formulas
    return "".join(parts)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Put formulas in as MathML, which needs no script and no font from another server."""
    return re.sub(r"@formula(\d+)@", lambda m: page.meta["formulas"][int(m.group(1))], html)
