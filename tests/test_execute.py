"Jobs: found, run, recorded, and not run again when nothing has changed."

import json
import subprocess
import sys

import nbformat
import pytest

from mlops_workbench.core.errors import InputError, NotFoundError
from mlops_workbench.core.runs import Runs, lineage
from mlops_workbench.core.settings import read_settings
from mlops_workbench.jobs.execute import find_job, jobs, run_job, wait_for_mirrors

from .command import without_settings

OPEN = "from mlops_workbench.core.runs import job_run\nrun = job_run('x')\n"
KEYS = {"id", "job", "status", "reason", "message", "parent", "created", "started", "ended", "seconds", "cost", "parameters", "inputs", "outputs", "metrics", "warnings",
        "code_hash", "package_hash", "git", "packages", "device", "host", "pid", "seed", "attempt"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A project in an empty folder, with the mirror off."
    without_settings(monkeypatch)
    (tmp_path / "settings.ini").write_text("[project]\nname = demo\nseed = 7\n[wandb]\nmode = disabled\n")
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlops_workbench.jobs.execute.package_hash", lambda: "as installed")   # whatever is edited meanwhile
    return tmp_path


def write(path, *sources, parameters=None, metadata=None):
    cells = [nbformat.v4.new_code_cell(s) for s in sources]
    if parameters is not None: cells.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel | (metadata or {})), path)


def test_the_record_says_what_the_run_stood_on(project):
    write(project / "jobs" / "one.ipynb", OPEN + "run.input('file', 'settings.ini')\nrun.metric('bad', float('nan'))\nrun.fact(device='cuda')", parameters="n: int = 1")
    record = run_job("one", ["n=2"])
    on_disk = json.loads((project / "store" / "runs" / record["id"] / "run.json").read_text())
    assert KEYS <= set(on_disk) and on_disk == json.loads(json.dumps(record))
    assert (on_disk["seed"], on_disk["device"], on_disk["metrics"], on_disk["parameters"]) == (7, "cuda", {"bad": None}, {"n": 2})
    files = {p.name for p in (project / "store" / "runs" / record["id"]).iterdir()}
    assert {"run.json", "notebook.ipynb", "report.html"} <= files and "kernel.log" not in files


def test_an_unchanged_job_is_not_run_again_and_any_change_runs_it(project):
    def again(**options): return run_job("one", **options).get("because", "") if not run_job("one", **options).get("skipped") else "skipped"
    (project / "data.csv").write_text("a\n1\n")
    source = OPEN + f"run.input('file', {str(project / 'data.csv')!r})"
    write(project / "jobs" / "one.ipynb", source, parameters="n: int = 1")
    first = run_job("one")
    assert run_job("one")["skipped"] and run_job("one")["id"] == first["id"]
    assert run_job("one", {"n": 2})["because"] == "its parameters changed"
    assert run_job("one")["because"] == "its parameters changed"
    (project / "data.csv").write_text("a\n2\n")
    assert run_job("one")["because"].endswith("data.csv changed")
    write(project / "jobs" / "one.ipynb", source, "1", parameters="n: int = 1")
    assert run_job("one")["because"] == "its code changed"
    (project / "helper.py").write_text("x = 1\n")
    assert run_job("one")["because"] == "its code changed"
    (project / "settings.ini").write_text("[project]\nname = demo\nseed = 8\n[wandb]\nmode = disabled\n")
    assert run_job("one")["because"] == "the settings changed"
    assert run_job("one").get("skipped")
    assert run_job("one", force=True)["because"] == "it was forced"


def test_a_new_version_of_an_input_runs_it_again(project):
    from polars import DataFrame

    from mlops_workbench.data.dataset import commit
    store = Runs().store
    commit(store, "people", DataFrame({"a": [1]}))
    write(project / "jobs" / "read.ipynb", OPEN + "from mlops_workbench.data.dataset import resolve\nrun.input('dataset', 'people', str(resolve(run.store, 'people')))")
    run_job("read")
    assert run_job("read").get("skipped")
    commit(store, "people", DataFrame({"a": [2]}))
    assert run_job("read")["because"] == "its input people changed"


def test_a_newer_upstream_run_runs_it_again(project):
    write(project / "jobs" / "up.ipynb", "1")
    write(project / "jobs" / "down.ipynb", OPEN + "run.upstream('up')")
    run_job("up")
    first = run_job("down")
    assert run_job("down").get("skipped") and lineage(Runs().store, first["id"])["inputs"][0]["from"]["job"] == "up"
    run_job("up", force=True)
    assert run_job("down")["because"] == "its input up changed"


def test_a_job_that_depends_on_the_clock_is_never_skipped(project):
    write(project / "jobs" / "tick.ipynb", "1", metadata={"mlw": {"clock": True}})
    assert run_job("tick")["id"] != run_job("tick")["id"]


def test_a_failed_run_is_no_reason_to_skip(project):
    write(project / "jobs" / "bad.ipynb", "1 / 0")
    assert run_job("bad")["status"] == "failed"
    assert not run_job("bad").get("skipped")


def test_jobs_are_found_by_name_and_path_inside_and_outside_a_project(project, monkeypatch):
    write(project / "jobs" / "mine.ipynb", "1")
    settings = read_settings()
    assert find_job("mine", settings) == project / "jobs" / "mine.ipynb" == find_job("jobs/mine.ipynb", settings) == find_job(project / "jobs" / "mine.ipynb")
    with pytest.raises(NotFoundError, match="did you mean 'mine'"): find_job("mien", settings)
    elsewhere = project.parent / f"{project.name}-outside"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(NotFoundError): run_job("mine")
    record = run_job(project / "jobs" / "mine.ipynb")
    assert record["status"] == "succeeded" and (elsewhere / "store" / "runs" / record["id"]).is_dir()


def test_the_projects_own_job_comes_before_the_packages(project):
    packaged = jobs()
    if not packaged: pytest.fail("the package carries no jobs")
    name = next(iter(packaged))
    write(project / "jobs" / f"{name}.ipynb", "1")
    assert jobs(read_settings())[name] == project / "jobs" / f"{name}.ipynb"


def test_what_is_no_notebook_is_refused(project):
    for content in ("", "{}", "print(1)", '{"cells": [], "nbformat": 3}'):
        (project / "bad.ipynb").write_text(content)
        with pytest.raises(InputError, match="not a notebook"): run_job("bad.ipynb")
    assert Runs().list() == []


def test_a_notebook_works_where_it_lies_and_a_relative_path_where_it_was_given(project, monkeypatch):
    (project / "jobs" / "helper.py").write_text("answer = 42\n")
    (project / "sub").mkdir()
    (project / "sub" / "data.txt").write_text("hello")
    monkeypatch.chdir(project / "sub")
    write(project / "jobs" / "one.ipynb", "import helper\nassert helper.answer == 42 and file.read_text() == 'hello'", parameters="from pathlib import Path\nfile: Path = Path('none')")
    assert run_job("one", ["file=data.txt"])["status"] == "succeeded"


def test_a_secret_that_a_job_prints_is_nowhere_on_disk(project, monkeypatch):
    monkeypatch.setenv("API_KEY", "correct-horse-battery-staple")
    write(project / "jobs" / "leak.ipynb", OPEN + "from mlops_workbench.core.secrets import secret\nkey = secret('API_KEY')", "print(key)\nrun.metric('a', 1)\nrun.warn(key)\nkey", "raise ValueError(key)")
    record = run_job("leak")
    assert record["status"] == "failed" and "[secret API_KEY]" in record["message"]
    for file in (project / "store").rglob("*"):
        if file.is_file(): assert b"correct-horse" not in file.read_bytes(), file.name


def test_a_broken_mirror_or_report_is_a_warning(project, monkeypatch):
    from mlops_workbench.assess import report
    from mlops_workbench.jobs import attempt
    (project / "settings.ini").write_text("[project]\nname = demo\n")
    write(project / "jobs" / "one.ipynb", "1")
    def no_report(*args, **kwargs): raise RuntimeError("no report today")
    def no_copy(*args, **kwargs): raise RuntimeError("no copy today")
    monkeypatch.setattr(attempt, "start_mirror", no_copy)
    monkeypatch.setattr(report, "html_report", no_report)
    record = run_job("one")
    wait_for_mirrors()
    assert record["status"] == "succeeded" and "no report today" in record["warnings"][0]
    assert Runs().get(record["id"])["warnings"][-1].endswith("no copy today")


def test_the_mirror_holds_the_record_and_prints_nothing(project):
    (project / "settings.ini").write_text("[project]\nname = demo\n")
    write(project / "jobs" / "one.ipynb", OPEN + "run.metric('loss', 0.5)")
    done = subprocess.run([sys.executable, "-c", "from mlops_workbench.jobs.execute import run_job, wait_for_mirrors; run_job('one'); wait_for_mirrors()"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    record = Runs().get("one")
    assert record["warnings"] == [] and list((project / "store" / "runs" / record["id"]).glob("wandb/offline-run-*/*.wandb"))


def test_progress_tells_the_section_and_moves_inside_a_cell(project):
    cells = [nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_markdown_cell("## Reading"), nbformat.v4.new_code_cell(OPEN + "import time\nfor i in range(3):\n    run.progress(i, 3, f'file {i}')\n    time.sleep(0.6)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), project / "jobs" / "one.ipynb")
    seen = []
    record = run_job("one", progress=lambda done, total, text: seen.append((round(done, 2), total, text)))
    assert (2, 3, "Reading") in seen and (2.67, 3, "file 2") in seen
    assert nbformat.read(project / "store" / "runs" / record["id"] / "notebook.ipynb", 4).cells[2].outputs == []


def test_running_jobs_imports_nothing_heavy_before_it_must():
    code = "import sys, mlops_workbench.jobs.execute, mlops_workbench.jobs.pipeline; print([m for m in ('torch', 'polars', 'pandas', 'papermill', 'nbformat', 'wandb', 'matplotlib', 'IPython') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
