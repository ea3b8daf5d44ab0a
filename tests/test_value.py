"What decisions are worth, from the settings to the report: amounts and a capacity, the champion in the ladder, the learning curve, and two reports side by side."
import json
import re

import numpy as np
import polars as pl
import pytest

from mlops_workbench.assess.learning import fast_linear, fast_trees, learning_curve, power_law
from mlops_workbench.assess.mitigate import fit_policies
from mlops_workbench.assess.rivals import auc_difference
from mlops_workbench.assess.value import best_threshold, mean_value
from mlops_workbench.core.errors import InputError, SettingsError
from mlops_workbench.core.settings import TaskSettings
from mlops_workbench.model.features import Features
from mlops_workbench.model.network import Labelled
from mlops_workbench.model.policy import Policy
from mlops_workbench.model.task import Task, amounts_of, frame_task

from .command import mlw

pytestmark = pytest.mark.long

VALUE = {"tp": 3.0, "fp": -2.0, "fn": -0.5, "tn": 0.0}


def scored(n=600, seed=0):
    "Labels, scores and amounts."
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(np.int64)
    return labels, np.round(1 / (1 + np.exp(0.5 - 1.6 * labels - rng.normal(size=n))), 2), rng.lognormal(size=n)


@pytest.mark.parametrize("capacity", [1.0, 0.31, 0.02, 0.0001])
@pytest.mark.parametrize("by_amount", [False, True])
def test_the_best_threshold_is_that_of_trying_every_one(capacity, by_amount):
    labels, scores, sums = scored()
    each = sums if by_amount else np.ones(len(labels))
    found = best_threshold(labels, scores, VALUE, amounts=sums if by_amount else None, capacity=capacity)
    def worth(t):
        d = scores >= t
        return (np.where(d, np.where(labels == 1, 3, -2), np.where(labels == 1, -0.5, 0)) * each).mean(), d.mean()
    tried = [worth(t) for t in [*np.unique(scores), 2.0]]
    value, share = worth(found)
    assert share <= capacity and value == pytest.approx(max(v for v, s in tried if s <= capacity))


@pytest.mark.parametrize("capacity", [0.6, 0.25, 0.05])
def test_every_candidate_keeps_to_the_capacity_and_is_worth_what_the_amounts_say(capacity):
    labels, scores, sums = scored(2000)
    group = np.where(np.arange(2000) % 3 == 0, "a", "b")
    scores = np.where(group == "a", scores * 0.7, scores)
    for c in fit_policies(labels, scores, group, value=VALUE, column="group", amounts=sums, capacity=capacity, replicates=200):
        assert c.policy.decide(scores, group).mean() <= capacity, c.name
        assert c.decisions.mean() <= 1.15 * capacity + 0.01, c.name   # thresholds fitted on other rows
        assert c.value.value == pytest.approx(mean_value(labels, c.decisions, VALUE, amounts=sums).value)
    plain = fit_policies(labels, scores, group, value=VALUE, column="group", replicates=200)
    ones = fit_policies(labels, scores, group, value=VALUE, column="group", replicates=200, amounts=np.ones(2000))
    assert [c.policy for c in plain] == [c.policy for c in ones] and not any(c.policy.note for c in plain)


def test_an_amount_that_cannot_be_used_is_one_error_that_names_setting_row_and_remedy():
    frame = pl.DataFrame({"a": np.arange(60.0), "sum": [10.0] * 58 + [None, -1.0], "good": ["yes", "no"] * 30})
    for amount, said in (("sum", "(?s)in 2 of 60 rows, first in row 59.*amount = sum.*coalesce"), ("summ", "did you mean 'sum'"), ("good", "type String"), ("a +", "cannot be computed"), ("ln(a)", "in 1 of 60 rows, first in row 1")):
        with pytest.raises(InputError, match=said): frame_task(frame, TaskSettings(target="good", amount=amount), name="demo")
    assert amounts_of(frame, "greatest(coalesce(sum, 0), 0)").tolist() == [10.0] * 58 + [0, 0]
    for key, given in (("amount", "a"), ("capacity", "0.5")):
        with pytest.raises(InputError, match=f"{key} needs decisions between two classes"): frame_task(frame, TaskSettings(target="a", framing="regression", **{key: given}), name="demo")
    with pytest.raises(InputError, match="50 per 400"): frame_task(frame, TaskSettings(target="good", capacity="300"), name="demo")
    with pytest.raises(SettingsError, match="for 2 rows"): mean_value(np.array([0, 1]), np.array([1, 1]), VALUE, amounts=np.array([1.0, np.nan]))


def test_a_cost_matrix_of_the_wrong_shape_is_one_error():
    for values in (((1.0, 0.0),), ((1.0, 0.0), (0.0,)), ()):
        with pytest.raises(InputError, match="not a square table"): Policy("value", values=values)
    with pytest.raises(InputError, match="3 classes, but values for 2"): Policy("value", values=((1.0, 0.0), (0.0, 1.0))).decide(np.full((4, 3), 1 / 3))
    with pytest.raises(InputError, match="not a finite number"): Policy("value", values=((1.0, float("nan")), (0.0, 1.0)))


def test_the_paired_difference_of_two_aucs_is_that_of_delong():
    labels, scores, _ = scored(300)
    other = np.clip(scores + np.random.default_rng(1).normal(size=300) * 0.2, 0, 1)
    x, y = labels == 1, labels == 0
    def kernels(s):
        wins = (s[x][:, None] > s[y][None]) + 0.5 * (s[x][:, None] == s[y][None])
        return wins.mean(), wins.mean(1), wins.mean(0)
    (a, va, wa), (b, vb, wb) = kernels(scores), kernels(other)
    error = np.sqrt(np.var(va - vb, ddof=1) / x.sum() + np.var(wa - wb, ddof=1) / y.sum())
    found = auc_difference(labels, scores, other)
    assert found.value == pytest.approx(a - b) and found.high - found.low == pytest.approx(2 * 1.959964 * error, rel=1e-5)


def test_the_power_law_is_that_of_least_squares():
    from scipy.optimize import curve_fit
    rows = np.array([100, 200, 400, 800, 1600.0])
    rng = np.random.default_rng(0)
    for _ in range(5):
        loss = 0.2 + 3 * rows**-0.5 + rng.normal(size=5) * 0.003
        floor, scale, exponent = (v[0] for v in power_law(rows, loss[None], np.ones(5)))
        (f, s, e), _ = curve_fit(lambda n, f, s, e: f + s * n**-e, rows, loss, p0=(0.2, 3, 0.5), bounds=([0, 0, 0.05], [1, 1000, 2]))
        def at(f, s, e, n): return f + s * n**-e
        assert abs(e - exponent) < 0.06 and at(floor, scale, exponent, 3200) == pytest.approx(at(f, s, e, 3200), abs=0.003)


def learnable(n, columns, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, columns))
    frame = pl.DataFrame({f"x{j}": x[:, j] for j in range(columns)}).with_columns(y=pl.Series((rng.random(n) < 1 / (1 + np.exp(-1.5 * x.sum(1) / np.sqrt(columns)))).astype(np.int64)))
    task = Task("made", "y", "binary", ("0", "1"), tuple(f"x{j}" for j in range(columns)))
    return Labelled(Features.fit(frame, task).transform(frame), task.labels(frame), np.ones(n)), task


def test_the_learning_curve_says_whether_more_rows_would_help_and_its_intervals_hold_the_truth():
    rows, task = learnable(24_000, 15)
    fit = fast_linear(task.aim, n_categories=[])
    truth = learning_curve(rows, [(np.arange(2000), np.arange(4000, 24_000))] * 3, fit, task.aim, replicates=200).table["loss"][-1]   # a test side ten times as large
    held = 0
    for k in range(10):
        test = np.random.default_rng(k).choice(np.arange(4000, 24_000), 2000, replace=False)
        curve = learning_curve(rows, [(np.arange(2000), test)] * 3, fit, task.aim, replicates=200, seed=k)
        held += curve.table["low"][-1] <= truth <= curve.table["high"][-1]
    assert held >= 8
    many = learning_curve(rows, [(np.arange(4000), np.arange(4000, 8000))] * 3, fast_trees(task.aim, threads=1), task.aim, replicates=200)
    assert many.last.low > 0 and many.sentence.startswith("More rows would help")
    assert "for speed" in learning_curve(rows, [(np.arange(4000), np.arange(4000, 8000))] * 3, fit, task.aim, replicates=200, most=1000).sentence


def test_a_learning_curve_with_few_positives_leaves_out_the_sizes_that_have_none():
    rows, task = learnable(2000, 3)
    rare = Labelled(rows.x, (np.arange(2000) % 400 == 0).astype(np.int64), rows.w)
    curve = learning_curve(rare, [(np.arange(1500), np.arange(1500, 2000))] * 3, fast_linear(task.aim, n_categories=[]), task.aim, replicates=200)
    assert isinstance(curve, str) or curve.table["rows"][0] > 50


# --- through the commands

def rows(n=700, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n))
    good = rng.random(n) < 1 / (1 + np.exp(-2 * a - b))
    return pl.DataFrame({"a": a.round(4), "b": b.round(4), "sum": rng.lognormal(3, 1, n).round(1), "town": rng.choice(["n<orth", "south"], n), "good": np.where(good, "yes", "no")})


def settings(folder, task="", gates="better = gain(champion) >= -1000, block\n", families="linear"):
    (folder / "settings.ini").write_text(f"[project]\nname = demo\n[data]\nsource = rows.csv\n[task]\ntarget = good\nsensitive = town\nfolds = 2\n{task}[tune]\ntrials = 2\nfamilies = {families}\n"
                                         f"[assess]\nbootstrap = 200\nexplain_rows = 10\n[gates]\n{gates}[wandb]\nmode = disabled\n")


def latest(folder, job): return sorted((folder / "store" / "runs").glob(f"*-{job}-*"))[-1]
def assessed(folder): return json.loads((latest(folder, "assess") / "assessment.json").read_text())


@pytest.fixture(scope="module")
def deployed(tmp_path_factory, warm):
    "A project whose first model is champion, and whose second one is assessed."
    folder = tmp_path_factory.mktemp("project")
    rows().write_csv(folder / "rows.csv")
    settings(folder)
    for job in ("ingest", "tune", "assess", "deploy"): mlw("run", job, cwd=folder)
    first = assessed(folder)
    assert first["champion"] is None and first["gates"] == [] and "no other model is champion" in " ".join(first["notes"])
    pl.concat([rows(), rows(100, seed=1)]).write_csv(folder / "rows.csv")
    settings(folder, "exclude = b\namount = sum\ncapacity = 100 per 400\n")
    for job in ("ingest", "tune", "assess"): mlw("run", job, cwd=folder)
    return folder


def test_the_champion_is_a_step_of_the_ladder_and_answers_as_its_folds_did(deployed):
    found = assessed(deployed)
    ladder = {r["model"]: r for r in found["ladder"]}
    assert list(ladder)[-2:] == ["champion (demo@1)", "this model"]
    assert found["champion"]["column"] == "champion (demo@1)" and "700 of the 800 rows; there its answers are those of the folds" in found["champion"]["sentence"]
    assert ladder["champion (demo@1)"]["difference_high"] < 0   # it knows the column that the new one lacks
    assert {r["measure"] for r in found["champion"]["table"]} >= {"AUC", "loss, less is better", "value of 1,000 decisions"}
    assert found["gates"][0]["gate"] == "better" and found["gates"][0]["answer"] == "pass"
    report = (latest(deployed, "assess") / "report.html").read_text()
    for said in ("Beside the model that is deployed", "champion (demo@1)", "Learning curve", "There is room for 250 positive decisions", "times sum"): assert said in report, said
    record = json.loads((latest(deployed, "assess") / "run.json").read_text())
    assert {"kind": "model", "ref": "demo@1", "version": "demo@1"}.items() <= next(i for i in record["inputs"] if i["kind"] == "model").items()


def test_amount_and_capacity_reach_values_policy_and_report(deployed):
    found, folder = assessed(deployed), latest(deployed, "assess")
    table = pl.read_parquet(folder / "decisions.parquet")
    frame = pl.read_csv(deployed / "rows.csv")
    right = (table["label"] == 1).to_numpy()
    worth = np.where(table["decision"] == 1, np.where(right, 1, -1), 0) * frame["sum"].to_numpy()
    assert found["estimates"]["value"]["value"] == pytest.approx(worth.mean()) and table["value"].to_numpy() == pytest.approx(worth)
    for c in found["candidates"]:
        assert c["policy"]["note"] == "Fitted to decide at most 250 of 1,000 rows positive"
        if c["policy"]["kind"] == "threshold": assert (table["score"] >= c["policy"]["threshold"]).mean() <= 0.25
    assert table["decision"].mean() < 0.29


def test_a_champion_that_cannot_answer_is_said_and_leaves_a_blocking_gate_undecided(deployed, tmp_path):
    import shutil
    folder = tmp_path / "copy"
    shutil.copytree(deployed, folder)
    pl.read_csv(folder / "rows.csv").drop("b").write_csv(folder / "rows.csv")
    settings(folder)
    for job in ("ingest", "tune", "assess"): mlw("run", job, cwd=folder)
    found = assessed(folder)
    assert found["gates"][0]["answer"] == "undecided" and found["held_back"] == ["better"]
    assert any("the champion demo@1 cannot answer these rows: missing column 'b'" in n for n in found["notes"])


def test_a_bad_amount_stops_the_search_before_it_begins(deployed, tmp_path):
    import shutil
    folder = tmp_path / "copy"
    shutil.copytree(deployed, folder)
    settings(folder, "amount = sum - 20\n")
    done = mlw("run", "tune", cwd=folder, fails=True)
    assert done.returncode == 2 and "missing, negative or infinite" in done.stdout + done.stderr, (done.returncode, done.stdout, done.stderr)


def test_two_assessments_are_one_page_that_stands_alone(deployed, tmp_path):
    runs = [p.name for p in sorted((deployed / "store" / "runs").glob("*-assess-*"))]
    settings(deployed, "exclude = a\n")
    for job in ("tune", "assess"): mlw("run", job, cwd=deployed)
    last = latest(deployed, "assess").name
    page = tmp_path / "out.html"
    mlw("diff", runs[1], last, "--html", str(page), cwd=deployed)
    text = page.read_text()
    for said in ("Verdicts", "Gates", "Metrics and value, with intervals", "By town", "What the answers rest on", "the same, paired", "On the same 800 rows", "n&lt;orth"): assert said in text, said
    assert "n<orth" not in text and not re.search(r"(src|href)=[\"'](?!data:|#)", text) and "<script" not in text and '<html lang="en">' in text and "Content-Security-Policy" in text
    assert all(re.search(r'alt="[^"]+"', i) for i in re.findall(r"<img[^>]*>", text)) and "<img" in text
    told = json.loads(mlw("diff", runs[0], last, "--json", cwd=deployed).stdout)["assessments"]
    assert told["paired"] == {} and "as if the rows were others" in told["sentence"]
    told = json.loads(mlw("diff", runs[1], last, "--json", cwd=deployed).stdout)["assessments"]
    frames = [pl.read_parquet(deployed / "store" / "runs" / r / "decisions.parquet") for r in (runs[1], last)]
    def loss(f): return -np.log(np.where(f["label"] == 1, f["score"], 1 - f["score"])).mean()
    assert told["paired"]["loss"]["value"] == pytest.approx(loss(frames[1]) - loss(frames[0]), abs=1e-9)
