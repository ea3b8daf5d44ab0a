"""The command line from the user's side: what is printed, where, and with which exit status."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from urllib.request import Request, urlopen

import polars as pl
import pytest

from mlops_workbench.core.runs import Run, Runs
from mlops_workbench.core.store import open_store
from mlops_workbench.ui.cli import main

HEAVY = ["torch", "shap", "wandb", "pandas", "polars", "optuna", "matplotlib", "papermill", "sklearn", "numpy", "pyarrow", "deltalake", "onnxruntime"]
MLW = [sys.executable, "-c", "from mlops_workbench.ui.entry import end; from mlops_workbench.ui.cli import main; end(main())"]
ENV = {k: v for k, v in os.environ.items() if not k.startswith("MLW_")} | {"MLW_WANDB_MODE": "disabled"}


def mlw(*args, cwd, **env):
    "The command in this process, which has its libraries loaded already: what it prints, and its exit status."
    before, place, out, err = dict(os.environ), os.getcwd(), io.StringIO(), io.StringIO()
    try:
        os.chdir(cwd)
        for name in [n for n in os.environ if n.startswith("MLW_")]: del os.environ[name]
        os.environ.update({k: v for k, v in (ENV | env).items() if k.startswith("MLW_")})
        with redirect_stdout(out), redirect_stderr(err): status = main([str(a) for a in args])
    finally:
        os.chdir(place)
        for name in set(os.environ) - set(before): del os.environ[name]
        os.environ.update(before)
    return subprocess.CompletedProcess(args, status, out.getvalue(), err.getvalue())


def mlw_process(*args, cwd):
    "The same in a process of its own."
    return subprocess.run([*MLW, *map(str, args)], cwd=cwd, env=ENV, capture_output=True, text=True)


def is_one_block(stderr, *parts):
    "One readable block on standard error: no traceback, and these words in it."
    assert "Traceback" not in stderr and len(re.findall(r"^error: ", stderr, re.MULTILINE)) == 1 and stderr.startswith("error: "), stderr
    for part in parts: assert part in stderr, stderr


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    "A CSV file of 60 loans."
    path = tmp_path_factory.mktemp("data") / "loans.csv"
    pl.DataFrame({"key": [f"k{i}" for i in range(60)], "income": [(i * 37) % 61 + 20.5 for i in range(60)], "sex": ["f", "m", "m"] * 20,
                  "paid": ["yes", "yes", "no", "no"] * 15, "same": [1] * 60}).write_csv(path)
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory, table):
    "A project of that table."
    folder = tmp_path_factory.mktemp("projects") / "lending"
    done = mlw("new", folder, "--data", table, "--target", "paid", "--sensitive", "sex", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("code", ["import mlops_workbench", "from mlops_workbench.ui.cli import main; main(['--help'])", "from mlops_workbench.ui.cli import main; main(['run', '--help'])",
                                  "from mlops_workbench.ui.cli import main; main(['run', 'tune', '--help'])", "from mlops_workbench.ui.cli import main; main(['jobs'])", "from mlops_workbench.ui.cli import main; main(['schedule', '--help'])"])
def test_nothing_heavy_is_imported(code, tmp_path):
    done = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; print('LOADED', *sys.modules)"], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.partition("LOADED")[2].split())
    assert "mlops_workbench" in loaded and not loaded & set(HEAVY)


def test_help_names_every_command(tmp_path):
    done = mlw("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in "demo new run jobs runs show cancel resume repair replay diff data models promote rollback score serve assess lab schedule warm sync".split(): assert re.search(rf"^\W*{command}\s", done.stdout, re.MULTILINE), command


def test_no_arguments_show_help_and_version_is_said(tmp_path):
    assert "Usage" in mlw_process(cwd=tmp_path).stdout and "Usage" in mlw(cwd=tmp_path).stdout
    assert re.fullmatch(r"mlw \d+\.\d+\.\d+\S*\n", mlw("--version", cwd=tmp_path).stdout)


@pytest.mark.parametrize("args, words", [
    (["runz"], ["runz"]), (["runs", "--jsn"], ["--jsn"]), (["score", "x.csv"], ["--out"]), (["runs", "--limit", "many"], ["--limit"]),
    (["promote"], ["model"]), (["run"], ["which job", "mlw jobs"]), (["run", "tune", "--overlap", "skp"], ["did you mean 'skip'"]), (["warm", "begin"], ["'begin'"]), (["schedule", "tune"], ["--cron"]), (["run", "tune", "--timeout", "-1"], ["--timeout"]),
    (["run", "tune", "--jobs", "2"], ["--jobs", "no pipeline"]), (["diff", "a"], ["after"]), (["new", "x"], ["--data"]), (["runs", "-C", "nowhere"], ["nowhere"])])
def test_wrong_use_ends_with_2_and_one_block(args, words, tmp_path):
    done = mlw(*args, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    is_one_block(done.stderr, *words)


@pytest.mark.parametrize("args", [["runs"], ["models"], ["data"], ["show", "tune"], ["score", "x.csv", "-o", "y.csv"], ["resume", "tune"], ["repair", "pipeline"], ["replay", "tune"], ["diff", "a", "b"], ["sync"], ["schedule", "tune", "--cron", "@daily", "--to", "cron"]])
def test_outside_a_project_it_is_said(args, tmp_path):
    done = mlw(*args, cwd=tmp_path)
    assert done.returncode == 2
    is_one_block(done.stderr, "mlw new")
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback_wherever_it_stands(tmp_path):
    for args in (["--debug", "runs"], ["runs", "--debug"]):
        done = mlw(*args, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" in done.stderr and "error: " in done.stderr


def test_a_reader_that_goes_away_is_no_error(project):
    done = subprocess.run(f"{shlex.join(MLW)} --help | true", shell=True, cwd=project, env=ENV, capture_output=True, text=True)
    assert done.stderr == ""


# new


def test_new_makes_a_whole_project(project):
    from mlops_workbench.core.settings import read_settings
    settings = read_settings(project)
    assert (settings.project.name, settings.task.target, settings.task.framing, settings.task.positive, settings.task.sensitive) == ("lending", "paid", "binary", "yes", ["sex"])
    assert settings.gates == {"skill": "skill >= 0, block", "fairness_sex": "selection_rate_ratio(sex) >= 0.8, warn"}
    assert Path(settings.source).name == "loans.csv" and Path(settings.source).is_absolute()
    assert {p.name for p in project.iterdir()} == {"settings.ini", "jobs", "README.md", ".gitignore"}
    assert {"ingest.ipynb", "tune.ipynb", "pipeline.ipynb"} <= {p.name for p in (project / "jobs").iterdir()}


def bad_tables(folder):
    "Files that cannot be a project's table, with the target asked for and the words expected."
    rows = [f"{i},{i % 2},x" for i in range(40)]
    texts = {"empty.csv": ("", "y", ["empty"]), "header.csv": ("a,y,z\n", "y", ["no row"]), "ragged.csv": ("\n".join(["a,y,z", *rows, "1,2"]), "y", ["42"]),
             "twice.csv": ("\n".join(["a,y,a", *rows]), "y", ["'a'"]), "target.csv": ("\n".join(["a,y,z", *rows]), "yy", ["did you mean 'y'"]),
             "constant.csv": ("\n".join(["a,y,z", *rows]), "z", ["constant"]), "unique.csv": ("\n".join(["a,y,z", *rows]), "a", ["unique per row"])}
    for name, (text, target, words) in texts.items():
        (folder / name).write_text(text)
        yield name, target, words


def test_new_refuses_what_cannot_work_and_leaves_nothing(tmp_path):
    for name, target, words in list(bad_tables(tmp_path)):
        done = mlw("new", "made", "--data", name, "--target", target, cwd=tmp_path)
        assert done.returncode == 2, (name, done.stdout, done.stderr)
        is_one_block(done.stderr, *words)
    before = sorted(p.name for p in tmp_path.iterdir())
    done = mlw("new", "made", "--data", "target.csv", "--target", "y", "--sensitive", "zz", cwd=tmp_path)
    assert done.returncode == 2
    is_one_block(done.stderr, "'zz'")
    assert mlw("new", "made", "--data", "absent.csv", "--target", "y", cwd=tmp_path).returncode == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_new_refuses_a_place_that_is_taken(project, table):
    before = (project / "settings.ini").read_text()
    done = mlw("new", project, "--data", table, "--target", "paid", cwd=project.parent)
    assert done.returncode == 2 and (project / "settings.ini").read_text() == before
    is_one_block(done.stderr, "not an empty folder")


def test_new_fills_an_empty_folder_in_which_one_stands(tmp_path, table):
    folder = tmp_path / "mine"
    folder.mkdir()
    done = mlw("new", ".", "--data", table, "--target", "income", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "settings.ini").exists() and [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert "framing = regression" in (folder / "settings.ini").read_text()


# looking


def test_json_is_json_and_nothing_else(project):
    for args in (["runs"], ["models"], ["data"], ["jobs"]): assert isinstance(json.loads(mlw(*args, "--json", cwd=project).stdout), list), args


def test_versions_of_a_dataset_by_hand(project, table):
    added = mlw("data", "--add", table, "--name", "byhand", "--message", "one", cwd=project)
    assert added.returncode == 0 and "byhand@1" in added.stdout, added.stderr
    frame = pl.read_csv(table)
    frame.head(50).with_columns(pl.col("income") * 2).write_csv(project / "less.csv")
    assert "byhand@2" in mlw("data", "--add", "less.csv", "--name", "byhand", cwd=project).stdout
    assert [r["dataset"] for r in json.loads(mlw("data", "byhand", "--json", cwd=project).stdout)] == ["byhand@1", "byhand@2"]
    changed = mlw("data", "byhand@1", "byhand@2", cwd=project).stdout
    assert "60 rows became 50" in changed and "income" in changed
    assert "income" in mlw("data", "byhand@1", cwd=project).stdout
    done = mlw("data", "byhand@7", cwd=project)
    assert done.returncode == 2
    is_one_block(done.stderr, "byhand@7", "1, 2")
    assert mlw("data", "byhnd", cwd=project).returncode == 2


def test_unknown_names_are_answered_with_known_ones(project):
    for args, words in ((["show", "nothing"], ["nothing"]), (["models", "nothing"], ["nothing"]), (["promote", "nothing@1"], ["nothing"]), (["rollback", "nothing"], ["nothing"]),
                        (["runs", "--status", "succeded"], ["did you mean 'succeeded'"]), (["score", "x.csv", "--out", "y.csv"], ["mlw run pipeline"]),
                        (["promote", "loans"], ["names no version"])):
        done = mlw(*args, cwd=project)
        assert done.returncode == 2, (args, done.stdout, done.stderr)
        is_one_block(done.stderr, *words)


# running


@pytest.fixture(scope="module")
def notebook(project):
    "A job notebook of the project's own, which ends as it is told."
    cells = [("how: str = 'well'   # well, code, data, user, memory\nwait: float = 0.0   # seconds", ["parameters"]),
             ("import time\nfrom mlops_workbench.core import errors\ntime.sleep(wait)", []),
             ("if how == 'code': 1 / 0\nif how == 'data': raise errors.ContractError('3 rows break it')\nif how == 'user': raise errors.InputError('no such column')\n"
              "if how == 'memory': raise MemoryError('too much')", [])]
    nb = {"nbformat": 4, "nbformat_minor": 4, "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}},
          "cells": [{"cell_type": "code", "source": s, "metadata": {"tags": t}, "outputs": [], "execution_count": None} for s, t in cells]}
    (project / "jobs" / "ending.ipynb").write_text(json.dumps(nb))
    return project


@pytest.mark.parametrize("how, status", [("well", 0), ("code", 1), ("user", 2), ("data", 3), ("memory", 4)])
def test_the_exit_status_says_how_a_run_ended(how, status, notebook):
    done = mlw("run", "ending", "-p", f"how={how}", cwd=notebook)
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    record = json.loads(mlw("show", "ending", "--json", cwd=notebook).stdout)
    assert (record["parameters"]["how"], record["status"]) == (how, "succeeded" if status == 0 else "failed")


def test_a_run_out_of_time_ends_with_5(notebook):
    assert mlw("run", "ending", "-p", "wait=60", "--timeout", "3", cwd=notebook).returncode == 5


def test_a_run_that_nothing_has_changed_for_is_not_run_again(notebook):
    args = ["run", "ending", "-p", "wait=0.01"]
    assert mlw(*args, cwd=notebook).returncode == 0
    count = len(json.loads(mlw("runs", "--job", "ending", "--limit", "0", "--json", cwd=notebook).stdout))
    again = mlw(*args, cwd=notebook)
    assert again.returncode == 0 and "unchanged" in again.stdout
    assert mlw(*args, "--force", cwd=notebook).returncode == 0
    assert len(json.loads(mlw("runs", "--job", "ending", "--limit", "0", "--json", cwd=notebook).stdout)) == count + 1


def test_a_wrong_job_or_parameter_stops_before_anything_runs(notebook):
    before = mlw("runs", "--json", "--limit", "0", cwd=notebook).stdout
    for args, words in ((["run", "endng"], ["did you mean 'ending'"]), (["run", "ending", "-p", "hwo=well"], ["did you mean 'how'"]), (["run", "ending", "-p", "wait=long"], ["'wait'"]),
                        (["run", "ending", "-p", "how"], ["name=value"]), (["run", "absent.ipynb"], ["absent.ipynb"])):
        done = mlw(*args, cwd=notebook)
        assert done.returncode == 2, (args, done.stdout, done.stderr)
        is_one_block(done.stderr, *words)
    assert mlw("runs", "--json", "--limit", "0", cwd=notebook).stdout == before


def test_jobs_are_listed_with_their_parameters(notebook):
    jobs = {j["job"]: j for j in json.loads(mlw("jobs", "--json", cwd=notebook).stdout)}
    assert [p["name"] for p in jobs["ending"]["parameters"]] == ["how", "wait"] and "pipeline" in jobs
    shown = mlw("jobs", cwd=notebook).stdout
    assert "ending" in shown and "wait" in shown


def test_a_notebook_outside_of_any_project(notebook, tmp_path):
    done = mlw("run", notebook / "jobs" / "ending.ipynb", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(mlw("runs", "--json", cwd=tmp_path).stdout)) == 1


def test_tables_fit_the_terminal(notebook):
    pty = pytest.importorskip("pty")
    mlw("run", "ending", cwd=notebook)
    leader, follower = pty.openpty()
    done = subprocess.Popen([*MLW, "runs"], cwd=notebook, env=ENV | {"COLUMNS": "60", "TERM": "xterm"}, stdout=follower, stderr=subprocess.PIPE)
    os.close(follower)
    text = b""
    while True:
        try: part = os.read(leader, 65536)
        except OSError: break
        if not part: break
        text += part
    assert done.wait() == 0
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in text.decode().splitlines()]
    assert lines and max(map(len, lines)) <= 60


# help, files of parameters


def test_help_for_a_job_is_made_from_its_notebook(notebook, tmp_path):
    for job, cwd in (("ending", notebook), (notebook / "jobs" / "ending.ipynb", tmp_path)):
        for args in (["run", job, "--help"], ["run", "-h", job], ["run", job, "-p", "how=x", "--help"]):
            done = mlw(*args, cwd=cwd)
            assert done.returncode == 0 and done.stderr == ""
            for part in ("how: str = 'well'", "well, code, data, user, memory", "wait: float = 0.0", "seconds", "--params", "--force"): assert part in done.stdout, done.stdout
    assert "validates" in mlw("run", "--help", cwd=tmp_path).stdout or "Run a job" in mlw("run", "--help", cwd=tmp_path).stdout
    assert not (tmp_path / "store").exists()


def test_help_for_a_pipeline_tells_its_steps(tmp_path):
    said = mlw("run", "pipeline", "--help", cwd=tmp_path).stdout
    assert "Steps" in said and re.search(r"^  ingest +A table", said, re.MULTILINE) and "steps: list[str]" in said
    assert "none: no cell" in mlw("run", plain(tmp_path / "bare.ipynb", "1"), "--help", cwd=tmp_path).stdout


def test_help_for_what_is_no_job_is_an_error(notebook, tmp_path):
    (tmp_path / "bad.ipynb").write_text("{}")
    for job, words in (("endng", ["did you mean 'ending'"]), (tmp_path / "bad.ipynb", ["not a notebook"]), (tmp_path / "absent.ipynb", ["absent.ipynb"])):
        done = mlw("run", job, "--help", cwd=notebook)
        assert done.returncode == 2 and done.stdout == ""
        is_one_block(done.stderr, *words)


def plain(path, *sources, parameters=None, metadata=None):
    "A notebook of these code cells; a text that begins with # is prose."
    cells = [{"cell_type": "markdown", "source": x, "metadata": {}} if x.startswith("# ") or x.startswith("## ") else
             {"cell_type": "code", "source": x, "metadata": {"tags": ["parameters"]} if x == parameters else {}, "outputs": [], "execution_count": None} for x in ([parameters] if parameters else []) + list(sources)]
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}} | ({"mlw": metadata} if metadata else {}), "cells": cells}))
    return path


def test_a_file_of_parameters_and_the_command_line_wins(tmp_path):
    job = plain(tmp_path / "add.ipynb", "print(n, name, since)", parameters="from datetime import date\nn: int = 1\nname: str = ''\nsince: date = date(2026, 1, 1)")
    (tmp_path / "night.yaml").write_text("n: 3\nname: 1.10\nsince: 2026-02-01\n")
    assert mlw("run", job, "--params", "night.yaml", "-p", "n=4", cwd=tmp_path).returncode == 0
    record = json.loads(mlw("show", "add", "--json", cwd=tmp_path).stdout)
    assert record["parameters"] == {"n": 4, "name": "1.10", "since": "2026-02-01"}
    assert "unchanged" in mlw("run", job, "-p", "n=4", "-p", "name=1.10", "-p", "since=2026-02-01", cwd=tmp_path).stdout
    count = len(list((tmp_path / "store" / "runs").iterdir()))
    for text, words in (("m: 3", ["unknown parameter 'm' (line 1)", "night.yaml", "parameters: n, name, since"]), ("n: x", ["'n' is 'x'", "(line 1)"]), ("n: 1\nn: 2", ["twice"]), ("- n", ["no names"])):
        (tmp_path / "night.yaml").write_text(text)
        done = mlw("run", job, "--params", "night.yaml", cwd=tmp_path)
        assert done.returncode == 2
        is_one_block(done.stderr, *words)
    is_one_block(mlw("run", job, "--params", "absent.yaml", cwd=tmp_path).stderr, "absent.yaml")
    assert len(list((tmp_path / "store" / "runs").iterdir())) == count


# under way


@pytest.fixture
def going(tmp_path):
    "A store with a run that is under way in this process."
    run = Run.create(open_store(tmp_path / "store"), "slow", {"n": 1})
    run.start()
    run.store.write_json(f"runs/{run.id}/progress.json", {"done": 9, "total": 20, "section": "Search", "time": time.time()})
    yield run
    run.finish("succeeded")


def test_runs_jobs_and_show_tell_how_far_a_run_is(going, tmp_path):
    plain(tmp_path / "slow.ipynb", "1", parameters="n: int = 1")
    (tmp_path / "settings.ini").write_text("[project]\nname = mine\njobs = .\n")
    line = next(x for x in mlw("runs", cwd=tmp_path).stdout.splitlines() if going.id in x)
    assert "running" in line and "45%, Search" in line
    assert json.loads(mlw("runs", "--json", cwd=tmp_path).stdout)[0]["progress"]["share"] == 0.45
    assert re.search(rf"running for \d+ s, 45%, Search: {going.id}", mlw("jobs", cwd=tmp_path).stdout)
    assert [r["run"] for j in json.loads(mlw("jobs", "--json", cwd=tmp_path).stdout) for r in j["running"]] == [going.id]
    shown = mlw("show", "slow", cwd=tmp_path).stdout
    assert "progress 45%, Search" in shown and re.search(r"seconds  \d", shown)
    going.store.write_bytes(f"runs/{going.id}/progress.json", b"{ half")
    assert mlw("runs", cwd=tmp_path).returncode == 0 == mlw("jobs", cwd=tmp_path).returncode


def test_a_run_that_finds_an_earlier_one_going_says_so_and_is_no_failure(going, tmp_path):
    done = mlw("run", plain(tmp_path / "slow.ipynb", "1", parameters="n: int = 1"), "-p", "n=2", "--overlap", "skip", cwd=tmp_path)
    assert done.returncode == 0 and "slow is still running, so nothing was started" in done.stdout and going.id in done.stdout
    assert len(Runs(tmp_path / "store").list("slow")) == 1


def test_cancel_asks_a_run_to_end_wherever_it_was_started(tmp_path):
    plain(tmp_path / "slow.ipynb", "import time\ntime.sleep(60)")
    run = subprocess.Popen([*MLW, "run", "slow.ipynb"], cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, text=True)
    while not (found := Runs(tmp_path / "store").list("slow")) or found[0]["status"] != "running" or not list((tmp_path / "store" / "runs" / found[0]["id"]).glob("notebook.ipynb")): time.sleep(0.1)
    asked = mlw("cancel", "slow", cwd=tmp_path)
    assert asked.returncode == 0 and f"mlw resume {found[0]['id']}" in asked.stdout
    said, _ = run.communicate()
    assert run.returncode == 130 and "slow cancelled" in said
    again = mlw("cancel", "slow", cwd=tmp_path)
    assert again.returncode == 2
    is_one_block(again.stderr, "has ended")


def test_one_broken_notebook_does_not_hide_the_other_jobs(tmp_path):
    (tmp_path / "settings.ini").write_text("[project]\nname = mine\njobs = .\n")
    plain(tmp_path / "good.ipynb", "# Good\n\n> Does it.", "1")
    (tmp_path / "bad.ipynb").write_text("{}")
    done = mlw("jobs", cwd=tmp_path)
    assert done.returncode == 0 and "good: Does it." in done.stdout and "bad: cannot be run: bad.ipynb is not a notebook" in done.stdout


# again


def test_resume_goes_on_with_the_failed_run_and_the_record_shows_both(tmp_path):
    job = plain(tmp_path / "two.ipynb", "# Two", "## Data", "total = sum(range(10))", "## Work", "from pathlib import Path\nassert Path('go').exists(), 'not yet'\nprint(total + n)", parameters="n: int = 1")
    failed = mlw("run", job, "-p", "n=2", cwd=tmp_path)
    assert failed.returncode == 1 and "not yet" in failed.stdout
    (tmp_path / "go").write_text("")
    done = mlw("resume", "two", cwd=tmp_path)
    assert done.returncode == 0 and "attempt 2" in done.stdout, done.stdout + done.stderr
    records = Runs(tmp_path / "store").list("two")
    assert [(r["status"], r["attempt"], r["parameters"]) for r in records] == [("succeeded", 2, {"n": 2}), ("failed", 1, {"n": 2})] and records[0]["resumes"] == records[1]["id"]
    shown = mlw("show", records[1]["id"], cwd=tmp_path).stdout
    assert records[0]["id"] in shown and "attempt" in shown and "this one" in shown
    sections = mlw("show", "two", cwd=tmp_path).stdout.partition("section")[2]
    assert "Data" in sections and "Work" in sections and "executed" in sections
    again = mlw("resume", "two", cwd=tmp_path)
    assert again.returncode == 2
    is_one_block(again.stderr, "succeeded", "--force")


def test_retries_are_attempts_and_can_be_switched_off(tmp_path):
    job = plain(tmp_path / "fails.ipynb", "1 / 0", metadata={"retries": {"code": 1}, "backoff": 0.1})
    assert mlw("run", job, "--no-retry", cwd=tmp_path).returncode == 1 and len(Runs(tmp_path / "store").list("fails")) == 1
    done = mlw("run", job, "--force", cwd=tmp_path)
    assert done.returncode == 1 and "attempt 2" in done.stdout, done.stdout
    assert [r["attempt"] for r in Runs(tmp_path / "store").list("fails")][:2] == [2, 1]
    shown = mlw("show", "fails", cwd=tmp_path).stdout
    assert re.search(r"1 +20\S+-fails-\S+ +failed \(code\)", shown) and re.search(r"2 +20\S+-fails-\S+ +failed \(code\) .*this one", shown), shown


def test_repair_runs_only_what_failed(tmp_path):
    (tmp_path / "settings.ini").write_text("[project]\nname = mine\njobs = .\n")
    plain(tmp_path / "first.ipynb", "1")
    plain(tmp_path / "second.ipynb", "from pathlib import Path\nassert Path('go').exists()")
    failed = mlw("run", "pipeline", "-p", "steps=first,second", cwd=tmp_path)
    assert failed.returncode == 1 and re.search(r"second +failed", failed.stdout), failed.stdout + failed.stderr
    (tmp_path / "go").write_text("")
    done = mlw("repair", "pipeline", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = Runs(tmp_path / "store")
    assert len(runs.list("first")) == 1 and [r["status"] for r in runs.list("second")] == ["succeeded", "failed"]
    is_one_block(mlw("repair", "first", cwd=tmp_path).stderr, "no pipeline")


@pytest.mark.parametrize("command", [["show"], ["resume"], ["repair"], ["replay"], ["diff", "good"]])
def test_a_run_that_does_not_exist_is_answered_with_the_nearest(command, tmp_path):
    run = Run.create(open_store(tmp_path / "store"), "good")
    run.start()
    run.finish("succeeded")
    wrong = run.id[:-1] + ("x" if run.id[-1] != "x" else "y")
    for name, nearest in ((wrong, run.id), ("god", "'good'"), ("nothing-like-it", run.id)):
        done = mlw(*command, name, cwd=tmp_path)
        assert done.returncode == 2, (done.stdout, done.stderr)
        is_one_block(done.stderr, name, nearest)


def test_replay_and_diff_end_with_what_they_found(tmp_path):
    job = plain(tmp_path / "draw.ipynb", "print(n + 1)", "from pathlib import Path\nprint(len(list(Path('.').glob('*.txt'))))", parameters="n: int = 1")
    assert [mlw("run", job, "-p", f"n={n}", cwd=tmp_path).returncode for n in (1, 2)] == [0, 0]
    after, before = (r["id"] for r in Runs(tmp_path / "store").list("draw"))
    compared = mlw("diff", before, after, "--html", "diff.html", cwd=tmp_path)
    assert compared.returncode == 0 and "the page is diff.html" in compared.stdout and "<" in (tmp_path / "diff.html").read_text()
    assert "n" in mlw("diff", before, after, cwd=tmp_path).stdout and json.loads(mlw("diff", before, after, "--json", cwd=tmp_path).stdout)
    same = mlw("replay", after, cwd=tmp_path)
    assert same.returncode == 0, same.stdout + same.stderr
    (tmp_path / "new.txt").write_text("")
    differs = mlw("replay", after, cwd=tmp_path)
    assert differs.returncode == 1 and "cell" in differs.stdout, differs.stdout + differs.stderr


# schedules, warm, sync


def test_schedule_writes_what_mlw_run_takes(tmp_path):
    (tmp_path / "settings.ini").write_text("[project]\nname = mine\njobs = .\n")
    plain(tmp_path / "night.ipynb", "1", parameters="n: int = 1")
    (tmp_path / "p.yaml").write_text("n: 3\n")
    done = mlw("schedule", "night", "--cron", "30 4 * * 1-5", "--to", "cron", "--params", "p.yaml", "--timeout", "60", "--no-retry", cwd=tmp_path)
    assert done.returncode == 0 and "install it with" in done.stdout, done.stderr
    script = (tmp_path / "schedules" / "mine-night.sh").read_text()
    assert "-p n=3" in script and "--timeout 60" in script and "--no-retry" in script and "--overlap skip" in script
    for args, words in ((["--cron", "0 0 31 2 *", "--to", "cron"], ["never due"]), (["--cron", "@daily", "--to", "crontab"], ["'crontab'"]), (["--cron", "@daily", "--to", "cron", "-p", "m=1"], ["unknown parameter 'm'"])):
        wrong = mlw("schedule", "night", *args, cwd=tmp_path)
        assert wrong.returncode == 2
        is_one_block(wrong.stderr, *words)


def test_warm_says_whether_there_is_such_a_process(tmp_path):
    folder = tmp_path / "warm"
    folder.mkdir(mode=0o700)
    assert "there is no warm process" in mlw("warm", cwd=tmp_path, MLW_WARM_FOLDER=str(folder)).stdout
    assert json.loads(mlw("warm", "status", "--json", cwd=tmp_path, MLW_WARM_FOLDER=str(folder)).stdout)["running"] is False
    stopped = mlw("warm", "stop", cwd=tmp_path, MLW_WARM_FOLDER=str(folder))
    assert stopped.returncode == 0 and "there was no warm process" in stopped.stdout


def test_sync_tells_each_run_and_fails_if_one_was_not_sent(tmp_path, monkeypatch):
    from mlops_workbench.core import track
    (tmp_path / "settings.ini").write_text("[project]\nname = mine\n")
    done = mlw("sync", cwd=tmp_path)
    assert done.returncode == 0 and "nothing to send" in done.stdout
    def send(store, settings, tell, **options):
        found = [track.Sent("a", True), track.Sent("b", False, "no API key")]
        for f in found: tell(f)
        return found
    monkeypatch.setattr(track, "sync", send)
    done = mlw("sync", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout.splitlines() == ["a was sent", "b was not sent: no API key"]
    assert json.loads(mlw("sync", "--json", cwd=tmp_path).stdout)[1] == {"run": "b", "sent": False, "message": "no API key"}


# models


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "A project with three versions of a small model; the third is held back by a gate."
    from mlops_workbench.core.settings import Settings, read_settings
    from mlops_workbench.deploy.bundle import build_bundle, save_bundle, toy_graph
    from mlops_workbench.deploy.registry import Registry
    from mlops_workbench.ui.project import write_project
    settings = Settings()
    settings.project.name = "loans"
    folder = write_project(tmp_path_factory.mktemp("projects") / "loans", settings)
    store = read_settings(folder).store_url
    task = {"name": "loans", "target": "approve", "framing": "binary", "classes": ["no", "yes"]}
    for answer in ("pass", "pass", "fail"):
        gate = {"gate": "fairness", "rule": "selection_rate_ratio(race) >= 0.8, block", "answer": answer, "mode": "block", "sentence": f"Gate 'fairness': {answer}.",
                "estimate": 0.7, "low": 0.6, "high": 0.8, "n": 100}
        Registry(store).register(save_bundle(build_bundle(toy_graph(), name="loans", task=task, assessment={"gates": [gate]}), store))
    (folder / "new.csv").write_text("job;income;approve\nclerk;40;no\nnurse;?;yes\npilot;60;yes\n")
    return folder


def test_promote_asks_the_gates_and_rollback_returns(models):
    assert mlw("promote", "loans@1", "--reason", "the first", cwd=models).returncode == 0
    assert "before it was loans@1" in mlw("promote", "loans@2", cwd=models).stdout
    time = "2020-01-01T00:00"
    held = mlw("promote", "loans@3", cwd=models)
    assert held.returncode == 3
    is_one_block(held.stderr, "held back", "selection_rate_ratio(race)", "--force")
    assert json.loads(mlw("models", "--at", time, "--json", cwd=models).stdout)["champion"] is None
    assert mlw("promote", "loans@3", "--force", "--reason", "a try", cwd=models).returncode == 0
    assert "loans@2 is champion again" in mlw("rollback", "loans", cwd=models).stdout
    found = json.loads(mlw("models", "loans", "--json", cwd=models).stdout)
    assert [v["aliases"] for v in found["versions"]] == [[], ["champion"], []]
    assert [e["event"] for e in found["history"]][-2:] == ["promoted", "rolled back"] and "forced past fairness" in found["history"][-2]["reason"]
    assert "a try" in mlw("models", "loans", cwd=models).stdout
    assert mlw("models", "loans", "--at", "last Tuesday", cwd=models).returncode == 2


def test_score_a_file(models):
    mlw("promote", "loans@1", cwd=models)
    done = mlw("score", "new.csv", "--out", "answers.csv", "--keep", "job", cwd=models)
    assert done.returncode == 0 and "3 rows" in done.stdout, done.stderr
    answers = pl.read_csv(models / "answers.csv")
    assert answers["job"].to_list() == ["clerk", "nurse", "pilot"] and answers["label"].to_list() == ["no", "yes", "yes"]
    for args, words in ((["score", "absent.csv", "--out", "x.csv"], ["absent.csv"]), (["score", "new.csv", "--out", "x.xlsx"], [".csv or .parquet"]),
                        (["score", "new.csv", "--out", "x.csv", "--model", "loan"], ["did you mean 'loans'"]), (["score", "new.csv", "--out", "x.csv", "--model", "loans@9"], ["9"])):
        done = mlw(*args, cwd=models)
        assert done.returncode == 2, (args, done.stdout, done.stderr)
        is_one_block(done.stderr, *words)


def test_an_edited_bundle_is_refused(models):
    file = models / "store" / "models" / "loans" / "2" / "bundle.json"
    kept = file.read_text()
    file.write_text(kept.replace('"approve"', '"refuse"'))
    done = mlw("score", "new.csv", "--out", "edited.csv", "--model", "loans@2", cwd=models)
    file.write_text(kept)
    assert done.returncode == 2 and not (models / "edited.csv").exists()
    is_one_block(done.stderr, "bundle.json")


def test_serve_answers_and_ends(models):
    pytest.importorskip("uvicorn")
    mlw("promote", "loans@1", cwd=models)
    server = subprocess.Popen([*MLW, "serve", "--port", "0"], cwd=models, env=ENV, stderr=subprocess.PIPE, text=True)
    try:
        url = re.search(r"http://[\d.]+:\d+", server.stderr.readline())[0]
        body = {"inputs": [{"name": "income", "shape": [1], "datatype": "FP64", "data": [90]}, {"name": "job", "shape": [1], "datatype": "BYTES", "data": ["nurse"]}]}
        with urlopen(Request(f"{url}/v2/models/loans/infer", json.dumps(body).encode())) as reply: answer = json.load(reply)
        assert {o["name"]: o["data"] for o in answer["outputs"]}["label"] == ["yes"]
        taken = mlw("serve", "--port", url.rsplit(":", 1)[1], cwd=models)
        assert taken.returncode == 2
        is_one_block(taken.stderr, "cannot listen")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
    assert server.returncode in (0, 130)


# the repository's own settings


def test_the_repository_is_the_demo():
    from mlops_workbench.ui.project import repository_settings
    assert (Path(__file__).resolve().parents[1] / "settings.ini").read_text() == repository_settings()
