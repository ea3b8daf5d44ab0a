"""The pages can be read without eyes, without a mouse and on paper: the rules that axe-core checks, as far as they can be seen in the text of a page."""

import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from mlops_workbench.assess import report
from mlops_workbench.assess.audit import audit, write_audit
from mlops_workbench.assess.report import html_page, html_report
from mlops_workbench.core import show
from mlops_workbench.jobs.compare import headed, page, side_by_side

from .report_sample import LINEAGE, PIXEL, RECORD, failing, sample

VOID = {"meta", "link", "img", "br", "hr", "col", "input"}


class Structure(HTMLParser):
    "The elements of a page in order, each with its attributes, its ancestors and its text."
    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "at": dict(attrs), "in": [e["tag"] for e in self.open], "text": ""}
        self.elements.append(element)
        if tag not in VOID: self.open.append(element)

    def handle_endtag(self, tag):
        assert any(e["tag"] == tag for e in self.open), f"</{tag}> closes nothing"
        while self.open.pop()["tag"] != tag: pass

    def handle_data(self, data):
        for e in self.open: e["text"] += data

    def all(self, *tags): return [e for e in self.elements if e["tag"] in tags]


def contrast(ink: str, back: str) -> float:
    "WCAG's contrast of two colours, 1 to 21."
    def light(colour):
        c = colour.lstrip("#")
        c = c if len(c) == 6 else "".join(2 * x for x in c)
        r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (int(c[i:i + 2], 16) / 255 for i in (0, 2, 4)))
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    high, low = sorted((light(ink), light(back)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    "Every kind of page that is written, as text."
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    rows = pl.DataFrame({"y": rng.integers(0, 2, 300), "s": rng.random(300), "g": rng.choice(["a", "b"], 300)})
    made = {"report": html_report(sample(), folder / "r.html", record=RECORD, lineage=LINEAGE), "failed": html_report(failing(), folder / "f.html", record=RECORD | {"status": "failed"}),
            "audit": write_audit(audit(rows, label="y", score="s", threshold=0.5, groups=["g"]), folder / "a.html"),
            "page": html_page({"One": show.table([{"": "a", "n": 1}]), "Two": show.folded("more", show.note("x"))}, folder / "p.html", title="Pages")}
    found = {name: path.read_text() for name, path in made.items()}
    return found | {"diff": page("two runs", show.stack([show.Html("<h1>Two runs</h1>"), headed("Figure", side_by_side(f"data:image/png;base64,{PIXEL}", "", "a dot")), show.table([{"": "x", "n": 1.5}])]))}


KINDS = ("report", "failed", "audit", "page", "diff")


@pytest.mark.parametrize("kind", KINDS)
def test_language_title_landmarks_and_headings(pages, kind):
    s = Structure(pages[kind])
    assert s.all("html")[0]["at"]["lang"] == "en" and s.all("title")[0]["text"].strip()
    assert len(s.all("main")) == 1 and len(s.all("h1")) == 1
    levels = [int(e["tag"][1]) for e in s.elements if re.fullmatch("h[1-6]", e["tag"])]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:])), levels
    assert all(e["text"].strip() for e in s.all("h1", "h2", "h3", "summary", "a") if "aria-label" not in e["at"])
    outside = [e for e in s.all("h2", "table", "img", "pre", "details") if not {"main", "header", "nav"} & set(e["in"]) and "contents" not in e["at"].get("class", "")]
    assert [e["tag"] for e in outside] == [], "everything lies in a landmark"


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_tables_and_what_scrolls(pages, kind):
    s = Structure(pages[kind])
    assert all(e["at"].get("alt", "").strip() and e["at"].get("src", "").startswith("data:image/") for e in s.all("img"))
    assert all(e["text"].strip() for e in s.all("th")) and s.all("th", "img", "pre")
    if kind != "report": assert all(e["at"].get("scope") == "col" for e in s.all("th"))      # a table of Markdown has headings without a scope
    for e in s.elements:
        scrolls = "overflow-x" in (e["at"].get("style") or "") or e["at"].get("class") == "out" or (e["tag"] == "pre" and "tabindex" in e["at"])
        if scrolls: assert e["at"].get("tabindex") == "0" and e["at"].get("role") == "group" and e["at"].get("aria-label", "").strip(), e["at"]
        assert e["at"].get("tabindex", "0") == "0"
    ids = [e["at"]["id"] for e in s.elements if "id" in e["at"]]
    assert len(ids) == len(set(ids))


def test_every_ink_can_be_read_on_its_ground():
    root = dict(re.findall(r"--(\w+):(#[0-9a-f]{3,6})", report.STYLE))
    pairs = [(root["ink"], "#fff"), (root["soft"], "#fff"), (root["soft"], root["wash"]), (root["link"], "#fff"), (root["link"], root["wash"]), (root["bad"], "#fff6f5"), ("#4a3200", "#fff3d6"), (root["ink"], "#eef1f5")]
    pairs += [(ink, back) for back, ink in show._COLOURS.values()]
    back, ink = re.findall(r"(?:background|;color):(#[0-9a-f]{6})", show.note("x").markup)
    for one, other in [*pairs, (ink, back)]: assert contrast(one, other) >= 4.5, (one, other)
    for colour in re.findall(r"(?<!-)color: (#[0-9a-fA-F]{6})", report._code_style()): assert contrast(colour, root["wash"]) >= 4.5, colour
    assert contrast("#000", "#fff") == pytest.approx(21)


def test_on_paper_folded_parts_are_open_and_tables_are_whole():
    paper = report.STYLE_NARROW.partition("@media print")[2]
    assert "details::details-content{content-visibility:visible" in paper and "details:not([open]){display:none}" not in paper
    assert "overflow:visible!important" in paper and "white-space:normal!important" in paper and "thead{display:table-header-group}" in paper


def test_a_picture_without_words_gets_some_and_one_from_elsewhere_goes():
    assert Structure(report.clean_html(f'<img src="data:image/png;base64,{PIXEL}">')).all("img")[0]["at"]["alt"] == "A picture without a description"
    assert not Structure(report.clean_html("<p>a<img src=//evil.example/x.png>b</p>")).all("img")
    assert "tabindex" not in report.clean_html('<p tabindex="5">x</p>') and 'tabindex="0"' in report.clean_html('<pre tabindex="0">x</pre>')
