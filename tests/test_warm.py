"""Warm runs: the same results as fresh ones, told truthfully, isolated from each other, and gone when something is off."""
import asyncio
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from mlops_workbench.core.runs import Runs
from mlops_workbench.jobs import resident, warm
from mlops_workbench.jobs.forked import Forked, ForkedKernelManager

pytestmark = pytest.mark.skipif(bool(warm.unsupported()), reason=warm.unsupported() or "-")
KERNEL = ["ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.debugger", "IPython.display"]
RUNNER = [m for m in resident.MODULES if m.split(".")[0] in ("nbformat", "nbclient", "jupyter_client", "mlops_workbench", "typer", "psutil", "rich")]
MLW = "from mlops_workbench.ui.entry import script; script()"


@contextmanager
def apart(**options):
    "A resident process in a folder of its own."
    before, place = os.environ.get("MLW_WARM_FOLDER"), tempfile.mkdtemp(prefix="mlw-w-", dir="/tmp")
    os.environ["MLW_WARM_FOLDER"] = place
    try: yield warm.start(**options)
    finally:
        warm.stop()
        os.environ.pop("MLW_WARM_FOLDER")
        if before: os.environ["MLW_WARM_FOLDER"] = before


@pytest.fixture(scope="module")
def small():
    "One that can do kernels and runs, with none of the large libraries."
    with apart(modules=KERNEL + RUNNER) as found: yield found


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch):
    for name in ("MLW_RUN_WARM", "MLW_RUN_ID", "MLW_ROOT", "MLW_STORE", "MLW_FOLDER", "PYTHONHASHSEED"): monkeypatch.delenv(name, raising=False)


def run_cells(*cells, env=None, cwd=None, **options):
    "What the cells showed (or how the kernel's process ended), and that process."
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    client = NotebookClient(nb, kernel_name="python3", timeout=120, iopub_timeout=60, kernel_manager_class=ForkedKernelManager)
    with client.setup_kernel(env=dict(os.environ) | (env or {}), **({"cwd": str(cwd)} if cwd else {}), **options):
        process, client.km.shutdown_wait_time = client.km.provisioner.process, 60   # how it ends is looked at, not how soon
        try:
            for index, cell in enumerate(nb.cells): client.execute_cell(cell, index)
        except Exception as e:
            if process.poll() is None and not re.search("[Dd]ied", str(e)): raise
            process.wait()
    shown = [[o.get("text") or o.get("data") or f"{o.ename}: {o.evalue}" for o in c.outputs] for c in nb.cells]
    return shown, process


def fresh(*cells, **options):
    "The same in a kernel that is started."
    os.environ["MLW_RUN_WARM"] = "false"
    try: shown, process = run_cells(*cells, **options)
    finally: del os.environ["MLW_RUN_WARM"]
    assert isinstance(process, subprocess.Popen)
    return shown


ABOUT = """
import gc, json, locale, os, resource, signal, sys, threading, time
def about():
    u = os.umask(0); os.umask(u)
    status = dict(l.split(":\\t", 1) for l in open("/proc/self/status").read().splitlines() if l.startswith(("Sig", "Shd", "Cap", "NoNew")) and "SigQ" not in l)
    return {"env": {k: v for k, v in os.environ.items() if k not in ("JPY_PARENT_PID", "MLW_RUN_WARM")}, "cwd": os.getcwd(), "path": sys.path, "argv": sys.argv[0], "flags": str(sys.flags), "name": __name__,
            "main": sorted(k for k in vars(sys.modules["__main__"]) if k.startswith("__")), "umask": u, "limits": [resource.getrlimit(i) for i in range(16)], "executable": sys.executable,
            "alone": os.getsid(0) == os.getpid() == os.getpgid(0), "parent": int(os.environ["JPY_PARENT_PID"]) == os.getppid(), "status": {k: v for k, v in status.items() if k != "SigCgt"},
            "streams": [(s.encoding, s.errors, s.line_buffering) for s in (sys.__stdin__, sys.__stdout__, sys.__stderr__)], "locale": locale.getlocale(), "threads": sorted(t.name.rstrip("0123456789-") for t in threading.enumerate()),
            "int": str(signal.getsignal(signal.SIGINT)), "gc": (gc.isenabled(), gc.get_threshold()), "recursion": sys.getrecursionlimit(), "zone": time.tzname, "stdin": os.read(0, 1).decode(), "xoptions": sys._xoptions,
            "handlers": [str(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD, signal.SIGUSR1)], "terminal": os.environ.get("TERM")}
print(json.dumps(about(), sort_keys=True, indent=0))
"""


def test_a_forked_kernel_finds_what_a_fresh_one_finds(small, tmp_path, monkeypatch):
    monkeypatch.setenv("MLW_X_SECRET", "ü\nß")
    old = os.umask(0o027)
    try:
        warmly, process = run_cells(ABOUT, cwd=tmp_path)
        freshly = fresh(ABOUT, cwd=tmp_path)
    finally: os.umask(old)
    assert isinstance(process, Forked)
    one, two = json.loads(warmly[0][0]), json.loads(freshly[0][0])
    for key in two: assert one[key] == two[key], key
    assert one["umask"] == 0o027 and one["cwd"] == str(tmp_path) and one["env"]["MLW_X_SECRET"] == "ü\nß" and one["parent"] and one["alone"]


def test_outputs_are_the_same(small, tmp_path):
    cells = ["1 + 1", "import sys; print('out'); print('err', file=sys.stderr)", "import os; os.system('echo from a child'); None", "1 / 0 if False else None", "from IPython.display import HTML; HTML('<b>x</b>')",
             "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()", "%pwd", "!echo shell", "import warnings; warnings.warn('careful')", "x = {'b': 1, 'a': [1, 2]}; x"]
    assert [[_plain(o) for o in shown] for shown in run_cells(*cells, cwd=tmp_path)[0]] == [[_plain(o) for o in shown] for shown in fresh(*cells, cwd=tmp_path)]


def _plain(shown):
    if not isinstance(shown, str): return {k: "picture" if k == "image/png" else v for k, v in shown.items()}
    return re.sub(r"ipykernel_\d+/\d+|0x[0-9a-f]+", "#", shown)


def _told(shown):
    "What was written, however it was cut into pieces, and what was shown."
    return "".join(_plain(o) for o in shown if isinstance(o, str)), [_plain(o) for o in shown if not isinstance(o, str)]


def test_runs_share_no_random_state_and_leak_nothing(small):
    look = "import random, uuid, tempfile, os; print(random.random(), uuid.uuid4(), tempfile.mkdtemp(), os.urandom(4), 'left' in globals(), 'json.left' in __import__('sys').modules, os.environ.get('LEFT'))"
    leave = "left = 1; import os, sys; os.environ['LEFT'] = '1'; sys.modules['json.left'] = sys; sys.path.append('/left'); os.chdir('/tmp'); import builtins; builtins.left = 1"
    one, two = run_cells(look, leave)[0][0][0], run_cells(look + "; print('/left' in sys.path if 'sys' in dir() else False)")[0][0][0]
    assert all(a != b for a, b in zip(one.split()[:3], two.split()[:3]))
    assert two.split()[-4:] == ["False", "False", "None", "False"]


USES = {
    "torch": "import torch; torch.set_num_threads(2); a = torch.ones(600, 600, requires_grad=True); (a @ a).sum().backward(); print(float(a.grad.sum()), torch.get_num_threads())",
    "polars": "import polars as pl; f = pl.DataFrame({'a': [1, 1, 2] * 50_000, 'b': range(150_000)}); print(f.lazy().group_by('a').agg(pl.col('b').sum()).sort('a').collect(engine='streaming').rows())",
    "deltalake": "import deltalake, pyarrow as pa, tempfile; d = tempfile.mkdtemp(); deltalake.write_deltalake(d, pa.table({'a': [1, 2]})); deltalake.write_deltalake(d, pa.table({'a': [3]}), mode='append'); "
                 "print(sorted(deltalake.DeltaTable(d).to_pyarrow_table()['a'].to_pylist()), deltalake.DeltaTable(d).version())",
    "lightgbm": "import lightgbm as lgb, numpy as np; r = np.random.default_rng(0); X = r.normal(size=(2000, 5)); m = lgb.train({'verbose': -1, 'num_threads': 2, 'deterministic': True}, lgb.Dataset(X, X[:, 0] > 0), 5); print(m.num_trees())",
    "shap": "import shap; print(np.round(shap.TreeExplainer(m).shap_values(X[:3]), 4).tolist())",     # of the trees above: no code is compiled
    "optuna": "import optuna; optuna.logging.set_verbosity(optuna.logging.ERROR); s = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0)); s.optimize(lambda t: t.suggest_float('x', 0, 1) ** 2, n_trials=15, n_jobs=2); print(len(s.trials))",
    "matplotlib": "import matplotlib.pyplot as plt; print(plt.get_backend()); plt.figure(figsize=(1, 1)); plt.plot([1, 2]);",
    "sklearn": "from sklearn.ensemble import RandomForestClassifier as R; from sklearn.datasets import load_iris; print(R(20, n_jobs=2, random_state=0).fit(*load_iris(return_X_y=True)).score(*load_iris(return_X_y=True)))",
    "numpy": "import numpy as np; a = np.ones((700, 700)); print((a @ a).sum(), np.linalg.svd(a[:80, :80])[1][0].round(6))",
    "pandas": "import pandas as pd; f = pd.DataFrame({'a': ['x', 'y'] * 1000, 'b': range(2000)}); print(f.groupby('a').b.sum().to_dict(), str(f.a.dtype)); f.head(2)",
    "onnxruntime": "import onnxruntime; print(onnxruntime.get_available_providers()[-1])",
    "fairlearn": "from fairlearn.metrics import MetricFrame, selection_rate; print(MetricFrame(metrics=selection_rate, y_true=[1, 0, 1, 0], y_pred=[1, 0, 1, 1], sensitive_features=list('aabb')).by_group.to_dict())",
    "processes": "import multiprocessing as mp; print(mp.get_context('fork').Pool(2).map(abs, [-1, -2]), mp.get_start_method())",
    "bars": "from tqdm.auto import tqdm; print(tqdm.__mro__[1].__module__); _ = list(tqdm(range(2), disable=True))",
    "widgets": "import ipywidgets; w = ipywidgets.IntSlider(3); print(w.value, bool(w.comm))",
}


def test_the_libraries_work_in_a_forked_kernel_and_answer_the_same():
    with apart() as found:
        assert {"torch", "shap", "lightgbm", "optuna", "pandas"} <= set(found["modules"]), found   # a library whose loading left a thread behind, as deltalake's may, is held out
        shown, process = run_cells(*USES.values(), "import numpy, torch, random; print(numpy.random.rand(), float(torch.rand(1)), torch.initial_seed(), random.random())")
        again, _ = run_cells("import numpy, torch, random; print(numpy.random.rand(), float(torch.rand(1)), torch.initial_seed(), random.random())")
        assert isinstance(process, Forked) and process.returncode == 0
        assert all(a != b for a, b in zip(shown[-1][0].split(), again[0][0].split()))    # no two runs draw the same numbers
        for name, one, two in zip(USES, shown, fresh(*USES.values())): assert _told(one) == _told(two), name


@pytest.mark.parametrize("code, status", [("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9), ("import os; os._exit(3)", 3), ("import ctypes; ctypes.string_at(0)", -11), ("import os; os.abort()", -6)])
def test_a_death_is_told_as_it_was(small, code, status):
    _, process = run_cells(code)
    assert isinstance(process, Forked) and process.returncode == status and process.wait() == status


def test_a_child_that_is_out_of_memory_ends_as_in_a_fresh_kernel(small):
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)); x = bytearray(1 << 31)"
    assert "MemoryError" in run_cells(f"try:\n    exec({code!r})\nexcept MemoryError: print('MemoryError')")[0][0][0]


def test_an_open_file_is_written_out_and_exit_handlers_run(small, tmp_path):
    run_cells("import atexit; f = open('a.txt', 'w'); f.write('kept'); atexit.register(lambda: open('b.txt', 'w').write('called')); import threading, time\n"
              "def late(): time.sleep(0.5); open('c.txt', 'w').write('waited')\nthreading.Thread(target=late).start()", cwd=tmp_path)
    assert [(tmp_path / f).read_text() for f in ("a.txt", "b.txt", "c.txt")] == ["kept", "called", "waited"]


# ---- when it is not used

@pytest.mark.parametrize("name, value", [("OMP_NUM_THREADS", "1"), ("PYTHONHASHSEED", "0"), ("PYTHONWARNINGS", "ignore"), ("LD_PRELOAD", ""), ("MATPLOTLIBRC", "/x")])
def test_another_environment_gets_a_fresh_kernel(small, name, value):
    value = value if os.environ.get(name) != value else value + "0"
    shown, process = run_cells(f"import os; print(os.environ[{name!r}])", env={name: value})
    assert isinstance(process, subprocess.Popen) and shown[0][0].strip() == value


def test_a_kernel_that_a_kernel_starts_is_forked_too(small):
    "As a pipeline starts those of its jobs: what ipykernel and polars set for themselves is no other environment."
    (said,), _ = run_cells("import json, os, polars; print(json.dumps(dict(os.environ)))")
    shown, process = run_cells("print(1)", env=json.loads(said[0]))
    assert isinstance(process, Forked) and shown == [["1\n"]]


def test_a_module_in_the_working_folder_comes_first(small, tmp_path):
    (tmp_path / "tornado.py").write_text("mine = 1")
    request = warm.surroundings(cwd=str(tmp_path)) | {"kind": "kernel"}
    line, answer = warm.ask(request)
    line.close()
    assert "tornado.py comes before" in answer["refused"]
    (tmp_path / "tornado.py").unlink()
    line, answer = warm.ask(request)
    line.close()
    assert answer == {"ready": True}


@pytest.mark.parametrize("what, value", [("priority", 7), ("processors", [0, 77]), ("control group", ["/x/memory.max 1"]), ("hard limits", {}), ("namespaces", []), ("user", [1])])
def test_another_place_is_refused(small, what, value):
    about = warm.surroundings()
    line, answer = warm.ask(about | {"kind": "kernel", "place": about["place"] | {what: value}})
    line.close()
    assert answer["refused"].startswith(what)


def test_another_protocol_is_refused_and_nonsense_harms_nobody(small):
    line, answer = warm.ask({"protocol": 0, "kind": "run"})
    assert "protocol" in answer["refused"]
    line.close()
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(warm.socket_path()))
        raw.sendall(b"\0\0\0\7garbage")
        assert raw.recv(4) == b""
    assert warm.status()["pid"] == small["pid"]


def test_nothing_listening_means_a_fresh_kernel_at_once(monkeypatch):
    monkeypatch.setenv("MLW_WARM_FOLDER", tempfile.mkdtemp(prefix="mlw-w-", dir="/tmp"))
    assert warm.status() == {"running": False, "why": "it was not started: `mlw warm start`"} and warm.stop() is False and warm.hand_over(["run"], "x:y") is None
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(warm.socket_path()))
    dead.close()                      # a socket whose process was killed
    assert warm.ask({"protocol": 1, "kind": "status"}) is None and isinstance(run_cells("1")[1], subprocess.Popen)


def test_only_its_owner_can_reach_it(small):
    assert warm.folder().stat().st_mode & 0o777 == 0o700 and warm.socket_path().stat().st_mode & 0o777 == 0o600
    if os.getuid() != 0: pytest.skip("needs root to become somebody else")
    code = f"import os, socket; os.setgroups([]); os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect({str(warm.socket_path())!r}); s.sendall(b'\\0\\0\\0\\2{{}}'); print(len(s.recv(4)))"
    closed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "PermissionError" in closed.stderr
    try:     # were the folder open, the process at the other end would still see who it is
        warm.folder().chmod(0o711)
        warm_socket = Path(os.environ["MLW_WARM_FOLDER"]) / closed.args[2].split("mlw-w-")[1].split("/")[1].split("'")[0]
        warm_socket.chmod(0o666)
        opened = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert opened.stdout.strip() == "0" or "ConnectionReset" in opened.stderr or "BrokenPipe" in opened.stderr
        with pytest.raises(Exception, match="open to others"): warm.folder()
    finally:
        os.chmod(os.environ["MLW_WARM_FOLDER"], 0o700)
        warm_socket.chmod(0o600)
    assert warm.status()["running"]


# ---- its life

def _until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end: time.sleep(0.02)
    return found


def test_a_changed_file_restarts_it(tmp_path, monkeypatch):
    (tmp_path / "helper_of_mine.py").write_text("answer = 1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    with apart(modules=[*KERNEL, "helper_of_mine"]) as found:
        ask = "import helper_of_mine; print(helper_of_mine.answer)"
        shown, process = run_cells(ask)
        assert shown[0][0] == "1\n" and isinstance(process, Forked)
        (tmp_path / "helper_of_mine.py").write_text("answer = 22")
        shown, process = run_cells(ask)
        assert shown[0][0] == "22\n" and isinstance(process, subprocess.Popen)      # right at once, warm again soon
        assert _until(lambda: warm.status().get("since", 0) > found["since"])
        shown, process = run_cells(ask)
        assert shown[0][0] == "22\n" and isinstance(process, Forked)


def test_a_module_that_makes_noise_or_threads_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "noisy_module.py").write_text("print('hello')")
    (tmp_path / "threaded_module.py").write_text("import threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()")
    (tmp_path / "opening_module.py").write_text("import tempfile; tempfile.mkdtemp()")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    with apart(modules=["noisy_module", "decimal", "threaded_module", "opening_module", "polars", "no_such_module"]) as found: assert found["modules"] == ["decimal"]


def test_it_ends_when_idle_and_is_started_once():
    with apart(modules=["decimal"], idle=1.0) as found:
        again = [warm.begin(modules=["decimal"]) for _ in range(3)]
        assert [a.wait(20) for a in again] == [0, 0, 0] and warm.status()["pid"] == found["pid"]
        assert _until(lambda: not warm.socket_path().exists()) and not warm.status()["running"]


def test_another_environment_at_start_replaces_it(monkeypatch):
    with apart(modules=["decimal"]) as found:
        monkeypatch.setenv("OMP_NUM_THREADS", "1" if os.environ.get("OMP_NUM_THREADS") != "1" else "2")
        assert warm.start(modules=["decimal"])["pid"] != found["pid"]


def test_kernels_outlive_the_resident_process():
    with apart(modules=KERNEL) as found:
        shown, process = run_cells("import os, signal, time", f"os.kill({found['pid']}, signal.SIGKILL); time.sleep(0.5); print('still here')", "import os; os._exit(5)")
        assert shown[1][0] == "still here\n" and process.returncode == 5 and isinstance(process, Forked)
        assert not warm.status()["running"]


def test_a_kernel_whose_watcher_is_killed_ends_and_says_so(small, tmp_path):
    with open(tmp_path / "log", "ab") as log: _, process = run_cells(f"import os, signal, time; os.getppid() == {os.getpid()} or os.kill(os.getppid(), signal.SIGKILL); time.sleep(30)", stdout=log, stderr=log)
    assert isinstance(process, Forked) and process.returncode == -9 and "how the kernel ended is not known" in (tmp_path / "log").read_text()


def test_twenty_kernels_at_once(small):
    async def one(number):
        manager = ForkedKernelManager(kernel_name="python3")
        await manager.start_kernel()
        process, client, said = manager.provisioner.process, manager.client(), []
        client.start_channels()
        await client.wait_for_ready(timeout=120)
        await client.execute_interactive(f"import random, os; print({number}, os.getpid(), random.random())", output_hook=lambda m: said.append(m["content"].get("text", "")), timeout=120)
        client.stop_channels()
        await manager.shutdown_kernel()
        return *"".join(said).split(), process.wait(), type(process)
    async def all_of_them(): return await asyncio.gather(*(one(n) for n in range(20)))
    found = asyncio.run(all_of_them())
    assert [int(f[0]) for f in found] == list(range(20)) and len({f[1] for f in found}) == len({f[2] for f in found}) == 20
    assert {f[3] for f in found} == {0}
    assert sum(f[4] is Forked for f in found) >= 15     # on a busy machine one may have waited too long, and is started the ordinary way


# ---- whole runs

@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "settings.ini").write_text("[project]\nname = w\n[run]\nretry_lost = 0\n[wandb]\nmode = disabled\n")
    def job(name, *cells):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("wait: float = 0.0  # seconds", metadata={"tags": ["parameters"]}), *(nbformat.v4.new_code_cell(c) for c in cells)])
        nb.metadata.kernelspec = {"name": "python3", "display_name": "python3", "language": "python"}
        nbformat.write(nb, tmp_path / "jobs" / f"{name}.ipynb")
    job.root = tmp_path
    monkeypatch.chdir(tmp_path)
    return job


def mlw(*args, **options):
    return subprocess.Popen([sys.executable, "-c", MLW, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ, **options)


def runner(project, job="j"):
    "The record of the run once its kernel works, and the process that runs it."
    assert _until(lambda: (project.root / "jobs" / "at").exists(), 60)
    return Runs(project.root / "store").latest(job, None)


def served(): return warm.status()["served"]


def test_a_run_is_handed_over_and_its_end_comes_back(small, project):
    project("j", "print('hello')", "import os; print(os.getcwd())")
    project("bad", "1 / 0")
    before = served()
    done = mlw("run", "j", "-p", "wait=1")
    said = done.communicate()[0]
    assert done.returncode == 0 and "j succeeded" in said, said
    record = Runs("store").latest("j")
    assert record["parameters"] == {"wait": 1.0} and record["pid"] != done.pid and served() > before + 2     # the run, its kernel
    assert "print('hello')" in (Path("store/runs") / record["id"] / "notebook.ipynb").read_text()
    assert [mlw("run", "bad").wait(), mlw("run", "nosuch").wait(), mlw("run", "j", "-p", "wate=1").wait()] == [1, 2, 2]


def test_signals_reach_the_run(small, project):
    project("j", "import pathlib, time; pathlib.Path('at').write_text('1'); time.sleep(60)")
    for number, status, state in ((signal.SIGINT, 130, "cancelled"), (signal.SIGTERM, 143, "preempted")):
        Path("jobs/at").unlink(missing_ok=True)
        run = mlw("run", "j", "--force")
        record = runner(project)
        assert record["pid"] != run.pid and record["status"] == "running"
        run.send_signal(number)
        assert run.wait(60) == status and Runs("store").latest("j", None)["status"] == state


def test_a_killed_representative_takes_the_run_with_it(small, project):
    project("j", "import pathlib, time, os; pathlib.Path('at').write_text(str(os.getpid())); time.sleep(60)")
    run = mlw("run", "j")
    record, kernel = runner(project), int(_until(lambda: Path("jobs/at").read_text()))
    run.kill()
    assert _until(lambda: not _alive(record["pid"])) and _until(lambda: not _alive(kernel))
    found = Runs("store").latest("j", None)
    assert (found["status"], found["reason"]) == ("failed", "lost")


def test_a_killed_runner_is_told_by_its_representative(small, project):
    project("j", "import pathlib, time, os; pathlib.Path('at').write_text(str(os.getpid())); time.sleep(60)")
    run = mlw("run", "j")
    os.kill(runner(project)["pid"], signal.SIGKILL)
    assert run.wait(60) == -signal.SIGKILL
    assert Runs("store").latest("j", None)["reason"] == "lost"


def test_a_run_outlives_the_resident_process(project):
    with apart(modules=KERNEL + RUNNER) as found:
        project("j", "import pathlib, time; pathlib.Path('at').write_text('1'); time.sleep(1.5); print('end')")
        run = mlw("run", "j")
        runner(project)
        os.kill(found["pid"], signal.SIGKILL)
        assert run.wait(60) == 0 and Runs("store").latest("j")["status"] == "succeeded"


def _alive(pid):
    with suppress(OSError): return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_the_terminal_is_handed_over(small):
    code = "import sys; from mlops_workbench.jobs.warm import hand_over; sys.exit(hand_over(['x'], 'tests.test_warm:on_a_terminal'))"
    main, end = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", code], stdin=end, stdout=end, stderr=end, cwd=Path(__file__).parents[1], start_new_session=True)
    os.close(end)
    said = b""
    while select.select([main], [], [], 30)[0]:
        try: part = os.read(main, 1000)
        except OSError: break
        said += part
        if not part: break
    assert child.wait(30) == 7 and b"True True True 0" in said, said


def on_a_terminal(args):
    print(sys.stdin.isatty(), sys.stdout.isatty(), sys.stdout.line_buffering or sys.stdout.write_through, os.get_terminal_size().columns)
    return 7


def test_a_fixed_set_of_answers_for_odd_ends(small):
    "sys.exit with a text, an exception, an interrupt: as Python itself would end."
    def end(entry, args):
        code = f"import sys; from mlops_workbench.jobs.warm import hand_over; sys.exit(hand_over({args!r}, {entry!r}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]
    assert end("sys:exit", ["bye"]) == (1, "['bye']")
    assert end("builtins:sum", ["a"])[0] == 1 and "TypeError" in end("builtins:sum", ["a"])[1]
    assert end("builtins:len", []) == (0, "") and end("signal:raise_signal", [])[0] == 1
