"Parameters: read from the notebook, checked before a kernel."

import enum
import json
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import nbformat
import pytest

from mlops_workbench.core.errors import InputError, NotFoundError, ParameterError
from mlops_workbench.core.runs import Runs
from mlops_workbench.jobs.execute import run_job
from mlops_workbench.jobs.parameters import (as_text, check_given, convert_value, form, inject, literal, load_notebook, read_parameters, read_params_file, resolve, syntax_error,
                                             validate_notebook)


def write(path, cell, *more):
    cells = [nbformat.v4.new_code_cell(cell, metadata={"tags": ["parameters"]}), *(nbformat.v4.new_code_cell(m) for m in more)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return load_notebook(path)


@pytest.mark.parametrize(("annotation", "text", "value"), [
    ("int", "-3", -3), ("float", "1e-3", 1e-3), ("float", "3", 3.0), ("bool", "No", False), ("str", "3", "3"), ("str", "a=b", "a=b"), ("str", "", ""),
    ("list[int]", "1,2", [1, 2]), ("list[str]", '["a,b"]', ["a,b"]), ("list", "", []), ("dict[str, list[int]]", '{"a": [1]}', {"a": [1]}),
    ("Path", "a b/c", Path("a b/c")), ("date", "2026-02-28", date(2026, 2, 28)), ("Literal['a', 2]", "2", 2), ("Optional[float]", "None", None),
    ("datetime", "2026-02-28T14:05", datetime(2026, 2, 28, 14, 5)), ("datetime.datetime", "2026-02-28 14:05:00+00:00", datetime(2026, 2, 28, 14, 5, tzinfo=UTC)), ("datetime", "2026-02-28T14:05Z", datetime(2026, 2, 28, 14, 5, tzinfo=UTC)),
    ("datetime", "2026-02-28", datetime(2026, 2, 28)), ("date | datetime", "2026-02-28T01:00", datetime(2026, 2, 28, 1)), ("Literal[True, 'auto']", "true", True), ("Literal[0, 1]", "0", 0), ("Literal['', 'a']", "", ""),
    ("tuple[int, str]", "1,a", (1, "a")), ("tuple[float, ...]", "[1, 2.5]", (1.0, 2.5)), ("list[date]", "2026-01-01,2026-01-02", [date(2026, 1, 1), date(2026, 1, 2)]), ("list", "1,a", [1, "a"]), ("list", '["1"]', ["1"]),
    ("list[str]", "['a', 'b']", ["a", "b"]), ("dict", "{'a': 1}", {"a": 1}), ("dict[int, bool]", '{"1": true}', {1: True}), ("typing.Optional[typing.List[int]]", "3", [3]), ("Annotated[int, 'rows']", "3", 3),
    ("list[int | None]", "[1, null]", [1, None]), ("float", ".inf", float("inf")), ("Any", "[1]", [1]), ("Iterable[int]", "1", [1]), ("set[str] | list[str]", "a", ["a"]), ("Any", "x", "x"), ("Decimal", "x", "x"),
    ("int | str", "7", 7), ("int | str", "seven", "seven"), ("str | None", "x", "x"), ("Union[int, None]", "4", 4), ("'int'", "4", 4)])
def test_text_becomes_the_type(tmp_path, annotation, text, value):
    parameters = read_parameters(write(tmp_path / "a.ipynb", f"x: {annotation}"))
    found = resolve(parameters, [f"x={text}"])["x"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("annotation", "value"), [
    ("int", "3.5"), ("int", "three"), ("int", 3.5), ("int", True), ("float", "much"), ("bool", "perhaps"), ("bool", 1), ("str", 3), ("list[int]", "1,x"), ("dict", "[1]"),
    ("Literal['a', 'b']", "c"), ("Literal[1, 2]", True), ("date", "2026-02-30"), ("date", datetime(2026, 1, 1, 2)), ("datetime", "noon"), ("datetime", 3), ("tuple[int, str]", "1"), ("tuple[int, str]", [1, 2, 3]),
    ("list", "[1, 2"), ("list", {1, 2}), ("dict[str, int]", '{"a": "b"}'), ("str", b"abc"), ("Any", b"abc"), ("Path", b"abc"), ("Any", object()), ("list", [b"abc"]), ("Any", 1j), ("str", "a\udc80"), ("Path", "a\0b"),
    ("list", "[" * 100_000), ("set[str]", "a,b"), ("bytes", "a"), ("int", float("nan")), ("int", float("inf")), ("str", None), ("Path", 3), ("Path", ""), ("int | None", "x")])
def test_the_wrong_type_is_refused_and_named(tmp_path, annotation, value):
    parameters = read_parameters(write(tmp_path / "a.ipynb", f"x: {annotation} = None"))
    with pytest.raises(ParameterError, match="parameter 'x' is"): resolve(parameters, {"x": value})


def test_numpy_scalars_are_plain_values(tmp_path):
    np = pytest.importorskip("numpy")
    parameters = read_parameters(write(tmp_path / "a.ipynb", "x: int = 1\ny: float = 2.0"))
    found = resolve(parameters, {"x": np.int64(5), "y": np.float32(0.5)})
    assert found == {"x": 5, "y": 0.5} and [type(v) for v in found.values()] == [int, float]


@pytest.mark.parametrize(("kind", "make", "value"), [
    ("list[int]", lambda np: np.arange(3), [0, 1, 2]), ("Any", lambda np: np.array([[1.5]]), [[1.5]]), ("bool", lambda np: np.True_, True), ("str", lambda np: np.str_("a"), "a"), ("Any", lambda np: {"a": np.int8(1)}, {"a": 1}),
    ("datetime", lambda np: np.datetime64("2026-01-31T10:00:00.000000000"), datetime(2026, 1, 31, 10)), ("Any", lambda np: (np.int8(1), [np.float64(2)]), (1, [2.0]))])
def test_numpy_values_are_plain_and_can_be_written(kind, make, value):
    np = pytest.importorskip("numpy")
    found = convert_value(make(np), kind)
    assert found == value and type(found) is type(value) and "numpy" not in repr(found) and "np." not in literal(found)


def test_an_enumeration_gives_its_value():
    class Device(enum.StrEnum): CPU = "cpu"
    assert convert_value(Device.CPU, "str") == "cpu" and type(convert_value(Device.CPU, "str")) is str


def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    parameters = read_parameters(write(tmp_path / "a.ipynb", "trials: int = 1\nname: str   # of the model"))
    with pytest.raises(ParameterError) as e: resolve(parameters, {"trails": 1, "trials": "x"})
    for part in ("unknown parameter 'trails'", "parameter 'trials' is 'x'", "'name' is missing (of the model)", "did you mean 'trials'"): assert part in str(e.value)
    assert e.value.exit_status == 2


VALUES = {"p": Path("a'b"), "d": date(2026, 2, 3), "t": datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=UTC), "s": "line\n\"quote\" \\ {x} é \u2028", "f": float("inf"), "i": 2**70, "b": True, "n": None,
          "l": [1, None, {"a": "é", "when": date(2026, 1, 1)}], "u": (1,), "m": {"deep": {"path": Path("x/y")}}}


def test_values_reach_the_notebook_as_they_are(tmp_path):
    nb = write(tmp_path / "a.ipynb", "\n".join(f"{n} = None" for n in VALUES))
    names: dict = {}
    for cell in inject(nb, VALUES)["cells"]: exec(cell["source"], names)
    assert {k: names[k] for k in VALUES} == VALUES and [type(names[k]) for k in VALUES] == [type(v) for v in VALUES.values()]


@pytest.mark.parametrize("imports", ["", "import datetime, pathlib", "from datetime import date, datetime\nfrom pathlib import Path"])
def test_values_reach_a_real_kernel_whatever_the_notebook_imports(tmp_path, imports):
    "The cell that is put in brings what it needs, and takes no name away."
    source = "\n".join([imports, *(f"{n}: '{kind}' = None" for n, kind in {"p": "Path | None", "d": "date | None", "t": "datetime | None", "l": "list | None", "m": "dict | None", "f": "float | None"}.items())])
    check = ["import json", "print(json.dumps([type(x).__name__ for x in (p, d, t, l[1], m['a'], f)]))", "print(p, d.isoformat(), t.isoformat(), l, m, f)"]
    if imports.startswith("import"): check.append("assert datetime.date is type(d) and pathlib.Path('x') == p")
    if imports.startswith("from"): check.append("assert date is type(d) and datetime is type(t) and Path('x') == p")
    write(tmp_path / "a.ipynb", source, "\n".join(check))
    given = {"p": Path("x"), "d": date(2026, 2, 3), "t": datetime(2026, 2, 3, 4, tzinfo=UTC), "l": [1, date(2026, 1, 1)], "m": {"a": Path("y")}, "f": float("nan")}
    record = run_job(tmp_path / "a.ipynb", given, store=tmp_path / "store")
    assert record["status"] == "succeeded", record["message"]
    text = nbformat.read(tmp_path / "store" / "runs" / record["id"] / "notebook.ipynb", 4).cells[-1].outputs[0].text.splitlines()
    assert json.loads(text[0])[1:4] == ["date", "datetime", "date"] and json.loads(text[0])[-1] == "float" and "Path" in json.loads(text[0])[4]
    assert text[1].startswith("x 2026-02-03 2026-02-03T04:00:00+00:00") and text[1].endswith("nan")


@pytest.mark.parametrize(("cell", "kind", "default"), [
    ("x = datetime(2026, 1, 2, 3)", "datetime", datetime(2026, 1, 2, 3)), ("x = datetime.date(2026, 1, 2)", "date", date(2026, 1, 2)), ("x = datetime.datetime.fromisoformat('2026-01-02T03:00')", "datetime", datetime(2026, 1, 2, 3)),
    ("x = date.fromisoformat('2026-01-02')", "date", date(2026, 1, 2)), ("x = [1, 2]", "list[int]", [1, 2]), ("x = (1, 2.5)", "tuple[float, ...]", (1, 2.5)), ("x = ['a', 1]", "list", ["a", 1]), ("x = []", "list", []),
    ("x = -1", "int", -1), ("x = None", "any", None), ("x: 'in t' = 1", "any", 1)])
def test_the_default_gives_the_type_where_nothing_is_annotated(tmp_path, cell, kind, default):
    [p] = read_parameters(write(tmp_path / "a.ipynb", cell))
    assert (p.type, p.default, type(p.default)) == (kind, default, type(default))


@pytest.mark.parametrize("cell", ["x: int = 3 * 7", "x = date.today()", "x = datetime(2026, 1, 2, tzinfo=UTC)", "x = Path('a') / 'b'", "x: int = helper()"])
def test_a_default_that_only_the_notebook_knows_is_left_to_it(tmp_path, cell):
    [p] = read_parameters(write(tmp_path / "a.ipynb", cell))
    assert p.computed and not p.required and resolve([p]) == {} and form([p])[0]["default"] == ""


def test_what_the_command_line_gives_replaces_items_in_their_type(tmp_path):
    parameters = read_parameters(write(tmp_path / "a.ipynb", "sizes = [1, 2]\nnames = ['a']\nratio = 1.0"))
    assert resolve(parameters, ["sizes=3,4", "names=5,6", "ratio=2"]) == {"sizes": [3, 4], "names": ["5", "6"], "ratio": 2.0}
    with pytest.raises(ParameterError, match="'sizes' is 'a'"): resolve(parameters, ["sizes=a"])


# from a file


def file_of(tmp_path, text, cell="dataset: str = ''\ntrials: int = 1\nminutes: float = 0.0\nsince: date = None\nat: 'datetime | None' = None\nfamilies: list[str] = []\nquick: bool = False\nlimit: int | None = 3\nmore = {}\nanything = None"):
    (tmp_path / "p.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return check_given(read_parameters(write(tmp_path / "a.ipynb", cell)), read_params_file(tmp_path / "p.yaml"), where="p.yaml")


@pytest.mark.parametrize(("text", "value"), [
    ("dataset: 1.10", {"dataset": "1.10"}), ("dataset: no", {"dataset": "no"}), ("dataset: 2026-01-31", {"dataset": "2026-01-31"}), ("dataset: '3'", {"dataset": "3"}), ("dataset: ''", {"dataset": ""}), ("dataset: |\n  a\n  b\n", {"dataset": "a\nb\n"}),
    ("trials: 017", {"trials": 17}), ("trials: '4'", {"trials": 4}), ("minutes: 1e-3", {"minutes": 1e-3}), ("minutes: .inf", {"minutes": float("inf")}), ("minutes: 5", {"minutes": 5.0}), ("since: 2026-01-31", {"since": date(2026, 1, 31)}),
    ("at: 2026-01-31 10:00:00", {"at": datetime(2026, 1, 31, 10)}), ("at: 2026-01-31T10:00:00Z", {"at": datetime(2026, 1, 31, 10, tzinfo=UTC)}), ("at: null", {"at": None}), ("at: ~", {"at": None}), ("families: [1.10, no, b]", {"families": ["1.10", "no", "b"]}),
    ("families: a, b", {"families": ["a", "b"]}), ("quick: off", {"quick": False}), ("quick: 'true'", {"quick": True}), ("limit:", {"limit": None}), ("more: {a: 1, b: [x, 2026-01-31, '2']}", {"more": {"a": 1, "b": ["x", date(2026, 1, 31), "2"]}}),
    ("anything: 12", {"anything": 12}), ("anything: '12'", {"anything": 12}), ("anything: [1, '2']", {"anything": [1, "2"]}), ("", {}), ("# nothing\n", {}), ('{"trials": 4, "dataset": "a"}', {"trials": 4, "dataset": "a"}), ("a: &a\n  x", None),
    (b"\xef\xbb\xbftrials: 4", {"trials": 4}), ("trials: &n 4\nlimit: *n", {"trials": 4, "limit": 4})])
def test_a_file_gives_what_its_words_say_and_the_types_mean(tmp_path, text, value):
    if value is None: pytest.raises(ParameterError, file_of, tmp_path, text)
    else: assert file_of(tmp_path, text) == value and [type(v) for v in file_of(tmp_path, text).values()] == [type(v) for v in value.values()]


@pytest.mark.parametrize(("text", "words"), [
    ("trails: 4\ndataset: x", ["unknown parameter 'trails' (line 1)", "did you mean 'trials'", "parameters: dataset, trials"]), ("dataset: x\ntrials: many", ["'trials' is 'many'", "a whole number (line 2)", "p.yaml"]),
    ("trials: 4\ntrials: 5", ["'trials' is there twice", "line 2"]), ("more:\n  a: 1\n  a: 2", ["'a' is there twice", "line 3"]), ("- a\n- b", ["p.yaml holds no names"]), ("just a text", ["holds no names"]), ("trials: [1", ["cannot be read", "line"]),
    ("trials: 12:30", ["'12:30'"]), ("trials: 0x1F", ["'0x1F'"]), ("trials: 4.5", ["'4.5'"]), ("dataset:", ["'dataset' is empty", "text"]), ("trials: null", ["'trials' is empty"]), ("since: 2026-02-30", ["2026-02-30"]), ("dataset: [a]", ["'dataset'", "text"]),
    ("anything: !!python/object/apply:os.system ['ls']", ["tag"]), ("anything: !!binary aGVsbG8=", ["tag"]), ("anything: !custom x", ["tag"]), ("? [a, b]\n: 1", ["a key is a list"]), ("a: 1\n---\nb: 2", ["cannot be read"]), (b"dataset: gr\xf6\xdfe", ["UTF-8"]),
    ("more: &a [*a]", ["contains itself"]), ("\tx: 1", ["cannot be read"]), ("anything:\n" + "\n".join(f"- &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(9)), ["100,000 values"])])
def test_a_wrong_file_is_one_error_that_names_file_key_and_line(tmp_path, text, words):
    with pytest.raises(ParameterError) as e: file_of(tmp_path, text)
    for word in [*words, "p.yaml"]: assert word in str(e.value), str(e.value)
    assert e.value.exit_status == 2 and e.value.where and e.value.remedy


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(NotFoundError, match="no file"): read_params_file(tmp_path / "absent.yaml")
    with pytest.raises(ParameterError, match="cannot be read"): read_params_file(tmp_path)


def test_a_file_tells_everything_that_is_wrong_at_once(tmp_path):
    with pytest.raises(ParameterError) as e: file_of(tmp_path, "trails: 4\nminutes: long\nquick: perhaps")
    for word in ("'trails' (line 1)", "'minutes' is 'long'", "(line 2)", "'quick' is 'perhaps'", "(line 3)"): assert word in str(e.value)


# forms


@pytest.mark.parametrize(("value", "kind"), [(3, "int"), (0.1, "float"), (True, "bool"), ("a, b", "str"), ("", "str"), (["a", "b"], "list[str]"), (["a,b", "c"], "list[str]"), ([], "list[str]"), ([""], "list[str]"), ([1, 2], "list[int]"), (["1"], "list"),
    ([[1], [2]], "list[list[int]]"), ({"a": [1, "x"]}, "dict"), (Path("a b"), "Path"), (date(2026, 1, 31), "date"), (datetime(2026, 1, 31, 10, tzinfo=UTC), "datetime"), (None, "int | None"), ("auto", "Literal['auto', 'cpu']"), (2, "Literal[1, 2]"),
    ((1, "a"), "tuple[int, str]"), ([date(2026, 1, 1)], "list[date]"), (float("inf"), "float")])
def test_the_text_of_a_value_gives_it_again(value, kind):
    found = convert_value(as_text(value, kind), kind)
    assert found == value and type(found) is type(value)


def test_a_form_knows_all_that_a_widget_needs(tmp_path):
    cell = "trials: int = 32   # networks tried; in thousands\nlimit: float = 0.0   # limit on the search, in minutes\nwait: float   # seconds\nincome: int = 5   # of a household [EUR]\ndevice: Literal['auto', 'cpu'] = 'auto'   # where\n" \
           "steps: list[str] = ['a']   # jobs, in order\nspeed: float = 1.0   # of the car, in km per hour\nsince: date | None = None   # from then on\nwhat: int | str = 1"
    rows = {r["name"]: r for r in form(read_parameters(write(tmp_path / "a.ipynb", cell)))}
    assert [r["kind"] for r in rows.values()] == ["int", "float", "float", "int", "choice", "list", "float", "date", "any"]
    assert {n: r["unit"] for n, r in rows.items() if r["unit"]} == {"limit": "minutes", "wait": "seconds", "income": "EUR", "speed": "km per hour"}
    assert rows["device"]["choices"] == ["auto", "cpu"] and rows["wait"]["required"] and rows["since"]["optional"] and rows["since"]["default"] == "" and rows["steps"]["items"] == "str"
    assert json.loads(json.dumps(list(rows.values()))) == list(rows.values()) and form(None) == []


def test_help_comes_from_the_comment_beside_it_even_over_several_lines(tmp_path):
    parameters = read_parameters(write(tmp_path / "a.ipynb", "x: list[str] = [\n    'a#b',   # letters\n]\ny = 'no # comment'\n# of nothing\nz = 1"))
    assert [(p.name, p.help) for p in parameters] == [("x", "letters"), ("y", ""), ("z", "")]


def test_a_magic_in_the_cell_is_no_obstacle(tmp_path):
    parameters = read_parameters(write(tmp_path / "a.ipynb", "%matplotlib inline\n!true\nn: int = 3   # rows"))
    assert [(p.name, p.default, p.help) for p in parameters] == [("n", 3, "rows")]
    with pytest.raises(ParameterError, match="cannot be read"): read_parameters(write(tmp_path / "a.ipynb", "n = = 3"))


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


def test_cleaning_keeps_every_kind_of_parameter(tmp_path):
    "nbdev-clean takes most metadata away; the cell, its types, defaults, comments and units stay."
    shutil.copy(Path(__file__).parent.parent / "pyproject.toml", tmp_path)
    (tmp_path / "nbs").mkdir()
    cell = ("import datetime\nfrom pathlib import Path\nfrom typing import Literal\nn: int = 3   # rows\nx: float = 0.5   # limit, in minutes\np: Path = Path('a')\nd: datetime.date = datetime.date(2026, 1, 1)\n"
            "c: Literal['a', 'b'] = 'a'\no: int | None = None\nl = ['a']\nm: dict[str, int] = {}\nneeded: str   # a name")
    before = write(tmp_path / "nbs" / "a.ipynb", cell, "%time n")
    notebook = nbformat.read(tmp_path / "nbs" / "a.ipynb", 4)
    notebook.cells[0].metadata["collapsed"], notebook.cells[0].execution_count, notebook.metadata["mlw"] = True, 7, {"clock": True}
    nbformat.write(notebook, tmp_path / "nbs" / "a.ipynb")
    subprocess.run([Path(sys.executable).with_name("nbdev-clean"), "--fname", "nbs/a.ipynb"], cwd=tmp_path, check=True)
    after = load_notebook(tmp_path / "nbs" / "a.ipynb")
    assert "collapsed" not in after["cells"][0]["metadata"] and after["metadata"]["mlw"] == {"clock": True}    # it did clean, and kept what a job says of itself
    assert read_parameters(after) == read_parameters(before) and [p.unit for p in read_parameters(after)][:2] == ["rows", "minutes"]
    assert validate_notebook(after) == validate_notebook(before)


# before a kernel starts


@pytest.mark.parametrize(("source", "line"), [
    ("x = = 1", 1), ("a = 1\n\nif a:\nb = 2", 4), ("def f(:\n    pass", 1), ("return 1", 1), ("for x in y:\n    pass\nbreak", 3), ("print('a", 1), ("x = (1,\n", 1), ("\n\n%time\nx = = 1", 4), ("!ls\nx = = 2", 2), ("def f():\n    await g()", 2), ("f'{'", 1)])
def test_what_python_cannot_read_is_found_with_its_line(source, line):
    error = syntax_error(source)
    assert error is not None and error.lineno == line


@pytest.mark.parametrize("source", ["", "\n\n", "# only a comment", "%matplotlib inline", "%time x = 1", "!ls -la | head", "files = !ls", "x?", "??x", "%%bash\nif then [ ]", "%%time\nx = 1", "await f()", "async with a as b:\n    pass", "[x async for x in y]",
                                    "get_ipython().run_line_magic('time', 'x')", "x = 1;", "%load_ext autoreload\n%autoreload 2\nimport os", "print('\\d')", "if x:\n    %time y\n    !ls\nz = 1", "cd ..", "pip install --quiet x", "ls -la", "  x = 1", "\u00e9 = 1", "%%html\n<b>", "def f():\n    return 1",
                                    "!pip install \\\n   x\ny = 1", ">>> x = 1", "from __future__ import annotations"])
def test_what_ipython_can_run_is_no_error(source):
    assert syntax_error(source) is None


def test_ipython_agrees_about_what_it_can_run():
    from IPython.core.interactiveshell import InteractiveShell
    shell = InteractiveShell()
    for source in ("cd ..", "pip --version", "files = !ls", "x?", "if True:\n    %time 1\n    !ls", ">>> x = 1", "  x = 1"): compile(shell.transform_cell(source), "cell", "exec")
    for source in ("pip install\nx = = 1", "pop install x", "return 1"):
        with pytest.raises(SyntaxError): compile(shell.transform_cell(source), "cell", "exec")
        assert syntax_error(source) is not None


def notebook_of(*sources, **metadata):
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": [{"cell_type": "code", "source": s, "metadata": {}} for s in sources]}


def test_a_cell_of_another_language_or_meant_to_fail_is_left_alone():
    spec = {"name": "python3", "language": "python", "display_name": "x"}
    with pytest.raises(InputError, match="cell 1 .*not Python"): validate_notebook(notebook_of("x = = 1", kernelspec=spec))
    assert validate_notebook(notebook_of("x <- 1 %>% y", kernelspec={"name": "ir", "language": "R"})) == []
    assert validate_notebook(notebook_of("match = = 1", kernelspec={"name": "python314", "language": "python"})) == []
    for tag in ("raises-exception", "skip-execution"):
        notebook = notebook_of("x = = 1", kernelspec=spec)
        notebook["cells"][0]["metadata"]["tags"] = [tag]
        assert validate_notebook(notebook) == []


def test_the_error_names_cell_and_line(tmp_path):
    sources = [*("x = 1",) * 6, "a = 1\nb = = 2"]
    with pytest.raises(InputError) as e: validate_notebook(notebook_of(*sources), tmp_path / "night.ipynb")
    assert (e.value.fields["cell"], e.value.fields["line"], e.value.exit_status) == (7, 2, 2) and "cell 7, line 2: b = = 2" in str(e.value) and "night.ipynb" in str(e.value)
