"The widgets without a browser: three ways from one object, bad input in a plain block, and the same results as the command line."
import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

import ipywidgets as w
import nbformat
import numpy as np
import polars as pl
import pytest

from mlops_workbench.assess.fairness import by_group, disparities
from mlops_workbench.core.errors import NotFoundError
from mlops_workbench.core.runs import Run, Runs
from mlops_workbench.core.settings import read_settings
from mlops_workbench.core.store import open_store
from mlops_workbench.data.dataset import commit
from mlops_workbench.deploy.registry import Registry
from mlops_workbench.jobs.execute import run_job
from mlops_workbench.jobs.parameters import form, read_parameters, resolve
from mlops_workbench.ui.cli import main
from mlops_workbench.ui.deciding import ThresholdSliders
from mlops_workbench.ui.panels import DataPanel, ModelsPanel, Place, RunsPanel, promote_version
from mlops_workbench.ui.starting import JobsPanel, Started, written
from mlops_workbench.ui.widgets import Message, PagedTable, ParameterForm
from mlops_workbench.ui.workbench import TABS, Workbench

from .helpers_model import deploy, toy_bundle

WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}


def cells(*sources): return [nbformat.v4.new_code_cell(s) for s in sources]


def save(path, *sources, parameters=None):
    made = cells(*sources)
    if parameters is not None: made.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=KERNEL), path)
    return path


def markup(widget):
    "The text of every HTML widget inside."
    found = [widget.value] if isinstance(widget, w.HTML) else []
    return "\n".join(found + [markup(c) for c in getattr(widget, "children", ())])


# -- three ways ------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("module", ["widgets", "panels", "starting", "deciding", "workbench"])
def test_without_the_extra_the_error_names_it(module):
    code = f"import sys; sys.modules['ipywidgets'] = None\ntry: import mlops_workbench.ui.{module}\nexcept Exception as e: print(e)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "ipywidgets is not installed" in said and "pip install 'mlops_workbench[lab]'" in said


SHOW = "from mlops_workbench.ui.workbench import Workbench\nWorkbench({store!r}, tab='Runs')"


def test_a_job_leaves_the_twin_and_no_widget(tmp_path):
    store = open_store(tmp_path / "store")
    Run.create(store, "tune").finish("succeeded", metrics={"loss": 0.25})
    record = run_job(save(tmp_path / "look.ipynb", SHOW.format(store=str(tmp_path / "store"))), store=store)
    assert record["status"] == "succeeded", record["message"]
    folder = tmp_path / "store" / "runs" / record["id"]
    done = nbformat.read(folder / "notebook.ipynb", 4)
    outputs = done.cells[-1].outputs
    assert [set(o.data) for o in outputs] == [{"text/html", "text/plain"}] and "loss 0.250" in outputs[0].data["text/html"]
    assert "widgets" not in done.metadata and "loss 0.250" in (folder / "report.html").read_text()


def test_a_reader_gets_the_widget_below_its_twin(tmp_path):
    from jupyter_client.manager import start_new_kernel
    kernel, client = start_new_kernel(kernel_name="python3")
    try:
        shown = []
        client.execute_interactive(SHOW.format(store=str(tmp_path / "store")), timeout=60, output_hook=lambda m: shown.append(m["content"]) if m["msg_type"] in ("display_data", "error") else None)
        twin, live = (m["data"] for m in shown)
        assert set(twin) == {"text/html", "text/plain"} and ":has(.mlw-twin)" in twin["text/html"]
        assert set(live) == {WIDGET, "text/plain"} and live[WIDGET]["model_id"]
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


def test_a_saved_notebook_is_converted_with_the_twin(tmp_path):
    from nbconvert import HTMLExporter
    twin = nbformat.v4.new_output("display_data", {"text/html": Message("seen by all")._repr_html_(), "text/plain": "seen by all"})
    live = nbformat.v4.new_output("display_data", {WIDGET: {"version_major": 2, "version_minor": 0, "model_id": "gone"}, "text/plain": ""})
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[twin, live])], metadata=KERNEL)
    page = HTMLExporter().from_notebook_node(nb)[0]
    assert "seen by all" in page and "gone" not in page


def test_an_empty_store_is_shown_in_every_tab(tmp_path):
    bench = Workbench(tmp_path / "store")
    _ = bench.live
    for name in TABS: bench.look(name)
    said = markup(bench.live)
    assert "No dataset yet" in said and "No such run" in said and "No model yet" in said and "run the jobs tune and assess" in said
    assert "Traceback" not in said and set(bench.data) == {t.lower() for t in TABS}
    assert "No dataset yet" in bench.html.markup


# -- what others wrote -----------------------------------------------------------------------------------------------------------------------

EVIL = "<img src=x onerror=alert(1)>"


def test_names_and_messages_are_escaped(tmp_path):
    store = open_store(tmp_path / "store")
    commit(store, "loans", pl.DataFrame({EVIL: [1.0, 2.0], "b": [EVIL, "y"]}), message=EVIL)
    run = Run.create(store, "tune", {"x": EVIL})
    run.start()
    run.finish("failed", reason="code", message=EVIL, metrics={EVIL: 1.0}, sections=[{"title": EVIL, "state": "failed", "seconds": 1.0}])
    place = Place(store)
    runs, data = RunsPanel(place), DataPanel(place)
    for panel in (runs, data): _ = panel.live
    runs.table.choose(run.id)
    data.table.choose("loans@1")
    for text in (markup(runs.live), markup(data.live), runs.html.markup, data.html.markup, Message(EVIL, "bad").html.markup):
        assert "<img" not in text and "&lt;img" in text
    asked = ParameterForm(read_parameters({"cells": [{"cell_type": "code", "source": f'x: int = 1   # {EVIL}', "metadata": {"tags": ["parameters"]}}]}))
    asked.set("x", EVIL)
    assert "<img" not in markup(asked.live) + asked.html.markup


def test_secrets_do_not_reach_a_message(monkeypatch):
    from mlops_workbench.core.secrets import secret
    monkeypatch.setenv("LEDGER_TOKEN", "s3cr3t-ledger-value")
    secret("LEDGER_TOKEN")
    message = Message()
    with message.errors(): raise ValueError("refused: s3cr3t-ledger-value")
    assert "s3cr3t" not in message.text and message.text.startswith("ValueError: refused")


def test_a_broken_store_is_said_in_a_block(tmp_path):
    store = open_store(tmp_path / "store")
    deploy(store, toy_bundle())
    model = next((tmp_path / "store" / "models" / "loans" / "1").glob("bundle.json"))
    model.write_text(model.read_text()[:-40])
    panel = ModelsPanel(Place(store))
    _ = panel.live
    panel.table.choose("loans@1")
    assert panel.message.tone == "bad" and "Traceback" not in panel.message.text
    (tmp_path / "store" / "runs" / "20260101-000000-tune-aaaa").mkdir(parents=True)
    (tmp_path / "store" / "runs" / "20260101-000000-tune-aaaa" / "run.json").write_text("{")
    Run.create(store, "tune").finish("succeeded")
    assert [r["job"] for r in RunsPanel(Place(store)).data] == ["tune"]


# -- many runs -------------------------------------------------------------------------------------------------------------------------------

def test_a_page_is_sent_of_many_rows():
    rows = [{"run": f"run-{i:05}", "job": ("tune", "assess")[i % 2], "seconds": i / 10, "status": "succeeded"} for i in range(10_000)]
    table = PagedTable(lambda: rows, "run", filters=["job", "status"], find=True, pick=2, page=12)
    assert markup(table.live).count("<tr>") == 13 and "1 to 12 of 10,000" in markup(table.live)
    table.set(job="assess", sort="seconds", descending=True)
    assert table.data[0]["run"] == "run-09999" and "1 to 12 of 5,000" in markup(table.live)
    table.set(start=4_999)
    assert [r["run"] for r in table.data][-1] == "run-00001" and table.where() == "4,993 to 5,000 of 5,000" or len(table.data) <= 12
    table.set(text="run-0000 assess")
    assert {r["run"] for r in table.data} == {f"run-0000{i}" for i in (1, 3, 5, 7, 9)}


def test_rows_of_mixed_kinds_can_be_sorted():
    table = PagedTable(lambda: [{"run": "a", "x": None}, {"run": "b", "x": 2}, {"run": "c", "x": "text"}, {"run": "d", "x": 1.5}, {"run": "e", "x": ["l"]}], "run")
    table.set(sort="x")
    assert [r["run"] for r in table.view()] == ["d", "b", "e", "c", "a"]


def test_picks_outlive_a_page_and_go_with_their_row():
    rows = [{"run": f"r{i}"} for i in range(30)]
    seen = []
    table = PagedTable(lambda: rows, "run", pick=2, page=10, on_pick=seen.append)
    _ = table.live
    table.choose("r3", "r25")
    table.set(start=20)
    boxes = {b.description: b.value for b in table._shown["picks"]}
    assert boxes["r25"] and not boxes["r24"] and seen == [["r3", "r25"]]
    rows[:] = rows[:20]
    table.reload()
    assert table.picked == ["r3"]


# -- forms -----------------------------------------------------------------------------------------------------------------------------------

CELL = '''trials: int = 24   # how many
rate: float = 0.1   # share
deep: bool = False   # networks too
name: str = "x"   # of it
tags: list[str] = ["a", "b"]   # words
many: list[int] = [1]   # numbers
about: dict = {}   # facts
where: Path = Path("a/b")   # a file
day: date = date(2026, 1, 2)   # a day
at: datetime = datetime(2026, 1, 2, 3, 4)   # a moment
device: Literal["cpu", "cuda"] = "cpu"   # where
limit: float | None = None   # in minutes
needed: int   # must be given'''


def asked(cell=CELL): return ParameterForm(read_parameters({"cells": [{"cell_type": "code", "source": cell, "metadata": {"tags": ["parameters"]}}]}))


def test_every_kind_of_parameter_has_a_field():
    f = asked()
    boxes = {c.description: c for c in f.part.children if getattr(c, "description", "")}
    assert list(boxes) == ["trials", "rate", "deep", "name", "tags", "many", "about", "where", "day", "at", "device", "limit", "needed *"]
    assert isinstance(boxes["deep"], w.Checkbox) and isinstance(boxes["device"], w.Dropdown)
    assert list(f.errors) == ["needed"] and f.given == {}
    boxes["needed *"].value, boxes["deep"].value, boxes["device"].value, boxes["tags"].value = "3", True, "cuda", "p,q"
    boxes["limit"].value, boxes["where"].value, boxes["at"].value = "2.5", "c/d", "2026-05-06 07:08"
    assert f.errors == {} and f.given == {"deep": True, "tags": ["p", "q"], "where": Path("c/d"), "at": datetime.datetime(2026, 5, 6, 7, 8), "device": "cuda", "limit": 2.5, "needed": 3}
    boxes["deep"].value = False
    assert "deep" not in f.given


@pytest.mark.parametrize("name, bad", [("trials", "many"), ("trials", "2.5"), ("rate", "half"), ("many", "1,b"), ("about", "{"), ("day", "2026-13-01"), ("at", "noon"), ("limit", "soon")])
def test_a_wrong_value_is_said_beside_its_field(name, bad):
    f = asked()
    _ = f.live
    f.set(name, bad)
    assert f.errors[name].startswith("is ") and name not in f.given
    told = next(b for a, b in zip(f.part.children, f.part.children[1:]) if getattr(a, "description", "") == name)
    assert 'role="alert"' in told.value and "should be" in told.value


@pytest.mark.parametrize("name, value", [("trials", -3), ("rate", 1e-9), ("deep", True), ("name", " a=b, c "), ("tags", ["a, b", "c"]), ("tags", []), ("many", [1, -2]), ("about", {"a": [1, None]}), ("where", Path("x y/z")),
                                         ("day", datetime.date(2026, 2, 3)), ("at", datetime.datetime(2026, 2, 3, 4, 5, 6)), ("device", "cuda"), ("limit", None)])
def test_a_value_survives_the_command_line(name, value):
    parameter = [p for p in asked().parameters if p.name == name]
    assert resolve(parameter, [f"{name}={written(value)}"]) == {name: value}


def test_the_form_takes_what_the_defaults_say():
    f = asked()
    for row in form(f.parameters):
        if row["default"]: assert resolve([p for p in f.parameters if p.name == row["name"]], {row["name"]: row["default"]}) is not None


# -- jobs ------------------------------------------------------------------------------------------------------------------------------------

@pytest.fixture
def place(tmp_path): return Place(open_store(tmp_path / "store"))


def test_a_notebook_that_cannot_be_read_is_said(place, tmp_path):
    panel = JobsPanel(place)
    _ = panel.live
    for name, content in (("no.ipynb", None), ("odd.ipynb", "{"), ("text.ipynb", "[]")):
        if content is not None: (tmp_path / name).write_text(content)
        panel.choose(str(tmp_path / name))
        assert panel.message.tone == "bad" and name in panel.message.text
    save(tmp_path / "wrong.ipynb", parameters="n: int = (")
    panel.choose(str(tmp_path / "wrong.ipynb"))
    assert panel.message.tone == "bad" and "Traceback" not in panel.message.text


def test_a_run_that_fails_says_so_with_links(place, tmp_path):
    panel, ends = JobsPanel(place, look=0.05), []
    panel.on_end = lambda: ends.append(1)
    _ = panel.live
    panel.choose(str(save(tmp_path / "fails.ipynb", "raise ValueError('no rows in the file')", parameters="n: int = 1")))
    panel.run()
    panel.run()      # a second press
    assert "is running" in panel.message.text
    panel.wait()
    record = place.runs.list("fails")[0]
    assert (record["status"], panel.message.tone) == ("failed", "bad") and "no rows in the file" in panel.message.text and record["id"] in panel._shown["links"].value and ends == [1]
    assert not panel._shown["run"].disabled and panel._shown["cancel"].disabled


def test_progress_tells_the_heading(place, tmp_path):
    path = tmp_path / "slow.ipynb"
    made = [nbformat.v4.new_markdown_cell("# Slow"), nbformat.v4.new_markdown_cell("## The long part"), *cells("import time; time.sleep(3)")]
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=KERNEL), path)
    panel, seen = JobsPanel(place, look=0.05), set()
    panel.choose(str(path))
    panel.run()
    while panel.busy: seen.add(panel.progress.text)
    assert any(s.endswith(": The long part") for s in seen), seen


def test_the_kernels_own_run_is_not_passed_on(place, tmp_path, monkeypatch):
    monkeypatch.setenv("MLW_RUN_ID", "20260101-000000-other-aaaa")
    monkeypatch.setenv("MLW_FOLDER", str(tmp_path))
    record = Started(place, str(save(tmp_path / "plain.ipynb", "1"))  , {}).record()
    assert record["status"] == "succeeded" and record["parent"] is None


# -- models ----------------------------------------------------------------------------------------------------------------------------------

HELD = [{"gate": "fair", "rule": "selection_rate_ratio(region) >= 0.8, block", "mode": "block", "answer": "fail", "sentence": "The ratio is 0.61, below 0.8."}]


def project(folder):
    (folder / "settings.ini").write_text("[project]\nname = loans\n")
    store = open_store(folder / "store")
    for gates in ([], HELD): deploy(store, toy_bundle(assessment={"gates": gates, "held_back": []}), promote=not gates)
    return store


def test_promotion_is_that_of_the_command(tmp_path, capsys):
    events = {}
    for how in ("command", "widget"):
        folder = tmp_path / how
        folder.mkdir()
        store = project(folder)
        if how == "command":
            assert main(["-C", str(folder), "promote", "loans@2"]) == 3
            refused = capsys.readouterr().err
            assert main(["-C", str(folder), "promote", "loans@2", "--force", "--reason", "agreed"]) == 0
            assert main(["-C", str(folder), "rollback", "loans", "--reason", "not so"]) == 0
        else:
            panel = ModelsPanel(Place(store, read_settings(folder)))
            panel.table.choose("loans@2")
            panel.promote()
            assert HELD[0]["sentence"] in panel.message.text and HELD[0]["sentence"] in refused
            panel.promote(force=True)
            assert "without a reason" in panel.message.text
            panel.promote(force=True, reason="agreed")
            panel.roll_back(reason="not so")
        events[how] = [{k: v for k, v in e.items() if k not in ("time", "bundle_hash")} for e in Registry(store).history("loans").to_dicts()]
    assert events["command"] == events["widget"] and all(e["by"] for e in events["widget"])


def test_odd_promotions_are_refused(tmp_path):
    store = project(tmp_path)
    panel = ModelsPanel(Place(store, read_settings(tmp_path)))
    panel.promote()
    assert "no version is picked" in panel.message.text
    panel.table.choose("loans@1")
    for alias in ("", "3", "a@b"):
        panel.promote(alias=alias)
        assert "is not an alias" in panel.message.text
    panel.roll_back(reason="x")
    assert "no earlier version" in panel.message.text
    with pytest.raises(NotFoundError): promote_version(store, "loans@9")


# -- thresholds ------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(4))
def test_sliders_agree_with_the_assessment(seed):
    rng = np.random.default_rng(seed)
    n = 3_000
    groups = rng.choice(["a", "b", "c", "tiny"], n, p=[0.5, 0.3, 0.195, 0.005])
    scores = np.round(rng.beta(2, 3, n), 2)      # many ties, some on the thresholds
    labels = (rng.random(n) < scores).astype(int)
    sliders = ThresholdSliders(labels, scores, groups, value={"tp": 2, "fp": -3, "fn": -1, "tn": 0.5})
    at = {g: float(np.round(rng.random(), 2)) for g in np.unique(groups)}
    sliders.set(**at)
    decided = (scores >= np.array([at[g] for g in groups]) - 1e-9).astype(int)
    table, found = by_group(labels, decided, groups), sliders.data
    for row in found["groups"]:
        want = table.filter(group=row["group"]).row(0, named=True)
        for name in ("n", "selection_rate", "tpr", "fpr", "tpr_low", "fpr_high"): assert row[name] == pytest.approx(want[name], abs=1e-12), name
    for m in disparities(labels, decided, groups, replicates=10).to_dicts(): assert found["disparities"][m["metric"]] == pytest.approx(m["estimate"], abs=1e-12)
    worth = np.where(decided == 1, np.where(labels == 1, 2, -3), np.where(labels == 1, -1, 0.5)).mean()
    assert found["per_1000"] == pytest.approx(1000 * worth) and found["compared"] == int((groups != "tiny").sum()) and found["n"] == n


def test_groups_without_a_class_or_a_partner():
    sliders = ThresholdSliders(np.zeros(40, int), np.linspace(0, 1, 40), np.array(["only"] * 40))
    _ = sliders.live
    d = sliders.data
    assert d["groups"][0]["tpr"] is None and set(d["disparities"].values()) == {None}
    sliders.set(1.0)
    sliders.set(0.0)
    assert sliders.data["groups"][0]["selection_rate"] == 1.0


def test_many_groups_follow_the_common_threshold():
    groups = np.array([f"g{i % 40}" for i in range(4_000)])
    sliders = ThresholdSliders(np.arange(4_000) % 2, np.linspace(0, 1, 4_000), groups, most=12)
    _ = sliders.live
    assert len(sliders._shown["sliders"]) == 13
    sliders._shown["sliders"][None][0].value = 0.25
    assert set(sliders.thresholds.values()) == {0.25} and len(sliders.data["groups"]) == 40


def test_comparing_two_runs(tmp_path):
    store = open_store(tmp_path / "store")
    for n in (1, 2): run_job(save(tmp_path / "add.ipynb", "print(n + 1)", parameters="n: int = 0   # a number"), {"n": n}, store=store)
    panel = RunsPanel(Place(store))
    _ = panel.live
    panel.table.choose(*[r["id"] for r in Runs(store).list("add")])
    assert panel.message.tone != "bad", panel.message.text
    assert panel.found is not None and re.search(r"\bn\b", panel._detail.value) and json.dumps(panel.found.to_json())
    assert "\n" in repr(panel.found) and "Traceback" not in panel._detail.value
