"Replays and comparisons of runs, on real kernels."

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import polars as pl
import pytest

from mlops_workbench.core.runs import Runs
from mlops_workbench.core.store import Store
from mlops_workbench.data.dataset import commit, versions
from mlops_workbench.jobs.compare import Words, diff, outputs
from mlops_workbench.jobs.execute import run_job
from mlops_workbench.jobs.replay import replay

from .command import without_settings

OPEN = "from mlops_workbench.core.runs import job_run\nrun = job_run('x')\n"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    without_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)


def write(name, *sources, parameters=""):
    "A notebook of these code cells; one that begins with # is a heading."
    cells = [nbformat.v4.new_markdown_cell(s) if s.startswith("#") else nbformat.v4.new_code_cell(s) for s in sources]
    if parameters: cells.insert(0, nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    path = Path(f"{name}.ipynb")
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_what_must_differ_does_not_count_and_everything_else_does():
    job = write("mixed", "import time, datetime\nprint(object(), datetime.datetime.now(), f'{time.time() % 7:.3f} s')",
                OPEN + "print(run.folder)\nrun.metric('seconds', time.time())\nrun.metric('loss', 0.25)\nrun.save_json('found.json', {'seconds': time.time(), 'loss': 0.25})",
                "import pathlib\nprint('loss', pathlib.Path('loss.txt').read_text())")
    Path("loss.txt").write_text("0.310")
    record = run_job(job, store="store")
    assert record["status"] == "succeeded", record["message"]
    again = replay(record["id"], store="store")
    assert again.same, again.text
    Path("loss.txt").write_text("0.311")
    again = replay(record["id"], store="store")
    assert not again.same and again.first_difference.cell == 3
    assert "-loss 0.310" in again.first_difference.what and "+loss 0.311" in again.first_difference.what
    assert "cell 3" in again.text and "0.311" in again.html and json.dumps(again.to_json())


def test_a_metric_or_a_file_that_differs_is_named_where_no_output_shows_it():
    write("quiet", OPEN + "import pathlib\nn = float(pathlib.Path('n.txt').read_text())\nrun.metric('n', n)\n_ = run.save_json('n.json', {'n': n})")
    Path("n.txt").write_text("1")
    run_job("quiet.ipynb", store="store")
    Path("n.txt").write_text("2")
    again = replay("quiet", store="store")
    assert not again.same and not again.cells and [m["name"] for m in again.metrics] == ["n"] and [f["name"] for f in again.files] == ["n.json"]


def test_a_replay_reads_the_versions_of_then_and_writes_nowhere():
    store = Store(Path("store").resolve())
    commit(store, "loans", pl.DataFrame({"x": [1]}))
    write("first", OPEN + "print('one')\n_ = run.output('run', 'first', run.id)")
    write("reader", OPEN + "from mlops_workbench.data.dataset import commit, read, resolve\nimport polars as pl\nv = resolve(run.store, 'loans')\n"
          "run.input('dataset', 'loans', str(v), hash=v.hash)\nup = run.upstream('first')\nprint(v, read(run.store, str(v))['x'].to_list(), up['id'])",
          "made = commit(run.store, 'made', pl.DataFrame({'y': [3]}))\nrun.output('dataset', 'made', str(made), hash=made.hash)\nprint(made)")
    early = run_job("first.ipynb", store=store)
    record = run_job("reader.ipynb", store=store)
    assert record["status"] == "succeeded", record["message"]
    commit(store, "loans", pl.DataFrame({"x": [2]}))
    commit(store, "made", pl.DataFrame({"y": [4]}))
    run_job("first.ipynb", store=store, force=True)
    files = lambda: {p: p.stat().st_mtime_ns for p in store.local.rglob("*") if p.is_file() and "locks" not in p.parts}
    before = files()
    again = replay("reader", store=store)
    assert again.same, again.text
    assert {(i["kind"], i["version"]) for i in again.record["inputs"]} == {("dataset", "loans@1"), ("run", early["id"])}
    assert files() == before and [v.version for v in versions(store, "made")] == [1, 2]


def test_a_file_that_the_run_wrote_elsewhere_is_not_written_again():
    write("writes", OPEN + "from pathlib import Path\nfrom mlops_workbench.core.runs import file_version\nPath(out).write_text('answers')\nrun.output('file', out, hash=file_version(out))\nprint(out)", parameters="out: str = ''")
    record = run_job("writes.ipynb", {"out": str(Path("answers.csv").resolve())}, store="store")
    assert record["status"] == "succeeded", record["message"]
    Path("answers.csv").write_text("mine")
    again = replay("writes", store="store")
    assert again.same, again.text
    assert Path("answers.csv").read_text() == "mine"


def test_changed_inputs_code_and_a_failure_are_said():
    job = write("fails", OPEN + "from pathlib import Path\nrun.input('file', 'data.csv')\nprint(len(Path('data.csv').read_text()))", "1 / 0")
    Path("data.csv").write_text("abc")
    record = run_job(job, store="store", retry=False)
    assert record["status"] == "failed"
    assert replay(record["id"], store="store").same   # it fails in the same way
    Path("data.csv").write_text("abcd")
    write("fails", "print('other')")
    again = replay(record["id"], store="store")
    assert again.first_difference.cell == 1 and any("data.csv has changed" in p for p in again.pins)
    assert again.code and "other" in again.text


def test_figures_are_compared_by_their_pixels():
    draw = "from mlops_workbench.core import show\nfrom pathlib import Path\nfig, ax = show.figure(2, 1)\nax.plot([0, float(Path('y.txt').read_text())])\nshow.picture(fig, 'a line')"
    write("draws", "## Lines", draw, "show.table([{'a<b': '<script>alert(1)</script>'}])", parameters="n: int = 1")
    Path("y.txt").write_text("1")
    one = run_job("draws.ipynb", store="store")
    assert replay(one["id"], store="store").same
    Path("y.txt").write_text("-1")
    again = replay(one["id"], store="store")
    assert again.first_difference.cell == 3 and again.first_difference.pictures and again.html.count("<img") == 2
    two = run_job("draws.ipynb", {"n": 2}, store="store", force=True)
    found = diff(one["id"], two["id"], store="store")
    (figure,) = found.figures
    assert figure["section"] == "Lines" and figure["what"] == "a line" and found.parameters == [{"name": "n", "before": 1, "after": 2, "difference": 1}]
    assert found.html.count("<img") == 2 and not re.search(r"(src|href)=\"?(https?:)?//", found.html) and "<script" not in found.html
    assert json.dumps(found.to_json()) and diff(one["id"], one["id"], store="store").same


def test_words_leave_numbers_alone():
    record = {"id": "20261121-093005-tune-00ya", "created": "2026-11-21T09:30:05+00:00", "ended": "2026-11-21T09:31:00+00:00"}
    for text in ("0.31", "12 rows", "loss 4.2e-5", "2025-01-01 10:00", "3 sentinels", "5 minority", "0x12", "rate 3.5/s", "20260101-000000-tune-0001"):
        words = Words(record, known={"20260101-000000-tune-0001"})
        assert words(text) == text and not words.counts, text
    stream = lambda *texts: {"outputs": [{"output_type": "stream", "name": "stdout", "text": t} for t in texts]}
    assert outputs(stream("one\n", "two\n"), Words(record)) == outputs(stream("one\ntwo\n"), Words(record))


def test_nothing_is_replayed_from_a_checkpoint():
    write("sections", "# Job", OPEN + "from pathlib import Path\nn = int(Path('n.txt').read_text())", "## Two", "print(n)", "## Three", "print(n + 1)")
    Path("n.txt").write_text("1")
    run_job("sections.ipynb", store="store")
    Path("n.txt").write_text("5")
    assert replay("sections", store="store").first_difference.after.strip() == "5"
    assert len(Runs("store").list()) == 1


def test_a_moment_of_the_first_run_in_the_data_is_the_same_moment_for_both(tmp_path):
    write("stamps", OPEN + "from pathlib import Path\nfrom datetime import UTC, datetime\nfile = Path('when.txt')\nif not file.exists(): file.write_text(datetime.now(UTC).isoformat())\nprint(file.read_text(), '1999-01-01T00:00:00Z')")
    record = run_job("stamps.ipynb", store="store")
    again = replay(record["id"], store="store")
    assert again.same, again.text
    Path("when.txt").write_text("1999-01-01T00:00:00Z")
    assert not replay(record["id"], store="store").same


@pytest.mark.parametrize("number, status, word", [(signal.SIGINT, 130, "cancelled"), (signal.SIGTERM, 143, "preempted")])
def test_a_replay_that_is_stopped_says_so_and_keeps_nothing(tmp_path, number, status, word):
    write("waits", "import pathlib, time", "if not pathlib.Path('again').exists(): pathlib.Path('again').touch()\nelse:\n    pathlib.Path('going').touch()\n    time.sleep(600)")
    first = run_job("waits.ipynb", store="store")
    process = subprocess.Popen([sys.executable, "-c", "from mlops_workbench.ui.entry import script; script()", "replay", first["id"]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not Path("going").exists(): assert process.poll() is None; time.sleep(0.05)
    process.send_signal(number)
    assert word in process.communicate()[0] and process.returncode == status
    assert [r["id"] for r in Runs("store").list()] == [first["id"]]
