"JupyterLab's Notebook Jobs page, by the requests that it makes to a server that `mlw lab` started."
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from mlops_workbench.core.runs import Runs, project_store
from mlops_workbench.core.settings import read_settings
from mlops_workbench.jobs.page import ONLY_WHILE, give_id, lab_arguments, notebook_id, staged_job

pytest.importorskip("jupyter_scheduler")
pytest.importorskip("jupyterlab")


def notebook(*sources, parameters="", **about):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})] * bool(parameters) + [nbformat.v4.new_code_cell(s) for s in sources]
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}} | ({"mlw": about} if about else {}))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("lab") / "my 100% project"
    (root / "jobs").mkdir(parents=True)
    (root / "elsewhere").mkdir()
    (root / "settings.ini").write_text("[project]\nname = greetings\n[wandb]\nmode = disabled\n[run]\nbackoff = 0\nretry_lost = 0\n")
    write = lambda name, nb: nbformat.write(nb, root / name)
    write("jobs/hello.ipynb", notebook("print('hello ' * times)", parameters='times: int = 1   # how often\nnames: list[str] = []'))
    write("jobs/flaky.ipynb", notebook("from pathlib import Path\ntries = Path('tries')\nn = len(tries.read_text()) if tries.exists() else 0\ntries.write_text('x' * (n + 1))\nassert n, 'the first try fails'", id="flaky-1", retries={"code": 1}))
    write("jobs/slow.ipynb", notebook("print('it began', flush=True)", "import time\ntime.sleep(600)", id="slow-1"))
    write("jobs/late.ipynb", notebook("import time\ntime.sleep(600)", id="late-1", timeout=2))
    write("jobs/tick.ipynb", notebook("print('tick')", id="tick-1"))
    write("elsewhere/loose.ipynb", notebook("from pathlib import Path\nprint(Path('beside.txt').read_text())"))
    (root / "elsewhere" / "beside.txt").write_text("loose and beside")
    return root


def definition(notebook, **more): return {"input_uri": notebook, "runtime_environment_name": "mlw", "name": "on schedule", "output_formats": ["ipynb"], "timezone": "UTC"} | more


class Page:
    "What the page asks of the server."
    def __init__(self, port): self.base = f"http://127.0.0.1:{port}/"

    def ask(self, method, path, body=None):
        request = urllib.request.Request(self.base + path, method=method, data=None if body is None else json.dumps(body).encode(), headers={"Authorization": "token ours", "Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    def create(self, notebook, folder=False, **parameters):
        return self.ask("POST", "scheduler/jobs", {"package_input_folder": folder, "input_uri": notebook, "runtime_environment_name": "mlw", "name": "a job", "output_formats": ["ipynb", "html"], "parameters": parameters, "compute_type": ONLY_WHILE})["job_id"]

    def job(self, id): return self.ask("GET", f"scheduler/jobs/{id}")

    def until(self, id, *states):
        while (job := self.job(id))["status"] not in states and job["status"] not in ("COMPLETED", "FAILED", "STOPPED"): time.sleep(0.2)
        return job

    def ended(self, id): return self.until(id, "ended")


@pytest.fixture(scope="module")
def page(root, tmp_path_factory):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    home = tmp_path_factory.mktemp("home")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLW_", "JUPYTER"))} | {"HOME": str(home), "JUPYTER_DATA_DIR": str(home / "data"), "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "IPYTHONDIR": str(home / "ipython")}
    log = open(home / "log", "w+")
    server = subprocess.Popen([sys.executable, "-c", "import sys; from mlops_workbench.ui.cli import main; sys.exit(main())", "lab", "-C", str(root), "--no-browser", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=ours",
                               "--TaskRunner.poll_interval=1", *(["--allow-root"] if hasattr(os, "getuid") and not os.getuid() else [])], env=env, cwd=home, stdout=log, stderr=log, start_new_session=True)
    page = Page(port)
    try:
        while True:
            assert server.poll() is None, (home / "log").read_text()
            try:
                page.ask("GET", "scheduler/config")
                break
            except OSError: time.sleep(0.2)
        page.home = home
        page.tick = page.ask("POST", "scheduler/job_definitions", definition("jobs/tick.ipynb", schedule="* * * * *"))["job_definition_id"]   # due within the minute; the last test looks at it
        yield page
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try: server.wait(30)
        except subprocess.TimeoutExpired: os.killpg(server.pid, signal.SIGKILL)
        log.close()


def store_of(root): return project_store(root / "store", None)


def test_a_job_of_the_page_is_a_run_of_ours(page, root):
    id = page.create("jobs/hello.ipynb", times="3", names="a,b")
    job = page.ended(id)
    run = Runs(store_of(root)).latest("hello")
    assert job["status"] == "COMPLETED", job["status_message"]
    assert (run["status"], run["parameters"], run["notebook"]) == ("succeeded", {"times": 3, "names": ["a", "b"]}, str(root / "jobs" / "hello.ipynb"))
    assert job["tags"] == [f"run {run['id']}"] and job["status_message"] is None   # the page shows a message in red
    assert job["end_time"] >= job["start_time"]
    page.ask("GET", f"scheduler/jobs/{id}/download_files")
    while not (files := page.job(id))["downloaded"]: time.sleep(0.1)
    paths = {f["file_format"]: root / f["file_path"] for f in files["job_files"]}
    assert "hello hello hello" in paths["ipynb"].read_text() and run["id"] in paths["html"].read_text()
    assert all(p.is_relative_to(root / "notebook-jobs") for p in paths.values())
    assert not notebook_id(root / "jobs" / "hello.ipynb") and notebook_id(paths["input"]) == "jobs/hello.ipynb"   # the notebook itself is not touched


def test_a_wrong_parameter_is_told_on_the_page_before_a_kernel_starts(page, root):
    before = len(Runs(store_of(root)).list("hello"))
    wrong = [({"times": "often"}, "parameter 'times' is 'often', and should be a whole number"), ({"tims": "1"}, "did you mean 'times'?")]
    for id, says in [(page.create("jobs/hello.ipynb", **given), says) for given, says in wrong]:
        job = page.ended(id)
        assert job["status"] == "FAILED" and says in job["status_message"] and job["end_time"]
    assert len(Runs(store_of(root)).list("hello")) == before


def test_a_job_is_retried_as_its_notebook_says(page, root):
    job = page.ended(page.create("jobs/flaky.ipynb"))
    runs = Runs(store_of(root)).list("flaky")
    assert job["status"] == "COMPLETED", job["status_message"]
    assert [(r["status"], r["attempt"]) for r in runs] == [("succeeded", 2), ("failed", 1)] and runs[0]["id"] in job["tags"][0]


def test_a_job_is_ended_when_its_time_is_over(page, root):
    job = page.ended(page.create("jobs/late.ipynb"))
    assert job["status"] == "FAILED" and job["status_message"].startswith("failed (timeout)")
    assert Runs(store_of(root)).list("late")[0]["reason"] == "timeout"


def running(root, job):
    while not (found := [r for r in Runs(store_of(root)).list(job, "running") if "it began" in text(root, r)]): time.sleep(0.2)
    return found[0]


def text(root, run):
    place = root / "store" / "runs" / run["id"] / "notebook.ipynb"
    return place.read_text() if place.exists() else ""


def test_the_stop_button_cancels_the_run(page, root):
    id = page.create("jobs/slow.ipynb")
    run = running(root, "slow")
    page.ask("PATCH", f"scheduler/jobs/{id}", {"status": "STOPPED"})
    job = page.until(id, "STOPPED")
    run = Runs(store_of(root)).get(run["id"])
    assert (job["status"], run["status"]) == ("STOPPED", "cancelled") and run["id"] in job["status_message"] and "it began" in text(root, run)


def test_a_process_that_vanished_is_told(page, root):
    import psutil
    id = page.create("jobs/slow.ipynb")
    run = running(root, "slow")
    holder = json.loads((root / "store" / "runs" / run["id"] / "lease.json").read_text()) if (root / "store" / "runs" / run["id"] / "lease.json").exists() else run["lease"]
    psutil.Process(holder["pid"]).kill()
    job = page.until(id, "FAILED")
    assert job["status"] == "FAILED" and "its process vanished" in job["status_message"]


def test_a_notebook_outside_the_jobs_folder_is_run_beside_its_files(page, root):
    job = page.ended(page.create("elsewhere/loose.ipynb", folder=True))
    run = Runs(store_of(root)).latest("loose")
    assert job["status"] == "COMPLETED" and run["notebook"] == str(root / "elsewhere" / "loose.ipynb") and "loose and beside" in text(root, run)


def test_what_is_no_notebook_fails_with_our_message(page, root):
    (root / "elsewhere" / "broken.ipynb").write_text("{")
    job = page.ended(page.create("elsewhere/broken.ipynb"))
    assert job["status"] == "FAILED" and "broken.ipynb is not a notebook" in job["status_message"]


def test_a_schedule_makes_runs_of_the_project(page, root):
    "A job definition, fired by hand as the page's `Run now` does; it finds the notebook although that has a new name by then, and says that it changed."
    nbformat.write(notebook("print('one')", id="report-1"), root / "jobs" / "report.ipynb")
    made = page.ask("POST", "scheduler/job_definitions", definition("jobs/report.ipynb", schedule="0 4 * * *"))["job_definition_id"]
    nbformat.write(notebook("print('two')", id="report-1"), root / "jobs" / "renamed.ipynb")
    (root / "jobs" / "report.ipynb").unlink()
    job = page.ended(page.ask("POST", f"scheduler/job_definitions/{made}/jobs", {"parameters": {}})["job_id"])
    assert job["status"] == "COMPLETED" and "has changed since it was scheduled" in job["status_message"]
    assert "two" in text(root, Runs(store_of(root)).latest("renamed"))
    page.ask("DELETE", f"scheduler/job_definitions/{made}")


def test_the_page_says_that_it_fires_only_while_the_server_runs(page):
    environments = page.ask("GET", "scheduler/runtime_environments")
    assert [e["compute_types"] for e in environments] == [[ONLY_WHILE]] and "only while this JupyterLab runs" in ONLY_WHILE
    assert "`mlw schedule` is for unattended work" in (page.home / "log").read_text()
    features = page.ask("GET", "scheduler/config")["supported_features"]
    assert features["stop_job"] and not features["max_retries"]


def test_the_projects_files_stay_apart_from_git_and_from_other_projects(page, root):
    assert (root / "notebook-jobs" / ".gitignore").read_text() == "*\n" and (root / "notebook-jobs" / ".scheduler.sqlite").exists()
    assert not (page.home / "data" / "scheduler.sqlite").exists()


def test_a_schedule_fires_by_itself(page, root):
    while not (run := Runs(store_of(root)).latest("tick")): time.sleep(0.5)
    page.ask("DELETE", f"scheduler/job_definitions/{page.tick}")
    assert run["status"] == "succeeded" and "tick" in text(root, run) and run["notebook"] == str(root / "jobs" / "tick.ipynb")


@pytest.mark.parametrize(("status", "alive", "created", "becomes"), [("STOPPING", True, 0, "STOPPED"), ("STOPPING", False, 0, "STOPPED"), ("IN_PROGRESS", False, 0, "FAILED"), ("CREATED", False, 0, "FAILED"), ("IN_PROGRESS", True, 0, "IN_PROGRESS"),
                                                                      ("IN_PROGRESS", True, -3600, "FAILED"), ("COMPLETED", False, 0, "COMPLETED")])
def test_what_became_of_a_process_is_told_as_it_is(tmp_path, status, alive, created, becomes):
    "A process that is stopped in vain is killed; one that only has the number of a job of an hour ago is left alone."
    from jupyter_scheduler.orm import Job, create_tables

    from mlops_workbench.jobs.manager import WorkbenchEnvironments, WorkbenchScheduler
    url = f"sqlite:///{tmp_path}/jobs.sqlite"
    create_tables(url)
    scheduler, now = WorkbenchScheduler(str(tmp_path), WorkbenchEnvironments(), url), int(time.time() * 1000)
    process = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"])
    try:
        if not alive: (process.kill(), process.wait())
        with scheduler.db_session() as session:
            session.add(Job(job_id="a-job", name="x", runtime_environment_name="mlw", input_filename="x.ipynb", output_formats=[], status=status, pid=process.pid, create_time=now + created * 1000, update_time=now - 60_000))
            session.commit()
        assert str(scheduler.get_job("a-job").status) == becomes
        assert (process.poll() is None) == (alive and status != "STOPPING") or process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()


def test_without_a_project_nothing_is_configured(): assert lab_arguments(None) == []


def test_an_id_is_given_once_and_changes_nothing_else(tmp_path):
    path = tmp_path / "Monthly report.ipynb"
    nbformat.write(notebook("print('é')", parameters="n: int = 1", clock=True), path)
    before = nbformat.read(path, 4)
    given = give_id(path)
    after = nbformat.read(path, 4)
    assert give_id(path) == given and given.startswith("monthly-report-") and after.cells == before.cells and after.metadata.mlw == {"clock": True, "id": given}
    nbformat.validate(after)


def test_a_copy_is_found_by_its_id_then_by_its_path_then_by_its_name(tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "settings.ini").write_text("[project]\nname = p\n")
    settings = read_settings(tmp_path)
    put = lambda place, **about: (Path(place).parent.mkdir(exist_ok=True), nbformat.write(notebook("1", **about), place))[0] or Path(place)
    put(tmp_path / "jobs" / "a.ipynb", id="a-1")
    put(tmp_path / "jobs" / "b.ipynb")
    put(tmp_path / "more" / "c.ipynb")
    staged = lambda name, **about: (put(tmp_path / "staging" / name, **about), staged_job(tmp_path / "staging" / name, settings))[1]
    assert staged("old-name.ipynb", id="a-1") == tmp_path / "jobs" / "a.ipynb"
    assert staged("c.ipynb", id="more/c.ipynb") == tmp_path / "more" / "c.ipynb"
    assert staged("b.ipynb") == tmp_path / "jobs" / "b.ipynb"
    assert staged("b.ipynb", id="somebody-elses") == tmp_path / "staging" / "b.ipynb"
    assert staged("tune.ipynb") == tmp_path / "staging" / "tune.ipynb"   # not the package's job of that name
    put(tmp_path.parent / "outside.ipynb")
    assert staged("out.ipynb", id="../outside.ipynb") == tmp_path / "staging" / "out.ipynb"
