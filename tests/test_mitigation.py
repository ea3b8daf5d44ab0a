"""Candidate policies: near the best there is, judged on rows they were not fitted on, and deployed as they were judged."""
import itertools

import numpy as np
import polars as pl
import pytest

from mlops_workbench.assess.assessment import assess_predictions
from mlops_workbench.assess.fairness import disparity_of, draw_counts, group_names
from mlops_workbench.assess.metrics import interval
from mlops_workbench.assess.mitigate import BY_GROUP, COMMON, UNMITIGATED, Grid, Limit, fit_by_group, fit_policies
from mlops_workbench.assess.value import mean_value
from mlops_workbench.model.task import Task

VALUE = {"tp": 1.0, "fp": -2.0, "fn": 0.0, "tn": 0.0}


def people(seed: int, n: int = 2000, gap: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = rng.choice(["a", "b", "c"], n, p=[0.7, 0.18, 0.12])
    scores = np.clip(rng.beta(5, 1.5, n) - np.where(group == "b", gap * rng.random(n), 0), 0.01, 0.99)
    return (rng.random(n) < scores).astype(int), scores, group


@pytest.mark.parametrize("limit", [Limit("selection_rate_ratio", 0.8), Limit("equal_opportunity_difference", 0.12), Limit("equalized_odds_difference", 0.2)])
def test_thresholds_by_group_are_near_the_best_of_all_combinations(limit: Limit) -> None:
    labels, scores, group = people(0)
    grid, every = Grid.of(labels, scores, group, VALUE, points=12), np.ones(3, bool)
    at = np.array(list(itertools.product(range(len(grid.cuts)), repeat=3)))
    counts, worth = grid.counts[at, np.arange(3)], grid.worth[at, np.arange(3)].sum(1)
    hopeful = np.flatnonzero(limit.slack(disparity_of(counts, limit.metric)) >= 0)
    hopeful = hopeful[np.argsort(-worth[hopeful])]
    best = None
    for some in np.array_split(hopeful, max(len(hopeful) // 500, 1)):
        low, high = interval(disparity_of(draw_counts(counts[some], replicates=400), limit.metric))
        good = limit.slack(low if limit.is_ratio else high) >= 0
        if good.any():
            best = worth[some[np.argmax(good)]]
            break
    assert best is not None
    thresholds, kept = fit_by_group(grid, every, every, 0.5, limit)
    mine = sum(grid.worth[np.searchsorted(grid.cuts, thresholds[g]), i] for i, g in enumerate(grid.names))
    assert kept
    assert best * 0.93 <= mine <= best


def test_the_limit_is_kept_on_new_people() -> None:
    kept = []
    for seed in range(12):
        labels, scores, group = people(seed)
        new_labels, new_scores, new_group = people(1000 + seed, n=20_000)
        for c in fit_policies(labels, scores, group, value=VALUE, column="group", replicates=200)[1:]:
            picked = c.policy.decide(new_scores, new_group)
            rates = [picked[new_group == g].mean() for g in "abc"]
            kept.append(min(rates) / max(rates) >= 0.8)
    assert np.mean(kept) > 0.9


def test_value_and_price_are_those_of_the_decisions() -> None:
    labels, scores, group = people(3)
    first, common, own = fit_policies(labels, scores, group, value=VALUE, column="group")
    assert [first.name, common.name, own.name] == [UNMITIGATED, COMMON, BY_GROUP]
    for c in (first, common, own):
        assert c.value.value == pytest.approx(mean_value(labels, c.decisions, VALUE).value)
        assert c.price.value == pytest.approx(first.value.value - c.value.value)
    assert own.price.value < common.price.value


def test_a_common_threshold_that_selects_everybody_is_not_offered_as_kept() -> None:
    rng = np.random.default_rng(0)
    group = rng.choice(["a", "b"], 3000)
    scores = np.where(group == "a", rng.uniform(0.5, 1, 3000), rng.uniform(0, 0.2, 3000))
    labels = (rng.random(3000) < scores).astype(int)
    common = fit_policies(labels, scores, group, value=VALUE, column="group")[1]
    assert not common.kept
    assert "deciding alike for all" in common.note
    assert 0 < common.decisions.mean() < 1


def test_missing_small_and_unseen_groups_get_the_common_threshold() -> None:
    labels, scores, group = people(5)
    column = pl.Series("group", [None if i % 10 == 0 else "tiny" if i in (1, 2, 3) else str(g) for i, g in enumerate(group)])
    own = fit_policies(labels, scores, group_names(column), value=VALUE, column="group")[2]
    common = fit_policies(labels, scores, group_names(column), value=VALUE, column="group")[1]
    assert set(own.policy.thresholds) == {"a", "b", "c"}
    assert own.policy.fallback == common.policy.threshold
    probe = np.linspace(0, 1, 200)
    for unknown in (None, "tiny", "martian"):
        assert (own.policy.decide(probe, pl.Series([unknown] * 200, dtype=pl.String)) == common.policy.decide(probe)).all()


def test_a_binned_column_has_no_thresholds_by_group() -> None:
    labels, scores, _ = people(6)
    age = np.random.default_rng(0).integers(18, 80, len(labels))
    task = Task(name="t", target="y", framing="binary", classes=("0", "1"), value=VALUE)
    predictions = pl.DataFrame({"fold": np.arange(len(labels)) % 5, "label": labels, "score": scores})
    a = assess_predictions(task, predictions, pl.DataFrame({"age": age}), gates={"fairness": "selection_rate_ratio(age) >= 0.8, block"})
    assert [c.name for c in a.candidates] == [UNMITIGATED, COMMON]


def test_an_undecided_blocking_gate_holds_back() -> None:
    labels, scores, group = people(7, n=300, gap=0.35)
    task = Task(name="t", target="y", framing="binary", classes=("0", "1"), value=VALUE)
    predictions = pl.DataFrame({"fold": np.arange(300) % 5, "label": labels, "score": scores})
    rule = "selection_rate_ratio(group) >= {:.4f}, block"
    seen = assess_predictions(task, predictions, pl.DataFrame({"group": group}))
    middle = seen.evidence[0].estimates["selection_rate_ratio(group)"].value
    a = assess_predictions(task, predictions, pl.DataFrame({"group": group}), gates={"fairness": rule.format(middle)})
    assert a.evidence[0].answers[0].answer == "undecided"
    assert a.evidence[0].answers[0].holds_back and (a.chosen_at > 0 or a.held_back)


def test_the_same_predictions_give_the_same_assessment() -> None:
    labels, scores, group = people(8)
    task = Task(name="t", target="y", framing="binary", classes=("0", "1"), value=VALUE)
    predictions = pl.DataFrame({"fold": [-1] * len(labels), "label": labels, "score": scores})
    one, two = (assess_predictions(task, predictions, pl.DataFrame({"group": group})).to_json() for _ in range(2))
    assert one == two
