"The numbers of a report: the same in its tables, its figures, the CSV files and assessment.json."
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
