"Every shipped job, resumed at every section, shows and keeps what it does when it runs whole."
import json
import re
from pathlib import Path

import nbformat
import pytest

from mlops_workbench.jobs.execute import run_job

from .test_resume import UpTo, notebook
from .command import without_settings

pytestmark = pytest.mark.long


@pytest.fixture
def project(tmp_path, monkeypatch, warm):
    "The demo's project, tiny, in an empty folder; an unchanged job runs again, and is resumed where `UpTo.limit` says."
    without_settings(monkeypatch)
    text = (Path(__file__).parent.parent / "settings.ini").read_text()
    for key, value in {"trials": 2, "families": "linear, trees", "bootstrap": 100, "explain_rows": 12, "folds": 2, "mode": "disabled", "jobs": "jobs", "ensemble": 2}.items():
        text = re.sub(rf"(?m)^{key} =.*$", f"{key} = {value}", text)
    text = text.replace(", block", ", warn")
    (tmp_path / "settings.ini").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlops_workbench.jobs.execute.package_hash", lambda: "as installed")   # whatever is edited meanwhile
    monkeypatch.setattr("mlops_workbench.jobs.execute.changed", lambda *args, **options: "it is resumed")
    monkeypatch.setattr("mlops_workbench.jobs.resume.Keeper", UpTo)
    monkeypatch.setattr(UpTo, "limit", 99)
    return tmp_path


def test_a_killed_run_is_resumed_where_it_was_killed(project, monkeypatch):
    (project / "jobs").mkdir()
    nb = notebook("""
        rows = [1]
        ---
        ## Long
        ---
        rows.append(sum(rows))
        print("worked")
        ---
        ## Dying
        ---
        import os, signal
        if not os.path.exists("died"):
            open("died", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        ---
        ## The end
        ---
        print(rows)
        """)
    nbformat.write(nb, project / "jobs" / "long.ipynb")
    first = run_job("long", retry=False)
    assert (first["status"], first["reason"]) == ("failed", "lost")
    again = run_job("long", retry=False)
    assert again["status"] == "succeeded" and [s["state"] for s in again["sections"]] == ["restored", "restored", "executed", "executed"]
    assert again["sections"][1]["why"] == f"restored from {first['id']}"
    done = nbformat.read(project / "store" / "runs" / again["id"] / "notebook.ipynb", 4)
    assert [o["text"] for c in done.cells if c.cell_type == "code" for o in c.outputs] == ["worked\n", "[1, 1]\n"]
    assert done.cells[0].metadata.mlw.restored == first["id"] and done.cells[0].metadata.papermill.status == "completed"


def results(folder, record):
    "What a run showed and left behind, without its name and without how long things took."
    run = folder / "store" / "runs" / record["id"]
    plain = lambda text: re.sub(r"\d+(\.\d+)? (m?s|seconds)\b|\d+(\.\d+)?e?-?\d* ms|\"seconds\": [\d.]+|\d{4}-\d\d-\d\d[T ][\d:.]+(\+[\d:]+|Z)?", "T", re.sub(r"loans@\d+", "loans@N", text.replace(record["id"], "RUN")))
    shown = [plain(json.dumps(c.outputs)) for c in nbformat.read(run / "notebook.ipynb", 4).cells if c.cell_type == "code"]
    kept = {p.relative_to(run).as_posix(): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file() and p.suffix in (".json", ".parquet", ".safetensors", ".txt") and p.parent.name != "runs"}
    engine = ("run.json", "lease.json", "reported.json", "progress.json", "search.json")
    return shown, {n: plain(d.decode()) if n.endswith(".json") else d for n, d in kept.items() if n not in engine}, {k: v for k, v in record["metrics"].items() if "latency" not in k and "second" not in k}


def test_every_shipped_job_whole_and_resumed_at_every_section(project, monkeypatch):
    restorable = {"ingest": 4, "validate": 0, "tune": 4, "assess": 5, "deploy": 4, "score": 0, "monitor": 0}   # sections before the last, unless the clock or the outside forbid it
    for job, most in restorable.items():
        monkeypatch.setattr(UpTo, "limit", 99)
        whole = run_job(job)
        assert whole["status"] == "succeeded", whole["message"]
        for limit in range(1, most + 1) if most else [99]:
            monkeypatch.setattr(UpTo, "limit", limit)
            again = run_job(job)
            states = [s["state"] for s in again["sections"]]
            assert states == ["restored"] * min(limit, most) + ["executed"] * (len(states) - min(limit, most)), (job, limit, states, [s["why"] for s in again["sections"]], [s["why"] for s in whole["sections"]])
            if most:
                same = [results(project, r) for r in (whole, again)]
                if job == "deploy":   # what it says of the outside is not the same: there is a champion by now
                    for shown, _, _ in same: del shown[-2:]
                assert same[0] == same[1], (job, limit)
