"What decisions between several classes are worth, by a cost matrix in the settings: from a CSV to the report, the policy in the graph, a scored file and an endpoint."
import json
import os
import re
import urllib.request
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_iris

from mlops_workbench.assess.assessment import assess_scores
from mlops_workbench.assess.evidence import worth_of
from mlops_workbench.assess.value import mean_value, outcome_values, value_table
from mlops_workbench.core.errors import InputError, SettingsError
from mlops_workbench.core.runs import Runs, job_run
from mlops_workbench.core.settings import Settings, TaskSettings, read_settings, settings_text
from mlops_workbench.deploy.bundle import load_bundle
from mlops_workbench.jobs.answering import score, watch
from mlops_workbench.jobs.assess_steps import evidence
from mlops_workbench.model.policy import Policy, usual_policy
from mlops_workbench.model.task import Task, frame_task

pytest.importorskip("starlette")
from mlops_workbench.deploy.endpoint import serving  # noqa: E402

from .command import mlw, without_settings  # noqa: E402

pytestmark = pytest.mark.long

SORTS = ("setosa", "versicolor: wild, blue", 'virginica = "2"')
VALUES = np.array([[0, -1, -1], [-1, 0, -1], [-2, -20, 1.0]])   # whoever takes the third sort for the second loses 20
MATRIX = '''value_matrix =
    setosa:
    "versicolor: wild, blue":
    "virginica = ""2""": "versicolor: wild, blue" = -20, "virginica = ""2""" = 1, * = -2
'''


def flowers(seed=0):
    "The irises by their sepals alone, by which two sorts look alike; a gardener who guesses, and a field."
    iris, rng = load_iris(), np.random.default_rng(seed)
    wide = pl.DataFrame({"length": iris.data[:, 0], "width": iris.data[:, 1], "field": rng.choice(["north", "south"], 150), "sort": np.array(SORTS)[iris.target]})
    return wide.with_columns(gardener=pl.when(pl.Series(rng.random(150) < 0.6)).then("sort").otherwise(pl.lit(SORTS[1])))


def settings(root, *, matrix=MATRIX, gates="worth = value >= -5, block\nbeats = gain >= -1\n", **changed):
    text = (root / "settings.ini").read_text()
    changed = {"trials": "3", "families": "linear, trees", "bootstrap": "300", "explain_rows": "20", "folds": "3", "status_quo": "gardener", "mode": "disabled"} | changed
    for key, value in changed.items(): text = re.sub(rf"^{key} =.*$", f"{key} = {value}", text, flags=re.M)
    text = re.sub(r"^value_matrix =.*\n(?: .*\n)*", lambda _: matrix, text, flags=re.M)
    (root / "settings.ini").write_text(re.sub(r"\[gates\]\n(.*\n)*?\n", f"[gates]\n{gates}\n", text))


@pytest.fixture(scope="module")
def project(tmp_path_factory, warm):
    "A project made by `mlw new`, with a cost matrix, its pipeline run up to the champion."
    folder = tmp_path_factory.mktemp("iris")
    flowers().write_csv(folder / "iris.csv")
    mlw("new", "iris", "--data", "iris.csv", "--target", "sort", "--sensitive", "field", cwd=folder)
    root = folder / "iris"
    assert "value_matrix =\n" in (root / "settings.ini").read_text()
    settings(root)
    mlw("run", "pipeline", "-p", 'steps=["ingest", "tune", "assess", "deploy"]', cwd=root)
    with pytest.MonkeyPatch.context() as patch:
        without_settings(patch)
        patch.setenv("MLW_ROOT", str(root))
        patch.setenv("MLW_STORE", str(root / "store"))
        yield root


def told(root):
    runs = Runs(root / "store")
    folder = runs.folder(runs.latest("assess")["id"])
    return folder, json.loads((folder / "assessment.json").read_text())


def test_the_report_says_what_decisions_are_worth(project):
    folder, said = told(project)
    table = pl.read_parquet(folder / "decisions.parquet")
    y, p, d = (np.array(table[c].to_list()) for c in ("label", "score", "decision"))
    assert d.tolist() == (p @ VALUES).argmax(1).tolist() != p.argmax(1).tolist()
    assert table["value"].to_list() == VALUES[y, d].tolist()
    gardener = np.array([SORTS.index(s) for s in flowers()["gardener"]])
    known = {"value": VALUES[y, d].mean(), "gain(argmax)": (VALUES[y, d] - VALUES[y, p.argmax(1)]).mean(), "gain": (VALUES[y, d] - VALUES[y, gardener]).mean()}
    for name, value in known.items():
        e = said["estimates"][name]
        assert e["value"] == pytest.approx(value) and e["low"] < e["value"] < e["high"] and e["n"] == 150, name
    assert said["worth"]["values"][SORTS[2]] == {SORTS[0]: -2, SORTS[1]: -20, SORTS[2]: 1} and said["policy"]["values"] == VALUES.tolist()
    steps = {r["decisions"]: r for r in said["deciding"]}
    assert {"this model, by value", "this model, the most probable class", "constant, by value", "linear, by value", "trees, by value"} <= set(steps)
    assert steps["this model, by value"]["per_1000"] == pytest.approx(1000 * known["value"]) and steps["this model, the most probable class"]["difference"] == pytest.approx(-1000 * known["gain(argmax)"])
    by_field = {r["group"]: r["value"] for r in said["fairness"]["field"]["groups"]}
    fields = flowers()["field"].to_numpy()
    assert by_field == {f: pytest.approx(VALUES[y, d][fields == f].mean()) for f in ("north", "south")}
    assert [(g["gate"], g["n"]) for g in said["gates"]] == [("worth", 150), ("beats", 150)] and said["gates"][0]["answer"] == "pass"
    page = (folder / "report.html").read_text()
    for words in ("1,000 decisions (this model) are worth", "Deciding by value is worth", "per 1,000 decisions beside", "the most probable class", "What each decision is worth, by true class", "Errors and value by field", "worth each", "virginica = &quot;2&quot;"):
        assert words in page, words
    assert "Traceback" not in page and pl.read_csv(folder / "tables" / "value.csv")["decisions"].to_list() == list(steps)


def test_the_graph_a_file_and_the_endpoint_decide_by_value(project, tmp_path):
    bundle, new = load_bundle(project / "store", "iris"), flowers().select("length", "width")
    assert bundle.graph.policy == Policy("value", values=tuple(map(tuple, VALUES.tolist()))) and "the highest expected value" in bundle.record["decides"]
    assert Task.from_json(json.dumps(bundle.task)).values == bundle.graph.policy.values
    new.write_csv(tmp_path / "new.csv")
    score(job_run("score"), data=str(tmp_path / "new.csv"), out=str(tmp_path / "out.csv"))
    file = pl.read_csv(tmp_path / "out.csv")
    p = file.select(pl.nth(0, 1, 2)).to_numpy()   # probabilities; Polars leaves quotes doubled in the names of columns that it reads
    wanted = np.array(SORTS)[(p @ VALUES).argmax(1)].tolist()
    assert file["decision"].to_list() == wanted and wanted != np.array(SORTS)[p.argmax(1)].tolist()
    with serving(project / "store") as url:
        body = {"inputs": [{"name": i["name"], "datatype": i["datatype"], "shape": [150, 1], "data": new[i["name"]].to_list()} for i in bundle.inputs]}
        reply = json.loads(urllib.request.urlopen(urllib.request.Request(f"{url}/v2/models/iris/infer", json.dumps(body).encode())).read())
    live = bundle.table({o["name"]: np.array(o["data"], object if o["datatype"] == "BYTES" else None).reshape(o["shape"]) for o in reply["outputs"]})
    assert live["decision"].to_list() == wanted
    assert watch(job_run("monitor")).rows == 300


def test_a_second_model_is_worth_as_much_as_the_champion_or_not_and_two_reports_stand_beside_each_other(project, tmp_path):
    _, first = told(project)
    settings(project, exclude="width", gates="beats = gain(champion) >= -100, block\n")
    for job in ("tune", "assess"): mlw("run", job, cwd=project)
    folder, said = told(project)
    assert said["champion"]["table"][1]["measure"] == "value of 1,000 decisions" and said["gates"][0]["answer"] == "pass"
    assert "champion (iris@1), by value" in [r["decisions"] for r in said["deciding"]]
    mlw("diff", first["run"], said["run"], "--html", tmp_path / "out.html", cwd=project)
    page = (tmp_path / "out.html").read_text()
    for words in ("value of 1,000", "gain(argmax)", "setosa: setosa 0, versicolor: wild, blue -1", "the same, paired"): assert words in page, words
    settings(project)


def test_the_deployed_model_is_assessed_on_labelled_rows(project, tmp_path):
    flowers(1).write_csv(tmp_path / "later.csv")
    later, _ = evidence(job_run("assess"), data=str(tmp_path / "later.csv"))
    assert later.policy.kind == "value" and later.chosen.status_quo.table["measure"][0] == "value of 1,000 decisions"
    assert later.chosen.estimates["value"].value == pytest.approx(later.deciding["per_1000"][0] / 1000)
    plain = assess_scores(later.task, later.labels, later.scores, pl.DataFrame(), policy=Policy("argmax"))
    assert "gain(argmax)" not in plain.chosen.estimates and plain.chosen.estimates["value"].value == pytest.approx(later.deciding["per_1000"][1] / 1000)


@pytest.mark.parametrize("matrix, said", [
    ("value_matrix = setosa:; setosa: x = 1\n", "there are two rows for 'setosa'"),
    ("value_matrix = *: setoza = -1\n", "value_matrix names 'setoza', which is not a class"),
    ("value_matrix = setosa: * = -1\n", "no row for the true class 'versicolor: wild, blue'"),
])
def test_a_matrix_that_cannot_be_used_stops_the_job_before_the_search(project, matrix, said):
    settings(project, matrix=matrix)
    done = mlw("run", "tune", cwd=project, fails=True)
    shown = " ".join((done.stdout + done.stderr).split())
    settings(project)
    assert done.returncode == 2 and said in shown and "value_matrix" in shown and "Traceback" not in shown, shown


def test_a_matrix_is_of_several_classes_and_reads_back_as_it_was_written(tmp_path):
    frame = flowers().with_columns(two=pl.col("sort") == SORTS[0])
    rows = {SORTS[2]: {SORTS[1]: -20.0, SORTS[2]: 1.0, "*": -2.0}, "*": {}}
    given = TaskSettings(target="sort", value_matrix=rows, exclude=["two"])
    task = frame_task(frame, given, name="iris")
    assert task.values == tuple(map(tuple, VALUES)) and usual_policy(task) == Policy("value", values=task.values) and worth_of(task) == task.values
    assert Task.from_json(task.to_json()) == task
    for target, framing, said in (("two", "auto", "this task is binary"), ("length", "regression", "this task is regression"), ("sort, two", "multilabel", "label")):
        with pytest.raises(InputError, match=said): frame_task(frame, replace(given, target=target, framing=framing, exclude=[]), name="iris")
    (tmp_path / "settings.ini").write_text(settings_text(Settings(task=given)))
    assert read_settings(tmp_path).task.value_matrix == rows
    for odd in ("#1", ";", "a=b", "*:", '"', "  "):
        (tmp_path / "settings.ini").write_text(settings_text(Settings(task=TaskSettings(value_matrix={odd: {odd: 0.5}}))))
        assert read_settings(tmp_path).task.value_matrix == {odd: {odd: 0.5}}
    for bad, said in (("setosa", "'setosa' is not a class with the values of its decisions"), ("setosa: x = nan", "not a class with a finite number"), ("setosa: x = 1e", "not a class with a finite number"), ("setosa: x = 1, x = 2", "names 'x' twice"), (": x = 1", "'' is no name")):
        (tmp_path / "settings.ini").write_text(f"[task]\nvalue_matrix = {bad}\n")
        with pytest.raises(SettingsError, match=f"(?s){said}.*settings.ini, .task. value_matrix.*TRUE CLASS|{said}.*value_matrix.*name each"): read_settings(tmp_path)
    (tmp_path / "settings.ini").write_text("[task]\ntarget = sort\n")
    os.environ["MLW_TASK_VALUE_MATRIX"] = "a: b = -2; b:"
    try: assert read_settings(tmp_path).task.value_matrix == {"a": {"b": -2.0}, "b": {}}
    finally: del os.environ["MLW_TASK_VALUE_MATRIX"]


def test_a_task_that_was_saved_before_there_were_matrices_still_loads():
    old = json.loads(Task("iris", "sort", "multiclass", SORTS, ("length",)).to_json())
    del old["values"]
    task = Task.from_json(json.dumps(old))
    assert task.values == () and not task.valued and usual_policy(task) == Policy("argmax")


def test_an_amount_multiplies_the_value_of_several_classes_and_needs_a_matrix():
    frame = flowers().with_columns(sum=pl.Series(np.linspace(1, 9, 150)))
    given = TaskSettings(target="sort", amount="sum", exclude=["gardener"])
    with pytest.raises(InputError, match="or between several with a value_matrix"): frame_task(frame, given, name="iris")
    task = frame_task(frame, replace(given, value_matrix={"*": {}}), name="iris")
    y = task.labels(frame)
    assert outcome_values(y, np.zeros(150, int), task.values, amounts=task.amounts(frame)) == pytest.approx(np.where(y == 0, 0, -1) * frame["sum"].to_numpy())


def test_the_value_of_two_classes_is_that_of_their_matrix():
    rng = np.random.default_rng(0)
    y, d, e = rng.integers(0, 2, (3, 400))
    four, table = {"tp": 3.0, "fp": -2.0, "fn": -0.5, "tn": 0.25}, ((0.25, -2.0), (-0.5, 3.0))
    assert mean_value(y, d, four, against=e) == mean_value(y, d, table, against=e)
    assert value_table(y, {"d": d}, four)["per_1000"].to_list() == value_table(y, {"d": d}, table)["per_1000"].to_list()
    for bad in ((), ((1.0, 0.0),), ((1.0, 0.0), (0.0,)), ((1.0, np.inf), (0.0, 1.0))):
        with pytest.raises(SettingsError, match="not a square table"): mean_value(y, d, bad)
    with pytest.raises(SettingsError, match="a decision has the code -1"): outcome_values(y, np.full(400, -1), table)
