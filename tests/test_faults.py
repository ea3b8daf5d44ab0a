"Whatever goes wrong, the record says what happened, no output already made is lost, and the next try finishes."

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import psutil
import pytest

from mlops_workbench.core.errors import InputError
from mlops_workbench.core.runs import Runs, exit_status
from mlops_workbench.jobs import execute
from mlops_workbench.jobs.execute import recover, resume_run, run_job

from .waiting import wait_for
from .command import without_settings

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
KERNEL = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
RUNNER = """
import json, sys
{before}
from mlops_workbench.core.errors import WorkbenchError
from mlops_workbench.core.runs import exit_status
from mlops_workbench.jobs import execute
execute.package_hash = lambda: "as installed"   # whatever is edited meanwhile
try: record = {call}
except WorkbenchError as e: print(e); sys.exit(e.exit_status)
print(json.dumps(record))
sys.exit(exit_status(record))
"""
RUN, RESUME = "execute.run_job(sys.argv[1], store=sys.argv[2], retry=False)", "execute.resume_run(sys.argv[1], store=sys.argv[2])"


@pytest.fixture(autouse=True)
def outside(tmp_path, monkeypatch):
    "No project and no run around the tests, and a folder for temporary files of their own."
    without_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execute, "package_hash", lambda: "as installed")   # whatever is edited meanwhile
    monkeypatch.setenv("MLW_RUN_WARM", "off")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def write(path, *sources, parameters=None, metadata=None, **mlw):
    "A notebook of these code cells, with the metadata `mlw`."
    cells = [nbformat.v4.new_markdown_cell(s) if s.startswith("#") else nbformat.v4.new_code_cell(s) for s in sources]
    if parameters is not None: cells.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=(metadata or KERNEL) | ({"mlw": mlw} if mlw else {})), path)
    return path


def start(*args, call=RUN, before="", **options):
    "A runner in a process of its own."
    return subprocess.Popen([sys.executable, "-c", RUNNER.format(call=call, before=before), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def executed(store, record): return nbformat.read(Path(store) / "runs" / record["id"] / "notebook.ipynb", 4)


def states(nb): return [c.metadata.papermill.status for c in nb.cells]


def said(cell): return "".join(o.get("text", "") for o in cell.outputs)


@pytest.mark.parametrize("cell", [1, 2, 3])
def test_a_kernel_killed_in_any_cell_is_tried_again(tmp_path, cell):
    fault = "import os, pathlib\nif not pathlib.Path('again').exists():\n    pathlib.Path('again').touch()\n    print('about to die', flush=True)\n    import time; time.sleep(0.3)\n    os.kill(os.getpid(), 9)"
    job = write(tmp_path / "dies.ipynb", *(f"print('cell {i}', flush=True)\n" + (fault if i == cell else "") for i in (1, 2, 3)), backoff=0.1)
    record = run_job(job, store="store")
    first = Runs("store").get(record["resumes"])
    assert (first["status"], first["reason"]) in (("failed", "lost"), ("failed", "memory")) and f"(cell {cell})" in first["message"] and "SIGKILL" in first["message"]
    nb = executed("store", first)
    assert states(nb) == ["completed"] * (cell - 1) + ["failed"] + ["pending"] * (3 - cell)
    assert [said(c) for c in nb.cells[:cell]] == [f"cell {i}\n" for i in range(1, cell)] + [f"cell {cell}\nabout to die\n"]
    assert (record["status"], record["attempt"], record["first"]) == ("succeeded", 2, first["id"]) and record["because"] == "attempt 1 failed (lost)"


def test_after_the_retries_that_the_rules_allow_the_failure_stands(tmp_path):
    record = run_job(write(tmp_path / "dies.ipynb", "import os\nos.kill(os.getpid(), 9)", backoff=0.1, retries={"lost": 1}), store="store")
    assert [(r["attempt"], r["reason"], r["status"]) for r in Runs("store").list()] == [(2, "lost", "failed"), (1, "lost", "failed")]
    assert exit_status(record) == 6


@pytest.mark.parametrize("cell", [1, 2, 3])
def test_a_runner_killed_in_any_cell_loses_no_output_and_the_next_try_finishes(tmp_path, cell):
    fault = "import pathlib, time\nif not pathlib.Path('again').exists():\n    pathlib.Path('ready').touch()\n    time.sleep(600)"
    job = write(tmp_path / "long.ipynb", *(f"print('cell {i}', flush=True)\n" + (fault if i == cell else "") for i in (1, 2, 3)))
    runner = start(job, "store")
    wait_for((tmp_path / "ready").exists)
    notebook = lambda: executed("store", Runs("store").get("long"))
    wait_for(lambda: said(notebook().cells[cell - 1]))   # what a running cell puts out is saved while it runs
    runner.kill()
    runner.communicate()
    lost = Runs("store").get("long")
    assert (lost["status"], lost["reason"], exit_status(lost)) == ("failed", "lost", 6)
    assert [said(c) for c in notebook().cells[:cell]] == [f"cell {i}\n" for i in range(1, cell + 1)]
    assert states(notebook()) == ["completed"] * (cell - 1) + ["running"] + ["pending"] * (3 - cell)
    (tmp_path / "again").touch()
    record = resume_run(lost["id"], store="store")
    assert (record["status"], record["attempt"], record["resumes"], states(executed("store", record))) == ("succeeded", 2, lost["id"], ["completed"] * 3)


def test_of_a_killed_runner_the_record_says_which_section_it_was_at(tmp_path):
    job = write(tmp_path / "long.ipynb", "## Read", "print(1)", "## Fit", "import time\ntime.sleep(600)")
    runner = start(job, "store")
    at = lambda: (Runs("store").folder("long") / "progress.json")
    wait_for(lambda: Runs("store").list("long") and at().exists() and json.loads(at().read_text())["section"] == "Fit")
    runner.kill()
    runner.communicate()
    lost = Runs("store").get("long")
    assert [(s["title"], s["state"]) for s in lost["sections"]] == [("Read", "executed"), ("Fit", "failed")] and "vanished in section 'Fit'" in lost["message"]


@contextmanager
def small_disk(folder, size):
    "A file system of that size."
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True).returncode: pytest.skip("no file system can be mounted here")
    try: yield folder
    finally: subprocess.run(["umount", "-l", str(folder)])


FILLS = ("print('worth keeping')", "filler = open('disk/filler', 'wb', buffering=0)\ntry:\n    while True: filler.write(b'x' * 4096)\nexcept OSError as e: print(e.strerror)", "print('done')")


def test_a_full_disk_holds_the_end_back_until_there_is_space(tmp_path):
    with small_disk(tmp_path / "disk", "4m") as disk:
        store = disk / "store"
        runner = start(write(tmp_path / "fills.ipynb", *FILLS), store, before="import time")
        wait_for(lambda: (disk / "filler").exists() and psutil.disk_usage(str(disk)).free < 4096)
        time.sleep(3)   # the notebook ends, and its end cannot be written
        assert runner.poll() is None and Runs(store).get("fills")["status"] == "running"
        (disk / "filler").unlink()
        out, _ = runner.communicate()
        record = Runs(store).get("fills")
        assert (record["status"], runner.returncode) == ("succeeded", 0), out
        assert [said(c) for c in executed(store, record).cells] == ["worth keeping\n", "No space left on device\n", "done\n"]


def test_a_disk_that_stays_full_has_the_end_set_aside_for_the_next_run(tmp_path):
    with small_disk(tmp_path / "disk", "4m") as disk:
        store = disk / "store"
        runner = start(write(tmp_path / "fills.ipynb", *FILLS), store, call="[setattr(sys.modules['mlops_workbench.jobs.noting'], 'PATIENCE', 1.0), execute.run_job(sys.argv[1], store=sys.argv[2])][1]")
        out, _ = runner.communicate()
        assert runner.returncode == 2 and "cannot be written: cannot write" in out and "No space left" in out
        assert Runs(store).get("fills")["reason"] == "lost"   # all that can be known as yet
        (disk / "filler").unlink()
        write(tmp_path / "next.ipynb", "1")
        assert run_job("next.ipynb", store=store)["status"] == "succeeded"
        record = Runs(store).get("fills")
        assert (record["status"], [said(c) for c in executed(store, record).cells][-1]) == ("succeeded", "done\n")
        assert recover(Runs(store).store) == []


def test_memory_that_cannot_be_had_is_said_to_be_memory(tmp_path):
    job = write(tmp_path / "big.ipynb", "print('before')", "import resource, pathlib\nif not pathlib.Path('again').exists():\n    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n    data = bytearray(8 << 30)")
    record = run_job(job, store="store")
    assert (record["status"], record["reason"], record["error"], exit_status(record)) == ("failed", "memory", "MemoryError", 4)
    assert said(executed("store", record).cells[0]) == "before\n"
    (tmp_path / "again").touch()
    assert run_job(job, store="store")["status"] == "succeeded"


@contextmanager
def control_group(limit):
    "A control group whose processes may use that much memory."
    own = {line.split(":")[1]: line.split(":", 2)[2].strip("/") for line in Path("/proc/self/cgroup").read_text().splitlines()} if Path("/proc/self/cgroup").exists() else {}
    old = Path("/sys/fs/cgroup/memory")
    group = (old / own["memory"] if "memory" in own else Path("/sys/fs/cgroup") / own.get("", "")) / f"mlw-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if "memory" in own else "memory.max")).write_text(str(limit))
        if "memory" not in own: (group / "memory.swap.max").write_text("0")
    except OSError as e:
        with suppress(OSError): group.rmdir()
        pytest.skip(f"no control group can be made here: {e}")
    try: yield group
    finally:
        with suppress(OSError): group.rmdir()


def test_a_kernel_killed_by_the_control_groups_limit_is_said_to_be_memory(tmp_path):
    job = write(tmp_path / "big.ipynb", "print('before')", "import pathlib\nkept = [] if pathlib.Path('again').exists() else [bytearray(b'x' * (64 << 20)) for _ in range(40)]")
    with control_group(600 << 20) as group:
        runner = start(job, "store", preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
        out, _ = runner.communicate()
    record = Runs("store").get("big")
    assert (record["reason"], runner.returncode, record["error"]) == ("memory", 4, "MemoryExceeded"), out
    assert "memory ran out" in record["message"] and said(executed("store", record).cells[0]) == "before\n"
    (tmp_path / "again").touch()
    assert run_job(job, store="store")["status"] == "succeeded"


def test_a_cell_that_sleeps_past_its_timeout_is_ended_and_tidies_up(tmp_path):
    source = "import pathlib, time\ntry: time.sleep(0 if pathlib.Path('again').exists() else 600)\nfinally: pathlib.Path('again').touch(); print('tidied')"
    job = write(tmp_path / "slow.ipynb", "import time\ntime.sleep(0.2)", source, "print('after')", cell_timeout=2, retries={"timeout": 1}, backoff=0)
    record = run_job(job, store="store")
    first = Runs("store").get(record["resumes"])
    assert (first["status"], first["reason"], first["message"], exit_status(first)) == ("failed", "timeout", "cell 2 took longer than 2 seconds (cell 2)", 5)
    assert states(executed("store", first)) == ["completed", "failed", "pending"] and "tidied" in said(executed("store", first).cells[1])
    assert record["status"] == "succeeded"


def test_a_cell_that_leaves_by_sys_exit(tmp_path):
    left = run_job(write(tmp_path / "three.ipynb", "import sys\nprint('before')", "sys.exit(3)", "print('never')"), store="store")
    assert (left["status"], left["reason"], left["message"]) == ("failed", "code", "the cell ended the job by sys.exit(3) (cell 2)")
    assert states(executed("store", left)) == ["completed", "failed", "pending"]
    well = run_job(write(tmp_path / "zero.ipynb", "import sys", "sys.exit(0)", "print('never')"), store="store")
    assert (well["status"], states(executed("store", well))[2]) == ("succeeded", "pending") and "1 cells after it did not run" in well["warnings"][0]


def test_two_runners_cannot_both_resume_a_run(tmp_path):
    job = write(tmp_path / "long.ipynb", "import pathlib, time\nassert pathlib.Path('again').exists(), 'not yet'\npathlib.Path(f'begun-{time.time()}').touch()\ntime.sleep(3)")
    first = run_job(job, store="store")
    (tmp_path / "again").touch()
    both = [start(first["id"], "store", call=RESUME) for _ in range(2)]
    outs = [r.communicate()[0] for r in both]
    assert sorted(r.returncode for r in both) == [0, 2], outs
    assert [(r["status"], r["attempt"]) for r in Runs("store").list()] == [("succeeded", 2), ("failed", 1)]
    assert len(list(tmp_path.glob("begun-*"))) == 1
    with pytest.raises(InputError, match="was resumed by"): resume_run(first["id"], store="store")


BACK = """
import datetime as d, os, time
now, stamp = time.time, d.datetime
shift = lambda: {seconds} if os.path.exists('shifted') else 0
time.time = lambda: now() + shift()
class Clock(stamp):
    @classmethod
    def now(cls, tz=None): return stamp.fromtimestamp(now() + shift(), tz)
d.datetime = Clock
"""


@pytest.mark.parametrize("seconds", [-7200, 7200])
def test_a_clock_that_is_set_while_a_run_goes_on_changes_nothing_but_its_dates(tmp_path, seconds):
    before, look = BACK.format(seconds=seconds), "[setattr(sys.modules['mlops_workbench.core.runs'], 'HEARTBEAT', 0.2), execute.Runs(sys.argv[2]).get(sys.argv[1])][1] | {'error': 'none'}"
    job = write(tmp_path / "long.ipynb", "import pathlib, time\npathlib.Path('ready').touch()\nwhile not pathlib.Path('go').exists(): time.sleep(0.05)")
    runner = start(job, "store", before=before)
    wait_for((tmp_path / "ready").exists)
    (tmp_path / "shifted").touch()
    seen = json.loads(start("long", "store", call=look, before=before).communicate()[0])   # a reader with the other clock
    assert (seen["status"], Runs("store").get("long")["status"]) == ("running", "running")
    (tmp_path / "go").touch()
    out, _ = runner.communicate()
    record = json.loads(out)
    assert (record["status"], runner.returncode) == ("succeeded", 0) and 0 <= record["seconds"] < 600
    (tmp_path / "shifted").unlink() if seconds > 0 else None   # back to where it was: the new run is dated before the last
    write(job, "2")
    later = json.loads(start(job, "store", before=before).communicate()[0])
    assert Runs("store").latest("long")["id"] == later["id"] != record["id"]


TINY = {"kernelspec": {"name": "tiny", "display_name": "tiny", "language": "python"}}


def tiny(folder, monkeypatch, first=""):
    "Installs a kernel that does as little as a kernel can, and this before it."
    spec = folder / "jupyter" / "kernels" / "tiny"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": [sys.executable, "-S", "-c", f"import sys; sys.path += {sys.path!r}; sys.argv = ['', sys.argv[1]]\n{first}\nexec(open({str(HERE / 'tiny_kernel.py')!r}).read())", "{connection_file}"],
                                                  "display_name": "tiny", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))


@pytest.mark.parametrize("deaths, status", [(2, "succeeded"), (9, "failed")])
def test_a_kernel_whose_port_another_took_is_started_again(tmp_path, monkeypatch, deaths, status):
    mark = tmp_path / "starts"
    tiny(tmp_path, monkeypatch, f"open({str(mark)!r}, 'a').write('x')\nif len(open({str(mark)!r}).read()) <= {deaths}: sys.exit(1)")
    record = run_job(write(tmp_path / "one.ipynb", "print(1)", metadata=TINY), store="store", retry=False)
    assert (record["status"], len(mark.read_text())) == (status, 3), record["message"]
    assert status == "succeeded" or "the kernel 'tiny' did not start" in record["message"]


def test_fifty_jobs_at_once_on_one_store(tmp_path, monkeypatch):
    tiny(tmp_path, monkeypatch)
    write(tmp_path / "many.ipynb", "print(n * n)", parameters="n: int = 0", metadata=TINY)
    call = "(ts := [threading.Thread(target=execute.run_job, args=('many.ipynb', {'n': i}), kwargs={'store': 'store', 'progress': lambda *a: None}) for i in numbers]) and [t.start() for t in ts] and [t.join() for t in ts] and {'status': 'succeeded'}"
    runners = [start(i, call=call, before=f"import threading\nnumbers = range({10 * i}, {10 * i + 10})") for i in range(5)]
    outs = [r.communicate()[0] for r in runners]
    assert [r.returncode for r in runners] == [0] * 5, outs
    found = Runs("store").list()
    assert sorted(r["parameters"]["n"] for r in found) == list(range(50)) and {(r["status"], r["message"]) for r in found} == {("succeeded", None)}
    for r in found: assert said(executed("store", r).cells[-1]) == f"{r['parameters']['n'] ** 2}\n"


def test_a_signal_during_the_pause_before_a_further_attempt_cancels_that(tmp_path):
    runner = start(write(tmp_path / "dies.ipynb", "import os\nos.kill(os.getpid(), 9)", backoff=600), "store", call=RUN.replace(", retry=False", ""))
    wait_for(lambda: any(r["status"] == "queued" and r["attempt"] == 2 for r in Runs("store").list()))
    time.sleep(0.5)
    runner.terminate()
    out, _ = runner.communicate()
    assert runner.returncode == 143, out
    assert [(r["status"], r["attempt"]) for r in Runs("store").list()] == [("preempted", 2), ("failed", 1)]


def test_a_run_that_finds_another_still_going_follows_the_policy(tmp_path):
    source = "import pathlib, time\npathlib.Path(f'begun-{n}').touch()\nwhile not pathlib.Path(f'go-{n}').exists(): time.sleep(0.05)"
    job = write(tmp_path / "one.ipynb", source, parameters="n: int = 0")
    call = "execute.run_job(sys.argv[1], {'n': int(sys.argv[3])}, store=sys.argv[2], overlap=sys.argv[4] if len(sys.argv) > 4 else None)"
    first = start(job, "store", 1, call=call)
    wait_for((tmp_path / "begun-1").exists)
    skipped = run_job(job, {"n": 9}, store="store", overlap="skip")
    assert (skipped["skipped"], skipped["status"], skipped["parameters"]) == (True, "running", {"n": 1}) and "is still going" in skipped["overlap"]
    second = start(job, "store", 2, "queue", call=call)
    wait_for(lambda: any(r["status"] == "queued" for r in Runs("store").list()))
    time.sleep(1.5)
    assert not (tmp_path / "begun-2").exists()
    for n in (1, 2): (tmp_path / f"go-{n}").touch()
    ended = [json.loads(r.communicate()[0]) for r in (first, second)]
    assert [r["status"] for r in ended] == ["succeeded"] * 2 and ended[0]["ended"] <= ended[1]["started"]


def test_a_run_that_replaces_another_waits_for_its_end(tmp_path):
    source = "import pathlib, time\npathlib.Path(f'begun-{n}').touch()\nif n == 1: time.sleep(600)"
    job = write(tmp_path / "one.ipynb", source, parameters="n: int = 0")
    first = start(job, "store", call="execute.run_job(sys.argv[1], {'n': 1}, store=sys.argv[2])")
    wait_for((tmp_path / "begun-1").exists)
    record = run_job(job, {"n": 2}, store="store", overlap="replace")
    replaced = json.loads(first.communicate()[0])
    assert (replaced["status"], record["status"]) == ("cancelled", "succeeded") and replaced["ended"] <= record["started"]


def test_signals_stop_every_run_of_a_process(tmp_path):
    write(tmp_path / "one.ipynb", "import pathlib, time\npathlib.Path('one').touch()\ntime.sleep(600)", needs=[])
    write(tmp_path / "two.ipynb", "import pathlib, time\npathlib.Path('two').touch()\ntime.sleep(600)", needs=[])
    call = "(found := __import__('mlops_workbench.jobs.pipeline', fromlist=['x']).run_pipeline(['one.ipynb', 'two.ipynb', 'one.ipynb'], store=sys.argv[1], jobs=2)) and found.records[0]"
    runner = start("store", call=call)
    wait_for(lambda: (tmp_path / "one").exists() and (tmp_path / "two").exists())
    runner.terminate()
    out, _ = runner.communicate()
    assert runner.returncode == 143, out
    assert [(r["status"], r["reason"]) for r in Runs("store").list()] == [("preempted", None)] * 2


def test_progress_is_there_to_be_seen_while_a_cell_runs(tmp_path):
    job = write(tmp_path / "long.ipynb", "# Long", "## First", "1", "## Second", "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.05)")
    found = []
    thread = threading.Thread(target=lambda: found.append(run_job(job, store="store", progress=lambda *a: None)))
    thread.start()
    folder = wait_for(lambda: next(iter(Path("store/runs").glob("*/progress.json")), None)).parent
    wait_for(lambda: json.loads((folder / "progress.json").read_text())["section"] == "Second")
    parts = json.loads((folder / "run.json").read_text())["sections"]
    (tmp_path / "go").touch()
    thread.join()
    assert [(p["title"], p["state"]) for p in parts][:2] == [("Long", "executed"), ("First", "executed")]
    assert [(p["title"], p["state"]) for p in found[0]["sections"]] == [("Long", "executed"), ("First", "executed"), ("Second", "executed")]
    assert all(p["seconds"] >= 0 and p["cost"] is None for p in found[0]["sections"]) and found[0]["cost"]["cpu_seconds"] > 0


def papermill(*args): return subprocess.Popen([sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--engine", "mlw", "--no-progress-bar", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_papermill_with_this_engine_saves_its_output_as_it_grows(tmp_path):
    write(tmp_path / "in.ipynb", "print('made')", "print('half', flush=True)\nimport time; time.sleep(600)", "print('never')")
    runner = papermill()
    out = lambda: nbformat.read(tmp_path / "out.ipynb", 4)
    wait_for(lambda: (tmp_path / "out.ipynb").exists() and len(out().cells[1].outputs))
    runner.kill()
    runner.communicate()
    assert [said(c) for c in out().cells] == ["made\n", "half\n", ""] and states(out()) == ["completed", "running", "pending"]
    assert Runs("store").get("in")["reason"] == "lost"


def test_papermill_with_this_engine_marks_no_cell_that_never_ran(tmp_path):
    write(tmp_path / "in.ipynb", "print('made')", "import time; time.sleep(600)", "print('never')", retries={"timeout": 0})
    runner = papermill("--execution-timeout", "2")
    runner.communicate()
    nb = nbformat.read(tmp_path / "out.ipynb", 4)
    nb.cells = [c for c in nb.cells if "papermill" in c.metadata]   # papermill puts notes of its own between
    assert runner.returncode != 0 and states(nb) == ["completed", "failed", "pending"]
    assert (Runs("store").get("in")["reason"], nb.metadata.papermill.exception) == ("timeout", True)


def test_a_machine_that_gives_ten_seconds_finds_the_state_set(tmp_path):
    source = "import pathlib, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('deaf', flush=True)\npathlib.Path('ready').touch()\ntime.sleep(600)"
    runner = start(write(tmp_path / "deaf.ipynb", source), "store")
    wait_for((tmp_path / "ready").exists)
    time.sleep(0.3)
    runner.terminate()
    with suppress(subprocess.TimeoutExpired): runner.communicate(timeout=10)
    runner.kill()
    record = Runs("store").get("deaf")
    assert (record["status"], record["reason"]) == ("preempted", None) and said(executed("store", record).cells[0]) == "deaf\n"
