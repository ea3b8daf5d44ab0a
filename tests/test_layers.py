"The house: a module imports only from the floors below it, and importing the package loads nothing heavy."
import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mlops_workbench"
FLOORS = ["core", "data", "model", "assess", "tune", "deploy", "operate", "jobs", "ui"]
HEAVY = ["torch", "shap", "wandb", "pandas", "polars", "optuna", "matplotlib"]
MODULES = sorted(p for f in FLOORS for p in (PACKAGE / f).glob("*.py") if p.name != "__init__.py")


def imported_floors(path):
    "The floors a module imports, each with its line; lazy imports inside functions count as well."
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            package = path.relative_to(PACKAGE).parent.parts
            if node.level: names = [".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [a.name for a in node.names])])]
            elif (node.module or "").startswith("mlops_workbench"): names = [f"{node.module}.{a.name}".removeprefix("mlops_workbench").lstrip(".") for a in node.names]
        elif isinstance(node, ast.Import): names = [a.name.removeprefix("mlops_workbench.") for a in node.names if a.name.startswith("mlops_workbench.")]
        for name in names:
            floor = name.split(".")[0]
            if floor in FLOORS: yield floor, node.lineno


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_a_module_imports_only_from_floors_below(path):
    own = FLOORS.index(path.parent.name)
    up = [(floor, line) for floor, line in imported_floors(path) if FLOORS.index(floor) > own]
    assert not up, f"{path.name} imports from a floor above its own: {up}"


def test_the_floors_hold_modules():
    assert {p.parent.name for p in MODULES} == set(FLOORS)


def test_an_import_upward_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "core").mkdir()
    for text in ("from mlops_workbench.jobs.execute import run_job", "from ..jobs.execute import run_job", "import mlops_workbench.jobs.execute", "def f():\n    from mlops_workbench.jobs import execute"):
        (tmp_path / "core" / "x.py").write_text(text)
        assert [f for f, _ in imported_floors(tmp_path / "core" / "x.py")] == ["jobs"], text


@pytest.mark.parametrize("statement", ["import mlops_workbench", *(f"import mlops_workbench.core.{m}" for m in ("errors", "settings", "secrets", "store", "runs", "show")), "import mlops_workbench.jobs.parameters"])
def test_importing_loads_nothing_heavy(statement):
    code = f"{statement}, sys\nprint([m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("job", ["ingest", "validate", "score", "monitor"])
def test_a_job_that_trains_nothing_loads_nothing_that_trains(job):
    cells = json.loads((PACKAGE.parent / "nbs" / "jobs" / f"{job}.ipynb").read_text())["cells"]
    imports = [line for c in cells if c["cell_type"] == "code" for line in "".join(c["source"]).splitlines() if line.startswith(("from ", "import "))]
    code = "\n".join([*imports, "import sys", "print([m for m in ('torch', 'sklearn', 'lightgbm', 'pandas', 'shap') if m in sys.modules])"])
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
