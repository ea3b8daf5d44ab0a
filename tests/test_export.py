"The package, the notebooks' form and the README follow from the notebooks: making them again changes nothing."
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.readme import readme_text

ROOT = Path(__file__).parent.parent
PARTS = ["nbs", "mlops_workbench", "pyproject.toml", "_quarto.yml", "README.md"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    to = tmp_path_factory.mktemp("copy") / "mlops_workbench"
    to.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.pyc")
    for part in PARTS:
        if (ROOT / part).is_dir(): shutil.copytree(ROOT / part, to / part, symlinks=True, ignore=ignore)
        else: shutil.copy(ROOT / part, to / part)
    return to


def content(root): return {p.relative_to(root): p.read_bytes() for part in PARTS for p in ([root / part] if (root / part).is_file() else (root / part).rglob("*"))
                           if p.is_file() and "__pycache__" not in p.parts and ".ipynb_checkpoints" not in p.parts}


@pytest.mark.parametrize("command", ["nbdev-export", "nbdev-clean"])
def test_export_and_clean_change_nothing(copy, command):
    before = content(copy)
    subprocess.run([Path(sys.executable).with_name(command)], cwd=copy, check=True, capture_output=True)
    after = content(copy)
    changed = sorted(str(p) for p in before.keys() | after.keys() if before.get(p) != after.get(p))
    assert not changed, f"{command} changes {changed}: run it, then commit"


def test_readme_is_made_from_the_index():
    assert (ROOT / "README.md").read_text() == readme_text(), "run `make readme`"


def test_notebooks_are_fit_for_every_reader():
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts: continue
        nb = json.loads(path.read_text())
        assert nb["metadata"]["kernelspec"]["name"] == "python3", f"{path}: papermill needs the kernel python3"
        assert all(isinstance(c["source"], list) for c in nb["cells"]), f"{path}: Quarto needs lists of lines"
        assert "".join(nb["cells"][0]["source"]).startswith("# "), f"{path}: begins with no title"
        assert not any(o.get("output_type") == "error" for c in nb["cells"] for o in c.get("outputs", [])), f"{path}: a saved error"
        assert path.stat().st_size < 300_000, f"{path}: saved outputs are too large"
        outputs = json.dumps([c.get("outputs", []) for c in nb["cells"]])
        assert not re.search(r"/(home|Users|root|tmp|work)/\w", re.sub(r"[A-Za-z0-9+/=]{200,}", "", outputs)), f"{path}: an output names a folder of one machine"
