"Every framing through the whole path: search, ensemble, calibration, graph; and what a user may get wrong."
import dataclasses

import numpy as np
import polars as pl
import pytest
from mlops_workbench.assess.means import constant_scores
from mlops_workbench.assess.metrics import performance
from mlops_workbench.core.errors import InputError, ParameterError
from mlops_workbench.core.settings import TaskSettings
from mlops_workbench.model.graph import Graph, to_onnx
from mlops_workbench.model.loss import mean_loss
from mlops_workbench.model.policy import usual_policy
from mlops_workbench.model.predictor import Predictor
from mlops_workbench.model.task import Task, frame_task, split_rows
from mlops_workbench.tune.study import cross_fit, fit_model, score_table

from .command import mlw

pytestmark = pytest.mark.long


def table(n: int = 500, seed: int = 0) -> pl.DataFrame:
    "Rows with a target for every framing, all of which follow from the same score."
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({"a": rng.normal(size=n), "b": rng.exponential(size=n) * (rng.random(n) < 0.3), "c": rng.choice(["x", "y", "z"], n)})
    score = 2 * np.sin(2 * frame["a"].to_numpy()) + (frame["b"] > 0.5).to_numpy() + (frame["c"] == "x").to_numpy() + 0.4 * rng.normal(size=n)
    leaf = np.array(["cold/ice", "cold/rain", "warm/sun"])[np.digitize(score, [-0.5, 1.2])]
    late, ill = (score > 0.5).astype(int), (score + rng.normal(size=n) > 1.5).astype(int)
    return frame.with_columns(
        path=pl.Series(leaf), kind=pl.Series([p.split("/")[0] for p in leaf]), sort=pl.Series([p.split("/")[1] for p in leaf]), late=late, ill=ill == 1,
        signs=pl.Series([["late"] * int(p) + ["ill"] * int(q) for p, q in zip(late, ill)], dtype=pl.List(pl.String)), quantity=pl.Series(1e4 + 500 * score), good=pl.Series(np.where(score > 1.5, "yes", "no")))


SETTINGS = {
    "labels": dict(target="late, ill"), "lists": dict(target="signs"), "levels": dict(levels=["kind", "sort"]), "paths": dict(target="path", separator="/", framing="hierarchical"),
    "median": dict(target="quantity", loss="absolute_error"), "quantiles": dict(target="quantity", loss="quantile"), "one quantile": dict(target="quantity", loss="quantile", quantiles=[0.8])}
TARGETS = ["path", "kind", "sort", "late", "ill", "signs", "quantity", "good"]


def framed(name: str, frame: pl.DataFrame) -> Task:
    known = SETTINGS[name]
    columns = known.get("levels") or [c.strip() for c in known["target"].split(",")]
    return frame_task(frame, TaskSettings(**known, exclude=[c for c in TARGETS if c not in columns]), name="demo")


@pytest.fixture(scope="module", params=SETTINGS)
def fitted(request):
    task = framed(request.param, table())
    return fit_model(table(), task, trials=4, device="cpu"), task


def test_every_family_beats_its_constant(fitted, tmp_path):
    fit, task = fitted
    assert task.features == ("a", "b", "c")
    losses = dict(fit.leaderboard.filter(pl.col("state") == "completed").sort("loss", descending=True).select("family", "loss").rows())   # the best of each
    assert losses["trees"] < 0.9 * losses["constant"] and losses["network"] < 0.9 * losses["constant"] and losses["linear"] < losses["constant"]
    assert fit.loss <= min(losses.values()) + 1e-9
    new = table(400, 7)
    p = fit.predictor.predict(new)
    assert np.isfinite(p).all() and p.shape == ((400,) if task.aim["framing"] == "regression" else (400, task.width))
    labels = task.labels(new)
    base = constant_scores(labels, **task.aim, classes=len(task.classes))
    assert mean_loss(p, labels, np.ones(400), **task.aim) < 0.8 * mean_loss(base, labels, np.ones(400), **task.aim)
    assert performance(labels, p, **task.aim).filter(metric="skill")["low"][0] > 0
    if task.form == "quantiles":
        assert (np.diff(p, axis=1) >= 0).all()
        np.testing.assert_allclose((labels[:, None] <= p).mean(axis=0), task.quantiles, atol=0.15)
    fit.predictor.save(tmp_path / "model")
    np.testing.assert_array_equal(Predictor.load(tmp_path / "model").predict(new), p)


def test_the_graph_answers_as_the_predictor(fitted):
    fit, task = fitted
    members = [fit.singles[f].members[0] for f in ("network", "trees", "linear", "constant")]
    mixed = Predictor(task, fit.predictor.features, members, [0.4, 0.3, 0.2, 0.1], fit.predictor.calibration)
    odd = pl.concat([table(100, 9), table(3, 1).with_columns(a=pl.lit(None, pl.Float64), c=pl.lit("new")), table(2, 1).with_columns(a=pl.lit(float("inf")))])
    graph, expected = Graph(to_onnx(mixed, usual_policy(task))), mixed.predict(odd)
    for size in (1, 7, 105):
        found = graph.run(odd.head(size))
        np.testing.assert_allclose(found.select(graph.scores).to_numpy().reshape(expected[:size].shape), expected[:size], atol=1e-5, rtol=1e-5)
    decided = None if task.framing == "regression" else usual_policy(task).decide(expected)
    if task.framing == "multilabel": np.testing.assert_array_equal(found.select(f"decision_{c}" for c in task.classes).to_numpy(), decided)
    if task.framing == "hierarchical":
        assert found["decision"].to_list() == found["label"].to_list() == [task.classes[i] for i in decided]
        assert found["level_2"].to_list() == found["label"].to_list() and found["level_1"].to_list() == [c.split("/")[0] for c in found["label"]]
        sums = task.tree.sums(expected, 0)
        np.testing.assert_allclose(found["level_1_probability"], sums.max(axis=1), atol=1e-5)
    assert graph.run(odd.clear()).schema == found.schema


def test_scores_of_held_out_rows_have_the_shape_of_the_answers(fitted):
    fit, task = fitted
    scores = score_table(fit, table(30, 3), rows=np.arange(30))
    assert scores["score"].to_numpy().shape == fit.predictor.predict(table(30, 3)).shape and scores["label"].to_numpy().shape == task.labels(table(30, 3)).shape


@pytest.mark.parametrize("name", ["labels", "levels", "quantiles"])
def test_rows_are_cross_fitted(name):
    frame = table(200)
    task = framed(name, frame)
    split = split_rows(frame, task, test_share=0.2, folds=2, small=1000)
    scores = cross_fit(frame, task, split.folds, trials=1, families=["linear"], device="cpu")
    labels = scores["label"].to_numpy()
    p = scores["score"].to_numpy()
    assert len(scores) == 200 and mean_loss(p, labels, np.ones(200), **task.aim) < mean_loss(constant_scores(labels, **task.aim, classes=len(task.classes)), labels, np.ones(200), **task.aim)


def test_lists_and_columns_of_labels_are_the_same():
    frame = table()
    columns, lists = framed("labels", frame), framed("lists", frame)
    assert lists.classes == ("ill", "late")
    np.testing.assert_array_equal(columns.labels(frame)[:, [1, 0]], lists.labels(frame))


def test_levels_and_paths_are_the_same():
    frame = table()
    levels, paths = framed("levels", frame), framed("paths", frame)
    assert levels.classes == paths.classes and levels.separator == "/"
    np.testing.assert_array_equal(levels.labels(frame), paths.labels(frame))


@pytest.mark.parametrize("weight", ["balanced", "yes: 6"])
def test_class_weights_train_and_do_not_bend_probabilities(weight):
    frame = table(3000, 5)
    settings = TaskSettings(target="good", exclude=[c for c in TARGETS if c != "good"], class_weight=weight)
    task, new = frame_task(frame, settings, name="demo"), table(2000, 6)
    fit = fit_model(frame, task, trials=2, device="cpu")
    rate = task.labels(new).mean()
    assert rate < 0.35
    for family in ("network", "trees", "linear"):
        raw = dataclasses.replace(fit.singles[family], calibration=dataclasses.replace(fit.singles[family].calibration, a=1.0, b=(0.0,)))
        assert raw.predict(new).mean() > rate + 0.015, family   # trained on the heavier class
    for family in ("network", "trees", "linear", "constant"): assert abs(fit.singles[family].predict(new).mean() - rate) < 0.05, family
    assert abs(fit.predictor.predict(new).mean() - rate) < 0.04


def test_a_thousand_classes():
    rng, k = np.random.default_rng(0), 1000
    code = np.repeat(np.arange(k), 12)
    frame = pl.DataFrame({"x": code % 10 + 0.2 * rng.normal(size=len(code)), "y": code // 10 % 10 + 0.2 * rng.normal(size=len(code)), "z": code // 100 + 0.2 * rng.normal(size=len(code)),
                          "sort": [f"sort {c:04}" for c in code]})
    task = frame_task(frame, TaskSettings(target="sort"), name="many")
    assert len(task.classes) == k
    fit = fit_model(frame, task, trials=1, device="cpu")
    assert "trees are left out: each of 1,000 classes" in fit.notes[0] and "trees" not in fit.leaderboard["family"]
    assert fit.loss < 0.8 * np.log(k)
    graph = Graph(to_onnx(fit.predictor, usual_policy(task)))
    np.testing.assert_allclose(graph.run(frame.head(20)).select(graph.scores).to_numpy(), fit.predictor.predict(frame.head(20)), atol=1e-5)
    found = performance(task.labels(frame), fit.predictor.predict(frame), "multiclass", replicates=100)
    assert found.filter(metric="skill")["estimate"][0] > 0.2 and set(found["metric"]) == {"skill", "accuracy", "log_loss"}
    with pytest.raises(ParameterError, match="trees are left out"): fit_model(frame, task, trials=1, families=["trees"], device="cpu")


BAD = {
    "three rows": (table(3), dict(target="quantity", loss="quantile"), "only 3 rows have a target"),
    "three rows of labels": (table(3), dict(target="late, ill"), "the label 'late'"),
    "one column": (table().select("late", "ill"), dict(target="late, ill"), "no column is left to learn from"),
    "one value": (table().with_columns(quantity=pl.lit(2.0)), dict(target="quantity", loss="absolute_error"), "the target is constant: every row is '2'"),
    "an infinite target": (table().with_columns(quantity=pl.when(pl.int_range(500) == 7).then(float("inf")).otherwise("quantity")), dict(target="quantity", loss="quantile"), "an infinite target"),
    "a rare class": (table().with_columns(sort=pl.when(pl.int_range(500) == 7).then(pl.lit("hail")).otherwise("sort")), dict(levels=["kind", "sort"]), "fewer than 10 rows"),
    "a constant label": (table().with_columns(ill=pl.lit(1)), dict(target="late, ill"), "the label 'ill' is constant: it is 1 in all 500 rows"),
    "a label that is none": (table().with_columns(ill=pl.int_range(500) % 3), dict(target="late, ill"), "0 or 1, found '2'"),
    "a quantile that is none": (table(), dict(target="quantity", loss="quantile", quantiles=[0.5, 90]), "the quantile 90 does not lie between 0 and 1"),
    "quantiles that fall": (table(), dict(target="quantity", loss="quantile", quantiles=[0.9, 0.1]), "the quantiles do not ascend"),
    "quantiles of classes": (table(), dict(target="good", quantiles=[0.9]), "quantiles are given, but the loss is 'log_loss'"),
    "no tree": (table().with_columns(kind=pl.col("late").cast(pl.String)), dict(levels=["kind", "sort"]), "the levels are not a tree"),
    "a branch that is a class": (table().with_columns(path=pl.when(pl.int_range(500) < 20).then(pl.lit("cold")).otherwise("path")), dict(target="path", separator="/", framing="hierarchical"), "'cold' is a class and a branch"),
    "no separator": (table(), dict(target="sort", separator="/", framing="hierarchical"), "there is one level only"),
    "a weight of no class": (table(), dict(target="good", class_weight="maybe: 2"), "class_weight names 'maybe'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_one_clear_error(case):
    frame, settings, said = BAD[case]
    columns = settings.get("levels") or [c.strip() for c in settings["target"].split(",")]
    with pytest.raises(InputError) as found: frame_task(frame, TaskSettings(**settings, exclude=[c for c in TARGETS if c in frame.columns and c not in columns]), name="demo")
    assert said in str(found.value) and found.value.where and found.value.remedy


def test_a_class_that_training_did_not_see_is_named():
    frame = table()
    for name, odd in (("paths", frame.with_columns(path=pl.lit("warm/fog"))), ("lists", frame.with_columns(signs=pl.lit(["cured"])))):
        with pytest.raises(InputError, match="unknown label '(warm/fog|cured)' in 500 of 500 rows"): framed(name, frame).labels(odd)


def test_infinite_features_are_missing():
    frame = table().with_columns(a=pl.when(pl.int_range(500) % 9 == 0).then(float("inf")).otherwise("a"))
    fit = fit_model(frame, framed("labels", frame), trials=2, device="cpu")
    assert np.isfinite(fit.predictor.predict(frame)).all()


RUN = {"median": "target = quantity\nloss = absolute_error", "weights": "target = good\nclass_weight = balanced"}   # the others: test_framings_deployed


@pytest.mark.parametrize("name", RUN)
def test_tune_and_assess_take_it(name, tmp_path, warm):
    table(300).drop("signs").write_csv(tmp_path / "rows.csv")
    used = {"weights": ["good"]}.get(name, ["quantity"])
    (tmp_path / "settings.ini").write_text(f"[project]\nname = demo\n[data]\nsource = rows.csv\n[task]\n{RUN[name]}\nfolds = 2\nexclude = {', '.join(c for c in TARGETS if c not in (*used, 'signs'))}\n"
                                           "[tune]\ntrials = 2\nfamilies = linear, trees\n[assess]\nbootstrap = 100\nexplain_rows = 10\n[wandb]\nmode = disabled\n")
    for job in ("ingest", "tune", "assess"): mlw("run", job, cwd=tmp_path)
