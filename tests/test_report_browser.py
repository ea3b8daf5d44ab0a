"The report in a browser without a network: nothing is asked for, everything is seen, on a desk, on a phone and on paper."
import os
from pathlib import Path

import pytest

from mlops_workbench.assess.report import html_report

from .report_sample import LINEAGE, RECORD, failing, sample

CHROMIUM = Path(os.environ.get("CHROMIUM") or "/usr/bin/chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if not CHROMIUM.exists(): pytest.skip(f"no browser at {CHROMIUM}", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        b = p.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield b
        b.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = Path(os.environ.get("MLW_SCREENSHOTS") or tmp_path_factory.mktemp("report"))
    return {"report": html_report(sample(), folder / "report.html", record=RECORD, lineage=LINEAGE),
            "failed": html_report(failing(), folder / "failed.html", record=RECORD | {"status": "failed", "reason": "data", "message": None})}


def visit(browser, path, width):
    "The page opened offline, with all it asked for and complained of; pictures of it lie beside the file."
    context = browser.new_context(offline=True, viewport={"width": width, "height": 900})
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda r: asked.append(r.url))
    page.on("console", lambda m: said.append(m.text))
    page.on("pageerror", lambda e: said.append(str(e)))
    page.goto(path.as_uri())
    page.screenshot(path=path.with_name(f"{path.stem}-{width}.png"), full_page=True)
    return page, [u for u in asked if not u.startswith("data:") and u != path.as_uri()], said


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["report", "failed"])
def test_nothing_leaves_and_nothing_complains(browser, reports, name, width):
    page, asked, said = visit(browser, reports[name], width)
    assert (asked, said) == ([], []) and page.title() in ("Assessment of loans", "Validation of people")
    assert page.evaluate("document.documentElement.scrollWidth") <= width      # wide tables scroll by themselves
    page.context.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_headings_figures_and_contents_are_seen(browser, reports, width):
    page, _, _ = visit(browser, reports["report"], width)
    for heading in ("Assessment of loans", "Fairness", "Explanations", "Single applicants"): assert page.get_by_role("heading", name=heading, exact=True).is_visible()
    for image in page.locator("img[src]").all(): assert image.evaluate("i => i.complete && i.naturalWidth > 0") and image.get_attribute("alt")
    assert page.get_by_alt_text("Share approved by race").is_visible()
    assert not page.get_by_text("from mlops_workbench.assess import assessment").is_visible()      # code is folded
    page.locator("summary", has_text="Code").first.click()
    assert page.locator(".code").nth(2).is_visible() or page.locator("details.source[open] .code").first.is_visible()
    if width < 960: page.locator("details.contents > summary").click()
    link = page.locator("nav a, .contents a").filter(visible=True, has_text="Explanations")
    link.click()
    assert page.url.endswith("#explanations")
    page.context.close()


def test_a_failed_run_shows_its_error_first(browser, reports):
    page, _, _ = visit(browser, reports["failed"], 1280)
    box, first = page.locator("#failure").bounding_box(), page.get_by_role("heading", name="Reading").bounding_box()
    assert box["y"] < first["y"] and box["y"] < 900 and page.get_by_text("remedy: correct or drop them").first.is_visible()
    page.get_by_role("link", name="Go to the cell that failed").click()
    assert page.locator(page.evaluate("location.hash")).get_by_text("ContractError").first.is_visible()
    page.context.close()


def test_it_prints(browser, reports):
    page, _, _ = visit(browser, reports["report"], 1280)
    data = page.pdf(path=reports["report"].with_suffix(".pdf"), format="A4", prefer_css_page_size=True, print_background=True)
    assert data.startswith(b"%PDF") and 2 <= data.count(b"/Type /Page\n") + data.count(b"/Type /Page ") <= 20
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and page.get_by_role("heading", name="Fairness", exact=True).is_visible()
    page.context.close()


def test_on_paper_nothing_is_folded_away_or_cut(browser, reports):
    context = browser.new_context(offline=True, viewport={"width": 680, "height": 1000})      # as wide as the page between its margins
    page = context.new_page()
    page.emulate_media(media="print")
    page.goto(reports["report"].as_uri())
    shut = page.evaluate("[...document.querySelectorAll('details:not(.source):not(.contents)')].filter(d => d.getBoundingClientRect().height < d.querySelector('summary').getBoundingClientRect().height + 10).length")
    cut = page.evaluate("[...document.querySelectorAll('table,img,pre')].filter(e => e.getBoundingClientRect().right > 681).length")
    assert (shut, cut) == (0, 0)
    assert page.evaluate("[...document.querySelectorAll('details.source')].every(d => d.getBoundingClientRect().height == 0)")      # code is not printed
    context.close()
