"Searching with an objective of one's own: repetition, early ends, limits, budgets, and what is refused."
import json
import math
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import optuna
import polars as pl
import pytest
from mlops_workbench.core.errors import JobError, ParameterError
from mlops_workbench.tune.objective import search
from mlops_workbench.tune.results import read_result
from mlops_workbench.tune.samplers import quiet_optuna
from mlops_workbench.tune.space import Space, floats, ints, options
from mlops_workbench.tune.studies import Study
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

SPACE = Space(rate=floats(1e-4, 0.1, log=True), layers=ints(1, 4), act=options("relu", "silu"))
NUMBERS = Space(x=floats(-1, 1), y=floats(-1, 1))
TREE = Space(backbone=options("mlp", "tabm"), rate=floats(1e-4, 0.1, log=True), members=ints(4, 32, when=("backbone", "tabm")), blocks=ints(1, 4, when=("backbone", "mlp")))


def score(trial):
    p = trial.params
    return (math.log10(p.rate) + 2.5) ** 2 + 0.1 * abs(p.layers - 2) + (p.act == "relu") * 0.05


def bowl(trial): return (trial.params.x - 0.3) ** 2 + (trial.params.y + 0.5) ** 2


def curve(trial):
    "Nine steps towards the trial's loss."
    state = trial.load()
    for step in range(state.get("step", 0) + 1, 10):
        trial.save(step=step)
        trial.report(step, bowl(trial) + 1 / step)
    return bowl(trial)


def facts(result): return [(t.params, t.values, t.state, t.intermediate_values, t.user_attrs.get("reason")) for t in result.trials]


@pytest.mark.parametrize("sampler, space, objective", [
    ("tpe", SPACE, score), ("random", SPACE, score), ("qmc", SPACE, score), ("cmaes", NUMBERS, bowl), ("tpe", NUMBERS, curve), ("cmaes", NUMBERS, curve),
    ("tpe", TREE, lambda t: t.params.rate + t.params.get("members", 40) / 40), ("gp", NUMBERS, bowl)])
def test_the_same_seed_repeats_exactly_also_after_interruptions(tmp_path, sampler, space, objective):
    trials, seen = (14 if sampler == "gp" else 35), []
    whole = search(objective, space, trials=trials, sampler=sampler, seed=3, device="cpu", task="same")
    for stop in ((4, 12) if sampler == "gp" else (4, 13, 14, 30)):
        def broken(trial, stop=stop):
            if trial.number != stop: return objective(trial)
            if objective is curve: trial.save(step=5)
            seen.append(stop)
            raise KeyboardInterrupt
        with pytest.raises(KeyboardInterrupt): search(broken, space, trials=trials, sampler=sampler, seed=3, device="cpu", task="same", folder=tmp_path / "study")
        last = Study.open(tmp_path / "study", leader=False).trials()[-1]
        assert last.state == TrialState.WAITING and last.number == stop
        if objective is curve: shutil.rmtree(tmp_path / "study" / "checkpoints")   # begins again, and is judged the same
    parts = search(objective, space, trials=trials, sampler=sampler, seed=3, device="cpu", task="same", folder=tmp_path / "study")
    assert facts(parts) == facts(whole) and len(seen) >= 2
    other = search(objective, space, trials=3, sampler=sampler, seed=4, device="cpu")
    assert [t.params for t in other.trials][1:] != [t.params for t in whole.trials][1:3]


@pytest.mark.parametrize("directions", ["minimize", "maximize", {"loss": "minimize", "other": "maximize"}])
def test_the_worse_end_at_their_rungs(directions):
    steps = {}
    def objective(trial):
        for step in range(1, 28):
            value = bowl(trial) * (-1 if directions == "maximize" else 1)
            told = {"loss": value, "other": -value} if isinstance(directions, dict) else value
            steps[trial.number] = step
            trial.report(step, told)
        return told
    result = search(objective, NUMBERS, trials=40, directions=directions, sampler="random", device="cpu")
    counts = result.counts()
    assert counts["pruned"] > counts["completed"] >= 1 and set(steps.values()) == {3, 9, 27}
    pruned = result.table().filter(pl.col("state") == "pruned")
    assert all("among the worse at rung" in r for r in pruned["reason"])
    losses = {t.number: (t.params["x"] - 0.3) ** 2 + (t.params["y"] + 0.5) ** 2 for t in result.trials}
    completed = [losses[t.number] for t in result.trials if t.state == TrialState.COMPLETE]
    assert np.mean(completed) < np.mean([losses[n] for n in pruned["trial"]])
    everything = search(objective, NUMBERS, trials=10, directions=directions, sampler="random", halving=0, device="cpu")
    assert everything.counts() == {"completed": 10}


def test_what_is_no_number_ends_a_trial_as_pruned():
    def objective(trial):
        if trial.number == 1: trial.report(4, math.nan)
        if trial.number == 2: trial.report(5, math.inf)
        if trial.number == 3: raise optuna.TrialPruned("no memory for this")
        return [0.1, 0, 0, 0, math.nan, math.inf][trial.number]
    result = search(objective, NUMBERS, trials=6, device="cpu")
    assert result.counts() == {"completed": 1, "pruned": 5}
    assert result.table()["reason"].to_list() == [None, "value is nan at step 4", "value is inf at step 5", "no memory for this", "value is nan", "value is inf"]


def test_an_objective_that_raises_is_stopped_early_and_goes_on_when_mended(tmp_path):
    def objective(trial):
        if not mended: raise OSError(f"cannot read /data/part-{trial.number}.parquet")
        return 0.5
    mended = []
    with pytest.raises(JobError, match="three times in a row: OSError: cannot read /data/part-2") as e: search(objective, NUMBERS, trials=1000, folder=tmp_path, device="cpu")
    assert "in objective" in str(e.value)   # where it was raised
    mended.append(1)
    assert search(objective, NUMBERS, trials=8, folder=tmp_path, device="cpu").counts() == {"completed": 5, "failed": 3}


def test_different_failures_now_and_then_do_not_stop_a_search():
    def objective(trial):
        if trial.number % 2: raise ValueError("odd")
        return 0.5
    result = search(objective, NUMBERS, trials=12, device="cpu")
    assert result.counts() == {"completed": 6, "failed": 6} and result.table()["reason"][1] == "ValueError: odd"


@pytest.mark.parametrize("space, text", [
    (lambda: Space(x=floats(1, 0)), "empty range"), (lambda: Space(x=floats(0, 1, log=True)), "logarithm"), (lambda: Space(x=options("a")), "one option"),
    (lambda: Space(x=floats(0, math.inf)), "without end"), (lambda: Space(x=floats(0, 1, start=2)), "outside"), (lambda: Space(x=options("a", "a")), "twice"),
    (lambda: Space(x=options((1,), (2,))), "has the option"), (lambda: Space(), "without a choice"), (lambda: Space(x=3), "is no choice"), (lambda: Space(x=[]), "x has no options"), (lambda: search(bowl, {"x": (0.0, 1.0)}, trials=2), r"the space is {'x'.*\n.*a search space\n.*Space\(\*\*choices\)"),
    (lambda: Space(x=ints(1, 1)), "empty range")])
def test_a_space_that_cannot_be_drawn_from_is_refused(space, text):
    with pytest.raises(ParameterError, match=text): space()


@pytest.mark.parametrize("budget, text", [
    ({}, "budget of nothing"), ({"trials": 0}, "budget of nothing"), ({"trials": -3}, "trials = -3"), ({"minutes": math.nan}, "minutes = nan"), ({"trials": 2.5}, "trials = 2.5"), ({"money": 5.0, "cost_per_hour": 0.0}, "no price")])
def test_a_budget_of_nothing_is_refused(budget, text):
    with pytest.raises(ParameterError, match=text): search(bowl, NUMBERS, device="cpu", **budget)


def test_a_constraint_on_an_unknown_metric_is_said_after_one_trial(tmp_path):
    calls = []
    def objective(trial):
        calls.append(trial.number)
        return {"loss": 1.0, "latency_ms": 0.4}
    with pytest.raises(ParameterError, match="unknown metric, 'latencyms'.*\n.*\n.*did you mean 'latency_ms'"):
        search(objective, NUMBERS, trials=50, directions={"loss": "minimize"}, constraints=["latencyms <= 1"], folder=tmp_path, device="cpu")
    assert calls == [0] and read_result(tmp_path).counts() == {"failed": 1}
    with pytest.raises(ParameterError, match="does not tell 'los'"): search(objective, NUMBERS, trials=5, directions={"los": "minimize"}, device="cpu")
    with pytest.raises(ParameterError, match="unknown metric, 'latency_ms'"): search(bowl, NUMBERS, trials=5, constraints=["latency_ms <= 1"], device="cpu")


@pytest.mark.parametrize("sampler, space, options, text", [
    ("gp", TREE, {}, "conditional"), ("cmaes", TREE, {}, "conditional"), ("cmaes", SPACE, {}, "options: act"), ("cmaes", NUMBERS, {"constraints": ["ms <= 1"]}, "constraints: ms <= 1"),
    ("cmaes", NUMBERS, {"directions": ("minimize", "minimize")}, "several objectives"), ("tep", NUMBERS, {}, "did you mean 'tpe'")])
def test_what_a_sampler_cannot_do_is_said_before_any_work(sampler, space, options, text):
    with pytest.raises(ParameterError, match=text): search(lambda t: pytest.fail("was called"), space, trials=3, sampler=sampler, device="cpu", **options)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_constraints_are_kept_and_learned(sampler):
    def objective(trial):
        x, y = trial.params.x, trial.params.y
        return {"loss": bowl(trial), "price": x + y + 1}   # the best without the constraint costs 0.8
    result = search(objective, NUMBERS, trials=30, directions={"loss": "minimize"}, constraints=["price <= 0.5"], sampler=sampler, device="cpu", seed=2)
    assert result.best.feasible and result.best.metrics["price"] <= 0.5
    table = result.table()
    assert table["feasible"].sum() < 30 and result.best.metrics["loss"] == table.filter(pl.col("feasible"))["loss"].min()
    none = search(objective, NUMBERS, trials=12, directions={"loss": "minimize"}, constraints=["price <= -9"], sampler="random", device="cpu")
    assert not none.best.feasible and none.best.metrics["price"] == none.table()["price"].min() and "No trial keeps every constraint" in repr(none)


def test_minutes_are_for_the_study_and_a_trial_that_was_cut_goes_on(tmp_path):
    def slow(trial):
        state = trial.load()
        for step in range(state.get("step", 0) + 1, 41):
            time.sleep(0.02)
            trial.save(step=step)
            trial.report(step, bowl(trial))
        return bowl(trial)
    first = search(slow, NUMBERS, minutes=1.5 / 60, least_gain=0, halving=0, folder=tmp_path, device="cpu")
    assert first.counts().get("waiting") == 1 and 1.4 < first.seconds < 20
    calls = []
    again = search(lambda t: calls.append(1), NUMBERS, minutes=1.5 / 60, least_gain=0, halving=0, folder=tmp_path, device="cpu", task=slow.__qualname__)
    assert not calls and again.counts() == first.counts()
    more = search(slow, NUMBERS, minutes=30, trials=len(first.trials), halving=0, folder=tmp_path, device="cpu")
    assert more.counts() == {"completed": len(first.trials)}


@pytest.mark.parametrize("steps", [1, 10**6], ids=["between_trials", "in_a_trial"])
def test_money_is_time_at_a_rate(steps):
    def slow(trial):
        for step in range(1, steps + 1):
            time.sleep(0.01)
            if steps > 1: trial.report(step, bowl(trial))
        return bowl(trial)
    result = search(slow, NUMBERS, money=0.5, cost_per_hour=3600.0, least_gain=0, halving=0, device="cpu")
    assert 0.5 <= result.seconds < 20 and "which cost" in result.ended


def test_a_warm_start_keeps_what_fits_and_refuses_another_task(tmp_path):
    first = search(bowl, NUMBERS, trials=20, folder=tmp_path / "first", device="cpu")
    narrow = Space(x=floats(0, 1), y=floats(-1, 0))
    second = search(bowl, narrow, trials=10, warm_start=tmp_path / "first", folder=tmp_path / "second", device="cpu")
    taken = [t for t in second.trials if "from" in t.user_attrs]
    assert 0 < len(taken) < 20 and len(second.trials) == len(taken) + 10 and all(0 <= t.params["x"] <= 1 for t in taken)
    assert second.best.metrics["value"] <= min(t.value for t in taken)
    again = search(bowl, narrow, trials=12, warm_start=tmp_path / "first", folder=tmp_path / "second", device="cpu")
    assert len(again.trials) == len(taken) + 12   # not taken over twice
    with pytest.raises(ParameterError, match="another task"): search(curve, NUMBERS, trials=3, warm_start=tmp_path / "first", device="cpu")
    with pytest.raises(ParameterError, match="another task"): search(bowl, NUMBERS, trials=3, directions="maximize", warm_start=tmp_path / "first", device="cpu")
    with pytest.raises(ParameterError, match="lies in the space"): search(bowl, SPACE, trials=3, warm_start=tmp_path / "first", device="cpu")
    assert first.best.number < 20


def test_a_study_of_another_task_is_refused(tmp_path):
    search(bowl, NUMBERS, trials=3, folder=tmp_path, device="cpu")
    with pytest.raises(ParameterError, match="another task"): search(bowl, NUMBERS, trials=5, folder=tmp_path, task="other data", device="cpu")
    with pytest.raises(ParameterError, match="another space"): search(bowl, Space(x=floats(-1, 1), y=floats(-1, 2)), trials=5, folder=tmp_path, device="cpu")
    with pytest.raises(ParameterError, match="another sampler"): search(bowl, NUMBERS, trials=5, folder=tmp_path, sampler="random", device="cpu")


def test_optuna_itself_opens_the_study(tmp_path):
    result = search(lambda t: {"loss": bowl(t), "ms": 1.0}, NUMBERS, trials=12, directions={"loss": "minimize"}, constraints=["ms <= 2"], folder=tmp_path, device="cpu")
    with quiet_optuna():
        study = optuna.load_study(study_name="study", storage=JournalStorage(JournalFileBackend(str(tmp_path / "journal.log"))))
        assert study.best_trial.number == result.best.number and study.metric_names == ["loss"] and study.trials[0].constraints == {"ms <= 2": -0.5}
        study.enqueue_trial({"x": 0.0, "y": 0.0})   # as someone may from a dashboard
    assert len(read_result(tmp_path).trials) == 13
    again = search(lambda t: {"loss": bowl(t), "ms": 1.0}, NUMBERS, trials=13, directions={"loss": "minimize"}, constraints=["ms <= 2"], folder=tmp_path, device="cpu")
    assert again.trials[12].params == {"x": 0.0, "y": 0.0} and again.trials[12].state == TrialState.COMPLETE


def test_only_the_best_keep_their_checkpoints(tmp_path):
    result = search(curve, NUMBERS, trials=20, folder=tmp_path, device="cpu")
    assert [p.stem for p in (tmp_path / "checkpoints").iterdir()] == [str(result.best.number)] and result.load() == {"step": 9}


def test_a_result_shows_itself():
    result = search(bowl, NUMBERS, trials=15, device="cpu")
    page = result._repr_html_()
    assert page.count("<img") == 2 and page.count('alt="') == 2 and "15 completed" in page
    assert set(result.record()) == {"folder", "trials", "seconds", "ended", "goals", "sampler", "seed", "spaces", "front", "importance"}


def test_the_dashboard_opens_the_study_as_it_is(tmp_path):
    def objective(trial):
        for step in (1, 2, 3): trial.report(step, bowl(trial) + 1 / step)
        return bowl(trial)
    result = search(objective, NUMBERS, trials=12, folder=tmp_path, device="cpu")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen([str(Path(sys.executable).with_name("optuna-dashboard")), str(tmp_path / "journal.log"), "--host", "127.0.0.1", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    def get(path):
        while True:
            try: return json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}{path}"))
            except urllib.error.URLError:
                assert server.poll() is None
                time.sleep(0.1)
    try:
        study = get("/api/studies")["study_summaries"][0]
        assert study["study_name"] == "study"
        trials = get(f"/api/studies/{study['study_id']}")["trials"]
        assert [t["state"] for t in trials] == ["Complete" if t.state == TrialState.COMPLETE else "Pruned" for t in result.trials]
    finally:
        server.terminate()
        server.wait()
