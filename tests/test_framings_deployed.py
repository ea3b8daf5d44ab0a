"Several labels, a tree of classes and quantiles through the whole house: from a CSV to an endpoint's answers and what is watched of them."

import json
import re
import urllib.request

import numpy as np
import polars as pl
import pytest
from mlops_workbench.assess.assessment import assess_predictions
from mlops_workbench.assess.depend import dependence_figure
from mlops_workbench.assess.explain import importance_figure, shapley_of_table
from mlops_workbench.assess.levels import hierarchical_performance
from mlops_workbench.assess.summary import summary, summary_html, undecided
from mlops_workbench.core.errors import InputError
from mlops_workbench.core.runs import Runs, job_run
from mlops_workbench.core.settings import AssessSettings, read_settings
from mlops_workbench.deploy.bundle import load_bundle
from mlops_workbench.deploy.score import read_predictions
from mlops_workbench.jobs.answering import answers, score, watch
from mlops_workbench.jobs.assess_steps import cases, evidence, verdict
from mlops_workbench.model.task import Task
from mlops_workbench.ui.deciding import AssessPanel
from mlops_workbench.ui.panels import Place
from mlops_workbench.ui.project import new_project
from sklearn import metrics as sk

pytest.importorskip("starlette")
from mlops_workbench.deploy.endpoint import example_request, serving  # noqa: E402

from .command import mlw, without_settings  # noqa: E402

pytestmark = pytest.mark.long

GIVEN = {"labels": dict(target="late, ill"), "levels": dict(levels=["kind", "sort"]), "quantiles": dict(target="spent", quantiles=[0.1, 0.5, 0.9])}
KEPT = {"labels": ["late", "ill"], "levels": ["kind", "sort"], "quantiles": ["spent"]}


def shop(rows: int = 400, seed: int = 0) -> pl.DataFrame:
    "Customers, with what each of the framings predicts."
    rng = np.random.default_rng(seed)
    age, visits, sex = rng.integers(20, 70, rows), rng.exponential(2, rows).round(2), rng.choice(["f", "m"], rows)
    z = (age - 45) / 12 + np.log1p(visits) - 1 + (sex == "f") * 0.3
    sort = np.where(z + rng.normal(0, 0.5, rows) < -0.7, "tool/saw", np.where(z + rng.normal(0, 0.5, rows) < 0.4, "fruit/pear", "fruit/apple"))
    kind, leaf = (np.array([s.split("/")[i] for s in sort]) for i in (0, 1))
    return pl.DataFrame({"age": age, "visits": visits, "sex": sex, "late": (z + rng.normal(0, 0.7, rows) > 0).astype(int), "ill": (z + rng.normal(0, 1, rows) > 0.8).astype(int),
                         "kind": kind, "sort": leaf, "spent": (100 + 30 * z + rng.normal(0, 15, rows)).round(2)})


@pytest.fixture(scope="module", params=GIVEN)
def project(request, tmp_path_factory, warm):
    "A project made by `mlw new`, its pipeline run up to the champion."
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    shop().select("age", "visits", "sex", *KEPT[name]).write_csv(folder / "shop.csv")
    options = [part for key, value in GIVEN[name].items() for part in (f"--{key}", value if isinstance(value, str) else ",".join(map(str, value)))]
    said = mlw("new", "shop", "--data", "shop.csv", "--sensitive", "sex", *options, cwd=folder).stdout
    assert {"labels": "multilabel", "levels": "hierarchical", "quantiles": "by the quantiles 0.1,0.5,0.9"}[name] in said
    root = folder / "shop"
    text = (root / "settings.ini").read_text()
    for key, value in {"trials": "4", "families": "linear, trees", "bootstrap": "200", "explain_rows": "20", "folds": "3"}.items(): text = re.sub(rf"^{key} =.*$", f"{key} = {value}", text, flags=re.M)
    (root / "settings.ini").write_text(re.sub(r"^mode = offline$", "mode = disabled", text, flags=re.M))
    mlw("run", "pipeline", "-p", 'steps=["ingest", "tune", "assess", "deploy"]', cwd=root)
    with pytest.MonkeyPatch.context() as patch:
        without_settings(patch)
        patch.setenv("MLW_ROOT", str(root))
        patch.setenv("MLW_STORE", str(root / "store"))
        yield name, root


def told(root):
    runs = Runs(root / "store")
    folder = runs.folder(runs.latest("assess")["id"])
    return folder, json.loads((folder / "assessment.json").read_text())


def test_the_assessment_is_that_of_scikit_learn(project):
    name, root = project
    folder, said = told(root)
    runs = Runs(root / "store")
    tuned = runs.folder(runs.latest("tune")["id"])
    predictions, task = pl.read_parquet(tuned / "predictions.parquet"), Task.from_json((tuned / "task.json").read_text())
    y, p = predictions["label"].to_numpy(), predictions["score"].to_numpy()
    found = {r["metric"]: r["estimate"] for r in said["performance"]}
    assert found["skill"] > 0.1 and all(r["low"] is not None and r["low"] <= r["estimate"] <= r["high"] for r in said["performance"])
    if name == "labels":
        expected = {"hamming_loss": sk.hamming_loss(y, p >= 0.5), "exact_match": sk.accuracy_score(y, p >= 0.5), "macro_f1": sk.f1_score(y, p >= 0.5, average="macro"), "auc_macro": sk.roc_auc_score(y, p)}
        assert [r["label"] for r in said["by_label"]] == ["late", "ill"]
    elif name == "levels":
        decided = {r["metric"]: r["estimate"] for r in hierarchical_performance(y, p, task.tree).to_dicts()}
        expected = {"log_loss": sk.log_loss(y, p / p.sum(axis=1, keepdims=True)), "accuracy_level_1": decided["accuracy_level_1"], "hierarchical_f1": decided["hierarchical_f1"]}
        assert found["accuracy"] < found["hierarchical_f1"] < found["accuracy_level_1"] and {r["level"] for r in said["by_level"]} == {1, 2}
    else:
        expected = {"pinball": np.mean([sk.mean_pinball_loss(y, p[:, j], alpha=q) for j, q in enumerate(task.quantiles)]), "coverage": ((y >= p[:, 0]) & (y <= p[:, -1])).mean(), "crossing": 0.0}
        assert [r["quantile"] for r in said["by_quantile"]] == [0.1, 0.5, 0.9] and sum(r["n"] for r in said["by_range"]) == 400
    for metric, value in expected.items(): assert found[metric] == pytest.approx(value, abs=1e-4), metric
    assert said["form"] == task.form and said["fairness"]["sex"]["groups"] and said["slices"]["found"]["n"] == 400 and said["explained"]["rows"] == 20
    assert all(gate["answer"] in ("pass", "undecided", "fail") for gate in said["gates"]) and len(said["gates"]) == (3 if name == "quantiles" else 2)
    by = {"labels": "labels", "levels": "levels", "quantiles": "quantiles"}[name]
    assert len(pl.read_csv(folder / "tables" / f"{by}.csv")) == len(said[f"by_{by[:-1]}"])


def test_the_report_and_the_card_say_it_in_its_own_words(project):
    name, root = project
    folder, said = told(root)
    page, card = (folder / "report.html").read_text(), load_bundle(root / "store", "shop").card
    words = {"labels": ["By label", "hamming_loss", "share of wrong labels", "hold every label"], "levels": ["By level, 1 is the coarsest", "hierarchical_f1", "Which class is taken for which"],
             "quantiles": ["By quantile", "is to hold 80% of the rows", "each quantile of spent", "cqr"]}[name]
    for w in words: assert w in page, w
    assert "ROC curve" not in page and "Thresholds decide" not in page and "Traceback" not in page
    assert "abstain_capacity or abstain_risk asks for that" not in page       # which these tasks do not take
    assert ("tabular-regression" if name == "quantiles" else "tabular-classification") in card and {"labels": "## By label", "levels": "## By level", "quantiles": "## By quantile"}[name] in card


def test_a_file_and_the_endpoint_get_the_same_answers_which_are_watched(project, tmp_path):
    name, root = project
    new = shop(120, seed=5)
    new.select("age", "visits", "sex").write_csv(tmp_path / "new.csv")
    scored = score(job_run("score"), data=str(tmp_path / "new.csv"), out=str(tmp_path / "out.csv"))
    file, bundle = pl.read_csv(tmp_path / "out.csv"), load_bundle(root / "store", "shop")
    assert scored.rows == 120 and {"labels": {"probability_late", "decision_ill"}, "levels": {"label", "level_1", "level_2_probability"}, "quantiles": {"value_0.1", "value_0.9"}}[name] <= set(file.columns)
    shown = repr(answers(scored))
    assert {"labels": "Labels given", "levels": "Decisions", "quantiles": "value_0.5"}[name] in shown
    watched = watch(job_run("monitor"))
    assert watched.rows == 120 and {f"answer: {c}" for c in bundle.graph.scores} <= set(watched.table["column"])
    assert watched.status == "quiet", watched.alerts
    with serving(root / "store") as url:
        about = json.loads(urllib.request.urlopen(f"{url}/v2/models/shop").read())["parameters"]
        body = {"inputs": [{"name": i["name"], "datatype": i["datatype"], "shape": [120, 1], "data": new[i["name"]].to_list()} for i in bundle.inputs]}
        reply = json.loads(urllib.request.urlopen(urllib.request.Request(f"{url}/v2/models/shop/infer", json.dumps(body).encode())).read())
    assert about["classes"] == list(bundle.classes) and about.get("quantiles", []) == ([0.1, 0.5, 0.9] if name == "quantiles" else [])
    tensors = {o["name"]: np.array(o["data"], object if o["datatype"] == "BYTES" else None).reshape(o["shape"]) for o in reply["outputs"]}
    live = bundle.table(tensors)
    assert live.columns == file.columns
    for c in live.columns:
        if live[c].dtype == pl.String: assert live[c].to_list() == file[c].cast(pl.String).to_list()
        else: np.testing.assert_allclose(live[c].to_numpy(), file[c].to_numpy(), rtol=1e-5, atol=1e-6)
    assert example_request(bundle)["inputs"]
    log = read_predictions(root / "store", "shop")
    assert len(log) == 240 and set(log["source"]) == {"endpoint", "out.csv"}
    shop(300, seed=6).select("age", "visits", "sex").with_columns(age=pl.col("age") + 40).write_csv(tmp_path / "old.csv")
    score(job_run("score"), data=str(tmp_path / "old.csv"), out=str(tmp_path / "out.csv"))
    assert any("answer: " in alert for alert in watch(job_run("monitor")).alerts)


def test_labels_that_come_later_assess_the_deployed_model(project, tmp_path):
    name, root = project
    shop(200, seed=9).select("age", "visits", "sex", *KEPT[name]).write_csv(tmp_path / "later.csv")
    later, _ = evidence(run := job_run("assess"), data=str(tmp_path / "later.csv"))
    assert later.n == 200 and later.performance.filter(metric="skill")["low"][0] > 0 and later.chosen.name == "the deployed policy"
    assert {"multilabel": "hamming_loss", "hierarchical": "hierarchical_f1", "quantiles": "coverage"}[later.task.form] in set(later.performance["metric"])
    assert "scored by the deployed model" in repr(verdict(run, later))
    shop(200, seed=9).select("age", "visits", "sex").write_csv(tmp_path / "unlabelled.csv")
    with pytest.raises(InputError, match=f"the (target|label|level) '{KEPT[name][0]}'"): evidence(job_run("assess"), data=str(tmp_path / "unlabelled.csv"))


def test_a_row_is_explained_in_jupyterlab(project):
    name, root = project
    picker = AssessPanel(Place()).picker
    assert picker is not None and picker.message.data["text"] == ""
    row = picker.data
    assert len(row["attributions"]) == 2 and "it was" in repr(picker.html)
    if name == "labels": assert set(row["label"].split(", ")) | set(row["decision"].split(", ")) <= {"late", "ill", "no label"}
    if name == "quantiles": assert "decision" not in row and len(row["score"]) == 3


def test_one_quantile_covers_all_up_to_it():
    rng = np.random.default_rng(0)
    y, x = rng.normal(size=(2, 500))
    task = Task("spend", "spent", "regression", loss="quantile", quantiles=(0.8,))
    frame = pl.DataFrame({"label": y + x, "score": pl.Series((x + 0.8416)[:, None])})
    a = assess_predictions(task, frame, pl.DataFrame({"sex": rng.choice(["f", "m"], 500)}), gates={"covered": "coverage >= 0.7, block"})
    found = {r["metric"]: r for r in a.performance.to_dicts()}
    assert found["coverage"]["estimate"] == found["below_0.8"]["estimate"] == pytest.approx(0.8, abs=0.05) and "interval_width" not in found and "crossing" not in found
    assert a.gates[0].answer == "pass" and a.fairness["sex"].groups["estimate"].min() > 0.7
    assert "up to the 0.8 quantile" in undecided(a)[0] and "is to hold 80%" in undecided(a)[0]
    assert {"performance", "quantiles", "ranges"} <= set(a.tables()) and "up to the 0.8 quantile" in repr(a.tables()["ranges"])


def test_odd_names_of_labels_and_groups_are_shown_and_escaped():
    rng, names = np.random.default_rng(0), ("<b>late$\\q$", "ill & $x")
    y, p = (rng.random((200, 2)) < 0.4).astype(int), rng.random((200, 2)).clip(0.01, 0.99)
    task = Task("signs", ", ".join(names), "multilabel", names, targets=names)
    a = assess_predictions(task, pl.DataFrame({"label": pl.Series(y), "score": pl.Series(p)}), pl.DataFrame({"sex": rng.choice(["f<i>", "m$\\q$"], 200)}), settings=AssessSettings(bootstrap=50))
    found = shapley_of_table(lambda x: x[:, :2].clip(0.01, 0.99), rng.random((10, 3)), rng.random((20, 3)))
    shown = [a.section(s) for s in ("performance", "slices", "fairness", "uncertainty")] + [summary_html(summary(a)), importance_figure(found, classes=names, each="label"), *cases(a, found), dependence_figure(found.of(0), found.names[0], unit=names[0])]
    for part in shown: assert "<b>" not in part.markup and "<i>" not in part.markup
    assert "&lt;b&gt;late$" in shown[0].markup


def test_many_labels_some_of_them_never_right_or_given_are_assessed():
    rng = np.random.default_rng(0)
    names = tuple(f"l{i}" for i in range(110))
    y, p = (rng.random((200, 110)) < 0.05).astype(int), rng.random((200, 110)) * 0.4
    y[:, 0] = 0
    task = Task("signs", ", ".join(names), "multilabel", names, targets=names)
    a = assess_predictions(task, pl.DataFrame({"label": pl.Series(y), "score": pl.Series(p)}), pl.DataFrame({"sex": rng.choice(["f", "m"], 200)}), settings=AssessSettings(bootstrap=50))
    found = {r["metric"]: r["estimate"] for r in a.performance.to_dicts()}
    assert set(found) == {"skill", "hamming_loss", "exact_match", "log_loss"} and found["hamming_loss"] == pytest.approx(y.mean())   # nothing is given
    first = a.parts["labels"].row(0, named=True)
    assert (first["n"], first["decided"], first["auc"], first["recall"]) == (0, 0, None, None)
    assert "the 20 of 110 with the lowest F1" in repr(a.tables()["labels"]) and len(a.fairness["sex"].disparities) == 41


@pytest.mark.parametrize(("given", "said"), [
    (dict(), "nothing says what is to be predicted"), (dict(levels=["kind"]), "are not several columns"), (dict(target="late, il"), "did you mean 'ill'"), (dict(target="spent", quantiles=[0.5, 1.5]), "does not lie between 0 and 1"),
    (dict(target="late", separator=";"), "divides labels or levels"), (dict(target="spent", levels=["kind", "sort"]), "is not the finest of the levels"), (dict(target="late", quantiles=[0.5], framing="binary"), "does not fit the framing")])
def test_a_project_that_cannot_be_is_refused_before_a_folder_is_made(given, said, tmp_path):
    shop(60).write_csv(tmp_path / "shop.csv")
    with pytest.raises(InputError) as found: new_project(tmp_path / "made", data=str(tmp_path / "shop.csv"), **given)
    assert said in str(found.value) and found.value.remedy and not (tmp_path / "made").exists()


def test_quantiles_that_are_no_numbers_are_refused(tmp_path):
    shop(60).write_csv(tmp_path / "shop.csv")
    with pytest.raises(AssertionError, match="are no numbers"): mlw("new", "made", "--data", "shop.csv", "--target", "spent", "--quantiles", "low,high", cwd=tmp_path)


def test_labels_in_one_column_of_text_and_paths_make_projects(tmp_path):
    both = shop(80).select("age", signs=pl.when(pl.col("late") == 1).then(pl.lit("late;ill")).otherwise(pl.lit("new")), path=pl.concat_str("kind", "sort", separator="/"))
    both.write_csv(tmp_path / "shop.csv")
    for target, framing, separator in (("signs", "multilabel", ";"), ("path", "hierarchical", "/")):
        settings = read_settings(new_project(tmp_path / target, data=str(tmp_path / "shop.csv"), target=target, framing=framing, separator=separator))
        assert (settings.task.target, settings.task.framing, settings.task.separator) == (target, framing, separator)
