"""The site of the documentation: strict build, all pages in the navigation, nothing from other servers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    # Not quiet: mkdocs counts only the warnings that it shows.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_broken_link(site):
    assert (site / "index.html").exists()
    pages = {p.relative_to(ROOT / "docs").with_suffix("") for p in (ROOT / "docs").rglob("*.md")}
    for page in pages:
        html = site / (page if page.name != "index" else page.parent) / "index.html"
        assert html.exists(), page


@pytest.mark.slow
def test_a_page_loads_nothing_from_another_server(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(https?:[^\"]*)", page.read_text())
        assert loaded == [], page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("room", "name"),
    [("recipes", "DM"), ("objectives", "ClassMatch"), ("federated", "SetStrategy"), ("graph", "GCond")],
)
def test_the_reference_has_the_public_names(site, room, name):
    assert f'{name}"' in (site / "reference" / room / "index.html").read_text()


@pytest.mark.slow
def test_examples_of_the_reference_are_code(site):
    pages = [page.read_text() for page in (site / "reference").rglob("*.html")]
    assert sum(page.count("&gt;&gt;&gt;") for page in pages) > 500
    # Text that is no code would be a quotation of a quotation of a quotation.
    assert not any("<blockquote" in page for page in pages)


@pytest.mark.slow
def test_formulas_are_mathml(site):
    html = (site / "methods" / "gradient-matching" / "index.html").read_text()
    assert html.count("<math") >= 2
    assert "$" not in re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
