"Runs in a store that is no folder: what a bucket would see."

import os
import subprocess
import sys

import nbformat
import pytest

from .command import without_settings

BUCKET = """
import os
from fsspec import register_implementation
from fsspec.implementations.local import LocalFileSystem

class Bucket(LocalFileSystem):
    "A folder behind a protocol of its own, so that nothing may take it for a folder."
    protocol = "bucket"
    def __init__(self, *args, **options): super().__init__(*args, **{**options, "auto_mkdir": True})
    @classmethod
    def _strip_protocol(cls, path):
        path = os.fspath(path)
        return os.environ["BUCKET_FOLDER"] + "/" + path.removeprefix("bucket://").strip("/") if path.startswith("bucket://") else path.rstrip("/")

register_implementation("bucket", Bucket, clobber=True)
"""

RUN = """
from mlops_workbench.core.runs import Runs
from mlops_workbench.jobs import execute
from mlops_workbench.jobs.execute import run_job
execute.package_hash = lambda: "as installed"   # whatever is edited meanwhile
one = run_job("one.ipynb", store="bucket://store")
two = run_job("two.ipynb", store="bucket://store")
assert (one["status"], two["status"], two["metrics"]) == ("succeeded", "succeeded", {"n": 3}), two["message"]
assert run_job("one.ipynb", store="bucket://store")["skipped"]
assert (Runs("bucket://store").folder(one["id"]) / "notebook.ipynb").exists()
"""


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    without_settings(monkeypatch)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BUCKET)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("BUCKET_FOLDER", str(tmp_path / "bucket"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_in_a_bucket_is_recorded_with_its_files(bucket):
    opened = "from mlops_workbench.core.runs import Runs, job_run\nrun = job_run('x')\n"
    for name, source in (("one", opened + "run.save_json('found.json', {'n': 3})"),
                         ("two", opened + "import json\nup = run.upstream('one')\nrun.metric('n', json.loads((Runs(run.store).folder(up['id']) / 'found.json').read_text())['n'])")):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), bucket / f"{name}.ipynb")
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (one,) = (bucket / "bucket" / "store" / "runs").glob("*-one-*")
    assert {"run.json", "lease.json", "notebook.ipynb", "report.html", "found.json"} <= {p.name for p in one.iterdir()}
    assert not (bucket / "store").exists()
