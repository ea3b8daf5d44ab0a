"""The command line from the user's side: what is printed, where, and with which exit status."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import polars as pl
import pytest

HEAVY = ["torch", "shap", "wandb", "pandas", "polars", "optuna", "matplotlib", "papermill", "sklearn", "numpy", "pyarrow", "deltalake", "onnxruntime"]
MLW = [sys.executable, "-c", "import sys; from mlops_workbench.ui.cli import main; sys.exit(main())"]
ENV = {k: v for k, v in os.environ.items() if not k.startswith("MLW_")} | {"MLW_WANDB_MODE": "disabled"}


def mlw(*args, cwd, timeout=120):
    return subprocess.run([*MLW, *map(str, args)], cwd=cwd, env=ENV, capture_output=True, text=True, timeout=timeout)


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


@pytest.mark.parametrize("code", ["import mlops_workbench", "from mlops_workbench.ui.cli import main; main(['--help'])", "from mlops_workbench.ui.cli import main; main(['run', '--help'])"])
def test_nothing_heavy_is_imported(code, tmp_path):
    done = subprocess.run([sys.executable, "-c", f"{code}\nimport sys; print('LOADED', *sys.modules)"], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.partition("LOADED")[2].split())
    assert "mlops_workbench" in loaded and not loaded & set(HEAVY)


def test_help_names_every_command(tmp_path):
    done = mlw("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in "demo new run jobs runs show data models promote rollback score serve assess lab".split(): assert re.search(rf"^\W*{command}\s", done.stdout, re.MULTILINE), command


def test_no_arguments_show_help_and_version_is_said(tmp_path):
    assert "Usage" in mlw(cwd=tmp_path).stdout
    assert re.fullmatch(r"mlw \d+\.\d+\.\d+\S*\n", mlw("--version", cwd=tmp_path).stdout)


@pytest.mark.parametrize("args, words", [
    (["runz"], ["runz"]), (["runs", "--jsn"], ["--jsn"]), (["score", "x.csv"], ["--out"]), (["runs", "--limit", "many"], ["--limit"]),
    (["promote"], ["model"]), (["new", "x"], ["--data"]), (["runs", "-C", "nowhere"], ["nowhere"])])
def test_wrong_use_ends_with_2_and_one_block(args, words, tmp_path):
    done = mlw(*args, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    is_one_block(done.stderr, *words)


@pytest.mark.parametrize("args", [["runs"], ["models"], ["data"], ["show", "tune"], ["score", "x.csv", "-o", "y.csv"]])
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
