"The index of runs is a cache: never trusted over the records, made again when lost, right under many writers."

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from mlops_workbench.core import runs as module
from mlops_workbench.core.runs import Run, Runs, new_id, open_store

START = datetime(2026, 1, 1, tzinfo=UTC)


def record_of(n):
    name = new_id(f"job{n % 3}", START + timedelta(seconds=n))
    return {"id": name, "job": f"job{n % 3}", "status": "failed" if n % 5 == 0 else "succeeded", "reason": "code" if n % 5 == 0 else None, "message": None, "created": START.isoformat(),
            "started": None, "ended": START.isoformat(), "parameters": {"n": n}, "inputs": [], "outputs": [], "metrics": {"n": n}, "warnings": [], "packages": {"numpy": "2.1"}}


@pytest.fixture
def store(tmp_path):
    for n in range(200):
        record = record_of(n)
        (tmp_path / "runs" / record["id"]).mkdir(parents=True)
        (tmp_path / "runs" / record["id"] / "run.json").write_text(json.dumps(record))
    return open_store(tmp_path)


def numbers(store, **options):
    module._indexes.clear()   # as a new process would
    return [r["metrics"]["n"] for r in Runs(store).list(**options)]


def reads(store, monkeypatch):
    "How many records a new process reads for a list."
    count = []
    real = Runs._read
    monkeypatch.setattr(Runs, "_read", lambda self, run: count.append(run) or real(self, run))
    assert len(numbers(store)) == len(Runs(store).ids())
    monkeypatch.setattr(Runs, "_read", real)
    return len(count)


def test_a_second_list_reads_few_records_and_says_the_same(store, monkeypatch):
    assert reads(store, monkeypatch) == 200
    assert reads(store, monkeypatch) == 40
    assert numbers(store) == list(range(199, -1, -1))
    assert Runs(store).list()[150]["packages"] == {"numpy": "2.1"}
    assert numbers(store, status="failed", limit=3, offset=2) == [185, 180, 175]
    assert numbers(store, job="job1", limit=2, offset=60) == [n for n in range(199, -1, -1) if n % 3 == 1][60:62]
    assert numbers(store, offset=500) == []


def test_a_record_that_was_changed_deleted_or_added_is_seen(store):
    numbers(store)
    first, second = record_of(0), record_of(1)
    (store.local / "runs" / first["id"] / "run.json").write_text(json.dumps(first | {"metrics": {"n": 1000}}))
    shutil.rmtree(store.local / "runs" / second["id"])
    late = record_of(2000)
    store.write_json(f"runs/{late['id']}/run.json", late)
    found = numbers(store)
    assert found[0] == 2000 and found[-1] == 1000 and 1 not in found and len(found) == 200


def test_a_lost_damaged_or_unwritable_index_changes_no_answer(store, monkeypatch):
    right = numbers(store)
    index = store.local / "runs" / ".index.jsonl"
    whole = index.read_bytes()
    for damage in (b"", whole[: len(whole) // 2], whole.replace(b"succeeded", b"\xff\xfe{]", 30), b"\0" * 5000, whole.replace(b"\t", b" "), whole + whole, whole[::-1]):
        index.write_bytes(damage)
        assert numbers(store) == right
    assert reads(store, monkeypatch) == 40   # it was mended
    index.unlink()
    index.mkdir()
    assert numbers(store) == right


def test_a_run_that_goes_on_is_read_itself_however_old(store):
    run = Run.create(store, "long", id=new_id("long", START - timedelta(days=1)))
    run.start()
    for n in range(3):
        run.update(metrics={"n": -n})
        assert numbers(store)[-1] == -n
    assert run.id.encode() not in (store.local / "runs" / ".index.jsonl").read_bytes()
    run.finish("succeeded")
    assert Runs(store).list()[-1]["status"] == "succeeded"


def test_a_lost_run_is_not_kept_as_ended(store):
    old = record_of(0) | {"status": "running", "started": START.isoformat(), "ended": None}
    store.write_json(f"runs/{old['id']}/run.json", old)
    assert [r["reason"] for r in (Runs(store).list()[-1], Runs(store).list()[-1])] == ["lost", "lost"]
    assert old["id"].encode() not in (store.local / "runs" / ".index.jsonl").read_bytes()


def test_many_writers_and_readers_at_once(store):
    code = ("import sys\nfrom mlops_workbench.core.runs import Run, Runs, open_store\nstore = open_store(sys.argv[1])\n"
            "for n in range(8):\n    run = Run.create(store, 'many')\n    run.start()\n    run.finish('succeeded')\n    assert len(Runs(store).list()) > 200")
    children = [subprocess.Popen([sys.executable, "-c", code, store.url], stderr=subprocess.PIPE) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool: lists = list(pool.map(lambda n: len(Runs(store).list()), range(20)))
    assert all(n >= 200 for n in lists)
    assert [(c.wait(), c.stderr.read()) for c in children] == [(0, b"")] * 4
    module._indexes.clear()
    found = Runs(store).list()
    assert len(found) == 232 and all(r == store.read_json(f"runs/{r['id']}/run.json") for r in found)


def test_old_lines_are_thrown_out(store):
    index = store.local / "runs" / ".index.jsonl"
    numbers(store)
    size = index.stat().st_size
    for turn in range(6):
        for n in range(150):
            record = record_of(n)
            (store.local / "runs" / record["id"] / "run.json").write_text(json.dumps(record | {"message": f"turn {turn}"}))
        numbers(store)
    assert index.stat().st_size < 4 * size and {r["message"] for r in Runs(store).list()[50:]} == {"turn 5"}


def test_a_bucket_has_an_index_too(tmp_path, monkeypatch):
    import os

    from fsspec.implementations.memory import MemoryFileSystem
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    store = open_store("memory://place")
    for n in range(120): store.write_json(f"runs/{record_of(n)['id']}/run.json", record_of(n))
    assert reads(store, monkeypatch) == 120 and reads(store, monkeypatch) == 40
    changed = record_of(3) | {"metrics": {"n": 3000}}
    store.write_json(f"runs/{changed['id']}/run.json", changed)
    assert numbers(store)[-4] == 3000
    assert os.environ is not None


def test_what_was_changed_since_the_commit_is_kept_without_secrets(tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    tree.mkdir()
    git = ["git", "-C", str(tree), "-c", "user.name=x", "-c", "user.email=x@x"]
    (tree / "a.py").write_text("a = 1\n")
    for args in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]): subprocess.run([*git, *args], check=True)
    (tree / "a.py").write_text("a = 'ghp_" + "a1B2" * 9 + "'\n")
    (tree / "new.py").write_text("")
    run = Run.create(open_store(tmp_path / "store"), "x", root=tree)
    run.start()
    record = run.finish("succeeded")
    patch = (run.folder / "patch.diff").read_text()
    assert record["git"]["patch"] == "patch.diff" and record["git"]["untracked"] == ["new.py"] and "-a = 1" in patch and "ghp_" + "a1B2" * 9 not in patch
    assert len(record["packages"]) > 50 and record["hardware"]["cores"] and record["first"] == record["id"]
