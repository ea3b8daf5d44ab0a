"What a record says about its run, whoever was killed, interrupted or out of time."

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from mlops_workbench.core.runs import Run, Runs, exit_status
from mlops_workbench.core.store import open_store
from mlops_workbench.jobs.execute import run_job
from mlops_workbench.jobs.pipeline import run_pipeline

from .waiting import wait_for
from .command import without_settings

RUNNER = """
import json, sys
from mlops_workbench.core.runs import exit_status
from mlops_workbench.jobs import execute
execute.package_hash = lambda: "as installed"   # whatever is edited meanwhile
record = execute.run_job(sys.argv[1], sys.argv[3:], store=sys.argv[2])
print(json.dumps(record))
sys.exit(exit_status(record))
"""


@pytest.fixture(autouse=True)
def outside(tmp_path, monkeypatch):
    "No project and no run around the tests."
    without_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlops_workbench.jobs.execute.package_hash", lambda: "as installed")   # whatever is edited meanwhile


def write(path, *sources, parameters=None):
    "A notebook of these code cells."
    cells = [nbformat.v4.new_code_cell(s) for s in sources]
    if parameters is not None: cells.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}), path)
    return path


def start(notebook, store, *given):
    "A runner in a process of its own."
    return subprocess.Popen([sys.executable, "-c", RUNNER, str(notebook), str(store), *given], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def states(store, record):
    "What the executed notebook says of its cells."
    return [c.metadata.papermill.status for c in nbformat.read(Path(store) / "runs" / record["id"] / "notebook.ipynb", 4).cells]


SLEEPER = ("import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\npathlib.Path('ready').touch()", "time.sleep(600)", "print('never')")


def test_kill_9_reads_lost_at_once_ends_the_kernel_and_can_be_run_again(tmp_path):
    job, store = write(tmp_path / "long.ipynb", "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))",
                       "time.sleep(600 if not pathlib.Path('again').exists() else 0)", parameters="n: int = 1"), tmp_path / "store"
    runner = start(job, store)
    kernel = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    assert Runs(store).get("long")["status"] == "running"
    runner.kill()
    time.sleep(0.2)   # the runner is not even collected by its parent
    record = Runs(store).get("long")
    assert (record["status"], record["reason"], exit_status(record)) == ("failed", "lost", 6)
    wait_for(lambda: not psutil.pid_exists(kernel) or psutil.Process(kernel).status() == psutil.STATUS_ZOMBIE)
    runner.communicate()
    (tmp_path / "again").touch()
    again = run_job(job, store=store)
    assert again["status"] == "succeeded"
    assert (again["attempt"], again["resumes"]) == (2, record["id"]), [(k, again[k], record[k]) for k in ("code_hash", "package_hash", "settings_hash")]
    assert Runs(store).sweep() == [record["id"]]


@pytest.mark.parametrize("delay", [0.02, 0.1, 0.3, 0.6, 0.9, 1.3, 1.8])
def test_killed_at_any_moment_no_run_claims_to_be_running(tmp_path, delay):
    job, store = write(tmp_path / "job.ipynb", "import time", "time.sleep(600)"), tmp_path / "store"
    runner = start(job, store)
    time.sleep(delay)
    runner.kill()
    runner.communicate()
    assert all((r["status"], r["reason"]) == ("failed", "lost") for r in Runs(store).list())
    write(tmp_path / "job.ipynb", "1 + 1")
    assert run_job(job, store=store)["status"] == "succeeded"


@pytest.mark.parametrize(("number", "status", "code"), [(signal.SIGINT, "cancelled", 130), (signal.SIGTERM, "preempted", 143)])
def test_signals_end_the_cell_save_the_notebook_and_set_the_status(tmp_path, number, status, code):
    job, store = write(tmp_path / "sleeper.ipynb", *SLEEPER), tmp_path / "store"
    runner = start(job, store)
    wait_for((tmp_path / "ready").exists)
    time.sleep(0.3)
    runner.send_signal(number)
    out, err = runner.communicate(timeout=60)
    record = json.loads(out)
    assert (record["status"], record["reason"], runner.returncode, err) == (status, None, code, "")
    assert states(store, record)[1:] == ["failed", "pending"]
    cell = nbformat.read(store / "runs" / record["id"] / "notebook.ipynb", 4).cells[1]
    assert cell.outputs[-1].ename == "KeyboardInterrupt"
    assert Runs(store).get(record["id"])["status"] == status


def test_a_signal_before_the_kernel_runs_leaves_no_running_record(tmp_path):
    job, store = write(tmp_path / "sleeper.ipynb", *SLEEPER), tmp_path / "store"
    runner = start(job, store)
    wait_for(lambda: Runs(store).list())
    runner.send_signal(signal.SIGTERM)
    runner.communicate(timeout=60)
    assert {r["status"] for r in Runs(store).list()} <= {"preempted", "failed"}   # failed, lost: the signal came before its handler


def test_a_kernel_that_ignores_the_interrupt_is_killed(tmp_path):
    source = "import pathlib, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\npathlib.Path('ready').touch()\ntime.sleep(600)"
    job, store = write(tmp_path / "deaf.ipynb", source), tmp_path / "store"
    runner = start(job, store)
    wait_for((tmp_path / "ready").exists)
    runner.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    runner.send_signal(signal.SIGTERM)   # the second one does not wait for the grace to pass
    record = json.loads(runner.communicate(timeout=60)[0])
    assert (record["status"], states(store, record)) == ("preempted", ["failed"])


@pytest.mark.parametrize(("death", "reason", "said"), [
    ("os._exit(7)", "code", "exit status 7"), ("os.kill(os.getpid(), 9)", "lost", "unknown"), ("os.kill(os.getpid(), 11)", "code", "SIGSEGV")])
def test_a_dead_kernel_is_told_as_it_was(tmp_path, death, reason, said):
    job, store = write(tmp_path / "dies.ipynb", "import os", death, "print('never')"), tmp_path / "store"
    record = run_job(job, store=store)
    assert (record["status"], record["reason"]) == ("failed", reason)
    assert said in record["message"] and "cell 2" in record["message"]
    assert states(store, record) == ["completed", "failed", "pending"]
    assert nbformat.read(store / "runs" / record["id"] / "notebook.ipynb", 4).metadata.papermill.exception is True


def test_memory_is_the_reason_when_the_kernel_of_the_machine_counted_a_kill(tmp_path, monkeypatch):
    from mlops_workbench.jobs import engine
    counts = itertools.count()
    for name in ("oom_kills", "counted"): monkeypatch.setattr(engine, name, lambda of: {"memory.events": next(counts)})
    record = run_job(write(tmp_path / "dies.ipynb", "import os\nos.kill(os.getpid(), 9)"), store=tmp_path / "store")
    assert (record["reason"], exit_status(record)) == ("memory", 4)
    raised = run_job(write(tmp_path / "raises.ipynb", "raise MemoryError('no room')"), store=tmp_path / "store")
    assert (raised["reason"], exit_status(raised)) == ("memory", 4)


def test_a_deadline_is_a_timeout(tmp_path):
    record = run_job(write(tmp_path / "long.ipynb", "import time", "time.sleep(600)"), store=tmp_path / "store", timeout=4)
    assert (record["reason"], exit_status(record), states(tmp_path / "store", record)[-1]) == ("timeout", 5, "failed")


def test_errors_keep_their_reason_and_exit_status(tmp_path):
    store = tmp_path / "store"
    for name, reason, status in (("ContractError", "data", 3), ("InputError", "data", 2), ("ParameterError", "data", 2), ("NotFoundError", "data", 2), ("SettingsError", "code", 2), ("GateError", "data", 3)):
        job = write(tmp_path / f"{name}.ipynb", f"from mlops_workbench.core.errors import {name}\nraise {name}('it was wrong', where='here', remedy='mend it')")
        record = run_job(job, store=store)
        assert (record["reason"], exit_status(record), record["error"]) == (reason, status, name)
        assert record["message"].startswith("it was wrong\n  where: here")


def test_a_lease_of_another_machine_is_lost_only_when_it_is_old(tmp_path):
    store = open_store(tmp_path)
    run = Run.create(store, "far")
    run.start()
    lease = store.read_json(f"runs/{run.id}/lease.json") | {"machine": "elsewhere", "pid": 999_999_999}
    store.write_json(f"runs/{run.id}/lease.json", lease)
    assert Runs(store).get(run.id)["status"] == "running"
    store.write_json(f"runs/{run.id}/lease.json", lease | {"time": time.time() - 46})
    assert Runs(store).get(run.id)["reason"] == "lost"


def test_a_runner_whose_lease_was_taken_stops_and_overwrites_nothing(tmp_path, monkeypatch):
    from mlops_workbench.core import runs as module
    from mlops_workbench.core.errors import LostRun
    monkeypatch.setattr(module, "HEARTBEAT", 0.2)
    job = write(tmp_path / "robbed.ipynb", "import os, json, pathlib, time\nlease = pathlib.Path(os.environ['MLW_FOLDER']) / 'lease.json'\n"
                "lease.write_text(json.dumps({'owner': 'swept', 'time': 0}))", "time.sleep(600)")
    with pytest.raises(LostRun): run_job(job, store=tmp_path / "store")
    record = Runs(tmp_path / "store").get("robbed")
    assert (record["status"], record["reason"]) == ("failed", "lost")


def test_a_full_disk_or_unwritable_store_is_refused_before_anything_runs(tmp_path):
    from mlops_workbench.core.errors import StoreError
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError): run_job(write(tmp_path / "job.ipynb", "1"), store=tmp_path / "file")


def test_a_pipeline_and_its_jobs_end_with_the_same_word(tmp_path):
    write(tmp_path / "sleeper.ipynb", *SLEEPER)
    outer = write(tmp_path / "outer.ipynb", "from mlops_workbench.jobs.pipeline import run_pipeline", "result = run_pipeline(['sleeper.ipynb', 'sleeper.ipynb'])", "result.require()")
    runner = start(outer, tmp_path / "store")
    wait_for((tmp_path / "ready").exists)
    time.sleep(0.3)
    runner.send_signal(signal.SIGTERM)
    record = json.loads(runner.communicate(timeout=90)[0])
    inner = Runs(tmp_path / "store").get("sleeper")
    assert (record["status"], inner["status"], inner["parent"]) == ("preempted", "preempted", record["id"])


def test_kill_9_of_a_pipeline_loses_all_of_it(tmp_path):
    write(tmp_path / "sleeper.ipynb", *SLEEPER)
    runner = start(write(tmp_path / "outer.ipynb", "from mlops_workbench.jobs.pipeline import run_pipeline\nrun_pipeline(['sleeper.ipynb'])"), tmp_path / "store")
    kernel = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    runner.kill()
    runner.communicate()
    wait_for(lambda: not psutil.pid_exists(kernel) or psutil.Process(kernel).status() == psutil.STATUS_ZOMBIE)
    assert {(r["job"], r["reason"]) for r in Runs(tmp_path / "store").list()} == {("outer", "lost"), ("sleeper", "lost")}


def run_plainly(path):
    "Run a notebook as JupyterLab or nbval would, without the engine."
    from nbclient import NotebookClient
    nb = nbformat.read(path, 4)
    NotebookClient(nb, allow_errors=True, resources={"metadata": {"path": str(path.parent)}}).execute()
    return nb


def test_without_the_engine_a_notebook_keeps_a_record_of_its_own(tmp_path):
    opened = "from mlops_workbench.core.runs import job_run\nrun = job_run('alone', {'n': 1})\nrun.metric('rows', 3)"
    run_plainly(write(tmp_path / "good.ipynb", opened))
    record = Runs(tmp_path / "store").get("alone")
    assert (record["status"], record["metrics"], record["parameters"]) == ("succeeded", {"rows": 3}, {"n": 1})
    run_plainly(write(tmp_path / "bad.ipynb", opened, "from mlops_workbench.core.errors import GateError\nraise GateError('held back')"))
    record = Runs(tmp_path / "store").get("alone")
    assert (record["status"], record["reason"], record["error"]) == ("failed", "data", "GateError")


def test_papermills_own_command_leaves_a_true_record(tmp_path):
    write(tmp_path / "in.ipynb", "print(n)", "import os\nos._exit(3)", "print('never')", parameters="n = 1")
    done = subprocess.run([sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--engine", "mlw", "-p", "n", "5"], capture_output=True, text=True)
    assert done.returncode != 0
    out = nbformat.read(tmp_path / "out.ipynb", 4)
    assert [c.metadata.papermill.status for c in out.cells][-2:] == ["failed", "pending"] and out.metadata.papermill.exception is True
    record = Runs(tmp_path / "store").get("in")
    assert (record["status"], record["parameters"]) == ("failed", {"n": 5})


def test_an_interrupted_pipeline_leaves_what_was_done(tmp_path):
    write(tmp_path / "one.ipynb", "1")
    write(tmp_path / "two.ipynb", "1 / 0")
    result = run_pipeline(["one.ipynb", "two.ipynb", "one.ipynb"], store=tmp_path / "store")
    assert [r["status"] for r in result.rows] == ["succeeded", "failed", "not run"]
    again = run_pipeline(["one.ipynb"], store=tmp_path / "store")
    assert again.rows[0]["skipped"] == "unchanged"
