"""Conformal answers hold what they promise, a band keeps its risk, and what was chosen is what is deployed."""

import json
import time
import urllib.request
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom

from mlops_workbench.assess.abstain import Wish, abstain, band_for_risk, bands, choose_band, leaves_table, passed_in_sequence
from mlops_workbench.assess.assessment import assess_predictions
from mlops_workbench.assess.certainty import measure_uncertainty, uncertainty_parts
from mlops_workbench.assess.uncertainty import Conformal, class_strangeness, conformal_limit, coverage_table, cross_conformal, doubts, risk_area, risk_curve, risk_table
from mlops_workbench.core.errors import InputError, NotFoundError, SettingsError
from mlops_workbench.core.settings import AssessSettings, read_settings
from mlops_workbench.deploy.bundle import load_bundle, with_second
from mlops_workbench.deploy.score import read_predictions, score_file
from mlops_workbench.model.policy import REVIEW, Policy
from mlops_workbench.model.task import Task

from .helpers_model import applicants, deploy, people, toy_bundle, trained_bundle

OPTIONS = {"confidence": 0.95, "replicates": 200, "seed": 0}
KINDS = [("binary", "lac"), ("binary", "aps"), ("multiclass", "lac"), ("multiclass", "aps"), ("regression", "absolute"), ("regression", "scaled"), ("quantiles", "cqr")]


def made(framing: str, n: int, seed: int):
    "Labels, scores, groups and a scale; the scores are worse in the second group."
    rng = np.random.default_rng(seed)
    group = np.where(rng.random(n) < 0.7, "a", "b")
    spread = np.where(group == "a", 1.0, 2.5)
    if framing == "binary":
        z = rng.normal(0, 2, n)
        return (rng.random(n) < 1 / (1 + np.exp(-z / spread))).astype(int), 1 / (1 + np.exp(-z)), group, spread
    if framing == "multiclass":
        z = rng.normal(0, 2, (n, 4))
        p = lambda z: np.exp(z) / np.exp(z).sum(1, keepdims=True)
        y = (p(z / spread[:, None]).cumsum(1) < rng.random((n, 1))).sum(1)
        return np.minimum(y, 3), p(z), group, spread
    x = rng.normal(size=n)
    y = x + spread * rng.normal(size=n)
    return y, x if framing == "regression" else x[:, None] + np.array([-0.5, 0.0, 0.5]), group, spread


def cover(framing: str, method: str, seed: int, grouped: bool):
    y, s, g, scale = made(framing, 1400, seed)
    fit, new = np.arange(1400) < 400, np.arange(1400) >= 400
    c = Conformal.fit(y[fit], s[fit], framing, method=method, groups=g[fit] if grouped else None, scale=scale[fit] if method == "scaled" else None, seed=seed)
    if framing in ("binary", "multiclass"): held = c.sets(s[new], g[new] if grouped else None, seed=seed + 10_000)[np.arange(1000), y[new]]
    else:
        ends = c.intervals(s[new], g[new] if grouped else None, scale=scale[new] if method == "scaled" else None)
        held = (y[new] >= ends[:, 0]) & (y[new] <= ends[:, 1])
    return held.mean(), held[g[new] == "a"].mean(), held[g[new] == "b"].mean()


@pytest.mark.parametrize("framing, method", KINDS)
def test_the_promised_coverage_is_held(framing, method):
    "Over seeds: on average between what is promised and one row in n + 1 more, within four standard errors."
    for grouped in (False, True):
        held = np.array([cover(framing, method, seed, grouped) for seed in range(40)])
        mean, error = held.mean(0), held.std(0) / np.sqrt(len(held))
        for i, n in zip(range(3) if grouped else range(1), (400, 260, 100)): assert 0.9 - 4 * error[i] <= mean[i] <= 0.9 + 4 * error[i] + 1 / n, (grouped, i, mean)
        if not grouped and method not in ("scaled", "aps"): assert mean[2] < 0.88 < 0.9 < mean[1], "one limit for all fails the group that is served worse"


def test_cross_fitted_coverage_is_a_measurement():
    for framing in ("binary", "multiclass", "regression"):
        y, s, g, _ = made(framing, 3000, 3)
        found = cross_conformal(y, s, framing, np.arange(3000) % 4, groups=g)
        for r in coverage_table(found, {"g": g}).to_dicts(): assert r["low"] - 0.01 <= 0.9 <= r["high"] + 0.01
        assert not found.notes


@pytest.mark.parametrize("risk", [0.15, 0.2])
def test_the_band_keeps_its_risk(risk):
    "In no more of the samples than the confidence allows does the population's risk exceed the one that was asked for."
    over = found = 0
    truth = lambda p: 0.8 * p + 0.1      # the model is too sure of itself
    new = np.random.default_rng(1234).beta(0.5, 0.5, 200_000)
    chance = np.where(new >= 0.5, 1 - truth(new), truth(new))
    for seed in range(100):
        rng = np.random.default_rng(seed)
        p = rng.beta(0.5, 0.5, 1500)
        y = rng.random(1500) < truth(p)
        band = band_for_risk(p, (p >= 0.5) != y, bands(p, (0.5, 0.5)), risk, confidence=0.9)
        if band is None: continue
        found += 1
        decided = ~Policy("threshold", band=band).undecided(new)
        over += chance[decided].mean() > risk
    assert over <= binom.ppf(0.999, 100, 0.1)
    assert found >= (95 if risk == 0.2 else 25)


def test_capacity_and_risk_together():
    rng = np.random.default_rng(1)
    p = rng.random(4000)
    wrong = (p >= 0.5) != (rng.random(4000) < p)
    narrow, said = choose_band(p, wrong, (0.5, 0.5), Wish(risk=0.05, capacity=0.2))
    assert np.mean(Policy("threshold", band=narrow).undecided(p)) <= 0.2 and "not kept" in said
    wide, said = choose_band(p, wrong, (0.5, 0.5), Wish(risk=0.15, capacity=0.9))
    assert wrong[~Policy("threshold", band=wide).undecided(p)].mean() <= 0.15 and "it is shown" in said


def test_what_a_band_is_worth_counts_the_amounts():
    rng = np.random.default_rng(2)
    p, amounts = rng.random(2000), rng.lognormal(3, 1, 2000)
    y, value = (rng.random(2000) < p).astype(int), {"tp": 1.0, "fp": -1.0, "fn": 0.0, "tn": 0.0}
    decided = (p >= 0.5).astype(int)
    found = measure_uncertainty(y, p, decided, "binary", policy=Policy("threshold", threshold=0.5), wish=Wish(capacity=0.2), value=value, amounts=amounts, confidence=0.95, replicates=200, seed=0)
    every = 1000 * (np.where(decided == 1, np.where(y == 1, 1, -1), 0) * amounts).mean()
    assert f"if all rows were decided {every:,.0f} [" in " ".join(found.abstention.sentences)
    lost = next(c for c in found.curves if c.loss == "value lost by a decision")
    assert lost.all_rows == pytest.approx(((decided != y) * amounts).mean())


@pytest.mark.parametrize("wish", [Wish(), Wish(risk=0.05), Wish(capacity=0.3), Wish(risk=0.05, capacity=0.3)])
@pytest.mark.parametrize("labels, scores", [
    ([1, 0, 1], [0.9, 0.2, 0.6]), ([1], [0.7]), ([1] * 60, np.linspace(0.1, 0.9, 60)), ([0] * 60, np.linspace(0.1, 0.9, 60)),
    ([0, 1] * 30, [0.5] * 60), ([0, 1] * 30, [0.0, 1.0] * 30), ([0, 1] * 30, [0.0] * 60), ([0, 1] * 30, [1.0] * 60)])
def test_odd_data_is_measured_and_said(wish, labels, scores):
    "Three rows, one row, one class, equal scores, scores at the ends; a group of one row."
    y, s = np.array(labels), np.array(scores, float)
    groups = {"g": np.array(["alone"] + ["others"] * (len(y) - 1))}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        u = measure_uncertainty(y, s, (s >= 0.5).astype(int), "binary", policy=Policy("threshold"), wish=wish, groups=groups, value={"tp": 1, "fp": -6, "fn": 0, "tn": 0}, **OPTIONS)
        parts = uncertainty_parts(u)
    assert len(parts) > 3 and u.coverage["n"][0] == len(y)
    assert (u.abstention is None) == (not wish)
    if len(y) == 3: assert u.notes and u.coverage["size"][0] == 2.0
    if len(set(scores)) == 1 and u.abstention: assert u.abstention.band == ()


def test_thresholds_above_one_and_by_group():
    "A threshold that nobody reaches, and thresholds of groups, have bands too."
    rng = np.random.default_rng(2)
    p, g = rng.random(2000), rng.choice(["a", "b"], 2000)
    y = (rng.random(2000) < p).astype(int)
    never = Policy("threshold", threshold=1.5)
    found = abstain(y, p, never.decide(p), never, Wish(risk=0.2), groups={"g": g})
    assert found.band and Policy("threshold", threshold=1.5, band=found.band)
    own = Policy("by_group", group_column="g", thresholds={"a": 0.4, "b": 0.6}, fallback=0.5)
    found = abstain(y, p, own.decide(p, g), own, Wish(risk=0.1), groups={"g": g}, folds=np.arange(2000) % 3)
    assert found.band[0] <= 0.4 and found.band[1] >= 0.6 and found.answered.high < 0.14 and "too few to choose" in found.sentences[-1]


def test_a_risk_kept_on_average_is_said_to_fail_a_group():
    rng = np.random.default_rng(4)
    p, g = rng.beta(0.4, 0.4, 6000), np.where(rng.random(6000) < 0.9, "most", "few")
    y = (rng.random(6000) < np.where(g == "most", p, 0.5 + 0.4 * (p - 0.5))).astype(int)
    found = abstain(y, p, (p >= 0.5).astype(int), Policy("threshold"), Wish(risk=0.1), groups={"g": g})
    assert found.answered.high < 0.12 and any("exceeded among the decided of g few" in s and "g most" not in s for s in found.sentences)


def test_scores_that_are_none_are_refused_once():
    s = np.array([0.2, np.nan, 0.9])
    with pytest.raises(InputError, match="1 rows have no score"): cross_conformal([0, 1, 1], s, "binary")
    assert Policy("threshold", band=(0.4, 0.6)).decide(s).tolist() == [0, REVIEW, 1]


def test_a_label_without_a_class_is_never_covered():
    y, s, _, _ = made("multiclass", 500, 0)
    y[:50] = 7
    found = cross_conformal(y, s, "multiclass")
    assert not found.covered[:50].any() and found.covered.mean() >= 0.88
    rare = cross_conformal(np.r_[y[50:], 7], s[49:], "multiclass", coverage=0.9)
    assert not rare.covered[-1] and rare.size.mean() < 4


def test_group_of_one_row_gets_the_common_limit():
    y, s, g, _ = made("binary", 300, 1)
    g = np.where(np.arange(300) == 0, "alone", g)
    c = Conformal.fit(y, s, "binary", groups=g)
    assert set(c.limits) == {"a", "b"} and c.limit_of(np.array(["alone"]), 1)[0] == c.limit and "alone (1)" in c.notes[0]
    assert leaves_table(np.zeros(300, bool), np.zeros(300, bool), {"g": g}).filter(group="alone")["wrong_left"].to_list() == [None]


def test_the_curve_is_that_of_sorted_rows():
    rng = np.random.default_rng(0)
    loss, doubt = (rng.random(500) < 0.3).astype(float), rng.random(500)
    by_hand = np.cumsum(loss[np.argsort(doubt)]) / np.arange(1, 501)
    np.testing.assert_allclose(risk_curve(loss, doubt)["risk"], by_hand)
    assert abs(risk_area(loss, doubt).value - by_hand.mean()) < 0.01
    draws = [risk_area(loss[i], doubt[i], replicates=2).value for i in np.random.default_rng(1).integers(0, 500, (400, 500))]
    ours = risk_area(loss, doubt, replicates=2000)
    np.testing.assert_allclose([ours.low, ours.high], np.quantile(draws, [0.025, 0.975]), atol=0.012)
    assert doubts(np.array([[0.2, 0.8]]), np.array([0])).tolist() == [0.8]
    money = risk_table(loss * rng.random(500), doubt)
    assert (money["low"] <= money["risk"]).all() and (money["risk"] <= money["high"]).all()


def test_agreement_with_mapie():
    "The same limits, sets and intervals as MAPIE's, whose estimators are made to hand the scores through."
    pytest.importorskip("mapie", reason="MAPIE is not installed: pip install mapie")
    from mapie.classification import SplitConformalClassifier
    from mapie.regression import ConformalizedQuantileRegressor, SplitConformalRegressor
    from mapie.risk_control import FWERFixedSequenceTesting
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    class Handed(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(4)
        def fit(self, X, y): return self
        def predict_proba(self, X): return np.asarray(X)
        def predict(self, X): return np.asarray(X).argmax(1)
        def __sklearn_is_fitted__(self): return True

    class Column(RegressorMixin, BaseEstimator):
        def __init__(self, j=0): self.j = j
        def fit(self, X, y): return self
        def predict(self, X): return np.asarray(X)[:, self.j]
        def __sklearn_is_fitted__(self): return True

    warnings.simplefilter("ignore")
    fit, new = slice(0, 400), slice(400, 1000)
    y, p, _, _ = made("multiclass", 1000, 0)
    for coverage in (0.8, 0.9, 0.95):
        theirs = SplitConformalClassifier(Handed(), confidence_level=coverage, prefit=True, conformity_score="lac").conformalize(p[fit], y[fit])
        np.testing.assert_array_equal(Conformal.fit(y[fit], p[fit], "multiclass", coverage=coverage).sets(p[new]), theirs.predict_set(p[new])[1][:, :, 0])
        theirs = SplitConformalClassifier(Handed(), confidence_level=coverage, prefit=True, conformity_score="aps", random_state=0).conformalize(p[fit], y[fit])
        drawn = np.random.RandomState(0).uniform(size=400)
        limit = conformal_limit(class_strangeness(p[fit], "aps", draws=drawn)[np.arange(400), y[fit]], coverage)
        whole = theirs.predict_set(p[new], conformity_score_params={"include_last_label": True})[1][:, :, 0]
        assert theirs._mapie_classifier.conformity_score_function_.quantiles_[0] == pytest.approx(limit, abs=1e-9)
        drawn_sets = class_strangeness(p[new], "aps", draws=np.random.default_rng(1).random(600)) <= limit
        assert not (drawn_sets & ~whole).any(), "theirs keep the last class always, ours by a draw"
        y1, x, _, _ = made("regression", 1000, 1)
        _, theirs = SplitConformalRegressor(Column(), confidence_level=coverage, prefit=True).conformalize(x[fit, None], y1[fit]).predict_interval(x[new, None])
        np.testing.assert_allclose(Conformal.fit(y1[fit], x[fit], "regression", coverage=coverage).intervals(x[new]), theirs[:, :, 0])
        y1, q, _, _ = made("quantiles", 1000, 2)
        cqr = ConformalizedQuantileRegressor([Column(0), Column(2), Column(1)], confidence_level=coverage, prefit=True).conformalize(q[fit], y1[fit])
        np.testing.assert_allclose(Conformal.fit(y1[fit], q[fit], "quantiles", coverage=coverage).intervals(q[new]), cqr.predict_interval(q[new], symmetric_correction=True)[1][:, :, 0])
    rng = np.random.default_rng(3)
    for _ in range(200):
        chances, starts = rng.random(20) ** 4, int(rng.integers(1, 6))
        assert np.flatnonzero(passed_in_sequence(chances, 0.1, starts=starts)).tolist() == FWERFixedSequenceTesting(n_starts=starts).run(chances, 0.1).tolist()


BANDED = [Policy("threshold", threshold=0.4, band=(0.3, 0.6)), Policy("by_group", group_column="race", thresholds={"black": 0.3, "white": 0.6}, fallback=0.45, band=(0.25, 0.5), refer="ask")]


@pytest.mark.parametrize("policy", BANDED, ids=["threshold", "by_group"])
def test_the_deployed_band_decides_as_the_policy_does(tmp_path, policy):
    "The graph, a bundle read back, a scored file and its log."
    bundle, rows = deploy(tmp_path / "store", trained_bundle(policy=policy)), applicants(400, seed=5)
    got = load_bundle(tmp_path / "store", "loans").predict(rows)
    codes = policy.decide(got["probability_yes"].to_numpy(), rows["race"])
    assert set(codes.tolist()) == {0, 1, REVIEW}
    assert got["decision"].to_list() == [{0: "no", 1: "yes", REVIEW: "review"}[c] for c in codes.tolist()]
    assert got["referred"].to_list() == [policy.refer if c == REVIEW else "" for c in codes.tolist()]
    assert bundle.graph.policy == policy and "it does not decide" in bundle.record["decides"] and "referred" in bundle.card
    rows.write_parquet(tmp_path / "in.parquet")
    score_file(tmp_path / "in.parquet", tmp_path / "out.csv", bundle, rows=64, log=tmp_path / "store")
    assert pl.read_csv(tmp_path / "out.csv")["decision"].to_list() == got["decision"].to_list()
    assert sorted(read_predictions(tmp_path / "store", "loans")["output_decision"]) == sorted(got["decision"])
    assert len(bundle.predict(rows.head(0))) == 0


def test_the_endpoint_says_who_answers(tmp_path):
    pytest.importorskip("starlette")
    from mlops_workbench.deploy.endpoint import example_request, serving
    bundle = deploy(tmp_path, trained_bundle(policy=Policy("threshold", threshold=0.5, band=(0.0, 1.1))))
    with serving(tmp_path, log=False) as url:
        ask = lambda path, body=None: json.loads(urllib.request.urlopen(urllib.request.Request(f"{url}/v2/models/loans{path}", data=body and json.dumps(body).encode())).read())
        answer = {o["name"]: o for o in ask("/infer", example_request(bundle))["outputs"]}
        assert (answer["decision"]["data"], answer["referred"]["data"]) == ([REVIEW], ["person"])
        assert "referred" in ask("")["parameters"]["review"]


def test_without_a_band_nothing_has_changed():
    "A policy from before there were bands reads and writes the same JSON, and its graph has the same outputs."
    old = '{"kind": "threshold", "threshold": 0.4, "group_column": "", "thresholds": {}, "fallback": 0.5, "values": [], "levels": [], "note": ""}'
    assert json.loads(Policy.from_json(old).to_json()) == json.loads(old)
    bundle = toy_bundle()
    assert [o["name"] for o in bundle.outputs] == ["probability", "label", "decision"] and bundle.predict(people(5))["decision"].is_in(["no", "yes"]).all()
    assert "band" not in bundle.record["policy"]


def test_what_cannot_have_a_band_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs two classes"): trained_bundle("multiclass", policy=Policy("threshold", band=(0.4, 0.6)))
    with pytest.raises(InputError, match="needs a threshold between two classes"): Policy("value", values=((0, -1), (-1, 0)), band=(0.4, 0.6))
    three = Task("t", "y", "multiclass", ("a", "b", "c"))
    rows = pl.DataFrame({"label": [0, 1, 2]}).with_columns(score=pl.Series(np.full((3, 3), 1 / 3)))
    with pytest.raises(InputError, match="abstain_risk"): assess_predictions(three, rows, pl.DataFrame(), settings=AssessSettings(abstain_risk=0.1))
    (tmp_path / "settings.ini").write_text("[assess]\nabstain_risk = 0.05\nabstain_capacity = 0.2\nabstain_to = ask\n")
    found = read_settings(tmp_path).assess
    assert (found.abstain_risk, found.abstain_capacity, found.abstain_to) == (0.05, 0.2, "ask")
    (tmp_path / "settings.ini").write_text("[assess]\nabstain_risk = 5\n")
    with pytest.raises(SettingsError, match="out of range"): read_settings(tmp_path)


def named(name: str, threshold: float = 0.5, framing: str = "binary"):
    "A bundle under that name."
    bundle = trained_bundle(framing, policy=Policy("threshold", threshold=threshold) if framing == "binary" else None)
    return replace(bundle, record=bundle.record | {"name": name})


def leaving_to(refer: str): return trained_bundle(policy=Policy("threshold", threshold=0.4, band=(0.3, 0.6), refer=refer))


def test_another_model_answers_in_the_band(tmp_path):
    "Loaded, in a scored file and in its log: its decision stands, it is named, and everything else is as before."
    alone, second = deploy(tmp_path, leaving_to("experts")), deploy(tmp_path, named("experts", 0.05))
    both, rows = load_bundle(tmp_path, "loans"), applicants(400, seed=5)
    before, got, theirs = alone.predict(rows), both.predict(rows), second.predict(rows)
    left = before["decision"] == "review"
    assert 20 < left.sum() < 380
    assert got.filter(left)["decision"].equals(theirs.filter(left)["decision"]) and set(got.filter(left)["referred"]) == {"experts@1"}
    assert got.filter(~left).equals(before.filter(~left)) and got.drop("decision", "referred").equals(before.drop("decision", "referred"))
    rows.write_parquet(tmp_path / "in.parquet")
    score_file(tmp_path / "in.parquet", tmp_path / "out.parquet", both, rows=64, log=tmp_path)
    scored = pl.read_parquet(tmp_path / "out.parquet")
    assert scored["decision"].equals(got["decision"]) and scored["referred"].equals(got["referred"])
    logged = read_predictions(tmp_path, "loans")
    assert (logged["output_referred"] == "experts@1").sum() == left.sum()


def test_the_endpoint_asks_the_other_model_and_follows_its_promotions(tmp_path):
    pytest.importorskip("starlette")
    from mlops_workbench.deploy.endpoint import example_request, serving
    first, _ = deploy(tmp_path, leaving_to("experts")), deploy(tmp_path, named("experts", 0.05))
    body, rows = example_request(first), applicants(200, seed=7)
    row = rows.filter(first.predict(rows)["decision"] == "review").head(1)
    for tensor in body["inputs"]: tensor["data"] = first.raw(row)[tensor["name"]].to_list()
    with serving(tmp_path, models=["loans"], log=False, refresh=0.02) as url:
        ask = lambda path, body=None: json.loads(urllib.request.urlopen(urllib.request.Request(f"{url}/v2/models/loans{path}", data=body and json.dumps(body).encode())).read())
        def answer() -> tuple:
            outputs = {o["name"]: o["data"][0] for o in ask("/infer", body)["outputs"]}
            return outputs["decision"], outputs["referred"]
        assert answer() == (1, "experts@1") and "experts@1" in ask("")["parameters"]["second"]
        deploy(tmp_path, named("experts", 0.95))
        for _ in range(500):
            if answer() == (0, "experts@2"): break
            time.sleep(0.02)
        assert answer() == (0, "experts@2")


def test_a_model_that_cannot_answer_is_told_before_it_is_needed(tmp_path):
    "Not in the registry, of another target, with other columns: one error, when the bundle is loaded, assessed or deployed."
    from mlops_workbench.jobs.assess_steps import _answering
    deploy(tmp_path, leaving_to("expert@champion"))
    with pytest.raises(NotFoundError, match="rows are left to 'expert@champion': no model 'expert'"): load_bundle(tmp_path, "loans")
    with pytest.raises(NotFoundError, match="abstain_to"): with_second(tmp_path, leaving_to("expert@champion"))
    task = Task("loans", "approve", "binary", ("no", "yes"), ("income",))
    found = SimpleNamespace(task=task, predictor=SimpleNamespace(features=SimpleNamespace(columns={"income": "number"})))
    def asked(store, **told): return _answering(SimpleNamespace(store=store, settings=SimpleNamespace(assess=AssessSettings(**told))), found)
    with pytest.raises(NotFoundError, match="no model 'expert'"): asked(tmp_path, abstain_to="expert", abstain_capacity=0.1)
    for told in ({"abstain_to": "expert"}, {"abstain_to": "person", "abstain_capacity": 0.1}, {"abstain_to": "ask", "abstain_risk": 0.1}): assert asked(tmp_path, **told) is None
    deploy(tmp_path, named("grades", framing="multiclass"))
    with pytest.raises(InputError, match="whose target is 'grade', here 'approve'"): asked(tmp_path, abstain_to="grades", abstain_risk=0.1)
    deploy(tmp_path, named("wide"))
    with pytest.raises(InputError, match="which reads .*'children', 'member'"): asked(tmp_path, abstain_to="wide", abstain_risk=0.1)


@pytest.mark.parametrize("rule, wish, answer", [
    ("coverage >= 0.85", {"abstain_capacity": 0.1}, "pass"), ("coverage >= 0.95", {"abstain_capacity": 0.1}, "fail"), ("coverage >= 0.95", {}, "pass"), ("abstained <= 0.05", {"abstain_capacity": 0.1}, "fail"),
    ("abstained_difference(g) <= 0.02", {"abstain_capacity": 0.2}, "fail"), ("abstained_difference(g) <= 0.02", {}, "pass"), ("error_of_answered <= 0.2", {"abstain_capacity": 0.5}, "pass"),
    ("error_of_answered <= 0.2", {}, "fail"), ("set_coverage >= 0.9", {}, "pass"), ("set_coverage >= 0.99", {}, "fail")])
def test_gates_on_what_a_band_leaves(rule, wish, answer):
    "Asked about the band that is deployed, with the interval that the report shows; a blocking one holds the model back."
    rng = np.random.default_rng(0)
    g = rng.choice(["a", "b"], 3000, p=[0.7, 0.3])
    p = np.where(g == "a", rng.beta(0.6, 0.6, 3000), rng.beta(2, 2, 3000))
    rows = pl.DataFrame({"fold": np.arange(3000) % 5, "label": (rng.random(3000) < p).astype(int), "score": p})
    a = assess_predictions(Task("t", "y", "binary", ("no", "yes")), rows, pl.DataFrame({"g": g}), gates={"rule": rule + ", block"}, settings=AssessSettings(mitigations=["thresholds"], **wish))
    assert a.gates[0].answer == answer and bool(a.held_back) == (answer != "pass")
    e, u = a.gates[0], a.uncertainty
    assert e.n > 0 and (e.low is None or e.low <= e.estimate <= e.high)
    if u.abstention:
        row = u.abstention.table.row(0, named=True)
        known = {"coverage": 1 - row["left"], "abstained": row["left"], "error_of_answered": row["wrong"]}
        assert e.estimate == pytest.approx(known.get(rule.split()[0], e.estimate))
    assert {"coverage", "abstained", "error_of_answered", "set_coverage", "abstained_difference(g)"} <= set(a.to_json()["estimates"])


def test_gates_on_certainty_that_do_not_fit_are_refused():
    three = Task("t", "y", "multiclass", ("a", "b", "c"))
    rows = pl.DataFrame({"label": [0, 1, 2] * 40}).with_columns(score=pl.Series(np.full((120, 3), 1 / 3)))
    assert assess_predictions(three, rows, pl.DataFrame(), gates={"sets": "set_coverage >= 0.5"}).gates[0].answer == "pass"
    for rule, said in (("coverage >= 0.9", "does not fit a multiclass task"), ("abstained_difference >= 0.9", "by group"), ("abstained(g) >= 0.9", "without brackets"), ("coverage(slice:x) >= 0.9", "does not fit")):
        with pytest.raises(SettingsError, match=said): assess_predictions(three, rows, pl.DataFrame(), gates={"rule": rule})
