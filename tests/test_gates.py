"Gates on one class or one label, from the settings to the answer: the numbers are scikit-learn's, and a slip is told before work is spent on it."
import json
import re

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from mlops_workbench.assess.assessment import assess_predictions, assess_scores
from mlops_workbench.assess.metrics import wilson
from mlops_workbench.core.errors import SettingsError
from mlops_workbench.model.policy import usual_policy
from mlops_workbench.model.task import Task

from .command import mlw

WARDS = ("routine", "urgent", ">50K (a, b)")


def wards(n: int = 1200) -> tuple[Task, pl.DataFrame, np.ndarray, np.ndarray]:
    "Three classes, the second rare and found four times in five."
    rng = np.random.default_rng(0)
    label = rng.choice(3, n, p=[0.6, 0.1, 0.3])
    said = np.where(rng.random(n) < np.array([0.95, 0.8, 0.9])[label], label, 0)
    score = np.eye(3)[said] * 0.7 + 0.1
    return Task(name="wards", target="ward", framing="multiclass", classes=WARDS, features=("x",)), pl.DataFrame({"label": label}).with_columns(score=pl.Series(score.tolist(), dtype=pl.Array(pl.Float64, 3))), label, said


def test_a_class_is_asked_and_answers_pass_fail_or_undecided() -> None:
    task, predictions, label, said = wards()
    recall = recall_score(label == 1, said == 1)
    low, high = (float(v) for v in wilson((said[label == 1] == 1).sum(), (label == 1).sum()))
    gates = {"low": f"recall(class:urgent) >= {low - 0.01:.3f}, block", "high": f"recall(class:urgent) >= {high + 0.01:.3f}, block", "near": f"recall(class:urgent) >= {recall:.3f}, block",
             "rich": "precision(class:>50K (a, b)) >= 0.5", "f1": "f1(class:routine) >= 0.5"}
    a = assess_predictions(task, predictions, pl.DataFrame(), gates=gates)
    assert {g.gate: g.answer for g in a.gates} == {"low": "pass", "high": "fail", "near": "undecided", "rich": "pass", "f1": "pass"} and [g.gate for g in a.held_back] == ["high", "near"]
    urgent, rich, f1 = (next(g for g in a.gates if g.gate == name) for name in ("near", "rich", "f1"))
    assert (urgent.estimate, urgent.low, urgent.high) == pytest.approx((recall, low, high)) and urgent.n == (label == 1).sum()
    assert rich.estimate == pytest.approx(precision_score(label == 2, said == 2)) and rich.rule == "precision(class:>50K (a, b)) >= 0.5, warn"
    assert f1.estimate == pytest.approx(f1_score(label == 0, said == 0)) and f1.low < f1.estimate < f1.high
    assert "recall(class:urgent)" in a.reason and json.dumps(a.to_json(), allow_nan=False)


def test_a_class_of_weighted_rows_is_asked_by_weight() -> None:
    task, predictions, label, said = wards()
    w = np.random.default_rng(1).integers(1, 5, len(label)).astype(float)
    e = assess_predictions(task, predictions, pl.DataFrame(), gates={"g": "recall(class:urgent) >= 0.5", "f": "f1(class:urgent) >= 0.5"}, weights=w).chosen.estimates
    assert e["recall(class:urgent)"].value == pytest.approx(recall_score(label == 1, said == 1, sample_weight=w)) and e["f1(class:urgent)"].value == pytest.approx(f1_score(label == 1, said == 1, sample_weight=w))
    assert e["recall(class:urgent)"].low < e["recall(class:urgent)"].value < e["recall(class:urgent)"].high


def test_a_class_that_no_row_has_is_undecided_and_a_deployed_model_is_asked_too() -> None:
    task, predictions, label, _ = wards()
    some = predictions.filter(pl.col("label") != 1)
    a = assess_predictions(task, some, pl.DataFrame(), gates={"g": "recall(class:urgent) >= 0.5, block"})
    assert a.gates[0].answer == "undecided" and "no row is of it" in a.gates[0].sentence and a.held_back
    b = assess_scores(task, label, predictions["score"].to_numpy(), pl.DataFrame(), policy=usual_policy(task), gates={"g": "recall(class:urgent) >= 0.5, block"})
    assert b.gates[0].answer == "pass" and b.gates[0].n == (label == 1).sum()


def test_a_label_of_several_is_asked_by_its_decisions_and_by_its_order() -> None:
    rng = np.random.default_rng(2)
    score = rng.random((900, 2))
    label = (rng.random((900, 2)) < np.stack([score[:, 0], np.full(900, 0.3)], axis=1)).astype(int)
    task = Task(name="mail", target="spam, scam", framing="multilabel", classes=("spam", "scam"), targets=("spam", "scam"), features=("x",))
    predictions = pl.DataFrame({"label": pl.Series(label.tolist(), dtype=pl.Array(pl.Int64, 2)), "score": pl.Series(score.tolist(), dtype=pl.Array(pl.Float64, 2))})
    a = assess_predictions(task, predictions, pl.DataFrame(), gates={"spam": "recall(label:spam) >= 0.6, block", "order": "auc(label:scam) >= 0.7, block", "ap": "average_precision(label:spam) >= 0.5"})
    assert {g.gate: g.answer for g in a.gates} == {"spam": "pass", "order": "fail", "ap": "pass"}
    assert a.gates[0].estimate == pytest.approx(recall_score(label[:, 0], a.chosen.decisions[:, 0])) and a.gates[1].estimate == pytest.approx(roc_auc_score(label[:, 1], score[:, 1]))


def test_the_other_class_of_two_and_the_leaf_of_a_tree_are_asked() -> None:
    rng = np.random.default_rng(3)
    score = rng.random(600)
    label = (rng.random(600) < score).astype(int)
    task = Task(name="loans", target="paid", framing="binary", classes=("no", "yes"), features=("x",))
    a = assess_predictions(task, pl.DataFrame({"label": label, "score": score}), pl.DataFrame(), gates={"no": "recall(class:no) >= 0.5", "yes": "recall >= 0.5"})
    assert a.gates[0].estimate == pytest.approx(recall_score(label, a.chosen.decisions, pos_label=0)) and a.gates[0].n == (label == 0).sum()
    leaf = rng.integers(0, 3, 600)
    tree = Task(name="tree", target="kind", framing="hierarchical", classes=("a/b", "a/c", "d/e"), features=("x",), levels=("kind",), separator="/")
    predictions = pl.DataFrame({"label": leaf}).with_columns(score=pl.Series((np.eye(3)[leaf] * 0.7 + 0.1).tolist(), dtype=pl.Array(pl.Float64, 3)))
    assert assess_predictions(tree, predictions, pl.DataFrame(), gates={"leaf": "precision(class:a/c) >= 0.9, block"}).gates[0].answer == "pass"


@pytest.mark.parametrize("rule, said", [
    ("recall(class:urgnet) >= 0.8", "there is no class 'urgnet'.*did you mean 'urgent'"), ("recall(label:urgent) >= 0.8", r"does not fit a multiclass task(.|\n)*write recall\(class:urgent\)"),
    ("recall >= 0.8", r"does not fit a multiclass task(.|\n)*write recall\(class:NAME\)"), ("auc(class:urgent) >= 0.8", "'auc' is not a metric of one class"), ("f1 >= 0.8", "'f1' is of one class or label"),
    ("recal(class:urgent) >= 0.8", "there is no metric 'recal'(.|\n)*did you mean 'recall'"), ("recall(class:) >= 0.8", "."), ("recall(urgent) >= 0.8", r"or recall\(class:NAME\)")])
def test_a_slip_is_told_with_what_was_meant(rule: str, said: str) -> None:
    task, predictions, *_ = wards(60)
    with pytest.raises(SettingsError) as e: assess_predictions(task, predictions, pl.DataFrame(), gates={"urgent": rule})
    assert re.search(said, str(e.value), flags=re.S) and "settings.ini, [gates] urgent" in str(e.value)


SETTINGS = ("[project]\nname = wards\n[data]\nsource = rows.csv\n[task]\ntarget = ward\nfolds = 2\n[gates]\nurgent = recall(class:{}) >= 0.01, block\n"
            "[tune]\ntrials = 2\nfamilies = linear, trees\n[assess]\nbootstrap = 100\nexplain_rows = 10\n[wandb]\nmode = disabled\n")


def test_a_slip_in_a_gate_ends_before_the_search_and_one_in_explain_is_the_users(tmp_path, warm) -> None:
    rng = np.random.default_rng(4)
    ward = rng.choice(3, 300)
    pl.DataFrame({"x": ward + 0.4 * rng.normal(size=300), "z": rng.normal(size=300), "ward": np.array(["routine", "urgent", "home"])[ward]}).write_csv(tmp_path / "rows.csv")
    def runs(): return sorted((json.loads(p.read_text()) for p in (tmp_path / "store" / "runs").glob("*/run.json")), key=lambda r: r["started"] or "")
    (tmp_path / "settings.ini").write_text(SETTINGS.format("urgetn"))
    mlw("run", "ingest", cwd=tmp_path)
    done = mlw("run", "tune", cwd=tmp_path, fails=True)
    assert done.returncode == 2 and "there is no class 'urgetn'" in done.stdout + done.stderr and "did you mean 'urgent'?" in done.stdout + done.stderr
    assert not list((tmp_path / "store").rglob("journal.log")), "no trial was begun"
    (tmp_path / "settings.ini").write_text(SETTINGS.format("urgent"))
    for job in ("tune", "assess"): mlw("run", job, cwd=tmp_path)
    found = json.loads((tmp_path / "store" / "runs" / runs()[-1]["id"] / "assessment.json").read_text())
    assert found["gates"][0]["rule"] == "recall(class:urgent) >= 0.01, block" and found["gates"][0]["answer"] == "pass"
    done, last = mlw("run", "assess", "-p", "explain=17, 100000", cwd=tmp_path, fails=True), runs()[-1]
    assert done.returncode == 2 and "'100000' is no row" in done.stdout + done.stderr and (last["job"], last["status"], last["reason"]) == ("assess", "failed", "data"), (done.stdout, done.stderr)
