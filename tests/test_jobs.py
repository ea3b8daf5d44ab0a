"The job notebooks: short, parameterised, and as the executor and the cleaner want them."
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_workbench.jobs.parameters import load_notebook, read_parameters

JOBS = sorted((Path(__file__).parent.parent / "nbs" / "jobs").glob("*.ipynb"))
CLOCK = {"validate", "monitor", "pipeline"}


def test_the_jobs_are_there():
    assert {p.stem for p in JOBS} == {"ingest", "validate", "tune", "assess", "deploy", "score", "monitor", "pipeline"}


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.stem)
def test_a_job_is_short_and_has_typed_parameters_with_help(path):
    notebook = load_notebook(path)
    assert len(notebook["cells"]) <= 21   # two a section
    parameters = read_parameters(notebook)
    assert parameters and all(p.help and p.type and not p.required for p in parameters)
    assert bool(notebook["metadata"].get("mlw", {}).get("clock")) == (path.stem in CLOCK)
    assert not any("def " in "".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"), "a job has no logic of its own"


def test_cleaning_keeps_the_tags_and_the_clock(tmp_path):
    root = Path(__file__).parent.parent
    shutil.copy(root / "pyproject.toml", tmp_path)
    shutil.copytree(root / "nbs" / "jobs", tmp_path / "nbs" / "jobs")
    subprocess.run([Path(sys.executable).with_name("nbdev-clean"), "--fname", "nbs/jobs"], cwd=tmp_path, check=True)
    for path in JOBS:
        cleaned = load_notebook(tmp_path / "nbs" / "jobs" / path.name)
        assert read_parameters(cleaned) == read_parameters(load_notebook(path))
        assert bool(cleaned["metadata"].get("mlw", {}).get("clock")) == (path.stem in CLOCK)
