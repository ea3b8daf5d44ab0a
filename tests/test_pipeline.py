"Jobs side by side where they do not need each other, and a pipeline that is repaired."

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest

from mlops_workbench.core.errors import InputError
from mlops_workbench.core.runs import Runs
from mlops_workbench.core.settings import Settings
from mlops_workbench.jobs import execute
from mlops_workbench.jobs.execute import run_job
from mlops_workbench.jobs.pipeline import STEPS, plan_steps, repair_pipeline, run_pipeline

from .waiting import wait_for
from .command import without_settings

KERNEL = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}


@pytest.fixture(autouse=True)
def outside(tmp_path, monkeypatch):
    "No project and no run around the tests."
    without_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execute, "package_hash", lambda: "as installed")   # whatever is edited meanwhile
    monkeypatch.setenv("MLW_RUN_WARM", "off")


def write(path, *sources, parameters=None, **mlw):
    cells = [nbformat.v4.new_code_cell(s) for s in sources]
    if parameters is not None: cells.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL | ({"mlw": mlw} if mlw else {})), path)
    return path


def needs(plan): return {s.name: [plan[i].name for i in s.needs] for s in plan}


def test_the_packages_jobs_need_what_they_are_told_and_acting_ones_everything():
    found = needs(plan_steps(STEPS, {}))
    assert (found["validate"], found["tune"], found["assess"], found["deploy"]) == (["ingest"], ["ingest"], ["tune"], ["ingest", "validate", "tune", "assess"])
    assert needs(plan_steps(["tune", "assess", "deploy"], {})) == {"tune": [], "assess": ["tune"], "deploy": ["tune", "assess"]}


def test_a_job_of_the_projects_own_needs_all_before_it_unless_it_says_otherwise(tmp_path):
    (tmp_path / "jobs").mkdir()
    settings = Settings(root=tmp_path)
    for name in ("tune", "extra"): write(tmp_path / "jobs" / f"{name}.ipynb", "1")
    steps = ["ingest", "extra", "validate", "tune", "assess"]
    assert needs(plan_steps(steps, {}, settings)) == {"ingest": [], "extra": ["ingest"], "validate": ["ingest", "extra"], "tune": ["ingest", "extra", "validate"], "assess": ["extra", "tune"]}   # tune of the project says nothing either
    write(tmp_path / "jobs" / "extra.ipynb", "1", needs=[])
    assert needs(plan_steps(steps, {}, settings))["extra"] == []


def test_after_a_failure_nothing_starts_and_what_runs_goes_on(tmp_path):
    write(tmp_path / "slow.ipynb", "import pathlib, time\npathlib.Path('slow').touch()\nwhile not pathlib.Path('go').exists(): time.sleep(0.05)", needs=[])
    write(tmp_path / "bad.ipynb", "import pathlib, time\nwhile not pathlib.Path('slow').exists(): time.sleep(0.05)\n1 / 0", needs=[])
    write(tmp_path / "free.ipynb", "1", needs=[])
    def let_go():
        wait_for(lambda: any(r["status"] == "failed" for r in Runs("store").list()))
        time.sleep(1)
        (tmp_path / "go").touch()
    thread = threading.Thread(target=let_go)
    thread.start()
    result = run_pipeline(["slow.ipynb", "bad.ipynb", "free.ipynb"], store="store", jobs=2)
    thread.join()
    assert [(r["job"], r["status"]) for r in result.rows] == [("slow", "succeeded"), ("bad", "failed"), ("free", "not run")]
    with pytest.raises(Exception, match="bad failed: ZeroDivisionError"): result.require()


def test_what_is_passed_on_is_the_same_side_by_side(tmp_path):
    opened = "from mlops_workbench.core.runs import job_run\nrun = job_run('x')\n"
    write(tmp_path / "a.ipynb", opened + "run.output('model', 'm', 'm@1')", needs=[])
    write(tmp_path / "b.ipynb", opened + "run.output('model', 'm', 'm@2')", needs=[])
    write(tmp_path / "c.ipynb", "1", parameters="model: str = ''\na_run: str = ''\nb: str = ''", needs=["a"])
    told = [run_pipeline(["a.ipynb", "b.ipynb", "c.ipynb"], store=f"store{n}", jobs=n).records[2]["parameters"] for n in (1, 3)]
    assert [t["model"] for t in told] == ["m@1"] * 2 and all(t["a_run"] and not t["b"] for t in told)   # b is not among what c needs


@pytest.fixture
def outer(tmp_path):
    "A pipeline of three jobs, the second of which waits until it may go."
    write(tmp_path / "one.ipynb", "1")
    write(tmp_path / "two.ipynb", "import pathlib, time\npathlib.Path('begun').touch()\nwhile not pathlib.Path('go').exists(): time.sleep(0.05)")
    write(tmp_path / "three.ipynb", "1")
    return write(tmp_path / "outer.ipynb", "from mlops_workbench.jobs.pipeline import run_pipeline", "result = run_pipeline(['one.ipynb', 'two.ipynb', 'three.ipynb'], force=True)", "result.require()", clock=True)


def steps_of(run): return [(r["job"], r["status"], r["run"]) for r in json.loads((Path("store") / "runs" / run / "steps.json").read_text())]


def test_a_pipeline_that_was_killed_is_repaired_and_what_was_done_stands(tmp_path, outer):
    runner = subprocess.Popen([sys.executable, "-c", "from mlops_workbench.jobs import execute\nexecute.package_hash = lambda: 'as installed'\nexecute.run_job('outer.ipynb', store='store')"])
    wait_for((tmp_path / "begun").exists)
    runner.kill()
    runner.wait()
    lost = Runs("store").get("outer")
    assert lost["reason"] == "lost" and [s for _, s, _ in steps_of(lost["id"])] == ["succeeded", "not run", "not run"]
    wait_for(lambda: Runs("store").get("two")["reason"] == "lost")   # it notices within a second or two
    (tmp_path / "go").touch()
    record = repair_pipeline(lost["id"], store="store")
    rows = steps_of(record["id"])
    assert record["status"] == "succeeded" and [s for _, s, _ in rows] == ["succeeded"] * 3
    assert rows[0] == steps_of(lost["id"])[0]                              # it was not run again
    assert len(Runs("store").list("one")) == 1 and Runs("store").get(rows[1][2])["parent"] == record["id"]
    with pytest.raises(InputError, match="succeeded"): repair_pipeline(record["id"], store="store")


def test_a_new_run_of_a_pipeline_lets_nothing_stand(tmp_path, outer):
    (tmp_path / "go").touch()
    write(tmp_path / "three.ipynb", "1 / 0")
    failed = run_job(outer, store="store")
    assert failed["message"].splitlines()[0] == "three failed: ZeroDivisionError: division by zero (cell 1)"
    assert [failed["message"].count(k) for k in ("where:", "remedy:")] == [1, 1]      # one place, one remedy
    write(tmp_path / "three.ipynb", "1")
    again = run_job(outer, store="store")
    assert again["status"] == "succeeded" and not {r for *_, r in steps_of(failed["id"])} & {r for *_, r in steps_of(again["id"])}
