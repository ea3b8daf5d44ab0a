"Parameters: read from the notebook, checked before a kernel."

from datetime import date
from pathlib import Path

import nbformat
import pytest

from mlops_workbench.core.errors import ParameterError
from mlops_workbench.core.runs import Runs
from mlops_workbench.jobs.execute import run_job
from mlops_workbench.jobs.parameters import inject, load_notebook, read_parameters, resolve


def write(path, cell, *more):
    cells = [nbformat.v4.new_code_cell(cell, metadata={"tags": ["parameters"]}), *(nbformat.v4.new_code_cell(m) for m in more)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return load_notebook(path)


@pytest.mark.parametrize(("annotation", "text", "value"), [
    ("int", "-3", -3), ("float", "1e-3", 1e-3), ("float", "3", 3.0), ("bool", "No", False), ("str", "3", "3"), ("str", "a=b", "a=b"), ("str", "", ""),
    ("list[int]", "1,2", [1, 2]), ("list[str]", '["a,b"]', ["a,b"]), ("list", "", []), ("dict[str, list[int]]", '{"a": [1]}', {"a": [1]}),
    ("Path", "a b/c", Path("a b/c")), ("date", "2026-02-28", date(2026, 2, 28)), ("Literal['a', 2]", "2", 2), ("Optional[float]", "None", None),
    ("int | str", "7", 7), ("int | str", "seven", "seven"), ("str | None", "x", "x"), ("Union[int, None]", "4", 4), ("'int'", "4", 4)])
def test_text_becomes_the_type(tmp_path, annotation, text, value):
    parameters = read_parameters(write(tmp_path / "a.ipynb", f"x: {annotation}"))
    found = resolve(parameters, [f"x={text}"])["x"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("annotation", "value"), [
    ("int", "3.5"), ("int", "three"), ("int", 3.5), ("int", True), ("float", "much"), ("bool", "perhaps"), ("bool", 1), ("str", 3), ("list[int]", "1,x"), ("dict", "[1]"),
    ("Literal['a', 'b']", "c"), ("date", "2026-02-30"), ("Path", 3), ("Path", ""), ("int | None", "x")])
def test_the_wrong_type_is_refused_and_named(tmp_path, annotation, value):
    parameters = read_parameters(write(tmp_path / "a.ipynb", f"x: {annotation} = None"))
    with pytest.raises(ParameterError, match="parameter 'x' is"): resolve(parameters, {"x": value})


def test_numpy_scalars_are_plain_values(tmp_path):
    np = pytest.importorskip("numpy")
    parameters = read_parameters(write(tmp_path / "a.ipynb", "x: int = 1\ny: float = 2.0"))
    assert resolve(parameters, {"x": np.int64(5), "y": np.float32(0.5)}) == {"x": 5, "y": 0.5}


def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    parameters = read_parameters(write(tmp_path / "a.ipynb", "trials: int = 1\nname: str   # of the model"))
    with pytest.raises(ParameterError) as e: resolve(parameters, {"trails": 1, "trials": "x"})
    for part in ("unknown parameter 'trails'", "parameter 'trials' is 'x'", "'name' is missing (of the model)", "did you mean 'trials'"): assert part in str(e.value)
    assert e.value.exit_status == 2


def test_values_reach_the_notebook_as_they_are(tmp_path):
    nb = write(tmp_path / "a.ipynb", "from pathlib import Path\nfrom datetime import date\np: Path = Path('x')\nd: date = date(2026, 1, 1)\ns: str = ''\nf: float = 0.0\nl: list = []")
    given = {"p": Path("a'b"), "d": date(2026, 2, 3), "s": "line\n\"quote\" \\ {x}", "f": float("inf"), "l": [1, None, {"a": "é"}]}
    names: dict = {}
    for cell in inject(nb, given)["cells"]: exec(cell["source"], names)
    assert {k: names[k] for k in given} == given


def test_help_comes_from_the_comment_beside_it_even_over_several_lines(tmp_path):
    parameters = read_parameters(write(tmp_path / "a.ipynb", "x: list[str] = [\n    'a#b',   # letters\n]\ny = 'no # comment'\n# of nothing\nz = 1"))
    assert [(p.name, p.help) for p in parameters] == [("x", "letters"), ("y", ""), ("z", "")]


def test_nothing_runs_when_a_parameter_is_wrong(tmp_path):
    write(tmp_path / "a.ipynb", "x: int = 1", "open('ran', 'w')")
    for given in (["y=1"], ["x=one"], ["x"], ["=1"]):
        with pytest.raises(ParameterError): run_job(tmp_path / "a.ipynb", given, store=tmp_path / "store")
    assert not (tmp_path / "ran").exists() and Runs(tmp_path / "store").list() == []


def test_a_notebook_without_parameters_takes_none(tmp_path):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")]), tmp_path / "a.ipynb")
    with pytest.raises(ParameterError, match="takes no parameters"): run_job(tmp_path / "a.ipynb", {"x": 2}, store=tmp_path / "store")


def test_a_secret_is_refused_as_a_parameter(tmp_path, monkeypatch):
    from mlops_workbench.core.secrets import secret
    monkeypatch.setenv("DB_PASSWORD", "correct horse battery")
    secret("DB_PASSWORD")
    write(tmp_path / "a.ipynb", "x: str = ''")
    with pytest.raises(ParameterError, match="holds a secret") as e: run_job(tmp_path / "a.ipynb", {"x": "correct horse battery"}, store=tmp_path / "store")
    assert "correct horse" not in str(e.value)
