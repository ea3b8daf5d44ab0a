"The search as a whole: framings, odd tables, interruption and resumption, and the graph of what it finds."
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import optuna
import polars as pl
import pytest
from mlops_workbench.core.errors import InputError, NotFoundError, ParameterError
from mlops_workbench.model.graph import Graph, to_onnx
from mlops_workbench.model.policy import Policy
from mlops_workbench.model.predictor import Predictor
from mlops_workbench.model.task import Task
from mlops_workbench.tune import search, study
from mlops_workbench.tune.data import Measures, divide, tuning_data
from mlops_workbench.tune.families import Step
from mlops_workbench.tune.goals import Goals
from mlops_workbench.tune.helper import Helper
from mlops_workbench.tune.journal import open_storage
from mlops_workbench.tune.leases import read_leases
from mlops_workbench.tune.search import Clock, Plan, Search
from mlops_workbench.tune.studies import Study
from mlops_workbench.tune.study import cross_fit, fit_model

pytestmark = pytest.mark.long

CODE = """
import numpy as np, polars as pl
from mlops_workbench.model.task import Task
def table(n=500, seed=0):
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({"a": rng.normal(size=n), "b": rng.exponential(size=n) * (rng.random(n) < 0.3), "c": rng.choice(["x", "y", "z", ""], n),
                          "none": pl.Series([None] * n, dtype=pl.Float64), "same": np.ones(n), "group": rng.integers(0, 25, n), "when": np.arange(n) // 5,
                          "weight": rng.uniform(0.1, 2, n)})
    score = 2 * np.sin(2 * frame["a"].to_numpy()) + (frame["b"] > 0.5).to_numpy() + (frame["c"] == "x").fill_null(False).to_numpy() + 0.4 * rng.normal(size=n)
    return frame.with_columns(pl.when(pl.col("a").abs() < 0.1).then(None).otherwise(pl.col("a")).alias("a"), binary=pl.Series(np.where(score > 0.4, "good", "bad")),
                              several=pl.Series(np.array(["low", "mid", "top"])[np.digitize(score, [-0.5, 1.2])]), quantity=pl.Series(1e4 + 500 * score))
def task(framing="binary", **more):
    target = {"binary": "binary", "multiclass": "several", "regression": "quantity"}[framing]
    classes = {"binary": ("bad", "good"), "multiclass": ("low", "mid", "top"), "regression": ()}[framing]
    return Task("demo", target, framing, classes=classes, features=("a", "b", "c", "none", "same"), **more)
"""
scope: dict = {}
exec(CODE, scope)
table, task = scope["table"], scope["task"]


@pytest.mark.parametrize("framing", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("weight", ["", "weight"])
def test_every_framing_beats_its_constant(framing, weight, tmp_path):
    fit = fit_model(table(), task(framing, weight=weight), trials=6, device="cpu")
    losses = dict(fit.leaderboard.filter(pl.col("state") == "completed").sort("loss", descending=True).select("family", "loss").rows())   # the best of each
    assert losses["trees"] < 0.85 * losses["constant"] and losses["network"] < 0.9 * losses["constant"]
    assert fit.loss < 1.05 * min(losses.values())
    p = fit.predictor.predict(table(50, 7))
    assert np.isfinite(p).all() and p.shape == ((50, 3) if framing == "multiclass" else (50,))
    fit.predictor.save(tmp_path / "model")
    np.testing.assert_array_equal(Predictor.load(tmp_path / "model").predict(table(50, 7)), p)


@pytest.mark.parametrize("split", ["group:group", "time:when", "stratified"])
def test_the_rows_are_divided_as_the_task_says(split):
    frame = table()
    fit, valid, check = divide(frame, task(split=split))
    assert len(fit) + len(valid) == len(frame) and not set(fit) & set(valid) and valid is check
    if split.startswith("group"): assert not set(frame["group"][fit]) & set(frame["group"][valid])
    if split.startswith("time"): assert frame["when"][fit].max() < frame["when"][valid].min()


def test_many_rows_are_calibrated_on_rows_of_their_own():
    parts = divide(table(12_000), task())
    assert sorted(np.concatenate(parts)) == list(range(12_000)) and len(parts[2]) > 500


def test_one_group_still_has_a_model():
    frame = table(200).with_columns(group=pl.lit(1))
    assert fit_model(frame, task(split="group:group"), trials=2, device="cpu").predictor.members


@pytest.mark.parametrize("n", [40, 60])
def test_few_rows(n):
    fit = fit_model(table(n), task(), trials=4, device="cpu")
    assert np.isfinite(fit.predictor.predict(table(20, 3))).all()


def test_columns_without_a_value_leave_the_constant():
    frame = table(200)
    blank = Task("demo", "binary", "binary", classes=("bad", "good"), features=("none", "same"))
    p = fit_model(frame, blank, trials=2, device="cpu").predictor.predict(frame)
    assert np.ptp(p) < 1e-6 and abs(p[0] - (frame["binary"] == "good").mean()) < 0.1


def test_a_wide_table():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({f"c{i}": rng.normal(size=150) for i in range(1500)} | {"binary": np.where(rng.random(150) < 0.5, "good", "bad")})
    wide = Task("demo", "binary", "binary", classes=("bad", "good"), features=tuple(f"c{i}" for i in range(1500)))
    assert np.isfinite(fit_model(frame, wide, trials=2, families=("network", "linear"), device="cpu").predictor.predict(frame)).all()


def test_one_family_alone():
    fit = fit_model(table(300), task(), trials=3, families=("network",), device="cpu")
    assert sorted(fit.singles) == ["constant", "network"] and [m.family for m in fit.predictor.members] == ["network"] * len(fit.predictor.members)
    assert [m.family for m in fit_model(table(300), task(), families=("linear",), device="cpu").predictor.members] == ["linear"]


def test_a_seed_repeats_and_another_differs():
    first, again, other = (fit_model(table(300), task(), trials=4, seed=s, device="cpu").predictor.predict(table(50, 1)) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def losses(fit): return sorted(fit.leaderboard.filter(pl.col("state").is_in(["completed", "pruned"])).select("trial", "loss").rows())


def test_an_interrupted_study_goes_on_as_if_nothing_had_been(tmp_path):
    def interrupt(done, total, text):
        if "epoch 3" in text: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): fit_model(table(), task(), trials=8, device="cpu", folder=tmp_path, progress=interrupt)
    states = [t.state.name for t in load(tmp_path).trials]
    assert "RUNNING" not in states and "WAITING" in states
    resumed = fit_model(table(), task(), trials=8, device="cpu", folder=tmp_path)
    assert {t.state.name for t in load(tmp_path).trials} <= {"COMPLETE", "PRUNED"} and len(load(tmp_path).trials) == 8
    whole = fit_model(table(), task(), trials=8, device="cpu")
    assert losses(resumed) == losses(whole)
    np.testing.assert_array_equal(resumed.predictor.predict(table()), whole.predictor.predict(table()))


def load(folder):
    return optuna.load_study(study_name="study", storage=open_storage(folder)[0])


def test_another_machine_takes_over_from_the_store(tmp_path):
    def interrupt(done, total, text):
        if "epoch 12" in text: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): fit_model(table(), task(), trials=8, device="cpu", folder=tmp_path / "here", store=tmp_path / "store", progress=interrupt)
    over = {p.name for p in (tmp_path / "here" / "members").iterdir()}
    shutil.rmtree(tmp_path / "here")
    resumed, whole = fit_model(table(), task(), trials=8, device="cpu", folder=tmp_path / "there", store=tmp_path / "store"), fit_model(table(), task(), trials=8, device="cpu")
    assert over and losses(resumed) == losses(whole) and sum(s.trials for s in resumed.steps) == 8
    assert {p.name for p in (tmp_path / "store" / "members").iterdir()} == {k for k in resumed.leaderboard["trial"] if "-" in k}
    with pytest.raises(NotFoundError): fit_model(table(), task(), trials=8, device="cpu", folder=tmp_path / "there", store=tmp_path / "store", warm_start=tmp_path / "nowhere")
    assert not (tmp_path / "store" / "lease.json").exists()   # others may have it


def test_one_thread_at_a_time_reads_and_writes_the_study(monkeypatch):
    read, within, clashes = Study.trials, [], []
    def trials(study):
        within.append(threading.get_ident())
        time.sleep(0.001)
        clashes.extend([1] * (len(set(within)) > 1))
        try: return read(study)
        finally: within.remove(threading.get_ident())
    monkeypatch.setattr(Study, "trials", trials)
    found, over = Search(tuning_data(table(300), task()), families=["trees"]), threading.Event()
    def watch():
        while not over.is_set(): found.finished()
    watching = threading.Thread(target=watch)
    watching.start()
    try: found.run(Plan(found, {"trees": [Step("trees", 1)] * 3}))
    finally:
        over.set()
        watching.join()
    assert found.finished() == 3 and not clashes


def test_a_killed_study_is_resumed_without_repeating(tmp_path):
    slow = "import time\nfrom mlops_workbench.tune.study import fit_model\ndef wait(done, total, text):\n    if 'epoch 9' in text: open(mark, 'w').close(); time.sleep(60)\n"
    code = CODE + slow + f"mark = {str(tmp_path / 'reached')!r}\nfit_model(table(), task(), trials=8, device='cpu', folder={str(tmp_path / 'study')!r}, progress=wait)"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        while not (tmp_path / "reached").exists():
            assert process.poll() is None, "the study ended before it could be killed"
            time.sleep(0.1)
        time.sleep(1)     # the trees go on meanwhile
    finally: process.kill()
    process.wait()
    folder = tmp_path / "study"
    before = {t.number: t.params for t in load(folder).trials}
    over = {t.number for t in load(folder).trials if t.state.name == "COMPLETE"}
    epochs = []
    resumed = fit_model(table(), task(), trials=8, device="cpu", folder=folder, progress=lambda done, total, text: epochs.append(text))
    trials = load(folder).trials
    assert len(trials) == 8 and {t.state.name for t in trials} <= {"COMPLETE", "PRUNED"}
    assert {t.number: t.params for t in trials if t.number in before} == before and over
    assert losses(resumed) == losses(fit_model(table(), task(), trials=8, device="cpu"))


def test_ten_kills_of_workers_and_runner_leave_every_trial_once(tmp_path):
    folder, rng = tmp_path / "study", random.Random(0)
    code = CODE + f"from mlops_workbench.tune.study import fit_model\nif __name__ == '__main__': fit_model(table(4000), task(), trials=16, device='cpu', workers=2, folder={str(folder)!r})"
    start = lambda: subprocess.Popen([sys.executable, "-c", code])
    holders = lambda: [lease["pid"] for lease in read_leases(folder / "leases") if lease["trials"]]
    runner = start()
    for kill in range(10):
        while not holders():
            assert runner.poll() is None, "the study ended before it could be killed"
            time.sleep(0.02)
        time.sleep(rng.uniform(0.2, 0.5))
        if kill in (3, 7):
            runner.kill()
            runner.wait()
            while holders(): time.sleep(0.02)   # its workers see that it is gone, and leave
            runner = start()
        else:
            for pid in holders(): os.kill(pid, signal.SIGKILL)
    assert runner.wait() == 0
    trials = load(folder).trials
    assert len(trials) == 16 and {t.state.name for t in trials} <= {"COMPLETE", "PRUNED"} and sum(len(t.user_attrs.get("deaths", ())) for t in trials) >= 6
    fit = fit_model(table(4000), task(), trials=16, device="cpu", folder=folder)   # nothing is left to train
    assert len(fit.leaderboard) == 18 and sum(s.trials for s in fit.steps) == 16 and {p.name for p in (folder / "members").iterdir()} == {k for k in fit.leaderboard["trial"] if "-" in k}


def test_a_warm_start_tries_the_best_of_another_study_first(tmp_path):
    before = fit_model(table(400), task(), trials=6, families=["trees"], folder=tmp_path / "a", device="cpu")
    best = before.leaderboard.filter(pl.col("trial").str.starts_with("trees")).head(3)
    fit_model(table(500, 1), task(), trials=4, families=["trees", "linear"], folder=tmp_path / "b", warm_start=tmp_path / "a", device="cpu")
    then, now = load(tmp_path / "a").trials, load(tmp_path / "b").trials
    assert [t.params for t in now[:3]] == [then[int(k.partition("-")[2])].params for k in best["trial"]] and len(now) == 4
    with pytest.raises(ParameterError, match="its target is 'binary', here 'several'"): fit_model(table(400), task("multiclass"), trials=2, warm_start=tmp_path / "a", device="cpu")
    with pytest.raises(NotFoundError, match="no study"): fit_model(table(400), task(), trials=2, warm_start=tmp_path / "c", device="cpu")


def test_a_finished_study_costs_nothing_more(tmp_path, monkeypatch):
    first = fit_model(table(300), task(), trials=4, device="cpu", folder=tmp_path)
    for name in ("train_networks", "train_trees"): monkeypatch.setattr(search, name, lambda *a, **k: pytest.fail("trained again"))
    again = fit_model(table(300), task(), trials=4, device="cpu", folder=tmp_path)
    np.testing.assert_array_equal(first.predictor.predict(table(50, 1)), again.predictor.predict(table(50, 1)))


def test_a_trial_that_was_enqueued_with_optuna_is_tried_by_its_family(tmp_path):
    fit_model(table(), task(), trials=4, device="cpu", folder=tmp_path)
    load(tmp_path).enqueue_trial({"trees.learning_rate": 0.05})
    load(tmp_path).enqueue_trial({"of something else": 1})
    assert fit_model(table(), task(), trials=4, device="cpu", folder=tmp_path).result.counts()["waiting"] == 2
    fit = fit_model(table(), task(), trials=12, device="cpu", folder=tmp_path)
    tried = fit.result.table().row(4, named=True)
    assert (tried["family"], tried["state"], tried["learning_rate"]) == ("trees", "completed", 0.05) and len(fit.result.trials) == 12 and "waiting" not in fit.result.counts()


def test_the_journal_of_other_data_is_refused(tmp_path):
    fit_model(table(300), task(), trials=2, device="cpu", folder=tmp_path)
    with pytest.raises(ParameterError, match="another task"): fit_model(table(301), task(), trials=2, device="cpu", folder=tmp_path)


def test_populations_of_a_kind_that_ran_side_by_side_are_replayed(monkeypatch):
    class Two(study.Clock):
        "Two populations at once; the one that was begun last ends first."
        def __init__(self, *args, **options): self.queue = [Step("network", 2), Step("network", 3)]
        def __call__(self, kinds): return self.queue.pop(0) if self.queue else None
        def done(self, step, seconds): pass
    over, train = threading.Event(), search.train_networks
    def late(data, kind, params, *args, **options):
        if len(params) == 2: over.wait(timeout=60)
        found = train(data, kind, params, *args, **options)
        if len(params) == 3: over.set()
        return found
    monkeypatch.setattr(study, "Clock", Two)
    monkeypatch.setattr(search, "threads", lambda most=2: 2)
    monkeypatch.setattr(search, "train_networks", late)
    fit = fit_model(table(), task(), trials=0, seconds=60, device="cpu")
    assert over.is_set() and [(s.family, s.trials) for s in fit.steps] == [("network", 2), ("network", 3)]
    monkeypatch.setattr(search, "train_networks", train)
    told = [Step(**s) for s in json.loads(json.dumps(fit.record()["steps"]))]
    again = fit_model(table(), task(), steps=told, device="cpu")
    assert again.steps == fit.steps and again.leaderboard.drop("seconds").equals(fit.leaderboard.drop("seconds"))
    np.testing.assert_array_equal(again.predictor.predict(table(50, 1)), fit.predictor.predict(table(50, 1)))


def test_halves_of_the_rows_choose_where_these_are_few_and_nothing_else_limits_the_choice(monkeypatch):
    asked, select = [], study.select_bagged
    monkeypatch.setattr(study, "select_bagged", lambda answers, *args, **options: asked.append(select(answers, *args, **options)) or asked[-1])
    few = fit_model(table(), task(), trials=6, device="cpu")
    assert {r["trial"]: r["weight"] for r in few.leaderboard.to_dicts() if r["weight"]} == pytest.approx(asked.pop())
    assert fit_model(table(), task(), trials=2, device="cpu", ensemble=1).predictor.weights == [1.0]
    fit_model(table(), task(), trials=2, device="cpu", families=("trees",), goals=Goals.of({"loss": "minimize"}, ["size_mb <= 5"]))
    fit_model(table(10_000), task(), trials=1, device="cpu", families=("linear",))
    assert not asked


def sided(seed): return table(400, seed).with_columns(side=pl.when(pl.col("weight") > 1).then(pl.lit("left")).otherwise(pl.lit("right")))


def limited(frame, limit, trials=3, families=("trees", "linear"), **more):
    return fit_model(frame, task(sensitive=("side",), **more), trials=trials, device="cpu", families=families, goals=Goals.of({"loss": "minimize"}, [limit]))


def test_several_that_keep_a_limit_together_are_not_left_for_one_that_loses_less_and_breaks_it():
    fit = limited(sided(1), "equalized_odds_difference(side) <= 0.04")
    alone = [v for v in fit.leaderboard["equalized_odds_difference(side)"] if v is not None]
    assert min(alone) > 0.04 >= fit.metrics["equalized_odds_difference(side)"] and fit.versus["difference"] < 0


@pytest.mark.parametrize("limit, said, constant", [
    ("size_mb <= 0.0001", r"the model breaks size_mb <= 0.0001 \(0\.00\d+\): no trial kept it", False),
    ("equalized_odds_difference(side) <= 0.001", "without the constant, the model would break the limits", True), ("auc >= 0.5", "", False)])
def test_a_limit_that_nothing_keeps_is_said(limit, said, constant):
    fit = limited(sided(1), limit, families=("linear",))
    assert re.fullmatch(said, ". ".join(fit.notes)) and (fit.predictor.members[0].family == "constant") == constant


def test_a_trial_that_alone_keeps_a_limit_is_found_among_many():
    fit = limited(sided(1), "selection_rate_ratio(side) >= 0.999", trials=24, families=("trees",))
    assert fit.metrics["selection_rate_ratio(side)"] >= max(v for v in fit.leaderboard["selection_rate_ratio(side)"] if v is not None)


def test_a_difference_between_groups_that_are_too_small_is_refused_and_small_groups_are_named():
    small = sided(1).with_columns(side=pl.Series(np.where(np.arange(400) % 8, "left", np.where(np.arange(400) % 16, "right", "middle"))))
    for limit in ("equalized_odds_difference(side) <= 0.2", "selection_rate_ratio >= 0.8"):
        with pytest.raises(ParameterError, match=r"fewer than two groups have 30: left \(70\), right \(7\), middle \(3\)\n.*goals and constraints"): limited(small, limit)
    alike = table(400, 1).with_columns(side=pl.col("binary"))
    with pytest.raises(ParameterError, match="fewer than two groups have the labels that it compares"): limited(alike, "equal_opportunity_difference(side) <= 0.2")
    fit = limited(sided(1).with_columns(side=pl.when(pl.col("a") > 1.5).then(pl.lit("far")).otherwise("side")), "equalized_odds_difference(side) <= 0.9", families=("linear",))
    assert len(fit.notes) == 1 and re.fullmatch(r"side is compared without groups that have fewer than 30 of the rows to choose by: far \(\d\)", fit.notes[0])


def test_the_best_of_a_search_are_trained_in_folds_and_all_rows_choose(tmp_path):
    fit = fit_model(table(), task(), trials=24, device="cpu", folder=tmp_path)
    folds, board = fit.steps[-1], fit.leaderboard
    assert (folds.family, folds.trials, folds.limit) == ("folds", 5, 4) and sorted(fit.valid_rows) == list(range(500))
    chosen = {r["trial"]: r["weight"] for r in board.to_dicts() if r["weight"]}
    assert chosen.keys() <= {p["trial"] for p in folds.params} == set(board.filter(pl.col("loss_in_folds").is_not_null())["trial"])
    assert len(fit.predictor.members) == sum(6 if k.startswith("trees") else 1 if k == "linear" else 5 for k in chosen)
    told = [Step(**s) for s in json.loads(json.dumps(fit.record()["steps"]))]
    for again in (fit_model(table(), task(), steps=told, device="cpu"), fit_model(table(), task(), trials=24, device="cpu", folder=tmp_path)):
        np.testing.assert_array_equal(again.predictor.predict(table(50, 1)), fit.predictor.predict(table(50, 1)))
    out = Graph(to_onnx(fit.predictor, Policy("threshold", threshold=0.5))).run(table(50, 1))
    np.testing.assert_allclose(out["probability_good"].to_numpy(), fit.predictor.predict(table(50, 1)), atol=1e-5)
    for more, options in (({"split": "time:when"}, {}), ({}, {"ensemble": 1})):
        assert all(s.family == "trees" for s in fit_model(table(300), task(**more), trials=24, device="cpu", families=("trees",), **options).steps)


def test_what_is_measured_in_folds_does_not_flatter():
    rng = np.random.default_rng(0)
    noise = table(300).with_columns(binary=pl.Series(np.where(rng.random(300) < 0.5, "good", "bad")))
    fit = fit_model(noise, task(), trials=40, device="cpu", families=("trees",))
    best = fit.leaderboard.filter(pl.col("family") == "trees")["loss"].min()
    assert fit.steps[-1].family == "folds" and 0.7 > fit.loss > best + 0.005   # to answer one half has 0.693


def test_a_search_interrupted_in_its_folds_ends_as_if_it_had_not_been(tmp_path):
    def interrupt(done, total, text):
        if text.startswith("fold 3"): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): fit_model(table(), task(), trials=24, device="cpu", folder=tmp_path, progress=interrupt)
    resumed, whole = fit_model(table(), task(), trials=24, device="cpu", folder=tmp_path), fit_model(table(), task(), trials=24, device="cpu")
    np.testing.assert_array_equal(resumed.predictor.predict(table(50, 1)), whole.predictor.predict(table(50, 1)))


def test_trees_of_another_process_are_the_same_and_the_search_outlives_it():
    def tried(helper, since=math.inf):
        found = Search(tuning_data(table(300), task()), families=["trees", "network"])
        found.helper, found.helped = helper, since
        def kill(text):
            if helper and text == "trees 3": helper._process.kill()
        try: found.run(Plan(found, {"trees": [Step("trees", 1)] * 5, "network": [Step("network", 2)]}), say=kill)
        finally: found.close()
        if since < math.inf: assert found.helper is not None
        return {k: found.data.loss(p) for k, p in found.answers.items()}
    helper = Helper()
    assert tried(helper) == tried(None) == tried(None, since=0.0) and helper._process.poll() is not None


def test_rungs_reach_optuna(tmp_path):
    fit = fit_model(table(), task(), steps=[Step("network", 4)], device="cpu", folder=tmp_path)
    trials = load(tmp_path).trials
    pruned = [t for t in trials if t.state.name == "PRUNED"]
    assert len(pruned) == 3 and all(t.intermediate_values and "rung" in t.user_attrs["reason"] for t in pruned)
    assert fit.leaderboard.filter(pl.col("state") == "pruned")["reason"].null_count() == 0


def test_a_goal_other_than_the_loss_is_not_mixed_up_with_it(tmp_path):
    fit = fit_model(table(), task(), steps=[Step("network", 4)], goals=Goals.of({"auc": "maximize"}), device="cpu", folder=tmp_path)
    trials = load(tmp_path).trials
    assert {t.state.name for t in trials} == {"PRUNED", "COMPLETE"} and not any(t.intermediate_values for t in trials)
    assert "after auc" in fit.notes[0] and not fit_model(table(), task(), trials=1, families=["trees"], device="cpu").notes
    after = Search(tuning_data(table(), task()), families=["trees"], goals=Goals.of({"auc": "maximize"}))
    after.study.losses = [-0.9] * 30
    take = Clock(after, time.monotonic() + 60, least_gain=0.01)
    assert take(["trees"]) is None and "less than 0.01 of 0.9" in take.ended


def test_what_a_trial_told_is_not_measured_again(tmp_path, monkeypatch):
    graph, built = Measures.graph, []
    monkeypatch.setattr(Measures, "graph", lambda self, members, weights: built.append([m.family for m in members]) or graph(self, members, weights))
    options = {"trials": 2, "families": ["trees"], "goals": Goals.of({"loss": "minimize"}, ["size_mb <= 5"]), "device": "cpu", "folder": tmp_path}
    fit = fit_model(table(), task(), **options)
    assert built == [["trees"], ["trees"], ["trees"] * len(fit.predictor.members)]
    assert fit_model(table(), task(), **options).metrics == fit.metrics and len(built) == 4


def test_cross_fitting_never_sees_the_row_it_predicts(tmp_path):
    frame = table(300)
    noise = frame.with_columns(binary=pl.Series(np.where(np.random.default_rng(5).random(300) < 0.5, "good", "bad")))
    folds = np.arange(300) % 3
    folds[:30] = -1
    seen = []
    scores = cross_fit(noise, task(), folds, trials=4, device="cpu", folder=tmp_path, progress=lambda *a: seen.append(a[:2]))
    assert scores["row"].to_list() == list(range(30, 300)) and scores["fold"].to_list() == list(folds[30:])
    assert seen[-1] == (3, 3) and {p.name for p in tmp_path.iterdir()} == {"fold-0", "fold-1", "fold-2"}
    y, p = scores["label"].to_numpy(), scores["score"].to_numpy()
    rank = np.argsort(np.argsort(p))[y == 1].sum() - y.sum() * (y.sum() - 1) / 2
    assert 0.35 < rank / (y.sum() * (y == 0).sum()) < 0.65   # labels are noise: a leak would show as skill
    several = cross_fit(frame, task("multiclass"), np.arange(300) % 2, trials=2, device="cpu")
    assert several.schema["score"] == pl.Array(pl.Float64, 3) and several.schema["score_trees"] == pl.Array(pl.Float64, 3)


def test_what_a_fold_cannot_measure_is_refused_before_anything_is_trained(monkeypatch):
    frame, folds = sided(1), np.arange(400) % 2
    frame = frame.with_columns(side=pl.when(pl.Series(folds == 1)).then(pl.lit("left")).otherwise("side"))
    goals = Goals.of({"loss": "minimize"}, ["auc(slice:right) >= 0.5"])
    held = task(sensitive=("side",), slices={"right": "side = right"})
    with monkeypatch.context() as patched:
        patched.setattr(study, "fit_model", None)
        with pytest.raises(ParameterError, match=r"too few of the rows to choose by are in the slice\n.*in fold 1 of 2"): cross_fit(frame, held, folds, trials=2, goals=goals, device="cpu")
    assert len(cross_fit(sided(1), held, folds, trials=1, goals=goals, device="cpu", families=("linear",))) == 400


def test_a_search_that_is_refused_gives_its_study_back(tmp_path):
    here = {"trials": 1, "families": ("trees",), "device": "cpu", "folder": tmp_path / "study", "store": tmp_path / "store"}
    with pytest.raises(NotFoundError): fit_model(table(200), task(), warm_start=tmp_path / "nowhere", **here)
    assert not (tmp_path / "store" / "lease.json").exists() and not list((tmp_path / "study" / "leases").glob("*"))
    assert [s.family for s in fit_model(table(200), task(), **here).steps] == ["trees"]


def test_one_trial_is_one_and_a_count_that_ends_a_time_is_said():
    assert [(s.family, s.trials) for s in fit_model(table(200), task(), trials=1, device="cpu").steps] == [("trees", 1)]
    assert fit_model(table(200), task(), trials=2, seconds=60, device="cpu", families=("trees",)).ended == "2 of 2 trials"


@pytest.mark.parametrize("given, said", [
    ({"ensemble": 0}, r"ensemble = 0\n.*the search\n.*whole number, 1 or more"), ({"seconds": math.nan}, "seconds = nan"), ({"trials": None}, "trials = None"), ({"trials": "10"}, "trials = '10'"), ({"trials": 2.5}, "trials = 2.5"),
    ({"trials": 0}, "a budget of 0 trials"), ({"folder": __file__}, r"test_study.py is a file\n.*folder"), ({"sampler": "cmaes"}, "use tpe, or families = trees"), ({"sampler": "tep"}, "did you mean 'tpe'"),
    ({"sampler": "cmaes", "families": ("trees",), "goals": Goals.of({"loss": "minimize"}, ["size_mb <= 1"])}, "cmaes cannot search with constraints: size_mb <= 1")])
def test_a_search_that_cannot_be_made_is_refused_before_the_table_is_read(given, said):
    with pytest.raises(ParameterError, match=said): fit_model(None, task(), **{"trials": 2, "device": "cpu", **given})


def test_cmaes_searches_trees_and_a_target_beyond_all_numbers_is_refused():
    assert len(fit_model(table(200), task(), trials=12, families=("trees",), sampler="cmaes", device="cpu").leaderboard) == 13
    huge = table(200).with_columns(quantity=pl.when(pl.col("when") < 20).then(1e300).otherwise("quantity"))
    with pytest.raises(InputError, match=r"a value of 1e\+300 is too large.*\n.*column 'quantity'\n.*logarithm"): fit_model(huge, task("regression"), trials=2, device="cpu")


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(ParameterError, match="unknown device 'gpu'"): fit_model(table(100), task(), device="gpu")
    with pytest.raises(InputError): fit_model(table(100).with_columns(binary=pl.lit(None, pl.String)), task(), trials=2)


@pytest.mark.parametrize("framing", ["binary", "multiclass", "regression"])
def test_the_graph_answers_as_the_predictor(framing):
    fit = fit_model(table(), task(framing), trials=6, device="cpu")
    members = [fit.singles[f].members[0] for f in ("network", "trees", "linear", "constant")]
    mixed = Predictor(fit.predictor.task, fit.predictor.features, members, [0.4, 0.3, 0.2, 0.1], fit.predictor.calibration)
    odd = pl.concat([table(100, 9), table(3, 1).with_columns(a=pl.lit(None, pl.Float64), c=pl.lit("new"))])
    policy = {"binary": Policy("threshold", threshold=0.5), "multiclass": Policy("argmax"), "regression": Policy("none")}[framing]
    out = Graph(to_onnx(mixed, policy)).run(odd)
    found = out["value"] if framing == "regression" else out.select(f"probability_{c}" for c in mixed.task.classes[framing == "binary":]).to_numpy().squeeze()
    expected = mixed.predict(odd)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
