"The numbers of a report: the same in its tables, its figures, the CSV files and assessment.json."
import html
import json
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mlops_workbench.assess.assessment import assess_predictions, plain
from mlops_workbench.assess.curves import by_class, confusion, precision_recall, residuals
from mlops_workbench.assess.ladder import calibration
from mlops_workbench.assess.metrics import auc, average_precision
from mlops_workbench.assess.parts import by_label, by_quantile, by_range
from mlops_workbench.assess.tables import frames, write_tables
from mlops_workbench.core.settings import AssessSettings
from mlops_workbench.core.show import interval
from mlops_workbench.model.task import Task

from .command import mlw

pytestmark = pytest.mark.long

SETTINGS = AssessSettings(confidence=0.8, bootstrap=300)
LOANS = Task("loans", "loan", "binary", ("no", "yes"), ("a",), value={"tp": 1, "fp": -4, "fn": 0, "tn": 0}, amount="a")


def told(n=500, seed=0):
    "Labels that a score tells, as predictions, with amounts and weights."
    rng = np.random.default_rng(seed)
    score = rng.beta(2, 2, n)
    label = (rng.random(n) < score).astype(np.int64)
    return pl.DataFrame({"fold": np.arange(n) % 5, "label": label, "score": score}), rng.lognormal(3, 1, n), rng.lognormal(0, 0.8, n)


def test_the_settings_confidence_and_draws_are_those_of_every_number(tmp_path):
    rows, sums, _ = told()
    a = assess_predictions(LOANS, rows, pl.DataFrame(), amounts=sums, settings=SETTINGS)
    said, shown, figures = a.to_json(), a.tables(), a.figures()
    files = {p.stem: pl.read_csv(p) for p in write_tables(a, tmp_path)}
    asked = by_class(a.labels, a.chosen.decisions, LOANS.classes, confidence=0.8)
    assert said["classes_found"] == plain(asked) == plain(files["classes"])
    for r in asked.to_dicts(): assert interval(r["recall"], r["recall_low"], r["recall_high"]) in repr(shown["classes"])
    value, row = a.chosen.estimates["value"], files["value"].row(0, named=True)
    assert [row[k] for k in ("per_1000", "low", "high")] == pytest.approx([1000 * v for v in (value.value, value.low, value.high)], rel=1e-12)
    assert interval(row["per_1000"], row["low"], row["high"]) in repr(shown["value"])
    y, s = rows["label"].to_numpy(), rows["score"].to_numpy()
    legend = lambda name: figures[name].axes[0].get_legend().get_texts()[0].get_text()
    assert str(auc(y, s, confidence=0.8)).startswith(legend("roc").split("AUC ")[1])
    assert str(average_precision(y, s, confidence=0.8, replicates=300, seed=a.seed)).startswith(legend("precision and recall").split(": ")[1])
    rng = np.random.default_rng(1)
    numbers = rows.with_columns(score=pl.Series(rng.normal(size=500))).with_columns(label=pl.col("score") + pl.Series(rng.normal(size=500)))
    r = assess_predictions(Task("w", "grams", "regression"), numbers, pl.DataFrame(), settings=SETTINGS)
    assert r.to_json()["residuals"] == plain(residuals(r.labels, r.scores, confidence=0.8)) == plain(frames(r)["residuals"])


def test_weights_count_in_every_number_of_performance():
    rows, sums, w = told()
    groups = pl.DataFrame({"g": np.where(np.arange(500) % 3, "a", "b")})
    a = assess_predictions(replace(LOANS, weight="w", sensitive=("g",)), rows, groups, amounts=sums, weights=w, settings=SETTINGS)
    y, s, d = rows["label"].to_numpy(), rows["score"].to_numpy(), a.chosen.decisions
    of = {r["metric"]: r for r in a.performance.to_dicts()}
    yes = a.parts["classes"].row(1, named=True)
    for m, x in (("precision", d), ("recall", y)): assert yes[m] == pytest.approx(of[m]["estimate"]) and yes[m] == pytest.approx(w[(d == 1) & (y == 1)].sum() / w[x == 1].sum())
    assert (yes["n"], yes["decided"]) == (y.sum(), d.sum())
    legend = lambda name: a.figures()[name].axes[0].get_legend().get_texts()[0].get_text()
    for figure, metric in (("roc", "auc"), ("precision and recall", "average_precision")): assert legend(figure).endswith(f"{of[metric]['estimate']:.3f} [{of[metric]['low']:.3f}, {of[metric]['high']:.3f}]")
    c = a.calibration
    assert c["n"].sum() == 500 and (c["effective"] < c["n"]).all() and c["weight"].sum() == pytest.approx(w.sum())
    assert (c["weight"] * c["observed"]).sum() == pytest.approx(w @ y) and (c["weight"] * c["mean_score"]).sum() == pytest.approx(w @ s)
    assert a.chosen.estimates["calibration_error"].value == pytest.approx((c["weight"] * (c["observed"] - c["mean_score"]).abs()).sum() / w.sum())
    for section in ("performance", "uncertainty", "candidates", "fairness"): assert "every row alike, whatever it weighs by w" in repr(a.section(section)), section
    plain_ = assess_predictions(LOANS, rows, pl.DataFrame(), amounts=sums, settings=SETTINGS)
    assert "weighs" not in repr(plain_.section("performance")) and plain_.parts["classes"]["precision"][1] != yes["precision"]


def test_a_weight_of_two_says_what_the_row_twice_says():
    rng = np.random.default_rng(2)
    times, y, d, z = rng.integers(0, 4, 900), rng.integers(0, 3, 900), rng.integers(0, 3, 900), rng.normal(size=(900, 2))
    twice = lambda x: np.repeat(x, times, axis=0)
    for f in (by_class, confusion):
        one, many = f(y, d, "abc", weights=times).sort(pl.nth(0, 1)), f(twice(y), twice(d), "abc").sort(pl.nth(0, 1))
        for c in {"precision", "recall", "f1", "share"} & set(one.columns): np.testing.assert_allclose(one[c], many[c])
        low = "recall_low" if f is by_class else "low"
        assert (one[low] < many[low]).all()    # the same rows again are no more rows
    one, many = residuals(z[:, 0], z[:, 1], weights=times, bins=1), residuals(twice(z[:, 0]), twice(z[:, 1]), bins=1)
    np.testing.assert_allclose(one.select("residual", "mae", "rmse"), many.select("residual", "mae", "rmse"))
    assert one["low"][0] < many["low"][0] and one["n"][0] == (times > 0).sum()
    ends = np.sort(rng.normal(size=(900, 3)), axis=1)
    for f, names in ((by_range, ["coverage", "width", "under", "over"]), (by_quantile, ["below", "pinball", "skill"])):
        more = {"bins": 1} if f is by_range else {"replicates": 10}
        one, many = f(z[:, 0], ends, (0.1, 0.5, 0.9), weights=times, **more), f(twice(z[:, 0]), twice(ends), (0.1, 0.5, 0.9), **more)
        np.testing.assert_allclose(one.select(names), many.select(names))
    signs, given, chance = (z > 0).astype(int), (z > 0.5).astype(int), 1 / (1 + np.exp(-z + rng.normal(size=z.shape)))
    one, many = by_label(signs, chance, given, "ab", weights=times, replicates=50), by_label(twice(signs), twice(chance), twice(given), "ab", replicates=50)
    for m in ("auc", "average_precision", "precision", "recall", "f1"): np.testing.assert_allclose(one[m], many[m])
    curve, again = precision_recall(signs[:, 0], chance[:, 0], weights=times), precision_recall(twice(signs[:, 0]), twice(chance[:, 0]))
    np.testing.assert_allclose(curve, again)
    many_labels = [calibration(signs, chance, "multilabel", bins=1, weights=x) for x in (None, np.full(900, 0.5), times)]
    np.testing.assert_allclose(many_labels[0], many_labels[1].select(many_labels[0].columns))
    assert many_labels[2]["low"][0] < many_labels[2]["observed"][0] < many_labels[2]["high"][0]


HELD = {   # how the caption of a table begins -> its file
    "Performance of": "performance", "Beside simpler models": "ladder", "Beside what is done now": "status_quo", "Beside the model that": "champion", "The operating point": "operating_point", "By class": "classes",
    "Which class": "confusion", "By label": "labels", "By level": "levels", "By quantile": "quantiles", "Coverage of": "ranges", "Residuals": "residuals", "Calibration, by": "calibration", "Value, in": "value",
    "What each decision": "value_matrix", "Loss by the number": "learning", "The slices named": "slices_named", "Slices found": "slices_found", r"Rates by (?P<g>.+?): (?P<e>.*)": "groups_by_", r"Errors.* by (?P<g>.+?): (?P<e>.*)": "groups_by_",
    r"Disparities by (?P<g>.+?): (?P<e>.*)": "disparities_by_", r"Small groups by (?P<g>.+?): .*: (?P<e>.*)": "shrunken_by_", "Candidates, fitted": "candidates", r"How well the features tell (?P<g>.+?),": "proxies_of_",
    "Gates: (?P<e>.*)": "gates", "Coverage and size": "coverage", "What the band": "band", "How far the values": "certificate", r"How much each column counts, by (?P<g>.+?), with": "importance_by_", "The nearest change": "what_if",
    "Quality:": "doubtful_labels", "Rows with a twin": "twins", "Gain:": "rows_that_hurt", "Alone:": "columns_alone", "How much more the model loses": "columns_dealt_anew", "The loss with and without": "left_out"}


def held(page, folder, chosen):
    "The captions of the page's tables; each must have a file, in which numbers are numbers."
    files, captions = {p.stem: pl.read_csv(p) for p in folder.glob("*.csv")}, [html.unescape(c) for c in re.findall(r'<table aria-label="([^"]*)"', page)]
    for c in captions:
        found = [(m, name) for begins, name in HELD.items() if (m := re.match(begins, c))]
        assert found, c
        m, name = found[0]
        of = m.groupdict()
        stem = name + re.sub(r"[^\w-]", "_", of.get("g") or "") + "__unmitigated" * (of.get("e") not in (None, chosen))
        assert stem in files, (c, stem)
    for name, f in files.items():
        for column in f.select(pl.col(pl.String)).columns: assert not f[column].str.contains(r"^\S+ \[[^\]]+, [^\]]+\]$").any(), (name, column)
    return captions, files


def test_every_table_of_every_kind_of_task_is_a_file(tmp_path):
    rng = np.random.default_rng(4)
    three, two, numbers = rng.dirichlet([1, 1, 1], 400), rng.random((400, 2)), rng.normal(size=400)
    group = pl.DataFrame({"g": rng.choice(["a", "b"], 400), "x": rng.normal(size=400)})
    q = np.sort(numbers[:, None] + rng.normal(size=(400, 3)), axis=1)
    sorts = Task("s", "k", "multiclass", ("a", "b", "c"), ("x",), values=((0.0, -1.0, -8.0), (-1.0, 0.5, -1.0), (-2.0, -2.0, 0.0)))
    leaves = Task("t", "k", "hierarchical", ("a/b", "a/c", "d/e"), ("x",), levels=("k",), separator="/")
    cases = [(sorts, rng.integers(0, 3, 400), three), (leaves, rng.integers(0, 3, 400), three), (Task("l", "l, m", "multilabel", ("l", "m"), ("x",), targets=("l", "m")), (rng.random((400, 2)) < two).astype(int), two),
             (Task("w", "y", "regression", features=("x",)), numbers, numbers + rng.normal(size=400)), (Task("q", "y", "regression", features=("x",), loss="quantile", quantiles=(0.1, 0.5, 0.9)), numbers, q)]
    for task, y, s in cases:
        a = assess_predictions(replace(task, sensitive=("g",)), pl.DataFrame({"fold": np.arange(400) % 4, "label": pl.Series(y), "score": pl.Series(s)}), group.select("g"), rows=group, slices={"left": "x < 0"}, settings=SETTINGS)
        folder = tmp_path / a.task.name
        write_tables(a, folder)
        page = "".join(a.section(s).markup for s in ("performance", "slices", "fairness", "candidates", "uncertainty")) + "".join(t.markup for t in a.tables().values())
        captions, _ = held(page, folder, a.chosen.name)
        assert len(captions) > 8 and "NaN" not in json.dumps(a.to_json())


@pytest.fixture(scope="module")
def assessed(tmp_path_factory, warm):
    "A project with everything that a report has a table for, assessed; and the folder of the run."
    root, rng, n = tmp_path_factory.mktemp("project"), np.random.default_rng(0), 700
    a, b = rng.normal(size=(2, n))
    town = np.where(np.arange(n) < 12, "isle", rng.choice(["north", "south"], n))
    a += town == "south"
    good = rng.random(n) < 1 / (1 + np.exp(-2 * a - b))
    frame = pl.DataFrame({"a": a, "b": b, "twin": a + rng.normal(size=n) / 9, "sum": rng.lognormal(3, 1, n), "w": rng.lognormal(0, 0.7, n), "town": town, "clerk": np.where((rng.random(n) < 0.3) ^ good, "yes", "no"), "good": np.where(good, "yes", "no")})
    frame.with_columns(good=pl.when(pl.int_range(n) % 40 == 3).then(pl.lit("no")).otherwise("good")).write_csv(root / "rows.csv")
    (root / "settings.ini").write_text("[project]\nname = demo\n[data]\nsource = rows.csv\n[task]\ntarget = good\npositive = yes\nsensitive = town\nfolds = 2\nweight = w\nstatus_quo = clerk\namount = sum\nvalue_fp = -3\n"
        "[tune]\ntrials = 2\nfamilies = linear\n[assess]\nconfidence = 0.8\nbootstrap = 300\nexplain_rows = 30\noperating = precision >= 0.6\nabstain_capacity = 0.1\n[slices]\nlow = a < 0\n"
        "[gates]\nfair = selection_rate_ratio(town) >= 0.2, block\n[wandb]\nmode = disabled\n")
    for job in ("ingest", "tune", "assess", "deploy"): mlw("run", job, cwd=root)
    return root, sorted((root / "store" / "runs").glob("*-assess-*"))[-1]


def test_every_table_of_a_report_is_a_file_and_in_the_json(assessed):
    _, folder = assessed
    said, page = json.loads((folder / "assessment.json").read_text()), (folder / "report.html").read_text()
    captions, files = held(page, folder / "tables", said["chosen"])
    assert {HELD[k] for k in HELD if any(re.match(k, c) for c in captions)} >= {"performance", "status_quo", "operating_point", "value", "slices_named", "coverage", "band", "certificate", "importance_by_", "candidates", "left_out", "doubtful_labels"}
    assert {"importance", "interactions", "risk", "value_curve", "importance_by_town"} <= set(files)
    of = {"value": said["value"], "classes": said["classes_found"], "confusion": said["confusion"], "band": said["uncertainty"]["abstention"]["table"], "coverage": said["uncertainty"]["coverage"], "importance": said["importance"],
          "importance_by_town": said["explained"]["by_group"]["town"], "status_quo": said["status_quo"]["table"], "learning": said["learning"]["table"], "doubtful_labels": next(d for d in said["doubts"] if d["name"] == "doubtful labels")["rows"]}
    for name, rows in of.items(): assert [list(r.values()) for r in rows] == [[pytest.approx(v) if isinstance(v, float) else v for v in r] for r in files[name].head(len(rows)).rows()], name
    c, op = said["candidates"][0], {r["measure"]: r for r in files["operating_point"].to_dicts()}
    assert files["candidates"].row(0, named=True)["value per 1,000_low"] == pytest.approx(1000 * c["value"]["low"]) and op["threshold"]["value"] == pytest.approx(said["operating_point"]["threshold"])
    assert op["value"]["low"] == pytest.approx(said["operating_point"]["estimates"]["value"]["low"]) and 10 < len(said["value_curve"]) <= 800
    top = files["importance"].row(0, named=True)
    assert interval(top["importance"], top["low"], top["high"]) in html.unescape(page).replace("\u00a0", " ") and said["explained"]["certificate"]["error"] == pytest.approx(files["certificate"]["found"][1])
    assert page.count("every row alike, whatever it weighs by w") == 6


def test_a_file_that_lacks_columns_is_told(assessed):
    root, _ = assessed
    rows = pl.read_csv(root / "rows.csv")
    rows.drop("w", "clerk").write_csv(root / "later.csv")
    mlw("assess", "--data", "later.csv", cwd=root)
    folder = sorted((root / "store" / "runs").glob("*-assess-*"))[-1]
    said, page = json.loads((folder / "assessment.json").read_text()), html.unescape((folder / "report.html").read_text())
    assert said["notes"][:2] == ["The file lacks the column 'w', which [task] weight names: every row counts alike.", "The file lacks the column 'clerk', which [task] status_quo names: nothing is known of what is decided now."]
    assert said["notes"][0] in page and "the rows do not have the column 'clerk'" in page and "would name its column" not in page and "doubts" not in said
    held(page, folder / "tables", said["chosen"])
