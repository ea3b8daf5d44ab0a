"The search as a whole: framings, odd tables, interruption and resumption, and the graph of what it finds."
import subprocess
import sys
import time

import numpy as np
import optuna
import polars as pl
import pytest
from mlops_workbench.core.errors import InputError, ParameterError
from mlops_workbench.model.predictor import Predictor
from mlops_workbench.model.task import Task
from mlops_workbench.tune import search
from mlops_workbench.tune.search import Step, divide
from mlops_workbench.tune.study import cross_fit, fit_model

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
    assert fit.loss <= min(losses.values()) + 1e-9
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


def losses(fit): return sorted(fit.leaderboard.filter(pl.col("state") != "failed").select("trial", "loss").rows())


def test_an_interrupted_study_goes_on_as_if_nothing_had_been(tmp_path):
    def interrupt(done, total, text):
        if "epoch 3" in text: raise KeyboardInterrupt
    journal = tmp_path / "journal.log"
    with pytest.raises(KeyboardInterrupt): fit_model(table(), task(), trials=8, device="cpu", journal=journal, progress=interrupt)
    states = [t.state.name for t in load(journal).trials]
    assert "RUNNING" not in states and "FAIL" in states and "COMPLETE" in states
    resumed = fit_model(table(), task(), trials=8, device="cpu", journal=journal)
    whole = fit_model(table(), task(), trials=8, device="cpu")
    assert losses(resumed) == losses(whole)
    np.testing.assert_array_equal(resumed.predictor.predict(table()), whole.predictor.predict(table()))


def load(journal):
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    return optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(backend))


def test_a_killed_study_is_resumed_without_repeating(tmp_path):
    journal = tmp_path / "journal.log"
    slow = "import time\nfrom mlops_workbench.tune.study import fit_model\ndef wait(done, total, text):\n    if 'epoch 2' in text: open(mark, 'w').close(); time.sleep(60)\n"
    code = CODE + slow + f"mark = {str(tmp_path / 'reached')!r}\nfit_model(table(), task(), trials=8, device='cpu', journal={str(journal)!r}, progress=wait)"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        while not (tmp_path / "reached").exists():
            assert process.poll() is None, "the study ended before it could be killed"
            time.sleep(0.1)
    finally: process.kill()
    process.wait()
    before = {t.user_attrs["key"]: t.number for t in load(journal).trials if t.state.name == "COMPLETE"}
    assert before and any(t.state.name == "RUNNING" for t in load(journal).trials)
    resumed = fit_model(table(), task(), trials=8, device="cpu", journal=journal)
    trials = [t for t in load(journal).trials if t.state.name in ("COMPLETE", "PRUNED")]
    assert len({t.user_attrs["key"] for t in trials}) == len(trials) == 8
    assert {t.user_attrs["key"]: t.number for t in trials}.items() >= before.items()
    assert losses(resumed) == losses(fit_model(table(), task(), trials=8, device="cpu"))


def test_a_finished_study_costs_nothing_more(tmp_path, monkeypatch):
    first = fit_model(table(300), task(), trials=4, device="cpu", journal=tmp_path / "journal.log")
    for name in ("train_population", "fit_trees"): monkeypatch.setattr(search, name, lambda *a, **k: pytest.fail("trained again"))
    again = fit_model(table(300), task(), trials=4, device="cpu", journal=tmp_path / "journal.log")
    np.testing.assert_array_equal(first.predictor.predict(table(50, 1)), again.predictor.predict(table(50, 1)))


def test_the_journal_of_other_data_is_refused(tmp_path):
    fit_model(table(300), task(), trials=2, device="cpu", journal=tmp_path / "journal.log")
    with pytest.raises(ParameterError, match="another task"): fit_model(table(301), task(), trials=2, device="cpu", journal=tmp_path / "journal.log")


def test_rungs_reach_optuna(tmp_path):
    fit = fit_model(table(), task(), steps=[Step("network", 4)], device="cpu", journal=tmp_path / "journal.log")
    trials = load(tmp_path / "journal.log").trials
    pruned = [t for t in trials if t.state.name == "PRUNED"]
    assert len(pruned) == 3 and all(t.intermediate_values and "rung" in t.user_attrs["reason"] for t in pruned)
    assert fit.leaderboard.filter(pl.col("state") == "pruned")["reason"].null_count() == 0


def test_cross_fitting_never_sees_the_row_it_predicts(tmp_path):
    frame = table(300)
    noise = frame.with_columns(binary=pl.Series(np.where(np.random.default_rng(5).random(300) < 0.5, "good", "bad")))
    folds = np.arange(300) % 3
    folds[:30] = -1
    seen = []
    scores = cross_fit(noise, task(), folds, trials=4, device="cpu", journal=tmp_path / "study.log", progress=lambda *a: seen.append(a[:2]))
    assert scores["row"].to_list() == list(range(30, 300)) and scores["fold"].to_list() == list(folds[30:])
    assert seen[-1] == (3, 3) and {p.name for p in tmp_path.iterdir()} == {"study-0", "study-1", "study-2"}
    y, p = scores["label"].to_numpy(), scores["score"].to_numpy()
    rank = np.argsort(np.argsort(p))[y == 1].sum() - y.sum() * (y.sum() - 1) / 2
    assert 0.35 < rank / (y.sum() * (y == 0).sum()) < 0.65   # labels are noise: a leak would show as skill
    several = cross_fit(frame, task("multiclass"), np.arange(300) % 2, trials=2, device="cpu")
    assert several.schema["score"] == pl.Array(pl.Float64, 3) and several.schema["score_trees"] == pl.Array(pl.Float64, 3)


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(ParameterError, match="unknown device 'gpu'"): fit_model(table(100), task(), device="gpu")
    with pytest.raises(InputError): fit_model(table(100).with_columns(binary=pl.lit(None, pl.String)), task(), trials=2)


@pytest.mark.parametrize("framing", ["binary", "multiclass", "regression"])
def test_the_graph_answers_as_the_predictor(framing):
    from mlops_workbench.model.graph import Graph, to_onnx
    from mlops_workbench.model.policy import Policy
    fit = fit_model(table(), task(framing), trials=6, device="cpu")
    members = [fit.singles[f].members[0] for f in ("network", "trees", "linear", "constant")]
    mixed = Predictor(fit.predictor.task, fit.predictor.features, members, [0.4, 0.3, 0.2, 0.1], fit.predictor.calibration)
    odd = pl.concat([table(100, 9), table(3, 1).with_columns(a=pl.lit(None, pl.Float64), c=pl.lit("new"))])
    policy = {"binary": Policy("threshold", threshold=0.5), "multiclass": Policy("argmax"), "regression": Policy("none")}[framing]
    out = Graph(to_onnx(mixed, policy)).run(odd)
    found = out["value"] if framing == "regression" else out.select(f"probability_{c}" for c in mixed.task.classes[framing == "binary":]).to_numpy().squeeze()
    expected = mixed.predict(odd)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
