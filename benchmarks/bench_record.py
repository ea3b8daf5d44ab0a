"""What a run's record costs, and how long 10,000 runs take to list.

The record is created, started and finished as each run of `mlw run` does, in a working tree with a changed file (git state with its difference, all
packages, the package's hash); half a second of work lies between, which is not counted. Runs are listed by a fresh process each time: first with no index, then with one, then after 100 records have changed.

Run: python benchmarks/bench_record.py
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIST = """
import time; begun = time.perf_counter()
from mlops_workbench.core.runs import Runs
found = Runs({store!r}).list({limit})
assert len(found) == {expected}, len(found)
print(time.perf_counter() - begun)
"""


def listing(store: Path, *, expected: int, limit: str = "") -> float:
    "Seconds of a fresh process for a list of the runs, with its imports and without the start of Python."
    return float(subprocess.run([sys.executable, "-c", LIST.format(store=str(store), limit=limit, expected=expected)], capture_output=True, text=True, check=True).stdout)


def copies(store: Path, record: dict, count: int) -> None:
    "Fill the store with as many runs."
    from datetime import UTC, datetime, timedelta

    from mlops_workbench.core.runs import new_id
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for n in range(count):
        name = new_id(f"job{n % 7}", start + timedelta(seconds=n))
        folder = store / "runs" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(record | {"id": name, "job": f"job{n % 7}", "metrics": {"loss": n / count}}, indent=1))


def working_tree(folder: Path) -> Path:
    "A working tree of 200 files, one of them changed."
    folder.mkdir()
    for n in range(200): (folder / f"file{n}.py").write_text("x = 1\n" * 100)
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x"]
    for args in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]): subprocess.run([*git, *args], check=True)
    (folder / "file7.py").write_text("changed = 2\n")
    return folder


def main(count: int = 10_000) -> None:
    from mlops_workbench.core.runs import Run, open_store
    folder = Path(tempfile.mkdtemp())
    rows: list[tuple[str, float, str]] = []
    try:
        tree = working_tree(folder / "tree")
        times = []
        for _ in range(20):
            begun = time.perf_counter()
            run = Run.create(open_store(folder / "one"), "bench", {"trials": 4}, root=tree)
            run.start()
            worked = time.perf_counter()
            time.sleep(0.5)
            worked = time.perf_counter() - worked
            record = run.finish("succeeded")
            times.append(time.perf_counter() - begun - worked)
        assert (store := folder / "one" / "runs" / record["id"] / "patch.diff").read_text().count("+changed") == 1, store
        rows.append(("a record, the first in a process", times[0], ""))
        rows.append(("a record, median of those after it", statistics.median(times[1:]), "0.05"))
        copies(folder / "many", record, count)
        rows.append((f"list {count:,} runs, no index yet", listing(folder / "many", expected=count), ""))
        rows.append((f"list {count:,} runs, fresh process", statistics.median(listing(folder / "many", expected=count) for _ in range(5)), "0.5"))
        rows.append((f"list the newest 50 of {count:,}", statistics.median(listing(folder / "many", limit="limit=50", expected=50) for _ in range(3)), "0.5"))
        for path in sorted((folder / "many" / "runs").glob("*/run.json"))[:100]: path.write_text(path.read_text() + "\n")
        rows.append(("list them after 100 were changed", listing(folder / "many", expected=count), "0.5"))
    finally: shutil.rmtree(folder, ignore_errors=True)
    print(f"{'what':44} {'seconds':>9} {'at most':>8}")
    for what, seconds, limit in rows: print(f"{what:44} {seconds:9.3f} {limit:>8}")


if __name__ == "__main__": main()
