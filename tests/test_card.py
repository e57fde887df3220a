"""Cards, reports and the escaping of hostile text."""

import html.parser
import json
import re

import pytest
from artefact_sets import CERTIFICATE, HOSTILE, make_set
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ddsdk.artefact.card import card_markdown, card_title
from ddsdk.artefact.report import html_report
from ddsdk.foundation.text import (
    clean,
    clean_json,
    escape_markdown,
    escape_terminal,
    escape_yaml,
    file_stem,
    unique_names,
)

nasty = st.text(st.characters(codec=None) | st.sampled_from("\\`*_{}[]()#+-.!|<>&~$\"':/@\x1b\u202e\n"))
TAG = re.compile(r"<[a-z/!]", re.IGNORECASE)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(text=nasty, limit=st.integers(1, 40))
def test_clean_is_short_printable_and_stable(text, limit):
    line = clean(text, limit)
    assert len(line) <= limit
    assert clean(line, limit) == line
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e]", line)
    line.encode()


def test_clean_keeps_ordinary_names():
    for name in ("cat", "Ångström", "猫", "क्‍ष", "👩‍🔬", "a b"):
        assert clean(name) == name
    assert escape_terminal("\x1b[31mred\x9b0m\r\nnext") == "[31mred0m next"
    assert len(escape_terminal("x" * (1 << 20))) == 80


def test_clean_json_cleans_keys_and_values():
    assert clean_json({"a\x07": ("b\x1b", 1, None, True, {"c": 0.5})}) == {"a": ["b", 1, None, True, {"c": 0.5}]}


@settings(derandomize=True, deadline=None, max_examples=300)
@given(text=nasty)
def test_markdown_shows_the_letters_and_no_markup(text):
    expected = clean(text, 80)
    (inline,) = MarkdownIt("commonmark").parseInline("x " + escape_markdown(text))
    assert {token.type for token in inline.children} <= {"text", "text_special"}
    shown = "".join(token.content for token in inline.children)
    assert shown.removeprefix("x").strip() == expected.strip()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(text=nasty)
def test_markdown_stays_within_a_table_cell(text):
    rendered = MarkdownIt("gfm-like", {"linkify": False}).render(
        f"| a | b |\n| --- | --- |\n| {escape_markdown(text)} | end |\n"
    )
    assert rendered.count("<td>") == 2
    assert "<td>end</td>" in rendered
    assert set(re.findall(r"</?([a-z]+)", rendered)) <= {"table", "thead", "tbody", "tr", "th", "td"}


def test_markdown_links_by_themselves_do_not_arise():
    assert escape_markdown("http://e/") == "http\\://e/"
    assert "www." not in escape_markdown("www.e.org")
    assert escape_markdown("torch 2.15.0") == "torch 2.15.0"


@settings(derandomize=True, deadline=None, max_examples=100)
@given(text=nasty)
def test_yaml_is_one_quoted_line(text):
    line = escape_yaml(text)
    assert json.loads(line) == clean(text, 80)
    assert len(line.splitlines()) == 1


@settings(derandomize=True, deadline=None, max_examples=200)
@given(text=nasty)
def test_file_stem_is_a_plain_name(text):
    assert re.fullmatch(r"[\w-]{0,50}", file_stem(text))


def test_unique_names():
    assert unique_names(["a", "a", "a (1)", "b"]) == ["a", "a (1)", "a (1) (2)", "b"]


def hostile_set():
    return make_set(
        classes=len(HOSTILE),
        class_names=HOSTILE,
        protocol={HOSTILE[0]: HOSTILE[3]},
        provenance={"recipe": HOSTILE[0], "data": {"name": HOSTILE[1]}, HOSTILE[3]: list(HOSTILE)},
    )


def test_card_of_a_private_release_shows_its_certificate():
    card = card_markdown(make_set(certificate=CERTIFICATE).manifest)
    assert "Statement: (1, 1e-05)-differential privacy, adding or removing one record" in card
    assert "| release | 1 of sums: noise 4 x clip norm 1, sampling rate 1 |" in card
    assert "| assumption | class names are public |" in card
    assert "no formal privacy guarantee" not in card
    assert "<b>" not in card


def test_card_says_what_a_user_needs():
    card = card_markdown(make_set().manifest)
    for text in (
        'pretty_name: "DM of digits"',
        "- image-classification",
        'ddsdk.Distilled.load(".")',
        "load_file",
        "mean: [0.5, 0.5, 0.5]",
        "no formal privacy guarantee",
        "sheet.png",
        "| protocol | quick |",
        make_set().content_id,
    ):
        assert text in card
    assert "license" not in card


def test_torch_only_lines_of_the_card_run(tmp_path, monkeypatch):
    distilled = make_set()
    distilled.save(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = (tmp_path / "README.md").read_text().split("```python")[2].split("```")[0]
    scope = {}
    exec(code, scope)
    assert (scope["unit"] - distilled.unit_images()).abs().max() < 1e-6


@pytest.mark.parametrize("options", [{"zca": True, "shape": (1, 2, 2), "ipc": 4}, {"learned_lr": 0.1}])
def test_card_of_other_spaces(options):
    card = card_markdown(make_set(**options).manifest)
    assert ("zca_basis" in card) == ("zca" in options)
    assert ("learning rate was learned" in card) == ("learned_lr" in options)


def test_hostile_card_holds_no_markup():
    card = card_markdown(hostile_set().manifest)
    assert not TAG.search(card.replace("<!-- written by ddsdk -->", "").replace("n<1K", ""))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", card)
    assert len(card) < 20_000
    assert len(re.findall("^---$", card, re.MULTILINE)) == 2
    assert len(re.findall("^# ", card, re.MULTILINE)) == 1


def test_title_without_provenance():
    assert card_title(make_set(provenance={}).manifest) == "Distilled set"


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "action")]
        assert not [k for k, _ in attrs if k.startswith("on")]


def result(name, accuracies=(0.5, 0.75), **options):
    values = {"protocol": "quick", "network": "convnet", "images": 6, "stored_floats": 360, "seconds": 1.25}
    return {"name": name, "accuracies": list(accuracies), **values, **options}


def test_report_shows_sets_beside_baselines():
    page = html_report(
        [("mine", make_set()), ("other", make_set(seed=1))],
        [result("mine"), result("other", [0.25]), result("random", [0.125])],
    )
    assert "62.5 ± 17.7" in page
    first, second = page.split("<section>")[1:]
    assert "62.5" in first
    assert "62.5" not in second
    assert all("12.5" in part for part in (first, second))
    assert page.count("data:image/png;base64,") == 2
    assert "no formal privacy guarantee" in page
    assert "prefers-color-scheme: dark" in page


def test_report_is_self_contained_and_escaped():
    page = html_report(
        [(HOSTILE[0], hostile_set())],
        [result(HOSTILE[0]), result(HOSTILE[3], network=HOSTILE[1], protocol=HOSTILE[0])],
        title=HOSTILE[0],
    )
    found = Page(page)
    assert "script" not in found.tags
    assert "link" not in found.tags
    assert all(link.startswith("data:image/png;base64,") for link in found.links)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page)
    assert len(page) < 200_000


def test_report_without_results_or_sets():
    assert "<section>" in html_report([("a", make_set(provenance={}, protocol={}))], [])
    assert "random" in html_report([], [result("random")])


@pytest.mark.parametrize("accuracies", [[], [1.5], [float("nan")]])
def test_report_refuses_bad_accuracies(accuracies):
    with pytest.raises(ValueError, match="accuracies"):
        html_report([("a", make_set())], [result("a", accuracies)])


def test_report_refuses_equal_titles():
    with pytest.raises(ValueError, match="titles"):
        html_report([("a", make_set()), ("a", make_set())], [])
