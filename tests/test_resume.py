"Sections that are unchanged are restored, and nothing about the run is different for it."
import json
import re
import textwrap

import nbformat
import pytest

from mlops_workbench.core.runs import Run
from mlops_workbench.core.store import open_store
from mlops_workbench.jobs.engine import execute
from mlops_workbench.jobs.resume import Keeper

pytestmark = pytest.mark.long


class UpTo(Keeper):
    "As if the run had been killed in section `limit`: nothing of it and of what follows was kept."
    limit = 99

    def _manifests(self, section): return super()._manifests(section) if section.index < self.limit else []


def notebook(text):
    "A notebook from cells that are set apart by `---`; one that begins with `#` is a heading."
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}})
    for part in textwrap.dedent(text).strip().split("\n---\n"):
        tags = ["always"] if "# always" in part else []
        nb.cells.append(nbformat.v4.new_markdown_cell(part) if part.startswith("## ") else nbformat.v4.new_code_cell(part.strip("\n"), metadata={"tags": tags}))
    return nb


class Bench:
    "Runs notebooks in one store."
    def __init__(self, folder): self.store, self.cwd = open_store(folder / "store"), folder / "work"

    def run(self, nb, *, limit=99, job="odd", base=None, restore=True, current=lambda kind, ref: ""):
        "The executed notebook, the states and reasons of its sections, and the files of its run."
        run = Run.create(self.store, job, {}, root=self.cwd)
        run.start()
        run.folder.mkdir(parents=True, exist_ok=True)
        nb = nbformat.from_dict(json.loads(nbformat.writes(nb)))
        for c in nb.cells: c["source"] = "".join(c["source"])
        keeper = UpTo(self.store, job, nb, run.id, base=base or {"parameters": {}}, current=current, folder=run.folder, restore=restore)
        keeper.limit, said = limit, {}
        outcome = execute(nb, run.folder / "notebook.ipynb", env={"MLW_RUN_ID": run.id, "MLW_STORE": self.store.url, "MLW_FOLDER": str(run.folder)}, cwd=self.cwd,
                          keeper=keeper, on_section=lambda about: said.__setitem__(about["index"], about))
        run.finish(outcome.status, message=outcome.message)
        files = {p.relative_to(run.folder).as_posix(): p.read_bytes().replace(run.id.encode(), b"RUN") for p in sorted(run.folder.rglob("*"))
                 if p.is_file() and p.name not in ("run.json", "lease.json", "notebook.ipynb", "kernel.log", "reported.json") and not p.name.startswith(".")}
        shown = [[re.sub(re.escape(run.id), "RUN", json.dumps(o.get("text") or o.get("data") or o.get("evalue"))) for o in c.outputs] for c in nb.cells if c.cell_type == "code"]
        return {"outcome": outcome, "nb": nb, "shown": shown, "files": files, "states": [said[i]["state"] for i in sorted(said)], "why": [said[i]["why"] for i in sorted(said)], "id": run.id}


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "work").mkdir()
    return Bench(tmp_path)


def check(bench, text, *, restores, **options):
    "The notebook run whole, and resumed at every section; `restores` says how many sections are then restored at the start."
    nb = notebook(text)
    whole = bench.run(nb, **options)
    assert whole["outcome"].status == "succeeded", whole["outcome"]
    for limit, expected in enumerate(restores, 1):
        again = bench.run(nb, limit=limit, **options)
        assert again["outcome"].status == "succeeded", again["outcome"]
        assert again["states"].count("restored") == expected, (limit, again["states"], again["why"], whole["why"])
        assert again["shown"] == whole["shown"], limit
        assert again["files"] == whole["files"], limit
    return whole


def test_values_are_the_same_objects_and_changes_in_place_are_kept(bench):
    check(bench, """
        import numpy as np
        a = [1, 2]
        b = a
        grid = {"rows": a, "self": None}
        grid["self"] = grid
        ---
        ## Two
        ---
        a.append(3)
        total = np.array([0.1, 0.2])
        total += 1
        ---
        ## Three
        ---
        b.append(4)
        del total
        grid["rows"] is a
        ---
        ## Four
        ---
        print(a, b is a, grid["self"] is grid, grid["rows"], "total" in dir(__builtins__), sorted(n for n in ("total",) if n in a))
        """, restores=[1, 2, 3])


def test_random_draws_go_on_where_they_were(bench):
    check(bench, """
        import random
        import numpy as np
        import torch
        random.seed(1)
        np.random.seed(2)
        torch.manual_seed(3)
        rng, own, source = np.random.default_rng(4), random.Random(5), torch.Generator().manual_seed(6)
        same = rng
        ---
        ## Two
        ---
        (random.random(), np.random.rand(), torch.rand(1).item(), rng.random(), own.gauss(0, 1), torch.rand(2, generator=source).tolist(), np.random.randn())
        ---
        ## Three
        ---
        (random.random(), np.random.randn(), torch.rand(1).item(), same.random(), own.gauss(0, 1), torch.rand(2, generator=source).tolist(), rng is same)
        ---
        ## Four
        ---
        (random.random(), np.random.rand(), torch.rand(1).item(), rng.random(), own.random(), torch.rand(2, generator=source).tolist(), rng.spawn(1)[0].random())
        """, restores=[1, 2, 3])


def test_functions_and_classes_hold_what_they_held(bench):
    check(bench, """
        import functools
        from dataclasses import dataclass, field
        from enum import Enum
        rate = 2
        def remember(n, seen=[]):
            seen.append(n)
            remember.calls = getattr(remember, "calls", 0) + 1
            return list(seen)
        def scaled(x): return x * rate
        twice = lambda x: 2 * x
        class Colour(Enum):
            RED = 1
        class Base:
            made = 0
            log = []
            def __init__(self, name):
                self.name = name
                type(self).made += 1
                Base.log.append(name)
        class Child(Base):
            def __init__(self, name):
                super().__init__(name)
        @dataclass(frozen=True)
        class Point:
            x: int
            colour: Colour = Colour.RED
            tags: list = field(default_factory=list)
        ---
        ## Two
        ---
        first, callbacks = Child("a"), {"f": scaled, "sum": sum, "t": twice}
        point = Point(1, tags=[first])
        remember(1), rate
        ---
        ## Three
        ---
        rate = 3
        Child("b")
        remember(2)
        point.tags.append(point)
        Base.limit = 7
        ---
        ## Four
        ---
        print(remember(3), remember.calls, callbacks["f"](4), callbacks["f"] is scaled, callbacks["t"] is twice, Base.made, Child.made, Base.log, point.tags[0] is first, point.tags[1] is point,
              type(point) is Point, point.colour is Colour.RED, Base.limit, isinstance(first, Child))
        """, restores=[1, 2, 3])


def test_what_cannot_be_kept_runs_again(bench):
    whole = check(bench, """
        import sqlite3
        import threading
        import numpy as np
        conn = sqlite3.connect(":memory:")
        ---
        ## A half eaten generator
        ---
        squares = (n * n for n in range(5))
        next(squares), conn.execute("select 1").fetchone()
        ---
        ## Views
        ---
        table = np.arange(4.0)
        head = table[:2]
        head[0] = 9
        print(list(squares))
        ---
        ## A closure
        ---
        def adder(n): return lambda x: x + n
        add = adder(2)
        print(table, head)
        ---
        ## A thread
        ---
        done = threading.Event()
        def wait(): done.wait()
        worker = threading.Thread(target=wait, daemon=True); worker.start()
        print(add(1))
        ---
        ## The end
        ---
        done.set()
        print("end")
        """, restores=[0, 0, 0, 0, 0])
    said = " | ".join(map(str, whole["why"]))
    for part in ("`conn` (sqlite3.Connection) cannot be kept", "`squares` (generator)", "shares memory with", "`add` (function) cannot be kept"): assert part in said
    assert "thread" in whole["why"][4] or "`done` (threading.Event)" in whole["why"][4]


def test_what_is_not_read_later_need_not_be_kept(bench):
    check(bench, """
        import sqlite3
        conn = sqlite3.connect(":memory:")
        rows = conn.execute("select 1, 2").fetchall()
        conn.close()
        ---
        ## Two
        ---
        conn = sqlite3.connect(":memory:")
        more = rows + conn.execute("select 3, 4").fetchall()
        conn.close()
        ---
        ## Three
        ---
        print(rows, more)
        """, restores=[1, 2])


def test_any_name_may_be_read_by_eval(bench):
    whole = check(bench, """
        a, b = 1, [2]
        ---
        ## Two
        ---
        c = eval("a + 1")
        ---
        ## Three
        ---
        d = b + [c]
        d
        ---
        ## Four
        ---
        print(sorted(n for n in globals() if len(n) == 1 and n.isalpha()))
        """, restores=[1, 1, 1])
    assert "`eval` may read or set any name" in whole["why"][1]


def test_the_environment_comes_back_and_libraries_settings_run_again(bench):
    (bench.cwd / "lib").mkdir()
    (bench.cwd / "lib" / "helper_of_test.py").write_text("def name(): return 'helper'\n")
    whole = check(bench, """
        import os, sys
        sys.path.append("lib")
        os.environ["MODE_OF_TEST"] = "fast"
        os.environ.pop("LANGUAGE", None)
        ---
        ## Two
        ---
        import helper_of_test
        os.makedirs("sub", exist_ok=True)
        os.chdir("sub")
        ---
        ## Three
        ---
        import numpy as np
        np.set_printoptions(precision=2)
        ---
        ## Four
        ---
        x = np.array([1 / 3])
        print(x, os.environ["MODE_OF_TEST"], os.path.basename(os.getcwd()), helper_of_test.name())
        ---
        ## Five
        ---
        print(x, os.getcwd().endswith("sub"))
        """, restores=[1, 1, 1, 2])
    assert "os.makedirs(…) is called for its effect" in whole["why"][1] and "np.set_printoptions(…) is called for its effect" in whole["why"][2]


def test_frames_keep_index_order_and_layout(bench):
    check(bench, """
        import pandas as pd
        import polars as pl
        df = pd.DataFrame({"v": [0.1, 0.2, None], "c": pd.Categorical(["b", "a", "b"], ["b", "a", "z"])}, index=pd.Index(["x", "y", "x"], name="k"))
        parts = pl.concat([pl.DataFrame({"g": ["u", "v"], "n": [0.1, 0.7]})] * 3, rechunk=False)
        ---
        ## Two
        ---
        df["w"] = df["v"] * 3
        df.loc["y", "v"] = -0.0
        parts = parts.with_columns(m=pl.col("n").cum_sum()).sort("g")
        least = 0.05
        ---
        ## Three
        ---
        found = df.query("v > @least")
        df.attrs["seen"] = [1]
        ---
        ## Four
        ---
        print(df.to_csv(), df.index.name, df["c"].cat.categories.tolist(), df.attrs, found.shape, df.v.values.tobytes())
        print(parts, parts["g"].flags, parts.n_chunks(), parts["n"].sum())
        """, restores=[1, 2, 3])


def test_files_of_the_run_and_its_name_are_about_the_new_run(bench):
    check(bench, """
        from mlops_workbench.core.runs import job_run
        run = job_run("odd")
        run.metric("a", 1)
        run.metric("loss", 0.5, step=1)
        run.save_json("made.json", {"run": run.id})
        folder = run.folder
        ---
        ## Two
        ---
        run.metric("b", 2)
        note = f"made by {run.id} in {folder}"
        print(note)
        (folder / "sub").mkdir()
        (folder / "sub" / "data.bin").write_bytes(bytes(range(256)))
        ---
        ## Three
        ---
        run.warn(note)
        print((folder / "made.json").exists(), folder == run.folder, run.id in note, run.reported["metrics"])
        """, restores=[1, 2])
    ids = bench.store.list("runs")
    told = [bench.store.read_json(f"runs/{i}/reported.json") for i in ids]
    assert [t["metrics"] for t in told] == [{"a": 1, "b": 2, "loss": 0.5}] * 3
    for i, t in zip(ids, told): assert i in t["warnings"][0] and not any(j in t["warnings"][0] for j in ids if j != i)


def test_magics_and_tracebacks_work_in_restored_sections(bench):
    check(bench, """
        %matplotlib inline
        import inspect
        import matplotlib.pyplot as plt
        def area(r):
            return 3 * r * r
        ---
        ## Two
        ---
        plt.plot([1, 2])
        plt.show()
        x = area(2)
        ---
        ## Three
        ---
        %time y = x + 1
        ---
        ## Four
        ---
        print(inspect.getsource(area), area.__code__.co_firstlineno, x, y)
        """.replace("%time y = x + 1", "y = x + 1"), restores=[1, 2, 3])


def test_a_section_that_acts_on_the_outside_always_runs_and_what_follows_is_restored(bench):
    nb = notebook("""
        values = [1]
        ---
        ## Sending
        ---
        # always
        with open("sent.txt", "a") as f: f.write("sent ")
        ---
        ## After
        ---
        values.append(2)
        print("slow work")
        ---
        ## The end
        ---
        print(values)
        """)
    first, again = bench.run(nb), bench.run(nb)
    assert (bench.cwd / "sent.txt").read_text() == "sent sent "
    assert again["states"] == ["restored", "executed", "restored", "executed"] and again["shown"] == first["shown"]
    assert first["why"][1] == "runs again: it acts on the outside (always)" and again["why"][2] == f"restored from {first['id']}"
    assert again["nb"].cells[4].metadata.mlw.restored == first["id"] if again["nb"].cells[4].cell_type == "code" else True


def test_a_changed_file_input_or_module_runs_again_and_says_so(bench):
    (bench.cwd / "data.csv").write_text("a\n1\n")
    (bench.cwd / "table.csv").write_text("b\n1\n")
    (bench.cwd / "helper_beside.py").write_text("seen = []\ndef see(x):\n    seen.append(x)\n    return len(seen)\n")
    nb = notebook("""
        import polars as pl
        from pathlib import Path
        from mlops_workbench.core.runs import job_run
        import helper_beside
        run = job_run("odd")
        ---
        ## Reading
        ---
        lines = Path("data.csv").read_text().splitlines()
        ---
        ## A library that opens files by itself
        ---
        table = pl.read_csv("table.csv")
        ---
        ## An input
        ---
        version = run.input("dataset", "people", "people@1")
        ---
        ## A module that remembers
        ---
        count = helper_beside.see(1)
        ---
        ## The end
        ---
        print(lines, table["b"].sum(), version, count + helper_beside.see(2))
        """)
    versions = {"people": "people@1"}
    options = {"current": lambda kind, ref: versions.get(ref, "")}
    first = bench.run(nb, **options)
    assert first["outcome"].status == "succeeded" and first["why"][4] == "runs again: it changed the module helper_beside"
    again = bench.run(nb, **options)
    assert again["states"] == ["restored"] * 4 + ["executed"] * 2 and again["shown"] == first["shown"]
    versions["people"] = "people@2"
    again = bench.run(nb, **options)
    assert again["states"][:4] == ["restored"] * 3 + ["executed"] and again["why"][3] == "its input people changed: people@1 to people@2"
    versions["people"] = "people@1"
    (bench.cwd / "table.csv").write_text("b\n2\n")
    again = bench.run(nb, **options)
    assert again["states"][:3] == ["restored"] * 2 + ["executed"] and again["why"][2] == "the file table.csv changed" and "['a', '1'] 2 people@1 3" in again["shown"][-1][0]
    (bench.cwd / "data.csv").write_text("a\n5\n")
    again = bench.run(nb, **options)
    assert again["states"][:2] == ["restored", "executed"] and again["why"][1] == "the file data.csv changed"


def test_a_damaged_checkpoint_is_noticed_and_everything_runs(bench):
    nb = notebook("""
        import numpy as np
        x = np.arange(5000.0)
        ---
        ## Two
        ---
        y = x.sum()
        ---
        ## Three
        ---
        print(y)
        """)
    first = bench.run(nb)
    for blob in (bench.store.local / "checkpoints" / "odd" / "blobs").iterdir():
        if blob.read_bytes()[:6] == b"\x93NUMPY": blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    again = bench.run(nb)
    assert again["states"] == ["executed"] * 3 and again["shown"] == first["shown"] and "is damaged" in again["why"][0]
    assert bench.run(nb)["states"] == ["restored", "restored", "executed"]


def test_no_checkpoint_holds_a_secret(bench, monkeypatch):
    monkeypatch.setenv("RESUME_TOKEN", "correct-horse-battery-staple")
    nb = notebook("""
        import os
        from mlops_workbench.core.secrets import secret
        from mlops_workbench.core.runs import job_run
        run = job_run("odd")
        token = secret("RESUME_TOKEN")
        ---
        ## Two
        ---
        length = len(token)
        ---
        ## Three
        ---
        os.environ["MY_API_KEY"] = "abc"
        del token
        ---
        ## Four
        ---
        print(length)
        """)
    first, again = bench.run(nb), bench.run(nb)
    assert "`token` (str) cannot be kept: it holds a secret" in first["why"][0] and "may be a secret" in first["why"][2]
    assert again["states"] == ["executed"] * 4 and again["shown"] == first["shown"]
    for file in (bench.store.local / "checkpoints").rglob("*"): assert file.is_dir() or b"correct-horse" not in file.read_bytes()


def test_what_values_refer_to_is_kept_though_no_code_names_it(bench):
    check(bench, """
        class Base:
            log = []
        class Kind(Base):
            def add(self, x): self.log.append(x)
        def remember(n, seen=[]):
            seen.append(n)
            return list(seen)
        thing, calls, exit = Kind(), {"f": remember}, 1
        ---
        ## Two
        ---
        thing.add(1)
        calls["f"](1), exit
        ---
        ## Three
        ---
        thing.add(2)
        exit = exit + 1
        calls["f"](2)
        ---
        ## Four
        ---
        print(thing.log, calls["f"](3), exit)
        """, restores=[1, 2, 3])


def test_a_function_beside_the_import_it_uses_is_the_same_again(bench):
    check(bench, """
        import math
        def root(x): return math.sqrt(x)
        ---
        ## Two
        ---
        print(root(4))
        """, restores=[1])


@pytest.mark.parametrize("does, sees, why", [
    ("from unittest.mock import patch\np = patch('time.time', lambda: 5)\np.start()", "import time\ntime.time() == 5", "unittest._patch"),
    ("import threading\nseen = []\nt = threading.Timer(1.5, lambda: seen.append(1))\nt.start()", "import time\ntime.sleep(2)\nseen", "thread"),
    ("import os\nos.umask(0o077)", "import os\nos.umask(0)", "umask"),
    ("import logging\nlog = logging.getLogger('y')\nlog.setLevel(10)", "import logging\nlogging.getLogger('y').level", "setLevel"),
    ("from warnings import *\nsimplefilter('ignore')", "import warnings\nwarnings.filters[0][0]", "simplefilter"),
    ("import subprocess\nr = subprocess.run(['sh', '-c', 'echo 1 > da' + 'ta']).returncode", "open('da' + 'ta', 'a+').tell()", "program `sh`"),
    ("from IPython.display import display\ndisplay('a', display_id='q')", "from IPython.display import update_display\nupdate_display('b', display_id='q')", "display_id"),
])
def test_what_a_section_does_beside_its_values_is_done_again(bench, does, sees, why):
    nb = notebook("a = 1\n---\n## Two\n---\nb = 2\n---\n## Three\n---\nprint(a, b)")
    nb.cells[0].source, nb.cells[-1].source = does, sees
    whole, again = bench.run(nb), bench.run(nb)
    assert again["outcome"].status == "succeeded" and again["states"][0] == "executed" and why in whole["why"][0]
    assert again["shown"] == whole["shown"]


@pytest.mark.parametrize("reads", [
    "import glob\nn = len(glob.glob('data/*.csv'))", "from pathlib import Path\nn = len(list(Path('data').glob('*.csv')))", "import os\nn = sorted(os.listdir('data'))",
    "import os\nn = os.path.exists('data/2.csv')", "from pathlib import Path\np = Path('data') / '2.csv'\nn = p.is_file()", "import polars as pl\nn = pl.read_csv('data/*.csv').height",
    "import polars as pl\nk = 1\nn = pl.read_csv(f'data/{k}.csv').item()", "import polars as pl\np = 'data/1' + '.csv'\nn = pl.read_csv(p).item()",
    "import sqlite3\nc = sqlite3.connect('data' + '/1.db')\nn = len(c.execute('select * from sqlite_master').fetchall())\nc.close()",
])
def test_files_that_come_or_change_are_noticed_however_they_are_read(bench, reads):
    import sqlite3
    folder = bench.cwd / "data"
    folder.mkdir()
    (folder / "1.csv").write_text("a\n1\n")
    sqlite3.connect(folder / "1.db").close()
    nb = notebook("a = 1\n---\n## Two\n---\nprint(n)")
    nb.cells[0].source = reads
    first = bench.run(nb)
    (folder / "2.csv").write_text("a\n2\n")
    (folder / "1.csv").write_text("a\n9\n")
    con = sqlite3.connect(folder / "1.db")
    con.execute("create table t (x)")
    con.close()
    second = bench.run(nb)
    assert second["states"][0] == "executed" and second["shown"] != first["shown"]


def test_a_folder_that_went_with_the_kernel_is_made_again(bench):
    nb = notebook("""
        import tempfile
        made = tempfile.TemporaryDirectory()
        place = made.name
        ---
        ## Two
        ---
        open(place + "/f", "w").close()
        """)
    assert bench.run(nb)["outcome"].status == bench.run(nb)["outcome"].status == "succeeded"


def test_a_heading_in_code_or_in_a_comment_is_none():
    from mlops_workbench.jobs.resume import sections
    nb = notebook("## One\n```python\n## no\n```\n<!--\n## no\n-->\n---\nx = 1\n---\n## Two\n~~~\n## never closed")
    nb.cells.insert(1, nbformat.v4.new_markdown_cell("```\n## no\n```"))
    nb.cells.append(nbformat.v4.new_markdown_cell("<!-- a -->\ntext\n\n## Three"))
    assert [s.title for s in sections(nb)] == ["One", "Two", "Three"]
