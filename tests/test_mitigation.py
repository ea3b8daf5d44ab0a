"""Candidate policies and other models: near the best there is, judged on rows they were not fitted on, and deployed as they were judged."""
import dataclasses
import itertools

import numpy as np
import polars as pl
import pytest

from mlops_workbench.assess.assessment import assess_predictions
from mlops_workbench.assess.fairness import count_cells, disparity_of, draw_counts, group_names, shrunken
from mlops_workbench.assess.metrics import interval
from mlops_workbench.assess.mitigate import BY_GROUP, COMMON, UNMITIGATED, Grid, Limit, fit_by_group, fit_policies, frontier
from mlops_workbench.assess.proxies import proxies
from mlops_workbench.assess.retrain import Other, other_candidates, other_models, reduced, reweighed
from mlops_workbench.assess.value import mean_value
from mlops_workbench.core.errors import InputError, SettingsError
from mlops_workbench.core.settings import AssessSettings, read_settings
from mlops_workbench.model.framing import independent_weights
from mlops_workbench.model.policy import Policy
from mlops_workbench.model.task import Task, frame_task
from mlops_workbench.tune.study import fit_model

from .helpers_model import applicants, trained_bundle

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


def loans(n: int, seed: int = 0, lot: bool = False) -> pl.DataFrame:
    "Applications whose approval depended on race, which the district tells; or was drawn by lot."
    rng = np.random.default_rng(seed)
    race = np.where(rng.random(n) < 0.3, "black", "white")
    income, debts = rng.normal(0, 1, n), rng.normal(0, 1, n)
    district = np.where(rng.random(n) < 0.85, np.where(race == "black", "north", "south"), "centre")
    earned = rng.random(n) < 0.5 if lot else income - 0.7 * debts - 1.2 * (race == "black") + rng.normal(0, 0.7, n) > -0.4
    return pl.DataFrame({"income": income, "debts": debts, "district": district, "race": race, "approve": np.where(earned, "yes", "no")})


LOANS = Task("loans", "approve", "binary", ("no", "yes"), ("income", "debts", "district"), ("race",))
EVEN = {"tp": 1.0, "fp": -1.0, "fn": 0.0, "tn": 0.0}


def test_reweighing_is_that_of_the_paper() -> None:
    "Against the formula written out cell by cell, and against what it is for: in every group the weighted share of each class is that of all."
    rng = np.random.default_rng(0)
    for classes in (2, 3):
        groups, y, w = rng.choice(["a", "b", "c"], 500, p=[0.7, 0.25, 0.05]), rng.integers(0, classes, 500), rng.random(500)
        found = independent_weights(groups, y, w, classes)
        for g, c in itertools.product("abc", range(classes)):
            assert found[g][c] == pytest.approx(w[groups == g].sum() * w[y == c].sum() / w.sum() / w[(groups == g) & (y == c)].sum())
        each = w * np.array([found[g][c] for g, c in zip(groups, y)])
        for g in "abc": np.testing.assert_allclose([np.average(y[groups == g] == c, weights=each[groups == g]) for c in range(classes)], [np.average(y == c, weights=w) for c in range(classes)])
    again = independent_weights(groups, y, each, classes)
    np.testing.assert_allclose([again[g] for g in "abc"], 1)


@pytest.mark.parametrize("family", ["trees", "linear"])
def test_the_setting_trains_everything_reweighed(tmp_path, family: str) -> None:
    "`[task] reweigh = race` narrows the gap on new people, also beside class weights; the task says so when it is read back."
    (tmp_path / "settings.ini").write_text("[task]\ntarget = approve\nsensitive = race\nreweigh = race\nclass_weight = balanced\n")
    rows, new = loans(3000), loans(4000, seed=9)
    weighed = frame_task(rows, read_settings(tmp_path), name="loans")
    assert Task.from_json(weighed.to_json()) == weighed and weighed.reweigh == "race" and "race" not in weighed.features
    w, y = weighed.training_weights(rows), weighed.labels(rows)
    for g in ("black", "white"): assert np.average(y[(rows["race"] == g).to_numpy()], weights=w[(rows["race"] == g).to_numpy()]) == pytest.approx(0.5)
    assert (weighed.weights(rows) == 1).all()
    def gap(task: Task) -> float:
        p = fit_model(rows, task, trials=1, families=[family], device="cpu").predictor.predict(new)
        picked, black = p >= np.quantile(p, 0.4), (new["race"] == "black").to_numpy()
        return picked[~black].mean() - picked[black].mean()
    assert gap(weighed) < gap(dataclasses.replace(weighed, reweigh="")) - 0.1


@pytest.mark.parametrize("settings, said", [
    ("target = approve\nreweigh = rase", "the reweighed column 'rase' is not a column"), ("target = approve\nreweigh = income", "at most 50 groups"),
    ("target = approve\nreweigh = approve", "independent of itself"), ("target = income\nreweigh = race", "needs one class a row, and the framing is regression")])
def test_a_column_that_cannot_be_reweighed_by_is_refused_before_training(tmp_path, settings: str, said: str) -> None:
    (tmp_path / "settings.ini").write_text(f"[task]\n{settings}\n")
    with pytest.raises(InputError, match=said): frame_task(loans(300), read_settings(tmp_path), name="loans")


@pytest.mark.parametrize("held_out", [False, True])
def test_other_models_have_not_seen_the_rows_they_answer(held_out: bool) -> None:
    "Labels by lot cannot be learned: trained honestly, no model is better than the coin, and none is worth anything."
    rows = loans(1200, lot=True)
    at = np.arange(0, 1200, 2) if held_out else np.arange(1200)
    predictions = pl.DataFrame({"row": at, "fold": np.full(600, -1) if held_out else np.arange(1200) % 4})
    y, race = LOANS.labels(rows)[at], rows["race"].to_numpy()[at].astype(str)
    others = other_models(rows, LOANS, predictions, rows["race"].to_numpy().astype(str), column="race", limit=Limit(), value=EVEN, params={"trees": {"rounds": 200, "num_leaves": 31}})
    assert [o.name for o in others] == ["reweighed trees", "reweighed linear", "reductions"]
    for o in others: assert abs(((o.scores >= 0.5) == y).mean() - 0.5) < 4 * 0.5 / len(y) ** 0.5
    for c in other_candidates(others, y, race, predictions["fold"].to_numpy(), value=EVEN, limit=Limit(), against=np.zeros(len(y), np.int64)): assert c.value.low < 0.02


@pytest.mark.parametrize("limit", [Limit("selection_rate_ratio", 0.8), Limit("selection_rate_difference", 0.1), Limit("equal_opportunity_difference", 0.05)])
def test_a_model_trained_under_a_limit_keeps_nearer_to_it_on_new_people(limit: Limit) -> None:
    rows, new = loans(3000), loans(6000, seed=5)
    every, race = pl.concat([rows, new]), np.concatenate([rows["race"].to_numpy(), new["race"].to_numpy()]).astype(str)
    predictions = pl.DataFrame({"row": np.arange(3000, 9000), "fold": np.full(6000, -1)})
    y = LOANS.labels(new)
    def of(decisions: np.ndarray) -> float: return float(disparity_of(count_cells(y, decisions, race[3000:])[1], limit.metric))
    plain = (reweighed(every, LOANS, predictions, None) >= 0.5).astype(np.int64)
    under = reduced(every, LOANS, predictions, race, limit=limit, value=EVEN)
    assert under is not None and set(under.tolist()) == {0, 1}
    assert limit.slack(of(under)) > -0.03 > limit.slack(of(plain))
    assert (under == reduced(every, LOANS, predictions, race, limit=limit, value=EVEN)).all(), "the same person gets the same decision"


def test_groups_of_a_few_people_do_not_stop_the_reductions() -> None:
    rows = loans(900).with_columns(race=pl.when(pl.int_range(900) < 3).then(pl.lit("martian")).when(pl.int_range(900) < 6).then(None).otherwise("race"))
    predictions = pl.DataFrame({"row": np.arange(900), "fold": np.arange(900) % 3})
    found = reduced(rows, LOANS, predictions, group_names(rows["race"]), limit=Limit(), value=EVEN)
    assert found is not None and found.shape == (900,)


def test_the_frontier_is_that_of_all_pairs() -> None:
    labels, scores, group = people(2)
    others = [Other(f"o{i}", "", np.clip(scores + np.where(group == "b", 0.05 * i, 0.0), 0, 1)) for i in range(4)]
    mine = fit_policies(labels, scores, group, value=VALUE, column="group", replicates=100)
    every = mine + other_candidates(others, labels, group, np.zeros(len(labels)), value=VALUE, limit=Limit(), against=mine[0].decisions, replicates=100)
    assert [c.name for c in every[3:]] == ["o0", "o1", "o2", "o3"]
    np.testing.assert_array_equal(every[3].decisions, mine[0].decisions)      # the same scores and folds
    best = {a.name for a in every if not any(b.value.value >= a.value.value and b.disparity.value >= a.disparity.value and (b.value.value, b.disparity.value) != (a.value.value, a.disparity.value) for b in every)}
    assert {c.name for c in frontier(every, Limit())} == best


def assessed(rows: pl.DataFrame, tried: tuple = ("reweighing",), **options):
    "The assessment of a model by its income alone."
    y, score = LOANS.labels(rows), 1 / (1 + np.exp(-rows["income"].to_numpy() - 0.5))
    predictions = pl.DataFrame({"row": np.arange(len(rows)), "fold": np.arange(len(rows)) % 4, "label": y, "score": score})
    train = lambda column, limit: other_models(rows, LOANS, predictions, group_names(rows[column]), column=column, limit=limit, value=EVEN, tried=tried)
    return assess_predictions(LOANS, predictions, rows.select("race"), rows=rows, others=train, **options)


def test_a_report_shows_small_groups_proxies_and_the_frontier() -> None:
    "As a reader sees it, with the numbers of the functions that measure them."
    rows = loans(1500).with_columns(race=pl.when(pl.int_range(1500) < 12).then(pl.lit("<b>other")).otherwise("race"))
    a = assessed(rows, gates={"fair": "selection_rate_ratio(race) >= 0.8, block"})
    drawn = a.fairness["race"].shrunken
    expected = shrunken(a.labels, a.chosen.decisions, group_names(rows["race"])).filter(group="<b>other")
    assert set(drawn["group"]) == {"<b>other"} and drawn.equals(expected.filter(pl.col("shrunken").is_not_null()))
    assert "<b>other" in a.fairness["race"].groups["group"].to_list()
    told = proxies(rows.select("income", "debts", "district", "race"), "race", seed=a.seed)
    assert a.proxies["race"].equals(told) and told["feature"][1] == "district"
    page = a.section("fairness").markup + a.section("candidates").markup
    for text in ("&lt;b&gt;other", "Small groups by race", "tell race with an AUC of", "reweighed trees", "[task] reweigh = race", "[tune] constraints = selection_rate_ratio(race) &gt;= 0.8", "On the frontier, the least disparate first"):
        assert text in page, text
    assert "<b>other" not in page
    names = [c["name"] for c in a.to_json()["other_models"]]
    assert names == ["reweighed trees", "reweighed linear"] and all(c.value.low is not None and c.value.n == 1500 for c in a.others)


def test_what_is_tried_is_a_setting(tmp_path) -> None:
    (tmp_path / "settings.ini").write_text("[assess]\nmitigations = thresholds\n")
    only = read_settings(tmp_path).assess
    assert only.mitigations == ["thresholds"] and AssessSettings().mitigations == ["thresholds", "reweighing", "reductions"]
    rows = loans(600)
    none = assessed(rows, settings=AssessSettings(mitigations=[]), tried=())
    assert ([c.name for c in none.candidates], none.others) == ([UNMITIGATED], [])
    with pytest.raises(SettingsError, match="no mitigation 'threshold'"): assessed(rows, settings=AssessSettings(mitigations=["threshold"]))


@pytest.mark.parametrize("who", [None, "", "martian"])
def test_an_unseen_or_missing_group_is_decided_by_the_common_threshold_where_the_model_is_deployed(who: str | None) -> None:
    "By the graph itself; and the record, the card and the candidate's note say so."
    policy = Policy("by_group", group_column="race", thresholds={"black": 0.2, "white": 0.9}, fallback=0.55)
    bundle, rows = trained_bundle(policy=policy), applicants(300, seed=4)
    got = bundle.predict(rows.with_columns(race=pl.lit(who, dtype=pl.String)))
    p = got["probability_yes"].to_numpy()
    assert ((0.55 <= p) & (p < 0.9)).any() and ((p < 0.55) & (p >= 0.2)).any()
    assert (got["decision"] == "yes").to_list() == (p >= 0.55).tolist()
    assert "unseen or missing: 0.55" in bundle.record["decides"] and "unseen or missing: 0.55" in bundle.card
    labels, scores, group = people(5)
    own = fit_policies(labels, scores, group, value=VALUE, column="group")[2]
    assert own.name == BY_GROUP and f"missing, small or unseen group get the common threshold of {own.policy.fallback:.4g}" in own.note


def test_the_settings_line_that_a_report_offers_is_one_that_tune_takes() -> None:
    "The limit on every trial, word for word as the note has it, and a search that keeps to it."
    from mlops_workbench.tune.goals import Goals
    rows = loans(1500)
    predictions = pl.DataFrame({"row": np.arange(1500), "fold": np.arange(1500) % 2})
    note = other_models(rows, LOANS, predictions, rows["race"].to_numpy().astype(str), column="race", limit=Limit("equalized_odds_difference", 0.4), value=EVEN, tried=["reductions"])[0].note
    line = note.partition("[tune] constraints = ")[2].partition(" searches")[0]
    assert line == "equalized_odds_difference(race) <= 0.4"
    found = fit_model(rows, LOANS, trials=2, families=["trees", "linear"], device="cpu", goals=Goals.of({"loss": "minimize"}, [line]))
    assert 0 <= found.metrics["equalized_odds_difference(race)"] <= 0.4


def test_groups_of_two_columns_are_reweighed_but_offer_no_line_that_would_be_refused() -> None:
    rows = loans(800).with_columns(sex=pl.Series(np.resize(["f", "m"], 800)))
    both = (rows["race"] + " & " + rows["sex"]).to_numpy().astype(str)
    others = other_models(rows, dataclasses.replace(LOANS, sensitive=("race", "sex")), pl.DataFrame({"row": np.arange(800), "fold": np.arange(800) % 2}), both, column="race & sex", limit=Limit(), value=EVEN)
    assert len(others) == 3 and not any("= race & sex" in o.note or "(race & sex)" in o.note for o in others)
