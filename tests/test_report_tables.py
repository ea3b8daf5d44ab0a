"The numbers of a report: the same in its tables, its figures, the CSV files and assessment.json."
import numpy as np
import polars as pl
import pytest

from mlops_workbench.assess.assessment import assess_predictions, plain
from mlops_workbench.assess.curves import by_class, residuals
from mlops_workbench.assess.metrics import auc, average_precision
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
