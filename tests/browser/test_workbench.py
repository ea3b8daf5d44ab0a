"The workbench in a real JupyterLab: each tab is used as a person would use it, with the mouse and from the keyboard, in both themes."
import importlib.util
import json
import os
import re
import subprocess
import sys
import time

import nbformat
import pytest

from mlops_workbench.core.runs import Runs
from mlops_workbench.core.store import open_store
from mlops_workbench.deploy.registry import Registry

from .lab import CHROMIUM, Lab, chromium, keep, run_first_cell, visit

pytestmark = pytest.mark.long

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if importlib.util.find_spec("jupyterlab") is None: pytest.skip("jupyterlab is not installed", allow_module_level=True)
if not CHROMIUM.exists(): pytest.skip(f"no browser at {CHROMIUM}", allow_module_level=True)

BENCH = "from mlops_workbench.ui.workbench import Workbench\nbench = Workbench()\nbench"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser") / "loans"
    done = subprocess.run([sys.executable, "-m", "tests.browser.project", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def store(project): return open_store(project / "store")


@pytest.fixture(scope="module")
def lab(project, tmp_path_factory):
    lab = Lab(project, tmp_path_factory.mktemp("home"))
    yield lab
    lab.end()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p, chromium(p) as b: yield b


@pytest.fixture(scope="module")
def page(browser, lab):
    page = visit(browser, lab, lab.notebook("bench.ipynb", BENCH), height=1120)
    run_first_cell(page)
    page.locator(".mlw-live").wait_for()
    yield page
    page.context.close()


@pytest.fixture(scope="module")
def jobs_page(browser, lab):
    "JupyterLab's page of notebook jobs, with a job that was scheduled there for every minute."
    cells = [nbformat.v4.new_markdown_cell("# Greet\n\n> Says hello."), nbformat.v4.new_code_cell('name: str = "world"   # whom to greet', metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell("print('hello', name)")]
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, "mlw": {"clock": True}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), lab.project / "jobs" / "greet.ipynb")
    for attempt in range(5):     # the page forgets what was typed if its list of environments comes late
        page = visit(browser, lab, "jobs/greet.ipynb", height=700)
        try:
            schedule(page)
            break
        except playwright.TimeoutError:
            if attempt == 4: raise
            page.context.close()
    yield page
    page.context.close()


def schedule(page):
    "Fill the form of a notebook job, and wait until it is listed."
    page.locator("[data-command='scheduling:create-from-notebook'], jp-button[title*='notebook job'], button[title*='notebook job']").first.click()
    page.get_by_text("only while this JupyterLab runs").first.wait_for()      # the page says when it does not fire
    page.get_by_text("Run on a schedule").click()
    page.get_by_text("Weekday", exact=True).click()
    page.get_by_role("option", name="Minute").click()
    page.get_by_label("Job name").fill("greet every minute")
    page.get_by_role("button", name="Create", exact=True).click()
    page.get_by_role("cell", name="Every minute", exact=True).wait_for(timeout=30_000)


def open_tab(page, name):
    "The panel of that tab, once it is there."
    page.locator(".mlw-live").get_by_role("tab", name=name, exact=True).click()
    panel = page.locator(".mlw-live .widget-tab-contents > .lm-Widget:not(.lm-mod-hidden), .mlw-live .widget-tab-contents > .jupyter-widgets:not(.lm-mod-hidden)").first
    panel.locator(".mlw-part").first.wait_for()
    return panel


def live(page): return page.locator(".mlw-live").first


def outside(locator): return locator.evaluate("e => { const r = e.getBoundingClientRect(), b = document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2); return !(b === e || e.contains(b) || b?.contains(e)) }")


def test_a_notebook_job_is_scheduled(jobs_page):
    jobs_page.get_by_role("cell", name="Every minute", exact=True).wait_for()


def test_data_shows_versions_contract_and_profile(page):
    panel = open_tab(page, "Data")
    panel.get_by_text("keeps its contract").wait_for()
    panel.get_by_label("loans@2").check()
    panel.get_by_text("Profile of loans@2").wait_for()
    panel.get_by_role("cell", name="income", exact=True).wait_for()
    keep(live(page), "data")


def test_the_live_widget_takes_the_place_of_its_twin(page):
    assert page.locator(".mlw-twin").count() == 1 and not page.locator(".mlw-twin").is_visible()


def test_a_form_says_what_is_wrong_and_runs_what_is_right(page, store):
    panel = open_tab(page, "Jobs")
    trials, run = panel.get_by_label("trials"), panel.get_by_role("button", name="Run", exact=True)
    trials.fill("many")
    panel.get_by_role("alert").filter(has_text="should be a whole number").wait_for()
    page.wait_for_function("[...document.querySelectorAll('.mlw-live button')].find(b => b.innerText.trim() === 'Run').disabled")
    trials.fill("3")
    page.wait_for_function("![...document.querySelectorAll('.mlw-live button')].find(b => b.innerText.trim() === 'Run').disabled")
    run.click()
    bar, seen, kept = panel.get_by_role("progressbar"), set(), False
    bar.wait_for()
    for _ in range(1_200):
        if panel.get_by_text("tune succeeded").count(): break
        if shown := page.evaluate("document.querySelector('.mlw-live .mlw-bar + span')?.innerText"): seen.add(re.sub(r" · .*", "", shown))
        if seen - {"tune: starting", "tune: at work", "tune: Tune"} and not kept: kept = keep(live(page), "progress") or True
        assert not panel.get_by_role("alert").count(), panel.get_by_role("alert").all_inner_texts()
        page.wait_for_timeout(100)
    assert seen - {"tune: starting", "tune: at work"}, f"no section was seen: {seen}"
    newest = Runs(store).latest("tune")
    assert newest["parameters"]["trials"] == 3
    panel.get_by_text(newest["id"]).wait_for()
    panel.get_by_role("link", name="report").wait_for()
    keep(live(page), "jobs")


def test_a_run_is_cancelled(page, store):
    panel = open_tab(page, "Jobs")
    panel.get_by_label("trials").fill("500")
    panel.get_by_role("button", name="Run", exact=True).click()
    panel.get_by_role("progressbar").wait_for()
    panel.get_by_text("tune: The search").wait_for()
    panel.get_by_role("button", name="Cancel", exact=True).click()
    panel.get_by_text("tune cancelled").wait_for()
    assert Runs(store).list("tune")[0]["status"] == "cancelled"


def test_a_link_opens_the_report_beside_the_notebook(page):
    panel = open_tab(page, "Runs")
    panel.get_by_label(re.compile("tune")).nth(1).check()
    panel.get_by_role("link", name="notebook").click()
    page.locator(".lm-TabBar-tab", has_text="notebook.ipynb").wait_for()
    page.locator(".lm-TabBar-tab", has_text="bench.ipynb").click()
    panel.get_by_label(re.compile("tune")).nth(1).uncheck()


def test_runs_are_filtered_and_two_are_compared(page, store):
    panel = open_tab(page, "Runs")
    panel.get_by_label("job", exact=True).select_option("tune")
    page.wait_for_function("![...document.querySelectorAll('.mlw-live td')].some(td => td.innerText === 'deploy')")
    names = [r["id"] for r in Runs(store).list("tune")][:2]      # the one that was cancelled, and the one before
    for name in names: panel.get_by_label(name).check()
    panel.get_by_text(f"{min(names)} and {max(names)}").first.wait_for()
    assert panel.get_by_text("trials").first.is_visible() and not panel.get_by_role("alert").count()
    keep(live(page), "compare")
    for name in names: panel.get_by_label(name).uncheck()
    panel.get_by_label("find").fill("nothing like it")
    panel.get_by_text("No such run").wait_for()
    panel.get_by_label("find").fill("")
    panel.get_by_label("job", exact=True).select_option("all")


def test_a_slider_moves_the_rates(page):
    panel = open_tab(page, "Assess")
    panel.get_by_text("One row, explained").wait_for()
    row = panel.get_by_role("row").filter(has_text="south").first
    before = row.inner_text()
    handle = panel.locator(".noUi-handle").nth(2)      # all groups, the largest, the second
    handle.focus()
    for _ in range(40): page.keyboard.press("ArrowLeft")
    page.wait_for_function("([sel, old]) => [...document.querySelectorAll(sel)].some(r => r.innerText.includes('south') && r.innerText !== old)", arg=[".mlw-live tr", before])
    panel.get_by_text("unlawful in some uses").wait_for()
    panel.get_by_label("all groups").fill("0.3")
    page.keyboard.press("Tab")
    panel.get_by_text("unlawful in some uses").wait_for(state="hidden")
    picture = panel.locator(".mlw-card img")
    told = picture.get_attribute("alt")
    panel.get_by_label("row", exact=True).fill("7")
    page.keyboard.press("Enter")
    page.wait_for_function("old => document.querySelector('.mlw-card img')?.alt !== old", arg=told)
    panel.get_by_text(re.compile("^Row 7 of")).wait_for()
    keep(live(page), "assess")


def test_promote_and_roll_back_with_a_reason(page, store):
    panel = open_tab(page, "Models")
    panel.get_by_label("loans@1").check()
    panel.get_by_text("Gates of loans@1").wait_for()
    panel.get_by_label("reason").fill("the simpler one will do")
    panel.get_by_role("button", name="Promote").click()
    panel.get_by_text("loans@1 is champion; before it was loans@2.").wait_for()
    keep(live(page), "models")
    panel.get_by_label("reason").fill("")
    panel.get_by_role("button", name="Roll back").click()
    panel.get_by_role("alert").filter(has_text="no reason was given").wait_for()
    panel.get_by_label("reason").fill("it will not do")
    panel.get_by_role("button", name="Roll back").click()
    panel.get_by_text("loans@2 is champion again").wait_for()
    events = Registry(store).history("loans").tail(2).to_dicts()
    assert [(e["event"], e["version"], e["reason"]) for e in events] == [("promoted", 1, "the simpler one will do"), ("rolled_back", 2, "it will not do")]
    assert all(e["by"] for e in events)


NAMELESS = """() => [...document.querySelectorAll('.mlw-live :is(input, select, button, textarea)')].filter(e => e.offsetParent && !(e.labels?.length && e.labels[0].innerText.trim())
    && !e.getAttribute('aria-label') && !e.innerText.trim()).map(e => e.outerHTML.slice(0, 200))"""
FOCUS = """() => { const e = document.activeElement, inside = !!e.closest('.mlw-live'), s = getComputedStyle(e);
    return { inside, what: e.tagName + ' ' + (e.labels?.[0]?.innerText || e.innerText || e.className).trim().slice(0, 30), seen: s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0 || s.boxShadow !== 'none' } }"""


@pytest.mark.parametrize("name", ["Data", "Jobs", "Runs", "Models", "Assess"])
def test_every_control_has_a_name_and_is_reached_with_tab(page, name):
    panel = open_tab(page, name)
    assert page.evaluate(NAMELESS) == []
    wanted = panel.locator("input:visible:enabled, select:visible:enabled, button:visible:enabled, .noUi-handle:visible").count()
    page.locator(".mlw-live").get_by_role("tab", name=name, exact=True).focus()
    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        now = page.evaluate(FOCUS)
        if not now["inside"]: break
        assert now["seen"], f"the focus cannot be seen on {now['what']}"
        reached.append(now["what"])
    assert len(reached) >= wanted, (wanted, reached)


def test_tabs_are_turned_with_the_keyboard(page):
    open_tab(page, "Data")
    page.locator(".mlw-live").get_by_role("tab", name="Data", exact=True).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.locator(".mlw-live").get_by_role("button", name="Run", exact=True).wait_for()


def test_a_saved_notebook_shows_the_twin(browser, lab):
    page = visit(browser, lab, lab.notebook("saved.ipynb", "from mlops_workbench.ui.workbench import Workbench\nWorkbench(tab='Runs')"))
    run_first_cell(page)
    page.locator(".mlw-live").wait_for()
    page.keyboard.press("Control+s")
    saved = lab.project / "saved.ipynb"
    while not (outputs := json.loads(saved.read_text())["cells"][0]["outputs"]): time.sleep(0.2)
    page.context.close()
    assert "mlw-twin" in "".join(outputs[0]["data"]["text/html"]) and set(outputs[0]["data"]) == {"text/html", "text/plain"}
    for session in lab.ask("/api/sessions"):
        if session["path"] == "saved.ipynb": lab.ask(f"/api/sessions/{session['id']}", "DELETE")
    again = visit(browser, lab, "saved.ipynb")
    again.locator(".mlw-twin").wait_for()
    again.wait_for_timeout(3_000)
    assert again.locator(".mlw-twin").is_visible() and again.get_by_role("columnheader", name="metrics").is_visible()
    assert not again.get_by_text("Error displaying widget").is_visible() and not again.get_by_text("Loading widget").is_visible()
    again.context.close()


LUMINANCE = """() => { const rgb = c => c.match(/[0-9.]+/g).slice(0, 4).map(Number), lum = c => rgb(c).slice(0, 3).map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
    const back = e => { for (; e; e = e.parentElement) { const b = getComputedStyle(e).backgroundColor, v = rgb(b); if (v.length < 4 || v[3] > 0.5) return b } return 'rgb(255, 255, 255)' };
    return [...document.querySelectorAll('.mlw-live :is(td, th, label, span, button, .mlw-note, .mlw-head, a)')].filter(e => e.offsetParent && !e.disabled && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())).map(e => {
        const [a, b] = [lum(getComputedStyle(e).color), lum(back(e))].sort((x, y) => y - x); return [e.innerText.slice(0, 40), (a + 0.05) / (b + 0.05)] }).filter(([, c]) => c < 3.5) }"""


def test_the_dark_theme_can_be_read(browser, lab, page):
    assert page.evaluate(LUMINANCE) == []
    page.get_by_role("menuitem", name="Settings").click()
    page.get_by_text("Theme", exact=True).first.hover()
    page.get_by_text("JupyterLab Dark", exact=True).click()
    page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    for name in ("Data", "Jobs", "Runs", "Models", "Assess"):
        open_tab(page, name)
        assert page.evaluate(LUMINANCE) == [], name
    keep(live(page), "dark")
    panel = open_tab(page, "Runs")
    for i in range(2): panel.get_by_label(re.compile("-tune-")).nth(i).check()
    panel.get_by_text(re.compile("-tune-.* and .*-tune-")).first.wait_for()
    assert page.evaluate(LUMINANCE) == []
    if os.environ.get("MLW_SCREENSHOTS"): page.screenshot(path=os.path.join(os.environ["MLW_SCREENSHOTS"], "compare-dark.png"))


def test_the_schedule_made_a_run(jobs_page, store, lab):
    for _ in range(900):
        if (run := Runs(store).latest("greet")) is not None: break
        jobs_page.wait_for_timeout(100)
    assert run is not None and run["parameters"] == {"name": "world"} and "hello world" in (store.local / "runs" / run["id"] / "notebook.ipynb").read_text()
    jobs_page.get_by_role("tab", name="Jobs", exact=True).nth(1).click()
    jobs_page.get_by_text("Completed").first.wait_for()
    keep(jobs_page.locator(".jp-MainAreaWidget:visible, .jp-notebook-jobs:visible").first, "schedule", most=440)
    for definition in lab.ask("/scheduler/job_definitions")["job_definitions"]: lab.ask(f"/scheduler/job_definitions/{definition['job_definition_id']}", "DELETE")
