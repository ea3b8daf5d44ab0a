"The mirror in Weights & Biases: complete, in order, live when online, in nobody's way, and made up for when it was killed."
import gzip
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest

from mlops_workbench.core import redaction, track
from mlops_workbench.core.runs import Runs
from mlops_workbench.core.settings import Settings
from mlops_workbench.core.store import Store
from mlops_workbench.core.track import make_missing, mirror_state, payload, start_mirror, sync, wait_for_mirrors
from mlops_workbench.jobs.execute import run_job

from .command import without_settings

RECORD = {"id": "20261121-093005-tune-00ya", "job": "tune", "status": "succeeded", "parameters": {"trials": 4}, "inputs": [], "outputs": [], "metrics": {"loss": 0.3}}

FAKE = '''
"Stands for wandb: writes down each call with the time."
import json, os, time
from pathlib import Path
def _say(what, *args): 
    with open(os.environ["FAKE_WANDB"], "a") as f: f.write(json.dumps([what, time.time(), *args], default=str) + chr(10))
class Settings:
    def __init__(self, **options): self.options = options
class Artifact:
    def __init__(self, name, type, metadata=None): self.said = [name, type, metadata, []]
    def add_file(self, path, policy): self.said[3].append(["file", Path(path).name, policy])
    def add_reference(self, uri, name, checksum): self.said[3].append(["reference", uri, name, checksum])
class _Run:
    def __init__(self): self.config, self.tags = type("Config", (), {"update": lambda s, v, allow_val_change: _say("config", v)})(), ()
    def define_metric(self, name, step_metric): _say("define", name, step_metric)
    def log(self, numbers):
        _say("log", numbers)
        if os.environ.get("FAKE_DIES") and numbers.get("step") == 1 and not os.path.exists(os.environ["FAKE_DIES"]):
            open(os.environ["FAKE_DIES"], "w").close()
            time.sleep(0.2)
            os.kill(os.getpid(), 9)
    def log_artifact(self, artifact): _say("made", artifact.said)
    def use_artifact(self, artifact): _say("used", artifact.said)
    def finish(self, exit_code): _say("finish", exit_code)
def init(**options):
    options["settings"] = options["settings"].options
    _say("init", options)
    time.sleep(float(os.environ.get("FAKE_SLOW", 0)))
    folder = Path(options["dir"]) / "wandb" / f"{'offline-' if options['mode'] == 'offline' else ''}run-x-{options['id']}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"run-{options['id']}.wandb").write_bytes(bytes([0, 1]) + os.environ.get("FAKE_LEAK", "").encode())
    return _Run()
'''

PROJECT = "[project]\nname = demo\n[wandb]\nmode = {}\n"
OPEN = "from mlops_workbench.core.runs import job_run\nrun = job_run('x')\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    without_settings(monkeypatch)
    (tmp_path / "settings.ini").write_text(PROJECT.format("offline"))
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(track, "_mirrors", [])
    yield tmp_path
    wait_for_mirrors()


@pytest.fixture
def fake(tmp_path_factory, monkeypatch):
    "The calls that a stand-in for wandb has seen."
    aside = tmp_path_factory.mktemp("wandb")
    (aside / "wandb.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(aside))
    monkeypatch.setenv("FAKE_WANDB", str(aside / "calls"))
    return lambda *kinds: [c for c in map(json.loads, (aside / "calls").read_text().splitlines() if (aside / "calls").exists() else []) if not kinds or c[0] in kinds]


def write(path, *sources, parameters=None):
    cells = [nbformat.v4.new_code_cell(s) for s in sources]
    if parameters: cells.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}), path)


def records_of(data):
    "The records of an offline file: a log of 32 KiB blocks, each record in one or more parts, behind a head of seven bytes."
    at, parts = 7, []
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4:at + 6], "little"), data[at + 6]
        parts.append(data[at + 7:at + 7 + length])
        at += 7 + length
        if kind in (1, 4):   # whole, or the last part
            yield b"".join(parts)
            parts = []


def test_an_attempt_is_a_run_there_and_the_attempts_are_a_group():
    group = lambda **facts: payload(RECORD | facts, "/x/runs/r", Settings())["group"]
    assert group() == RECORD["id"] and group(first="a") == "a"
    assert group(parent="p", first="a") == group(parent="p", first=RECORD["id"]) == "p"   # the steps of a pipeline, whichever attempt
    assert payload(RECORD | {"first": "a", "attempt": 2}, "/x/runs/r", Settings())["id"] == RECORD["id"]


def test_series_documents_and_versions_are_in_the_offline_copy(project):
    from wandb.proto import wandb_internal_pb2
    write(project / "jobs" / "one.ipynb", OPEN + "run.output('dataset', 'loans', 'loans@3', hash='ab')\nrun.metric('final', 0.25)", "for i in range(20): run.metric('best loss', 1 / (i + 1), step=10 * i)")
    record = run_job("one")
    assert wait_for_mirrors() == []
    folder = project / "store" / "runs" / record["id"]
    file, = folder.glob("wandb/offline-run-*/*.wandb")
    rows, artifacts, runs = [], [], []
    for data in records_of(file.read_bytes()):
        found = wandb_internal_pb2.Record()
        found.ParseFromString(data)
        if found.WhichOneof("record_type") == "history": rows.append({(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in found.history.item})
        if found.WhichOneof("record_type") == "run": runs.append(found.run)
        if (request := found.request).WhichOneof("request_type") == "log_artifact": artifacts.append(request.log_artifact.artifact)
        if found.WhichOneof("record_type") == "artifact": artifacts.append(found.artifact)
    series = [(r["step"], r["best loss"]) for r in rows if "step" in r]
    assert series == [(10 * i, 1 / (i + 1)) for i in range(20)]
    assert [r["final"] for r in rows if "final" in r] == [0.25] and "best loss" not in rows[-1]
    assert runs[0].run_id == runs[0].display_name == runs[0].run_group == record["id"]
    kinds = {a.type: a for a in artifacts}
    assert {c.path for c in kinds["documents"].manifest.contents} == {"report.html"}
    entry, = kinds["dataset"].manifest.contents
    assert entry.path == "loans-3" and entry.ref.endswith("/store/datasets/loans") and json.loads(kinds["dataset"].metadata)["version"] == "loans@3"
    assert not list(folder.glob("wandb/**/artifacts/**/report.html"))   # referred to, not copied


def test_nobody_waits_for_the_mirror(project, fake, monkeypatch):
    monkeypatch.setenv("FAKE_SLOW", "4")
    for name in ("CI", "KUBERNETES_SERVICE_HOST"): monkeypatch.delenv(name, raising=False)   # there a process waits for its mirrors
    write(project / "jobs" / "one.ipynb", "1")
    code = "import sys; from mlops_workbench.jobs.execute import run_job; print(run_job('one')['id'])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
    folder = project / "store" / "runs" / run
    assert mirror_state(folder)["state"] in ("queued", "at work") and fake("finish") == []   # its process has ended, the mirror has not
    end = time.monotonic() + 60
    while mirror_state(folder)["state"] != "done" and time.monotonic() < end: time.sleep(0.1)
    assert mirror_state(folder)["state"] == "done" and len(fake("finish")) == 1


def test_online_the_series_arrive_while_the_run_is_going(project, fake):
    (project / "settings.ini").write_text(PROJECT.format("online"))
    write(project / "jobs" / "one.ipynb", OPEN + "run.input('dataset', 'loans', 'loans@1')", "import time\nfor i in range(4):\n    run.metric('best loss', 1.0 - i / 10, step=i)\n    time.sleep(2)")
    record = run_job("one")
    wait_for_mirrors()
    logs = [c for c in fake("log") if "step" in c[2]]
    assert [c[2] for c in logs] == [{"best loss": 1.0 - i / 10, "step": i} for i in range(4)]
    from datetime import datetime
    assert logs[0][1] < datetime.fromisoformat(record["ended"]).timestamp() - 2 and fake("define")[0][2:] == ["best loss", "step"]
    kinds = [c[0] for c in fake()]
    assert kinds.count("init") == 1 and kinds[-1] == "finish" and fake("finish")[0][2] == 0 and fake("config")[-1][2]["status"] == "succeeded"
    assert [c[2][0] for c in fake("used")] == ["loans"] and mirror_state(project / "store" / "runs" / record["id"])["sent"]


def test_a_killed_online_mirror_goes_on_where_it_was(project, fake, monkeypatch, tmp_path):
    (project / "settings.ini").write_text(PROJECT.format("online"))
    monkeypatch.setenv("FAKE_DIES", str(tmp_path / "died"))
    write(project / "jobs" / "one.ipynb", OPEN + "import time\nfor i in range(3):\n    run.metric('a', i, step=i)\n    time.sleep(2)")
    record = run_job("one")
    assert "has no copy of this run" in wait_for_mirrors()[0] or mirror_state(project / "store" / "runs" / record["id"])["state"] == "done"
    make_missing(project / "store")
    assert mirror_state(project / "store" / "runs" / record["id"])["state"] == "done"
    steps = [c[2]["step"] for c in fake("log") if "step" in c[2]]
    assert steps in ([0, 1, 1, 2], [0, 1, 0, 1, 2]) and fake("init")[-1][2]["resume"] == "allow" and fake("init")[-1][2]["id"] == record["id"]


def test_a_killed_mirror_is_made_up_for_by_the_next(project):
    write(project / "jobs" / "one.ipynb", "1")
    first = run_job("one")
    killed = track._mirrors[0].process
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    folder = project / "store" / "runs" / first["id"]
    assert mirror_state(folder)["state"] in ("queued", "at work")
    track._note(folder, state="at work")
    Store(folder).write_json("mirror.json", mirror_state(folder) | {"time": 0})
    half = folder / "wandb" / f"offline-run-20260101_000000-{first['id']}"
    half.mkdir(parents=True)
    track._mirrors.clear()
    second = run_job("one", force=True)
    assert wait_for_mirrors() == []
    assert [mirror_state(project / "store" / "runs" / r["id"])["state"] for r in (first, second)] == ["done", "done"]
    assert len(list(folder.glob("wandb/offline-run-*/*.wandb"))) == 1 and not half.exists()


def test_two_never_make_the_same_mirror(project, fake, monkeypatch):
    monkeypatch.setenv("FAKE_SLOW", "1")
    folder = project / "store" / "runs" / RECORD["id"]
    Store(folder).write_json("run.json", RECORD | {"status": "succeeded"})
    settings = Settings()
    started = start_mirror(RECORD, folder, settings, store=str(project / "store"))
    assert start_mirror(RECORD, folder, settings, store=str(project / "store")) is started   # it follows this run already
    track._mirrors.clear()
    other = start_mirror(RECORD, folder, settings, store=str(project / "store"))
    assert [m.process.wait(60) for m in (started, other)] == [0, 0] and len(fake("init")) == 1


def test_a_copy_that_holds_a_secret_is_deleted_and_said(project, fake, monkeypatch):
    monkeypatch.setenv("FAKE_LEAK", "correct-horse-battery")
    monkeypatch.setitem(redaction._given, "correct-horse-battery", "API_KEY")
    folder = project / "store" / "runs" / RECORD["id"]
    Store(folder).write_json("run.json", RECORD)
    said = []
    start_mirror(RECORD, folder, Settings(), store=str(project / "store"), warn=said.append)
    warnings = wait_for_mirrors()
    assert warnings == said and "API_KEY" in warnings[0] and "deleted" in warnings[0] and not list(folder.glob("wandb/*run-*"))
    assert not any(b"correct-horse" in f.read_bytes() for f in (project / "store").rglob("*") if f.is_file())


def test_nothing_is_mirrored_when_it_is_disabled(project, fake):
    (project / "settings.ini").write_text(PROJECT.format("disabled"))
    write(project / "jobs" / "one.ipynb", "1")
    record = run_job("one")
    assert wait_for_mirrors() == [] and fake() == [] and mirror_state(project / "store" / "runs" / record["id"]) == {}
    assert make_missing(project / "store") == [] and sync(project / "store", command=["false"]) == []


@pytest.fixture
def cli(tmp_path):
    "A stand-in for wandb's command, which fails for as long as there is a file called `down`."
    path = tmp_path / "fake-wandb"
    path.write_text("import json, os, pathlib, sys\nhere = pathlib.Path(__file__).parent\nopen(here / 'sent', 'a').write(json.dumps([sys.argv[1:], os.environ.get('WANDB_MODE')]) + '\\n')\n"
                    "if (here / 'down').exists(): sys.exit('wandb: ERROR Network is unreachable; key ghp_' + 'a1' * 18)\n")
    return [sys.executable, str(path)], lambda: [json.loads(line) for line in (tmp_path / "sent").read_text().splitlines()]


def test_each_offline_run_is_sent_once_oldest_first(project, fake, cli):
    command, calls = cli
    write(project / "jobs" / "one.ipynb", "1")
    runs = [run_job("one", force=True)["id"] for _ in range(3)]
    wait_for_mirrors()
    (command_folder := Path(command[1]).parent).joinpath("down").touch()
    failed = sync(project / "store", command=command)
    assert [(s.run, s.sent) for s in failed] == [(r, False) for r in runs] and failed[0].message == "wandb: ERROR Network is unreachable; key [redacted]"
    (command_folder / "down").unlink()
    told = []
    assert [(s.run, s.sent) for s in sync(project / "store", command=command, tell=told.append)] == [(r, True) for r in runs] and [t.run for t in told] == runs
    assert sync(project / "store", command=command) == []
    assert len(sync(project / "store", command=command, again=True)) == 3
    sent = calls()
    assert len(sent) == 9 and all(a[0] == "sync" and Path(a[1]).name.startswith("offline-run-") and a[1].endswith(r) and mode == "online" for (a, mode), r in zip(sent, runs * 3))
    assert Runs(project / "store").get(runs[0])["status"] == "succeeded"   # the record is as it was


def test_sync_makes_the_missing_mirrors_first(project, fake, cli):
    command, calls = cli
    write(project / "jobs" / "one.ipynb", "1")
    record = run_job("one")
    wait_for_mirrors()
    folder = project / "store" / "runs" / record["id"]
    Store(folder).write_json("mirror.json", {"state": "at work", "mode": "offline", "project": "demo", "time": 0})
    assert [s.sent for s in sync(project / "store", command=command)] == [True] and mirror_state(folder)["state"] == "done" and len(calls()) == 1


class Server:
    "A small stand-in for the server of Weights & Biases, on this machine: answers what wandb asks, and keeps what it sends."
    def __init__(self):
        self.seen, outer = [], self
        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.headers.get("content-encoding") == "gzip": body = gzip.decompress(body)
                outer.seen.append((time.time(), self.path, body))
                data = json.dumps({"data": outer.reply(json.loads(body))} if self.path == "/graphql" else {}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            do_GET = do_POST = do_PUT = answer
            def log_message(self, *args): pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reply(self, asked):
        query, given = asked["query"], asked.get("variables") or {}
        project = {"id": "P", "name": "demo", "entity": {"id": "E", "name": "me"}}
        if "upsertBucket" in query: return {"upsertBucket": {"bucket": {"id": "B", "name": given.get("name"), "displayName": given.get("name"), "config": "{}", "historyLineCount": 0, "project": project}, "inserted": True}}
        if "createArtifact(" in query: return {"createArtifact": {"artifact": {"id": "A", "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": "A"}}}}}
        if "createRunFiles" in query: return {"createRunFiles": {"runID": "B", "uploadHeaders": [], "files": [{"name": n, "uploadUrl": f"{self.url}/upload/{n}"} for n in given["files"]]}}
        if "serverInfo" in query: return {"serverInfo": {"features": []}}
        if "viewer" in query: return {"viewer": {"id": "V", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        if "useArtifact" in query: return {"useArtifact": {"artifact": {"id": "A"}}}
        if "ArtifactByID" in query:
            place = {"__typename": "ArtifactSequence", "name": "loans", "project": {"__typename": "Project", "internalId": "1", **project}}
            return {"artifact": {"__typename": "Artifact", "id": "A", "artifactSequence": place, "versionIndex": 0, "artifactType": {"name": "dataset"}, "description": None, "metadata": "{}", "ttlDurationSeconds": -2,
                                 "ttlIsInherited": True, "tags": [], "historyStep": None, "state": "COMMITTED", "size": 0, "digest": "d", "commitHash": "c", "fileCount": 1, "createdAt": "2026-01-01T00:00:00Z",
                                 "updatedAt": "2026-01-01T00:00:00Z", "aliases": []}}
        return {"project": None}

    def history(self):
        "The rows that arrived, by number, each with the time of its first arrival."
        rows = {}
        for when, path, body in list(self.seen):
            if not path.endswith("/file_stream"): continue
            part = json.loads(body).get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            for i, line in enumerate(part["content"]): rows.setdefault(part["offset"] + i, (when, json.loads(line)))
        return [rows[i] for i in sorted(rows)]

    def asked(self, what): return [json.loads(body)["variables"] for _, path, body in self.seen if path == "/graphql" and what in json.loads(body)["query"]]


@pytest.fixture
def server(monkeypatch):
    made = Server()
    monkeypatch.setenv("WANDB_BASE_URL", made.url)
    monkeypatch.setenv("WANDB_API_KEY", "0a1b2c3d4e" * 4)
    yield made
    made.server.shutdown()


def test_wandb_itself_sends_an_offline_run_once_and_no_secret(project, server, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "correct-horse-battery")
    write(project / "jobs" / "one.ipynb", OPEN + "from mlops_workbench.core.secrets import secret\np = secret(password)\nrun.warn(p)\nrun.input('dataset', 'loans', 'loans@2')\nrun.metric('final', 0.25)",
          "for i in range(5): run.metric('best loss', 1 / (i + 1), step=10 * i)", parameters="password: str = 'secret:DB_PASSWORD'")
    record = run_job("one")
    wait_for_mirrors()
    assert server.seen == []   # offline
    assert [(s.run, s.sent, s.message) for s in sync(project / "store")] == [(record["id"], True, "")]
    assert [(r["step"], r["best loss"]) for _, r in server.history() if "step" in r] == [(10 * i, 1 / (i + 1)) for i in range(5)]
    bucket = server.asked("upsertBucket")[0]
    assert (bucket["name"], bucket["groupName"], bucket["project"], bucket["jobType"]) == (record["id"], record["id"], "demo", "one")
    assert {a["input"]["artifactCollectionName"] for a in server.asked("createArtifact(")} == {"one-documents", "loans"} and len(server.asked("useArtifact")) == 1
    config = next(body.decode() for _, path, body in server.seen if path.endswith("/config.yaml"))
    assert "password: secret:DB_PASSWORD" in config
    assert not any(b"correct-horse" in body for _, _, body in server.seen)
    assert not any(b"0a1b2c3d4e" * 4 in f.read_bytes() for f in (project / "store").rglob("*") if f.is_file())   # nor the key of wandb in a file
    count = len(server.seen)
    assert sync(project / "store") == [] and len(server.seen) == count


def test_wandb_itself_streams_a_run_that_is_going(project, server):
    (project / "settings.ini").write_text(PROJECT.format("online"))
    write(project / "jobs" / "one.ipynb", OPEN + "run.input('dataset', 'loans', 'loans@2')", "import time\ntime.sleep(3)\nfor i in range(3):\n    run.metric('best loss', 1.0 - i / 4, step=i)\n    time.sleep(1.5)\ntime.sleep(4)")
    record = run_job("one")
    ended = time.time()
    assert wait_for_mirrors() == []
    rows = [(when, r["step"], r["best loss"]) for when, r in server.history() if "step" in r]
    assert [r[1:] for r in rows] == [(0, 1.0), (1, 0.75), (2, 0.5)] and rows[0][0] < ended - 1
    assert len(server.asked("useArtifact")) == 1
    assert mirror_state(project / "store" / "runs" / record["id"])["sent"] and sync(project / "store") == []


def test_a_server_that_is_down_is_said_and_nothing_is_marked(project, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0a1b2c3d4e" * 4)
    write(project / "jobs" / "one.ipynb", "1")
    record = run_job("one")
    wait_for_mirrors()
    found = sync(project / "store", timeout=4)
    assert [(s.run, s.sent) for s in found] == [(record["id"], False)] and found[0].message and "sent" not in mirror_state(project / "store" / "runs" / record["id"])
