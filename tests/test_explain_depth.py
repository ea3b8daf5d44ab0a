"Explanations that can be trusted: the first layer, trees, ensembles, tables, certificates, interactions and what-ifs, against the truth and against shap."
import json

import numpy as np
import polars as pl
import pytest
import shap

from mlops_workbench.assess.certify import associations, certify
from mlops_workbench.assess.coalitions import Game, all_coalitions, exact_design, gains, walk_design
from mlops_workbench.assess.depend import dependence, dependence_figure, importance_by_group
from mlops_workbench.assess.explain import exact_shapley, importance_figure, shapley, shapley_of_table, waterfall_figure
from mlops_workbench.assess.interactions import interactions, interactions_figure
from mlops_workbench.assess.terms import additive
from mlops_workbench.assess.whatif import what_if
from mlops_workbench.core.errors import InputError
from mlops_workbench.model.calibrate import Calibration
from mlops_workbench.model.features import Encoded, Features
from mlops_workbench.model.framing import width_of
from mlops_workbench.model.network import Labelled, fit_encoding
from mlops_workbench.model.population import train_population
from mlops_workbench.model.predictor import Predictor
from mlops_workbench.model.stack import NetworkParams
from mlops_workbench.model.task import Task
from mlops_workbench.model.trees import fit_trees
from tests.helpers_model import applicants, everything

NAMES = ["age", "income", "debt", "region", "purpose"]


def encoded(n, seed, cats=True):
    "Rows with missing numbers, and missing (0) and unseen (1) categories; some columns are often equal."
    rng = np.random.default_rng(seed)
    num = rng.normal(size=(n, 3)).astype("f4")
    num[:, 2] = rng.integers(0, 2, n)
    num[rng.random(num.shape) < 0.15] = np.nan
    return Encoded(num, rng.integers(0, [4, 7], size=(n, 2)) if cats else np.zeros((n, 0), np.int64))


ROWS, BACKGROUND, TRAIN = encoded(6, 1), encoded(20, 2), encoded(500, 3)
Y = np.nan_to_num(TRAIN.num[:, 0] * TRAIN.num[:, 1]) + (TRAIN.cat[:, 0] == 2) - np.isnan(TRAIN.num[:, 2])
AIMS = {"binary": (Y > 0.2).astype(int), "multiclass": np.digitize(Y, [0, 0.7]), "multilabel": np.stack([Y > 0, Y > 1, TRAIN.num[:, 0] > 0], 1).astype(int), "regression": Y, "quantiles": Y}


def network(framing, **params):
    "A network that has seen a little."
    rows = Labelled(TRAIN, AIMS[framing], np.ones(500))
    encoding = fit_encoding(TRAIN, Y, n_categories=[4, 7], regression=True)
    aim = {"quantiles": (0.1, 0.5, 0.9)} if framing == "quantiles" else {}
    return train_population(rows[:400], rows[400:], [NetworkParams(**{"width": 24} | params)], encoding=encoding, framing=framing, loss="quantile" if aim else "", classes=3, epochs=3, **aim)[0].member


def trees(framing, x=TRAIN, **options):
    loss = {"loss": "quantile", "quantiles": (0.1, 0.5, 0.9)} if framing == "quantiles" else {}
    return fit_trees(Labelled(x, AIMS[framing], np.ones(500)), None, framing=framing, classes=3, rounds=12, threads=1, params={"min_data_in_leaf": 5, "min_data_per_group": 5}, **loss, **options)


def as_function(model): return lambda num, cat: model.predict_encoded(Encoded(num, cat))


def link_of(framing): return "identity" if framing in ("regression", "quantiles") else "logit"


def plain_shapley(predict, rows, background, link):
    "Every coalition of five columns, written out."
    from math import factorial

    from mlops_workbench.assess.coalitions import LINKS
    inside, found = all_coalitions(5), []
    for i in range(len(rows)):
        v = 0.0
        for b in range(len(background)):
            num = np.where(inside[:, :3], rows.num[i], background.num[b]).astype("f4")
            v = v + LINKS[link](np.asarray(predict(num, np.where(inside[:, 3:], rows.cat[i], background.cat[b])), float))
        v = (v / len(background)).reshape(32, -1)
        size = inside.sum(1)
        each = []
        for p in range(5):
            out = np.flatnonzero(~inside[:, p])
            w = np.array([factorial(s) * factorial(4 - s) / factorial(5) for s in range(5)])[size[out]]
            each.append((w[:, None] * (v[out + 2**p] - v[out])).sum(0))
        found.append(each)
    values = np.array(found)
    return values[..., 0] if values.shape[-1] == 1 else values


@pytest.mark.parametrize("framing,params", [("binary", {}), ("binary", {"inputs": "periodic"}), ("binary", {"backbone": "residual", "inputs": "wholes"}), ("regression", {"backbone": "members", "inputs": "standard"}),
                                            ("regression", {"bins": 8}), ("multiclass", {}), ("multilabel", {}), ("quantiles", {})])
def test_through_the_first_layer_is_the_same_as_asking_the_network(framing, params):
    member, link = network(framing, **params), link_of(framing)
    truth = plain_shapley(as_function(member), ROWS, BACKGROUND, link)
    ours = exact_shapley(member, ROWS, BACKGROUND, names=NAMES, link=link)
    scale = np.abs(truth).max()
    np.testing.assert_allclose(ours.values, truth, atol=2e-4 * scale)
    np.testing.assert_allclose(exact_shapley(as_function(member), ROWS, BACKGROUND, names=NAMES, link=link).values, truth, atol=2e-4 * scale)
    assert ours.additivity_error < 1e-6
    answers = member.predict_encoded(ROWS)
    np.testing.assert_allclose(ours.outputs, answers if link == "identity" else np.log(answers / (1 - answers)), atol=1e-3)


@pytest.mark.parametrize("framing", AIMS)
def test_ensembles_of_networks_and_trees(framing):
    "Whatever the framing: members of both families, calibrated, by the predictor and by a plain function."
    width = width_of(framing, 3, (0.1, 0.5, 0.9))
    model = Predictor(None, None, [network(framing), trees(framing)], [0.6, 0.4], Calibration(framing, 1.3, (0.1,) * width))
    link = link_of(framing)
    truth = plain_shapley(as_function(model), ROWS, BACKGROUND, link)
    ours = shapley(model, ROWS, BACKGROUND, names=NAMES, link=link, permutations=30)        # five columns: all coalitions
    np.testing.assert_allclose(ours.values, truth, atol=3e-4 * np.abs(truth).max())
    assert ours.additivity_error < 1e-5 and ours.reached == 0.0


def test_trees_agree_with_shaps_own_explainer():
    import lightgbm
    train = encoded(500, 3, cats=False)
    rows, background = encoded(6, 1, cats=False), encoded(20, 2, cats=False)
    for framing in ("binary", "regression"):
        member = trees(framing, train)
        theirs = shap.TreeExplainer(lightgbm.Booster(model_str=member.text), data=background.joined(), feature_perturbation="interventional", model_output="raw").shap_values(rows.joined())
        ours = shapley(member, rows, background, names=NAMES[:3], link=link_of(framing))
        np.testing.assert_allclose(ours.values, np.asarray(theirs), atol=1e-5)
        np.testing.assert_allclose(exact_shapley(member, rows, background, names=NAMES[:3], link=link_of(framing)).values, ours.values, atol=1e-5)
        assert additive(member, rows, background, names=NAMES[:3], link=link_of(framing)) is not None and ours.reached == 0.0 and (ours.error > 0).any()
    assert additive(trees("binary"), ROWS, BACKGROUND, names=NAMES, link="logit") is None                 # splits on categories
    assert additive(member, rows, background, names=["a", "a", "b"], link="identity") is None              # two columns, one player


def test_values_agree_with_shaps_exact_explainer_and_its_plots_take_them():
    member = network("binary")
    predict = lambda x: (lambda p: np.log(p / (1 - p)))(member.predict_encoded(Encoded(x[:, :3].astype("f4"), x[:, 3:].astype(int))))
    table = lambda e: np.concatenate([e.num, e.cat], 1).astype(float)
    theirs = shap.explainers.ExactExplainer(predict, shap.maskers.Independent(table(BACKGROUND), max_samples=100))(table(ROWS))
    ours = shapley(member, ROWS, BACKGROUND, names=NAMES, error=0.001)
    np.testing.assert_allclose(ours.values, theirs.values, atol=0.01 * np.abs(theirs.values).max())
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    for draw_it in (lambda: shap.plots.beeswarm(ours.explanation, show=False), lambda: shap.plots.waterfall(ours.explanation[0], show=False), lambda: shap.plots.bar(ours.explanation, show=False)):
        draw_it()
        plt.close("all")


def on_tensors(monkeypatch):
    "What a GPU is given, on the CPU."
    plain = Game.__init__
    def made(self, *args, **options):
        plain(self, *args, **options)
        self.there = not hasattr(args[0], "calibration") and hasattr(args[0], "module")
    monkeypatch.setattr(Game, "__init__", made)


@pytest.mark.parametrize("framing", AIMS)
def test_what_a_gpu_computes_is_the_truth_too(framing, monkeypatch):
    member, link = network(framing), link_of(framing)
    truth = exact_shapley(member, ROWS, BACKGROUND, names=NAMES, link=link)
    here = shapley(member, ROWS, BACKGROUND, names=NAMES, link=link, permutations=30)
    on_tensors(monkeypatch)
    told = exact_shapley(member, ROWS, BACKGROUND, names=NAMES, link=link)
    np.testing.assert_allclose(told.values, truth.values, atol=1e-5 * np.abs(truth.values).max())
    sampled = shapley(member, ROWS, BACKGROUND, names=NAMES, link=link, permutations=30)     # five columns: all coalitions
    np.testing.assert_allclose(sampled.values, here.values, atol=1e-5 * np.abs(truth.values).max())
    np.testing.assert_allclose(sampled.error, here.error, atol=1e-5 * np.abs(truth.values).max())
    assert sampled.reached == 0.0 and sampled.additivity_error < 1e-5


def test_a_gpu_walks_as_well_and_says_how_near(monkeypatch):
    rng = np.random.default_rng(0)
    x = Encoded(rng.normal(size=(400, 12)).astype("f4"), np.zeros((400, 0), np.int64))
    rows = Labelled(x, (x.num[:, 0] * x.num[:, 1] * x.num[:, 2] > 0).astype(int), np.ones(400))
    member = train_population(rows[:300], rows[300:], [NetworkParams(width=24)], encoding=fit_encoding(x, rows.y, n_categories=[]), framing="binary", epochs=5)[0].member
    some, behind, names = x[:5], x[50:70], [f"x{i}" for i in range(12)]
    truth = exact_shapley(member, some, behind, names=names).values
    off = lambda **how: np.linalg.norm(shapley(member, some, behind, names=names, **how).values - truth) / np.linalg.norm(truth)
    here = np.mean([off(seed=s) for s in range(8)])
    on_tensors(monkeypatch)
    there = np.mean([off(seed=s) for s in range(8)])
    assert 0.6 < there / here < 1.6 and off(permutations=16) < 0.5 * there
    told = shapley(member, some, behind, names=names, error=0.01)
    assert told.reached <= 0.01 and np.linalg.norm(told.values - truth) / np.linalg.norm(truth) < 0.03 and told.additivity_error < 1e-4
    assert (shapley(member, some, behind, names=names, seed=3).values == shapley(member, some, behind, names=names, seed=3).values).all()
    pair = shapley(member, some, behind, names=["a", *names[1:-1], "a"])
    np.testing.assert_allclose(pair.outputs, np.log(member.predict_encoded(some) / (1 - member.predict_encoded(some))), atol=1e-3)
    with pytest.raises(InputError, match="belongs to no player"): shapley(member, some, behind, names=["", *names[1:]])
    member.weights["bo"][:] = np.nan
    with pytest.raises(InputError, match="not finite"): shapley(member, some, behind, names=names)


def test_of_very_many_columns_the_leading_ones_play_and_all_others_together():
    from mlops_workbench.assess.explain import OTHERS, few_players
    rng = np.random.default_rng(0)
    rows, behind, names = *(Encoded(rng.normal(size=(n, 2000)).astype("f4"), np.zeros((n, 0), np.int64)) for n in (3, 10)), [f"x{i}" for i in range(2000)]
    model = lambda num, cat: num[:, 5] * num[:, 1999] + num[:, 700] + 0.01 * num[:, 9]
    played = few_players(model, rows, behind, names=names, link="identity")
    assert len(set(played)) == 100 and {"x5", "x700", "x1999", OTHERS} <= set(played) and all(a in (b, OTHERS) for a, b in zip(played, names))
    told = shapley(model, rows, behind, names=played, link="identity")
    told = dict(zip(told.names, told.values.T))
    np.testing.assert_allclose(told["x700"], rows.num[:, 700] - behind.num[:, 700].mean(), atol=1e-5)
    assert np.abs(told[OTHERS]).max() < 0.1 and few_players(model, rows, behind, names=names, link="identity", most=2000) == names


def many_columns(n, seed): return Encoded(np.random.default_rng(seed).normal(size=(n, 12)).astype("f4"), np.zeros((n, 0), int))


def tangled(num, cat):
    "Third and fourth orders, so that walks have something to get wrong."
    return np.sin(num[:, 0] * num[:, 1] + num[:, 2]) + num[:, 3] * num[:, 4] * num[:, 5] * num[:, 6] + np.abs(num[:, 7:].sum(1))


def test_walks_come_to_the_exact_values_and_say_how_near():
    rows, background, names = many_columns(4, 1), many_columns(12, 2), [f"x{i}" for i in range(12)]
    truth = exact_shapley(tangled, rows, background, names=names, link="identity").values
    off = lambda v: np.linalg.norm(v - truth) / np.linalg.norm(truth)
    one = [off(shapley(tangled, rows, background, names=names, link="identity", seed=s).values) for s in range(5)]
    four = [off(shapley(tangled, rows, background, names=names, link="identity", permutations=4, seed=s).values) for s in range(5)]
    assert np.mean(four) < 0.75 * np.mean(one)
    for error in (0.1, 0.03):
        told = [shapley(tangled, rows, background, names=names, link="identity", error=error, seed=s) for s in range(4)]
        assert all(t.reached <= error for t in told)
        assert np.mean([off(t.values) for t in told]) < 1.5 * error
        assert 0.5 < np.sqrt(np.mean([off(t.values) ** 2 for t in told]) / np.mean([t.reached ** 2 for t in told])) < 2.0
        assert max(t.additivity_error for t in told) < 1e-9


def test_the_mean_of_many_seeds_is_the_truth():
    "Walks around a circle are random walks: no player's place is favoured."
    rows, background, names = many_columns(1, 1), many_columns(3, 2), [f"x{i}" for i in range(12)]
    game = Game(tangled, background, names=names, link="identity").facing(rows)
    truth, rng = gains(game, exact_design, np.random.default_rng(0))[0], np.random.default_rng(1)
    for k in (1, 3):
        each = np.array([gains(game, lambda m: walk_design(m, k, rng), rng)[0] for _ in range(400)])  # noqa: B023
        z = (each.mean(0) - truth) / (each.std(0) / np.sqrt(len(each)) + 1e-12)
        assert np.abs(z).max() < 4.5


def test_what_is_equal_is_not_asked_about():
    asked = []
    def watched(num, cat):
        asked.append(len(num))
        return tangled(num, cat)
    rows = many_columns(1, 1)
    same = Encoded(np.repeat(rows.num, 10, 0), np.zeros((10, 0), int))
    same.num[:, 0] += 1
    found = shapley(watched, rows, same, names=[f"x{i}" for i in range(12)], link="identity")
    assert sum(asked) < 40 and np.abs(found.values[0, 1:]).max() == 0


def test_a_function_of_a_table_with_columns_of_every_kind():
    frame = everything(60).drop("y")
    score = lambda t: 1 / (1 + np.exp(-(t["income"].log().to_numpy() - 3 + t["member"].cast(pl.Float64).to_numpy() * (t["job"] == "nurse").cast(pl.Float64).to_numpy() + t["born"].dt.year().to_numpy() / 1000)))
    found = shapley_of_table(score, frame[:5], frame[20:40], permutations=3)
    assert found.names == frame.columns and found.additivity_error < 1e-9
    moved = dict(zip(found.names, np.abs(found.values).max(0)))
    assert max(moved[c] for c in ("account", "hash", "at", "remark")) < 1e-12 < min(moved[c] for c in ("income", "member", "job", "born"))
    assert shapley_of_table(lambda x: x[:, 0] * 2 + x[:, 1], np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]]), link="identity", exact=True).values.tolist() == [[2.0, 2.0]]
    one = pl.DataFrame({"a": [None, 3.0]})
    assert shapley_of_table(lambda t: t["a"].fill_null(1.0).to_numpy(), one[:1], one[1:], link="identity").values.tolist() == [[-2.0]]
    with pytest.raises(InputError, match="other columns"): shapley_of_table(score, frame[:2], frame.drop("job"))


@pytest.mark.parametrize("bad,said", [(lambda num, cat: np.full(len(num), np.nan), "not finite"), (lambda num, cat: np.zeros(3), "answers of shape"), (lambda num, cat: 1.0, "answers of shape"),
                                      (lambda num, cat: np.where(num[:, 0] == ROWS.num[0, 0], 0.5, np.inf), "not finite")])
def test_functions_that_do_not_answer(bad, said):
    for how in (shapley, exact_shapley, interactions):
        with pytest.raises(InputError, match=said): how(bad, ROWS, BACKGROUND, names=NAMES, link="identity")


def test_bad_questions():
    f = lambda num, cat: num[:, 0]
    for options, said in (({"error": 0.0}, "error is 0"), ({"error": 2}, "error is 2"), ({"permutations": 0}, "permutations is 0"), ({"link": "probit"}, "is unknown")):
        with pytest.raises(InputError, match=said): shapley(f, ROWS, BACKGROUND, names=NAMES, **options)
    with pytest.raises(InputError, match="no rows"): shapley(f, ROWS[:0], BACKGROUND, names=NAMES)
    with pytest.raises(InputError, match="background has no rows"): shapley(f, ROWS, BACKGROUND[:0], names=NAMES)
    with pytest.raises(InputError, match="other kinds"): shapley(f, Encoded(ROWS.num[:, :2], ROWS.cat), BACKGROUND, names=NAMES)


def test_one_row_one_column_one_background_row():
    f = lambda num, cat: 1 / (1 + np.exp(-num[:, 0]))
    one = lambda v: Encoded(np.full((1, 1), v, "f4"), np.zeros((1, 0), int))
    for found in (shapley(f, one(2.0), one(0.5), names=["x"]), shapley(f, one(2.0), one(0.5), names=["x"], error=0.01), exact_shapley(f, one(2.0), one(0.5), names=["x"])):
        np.testing.assert_allclose(found.values, [[1.5]], atol=1e-6)
    assert np.isnan(shapley(f, one(2.0), one(0.5), names=["x"]).error).all()
    told = certify(f, shapley(f, one(2.0), one(0.5), names=["x"]), one(2.0), one(0.5), names=["x"], others=one(1.0))
    assert told.seed_order is None and told.error < 1e-9 and told.doubtful == [] and json.dumps(told.to_json())
    assert repr(told.table())
    pair = interactions(f, one(2.0), one(0.5), names=["x"])
    assert pair.values.tolist() == [[[0.0]]] and len(pair.pairs()) == 0
    assert "intervals: none" in repr(interactions_figure(pair))
    assert len(dependence(shapley(f, one(2.0), one(0.5), names=["x"]), "x")) == 1
    still = shapley(f, one(1.0), one(1.0), names=["x"], error=0.01)                # nothing differs
    assert still.values.tolist() == [[0.0]] and still.reached == 0.0


ODD = ["<script>alert(1)</script>", "💰 income $x_1$", "a" * 200, "x & y", "μ"]


def test_odd_names_are_shown_and_escaped():
    member = network("binary")
    values = shapley(member, ROWS, BACKGROUND, names=ODD)
    told = certify(member, values, ROWS, BACKGROUND, names=ODD, limit=0.0)
    found = interactions(member, ROWS, BACKGROUND, names=ODD)
    people = pl.DataFrame({ODD[0]: [1.0, 2.0, 9.0], ODD[1]: ["<b>", "b", "c"]})
    change = what_if(lambda t: (t[ODD[0]] > 5).cast(pl.Float64).to_numpy(), people[:1], table=people)
    shown = [told.table(), interactions_figure(found), importance_figure(values), waterfall_figure(values, 0), *(dependence_figure(values, n) for n in ODD), change.table()]
    assert all("<script>" not in s.markup and "<b>" not in s.markup for s in shown)
    assert any("&lt;script&gt;" in s.markup for s in shown) and change.changes[0]["to"] == 9.0


def test_interactions_of_a_known_function_are_found():
    f = lambda num, cat: 2 * num[:, 0] * num[:, 1] + num[:, 2] + (cat[:, 0] == 2) * num[:, 2]
    rng = np.random.default_rng(0)
    rows, background = (Encoded(rng.normal(size=(n, 6)).astype("f4"), rng.integers(0, 4, (n, 1))) for n in (40, 25))
    names = [f"x{i}" for i in range(6)] + ["c"]
    found = interactions(f, rows, background, names=names, link="identity")
    pairs = found.pairs()
    assert {frozenset(r[:2]) for r in pairs.head(2).rows()} == {frozenset({"x0", "x1"}), frozenset({"x2", "c"})}
    assert pairs["low"][1] > 10 * pairs["high"][2] and found.exact
    expected = 2 * (rows.num[:, None, 0] - background.num[None, :, 0]) * (rows.num[:, None, 1] - background.num[None, :, 1])
    np.testing.assert_allclose(found.values[:, 0, 1], expected.mean(1), atol=1e-5)
    np.testing.assert_allclose(found.values, found.values.swapaxes(1, 2))
    wide = lambda num, cat: f(num, cat) + np.nan_to_num(num[:, 6:]).sum(1)
    more = [Encoded(np.concatenate([e.num, rng.normal(size=(len(e), 5)).astype("f4")], 1), e.cat) for e in (rows, background)]
    sampled = interactions(wide, *more, names=[f"x{i}" for i in range(11)] + ["c"], link="identity")
    assert not sampled.exact
    np.testing.assert_allclose(sampled.values[:, 0, 1], expected.mean(1), atol=1e-4)      # a pair alone is right whatever the walks


def test_sampled_interactions_come_to_the_exact_ones():
    rows, background, names = many_columns(2, 1), many_columns(4, 2), [f"x{i}" for i in range(12)]
    exact = interactions(tangled, rows, background, names=names, link="identity", walks=10_000)
    assert exact.exact
    each = np.array([interactions(tangled, rows, background, names=names, link="identity", walks=2, seed=s).values for s in range(40)])
    z = (each.mean(0) - exact.values) / (each.std(0) / np.sqrt(len(each)) + 1e-9)
    assert np.sqrt((z ** 2).mean()) < 1.4
    several = interactions(lambda num, cat: np.stack([tangled(num, cat), num[:, 0]], 1), rows, background, names=names, link="identity")
    assert several.values.shape == (2, 12, 12, 2) and np.abs(several.values[..., 1]).max() < 1e-6


def test_certificates_tell_a_good_explanation_from_a_poor_one():
    rows, background, others, names = many_columns(20, 1), many_columns(15, 2), many_columns(15, 3), [f"x{i}" for i in range(12)]
    poor, good = (shapley(tangled, rows, background, names=names, link="identity", **how) for how in ({}, {"error": 0.02}))
    first, second = (certify(tangled, v, rows, background, names=names, others=others, checked=5, **how) for v, how in ((poor, {}), (good, {"error": 0.02})))
    assert second.error < 0.04 < first.error and second.seed_difference < first.seed_difference and second.seed_order > first.seed_order
    assert second.background_difference > second.seed_difference
    wrong = certify(lambda num, cat: -tangled(num, cat), good, rows, background, names=names, checked=3)
    assert wrong.error > 1.5
    fifteen = lambda n, s: Encoded(np.random.default_rng(s).normal(size=(n, 15)).astype("f4"), np.zeros((n, 0), int))
    beyond = certify(lambda num, cat: num.sum(1) ** 2, shapley(lambda num, cat: num.sum(1) ** 2, fifteen(3, 1), fifteen(5, 2), names=[f"x{i}" for i in range(15)], link="identity"), fifteen(3, 1), fifteen(5, 2),
                     names=[f"x{i}" for i in range(15)], checked=2)
    assert "32 times" in beyond.reference and beyond.error < 1e-3


def test_associations_of_every_kind_of_pair():
    rng = np.random.default_rng(0)
    a = rng.normal(size=2000)
    frame = pl.DataFrame({"a": a, "monotone": np.exp(3 * a), "noise": rng.normal(size=2000), "sign": np.where(a > 0, "up", "down"), "random": rng.choice(list("abcdefgh"), 2000),
                          "when": pl.Series((a * 1000).astype(int)).cast(pl.Date), "flag": a > 0, "gone": pl.Series([None] * 2000, dtype=pl.Float64), "one": 1})
    found = {frozenset(r[:2]): r[3] for r in associations(frame).rows()}
    assert found[frozenset({"a", "monotone"})] > 0.999 and found[frozenset({"a", "when"})] > 0.99 and found[frozenset({"sign", "flag"})] > 0.99
    assert 0.7 < found[frozenset({"a", "sign"})] < 0.9 and abs(found[frozenset({"noise", "random"})]) < 0.1 and abs(found[frozenset({"sign", "random"})]) < 0.1
    assert not any("gone" in pair for pair in found) and found[frozenset({"a", "one"})] == 0


def test_dependence_and_groups():
    values = exact_shapley(network("binary"), TRAIN[:80], BACKGROUND, names=NAMES)
    for name in NAMES:
        assert dependence(values, name)["rows"].sum() == 80
        assert name in repr(dependence_figure(values, name))
    by_group = importance_by_group(values, ["a", None] * 40)
    assert set(by_group["group"]) == {"a", "missing"} and (by_group["low"] <= by_group["importance"]).all()
    several = exact_shapley(network("multiclass"), TRAIN[:20], BACKGROUND, names=NAMES)
    with pytest.raises(InputError, match="several classes"): dependence(several, "age")
    assert len(importance_by_group(several, ["a"] * 20)) == 5


@pytest.fixture(scope="module")
def lender():
    "A predictor trained on applicants, who have a sensitive column."
    frame = applicants(500)
    task = Task("loans", "approve", "binary", ("no", "yes"), ("income", "children", "member", "since", "job", "zip"), ("race",))
    features = Features.fit(frame, task)
    rows = Labelled(features.transform(frame), task.labels(frame), np.ones(500))
    member = fit_trees(rows, None, framing="binary", rounds=40, threads=1, params={"min_data_in_leaf": 5, "cat_smooth": 1, "min_data_per_group": 5})
    return Predictor(task, features, [member], [1.0], Calibration("binary")), frame


def test_what_if_turns_the_decision_in_the_real_model(lender):
    predictor, frame = lender
    scores, turned = predictor.predict(frame), 0
    for i in np.flatnonzero(scores < 0.5)[:12]:
        row = frame[[int(i)]]
        told = what_if(predictor, row, table=frame, allowed=["income", "job", "member", "since"])
        assert {c["column"] for c in told.changes} <= {"income", "job", "member", "since"} and len(told.changes) <= 3
        if not told.found: continue
        turned += 1
        changed = row.with_columns(pl.Series(c["column"], [c["to"]], dtype=row.schema[c["column"]]) for c in told.changes)
        assert predictor.predict(changed)[0] >= 0.5 and (told.decision, told.wanted) == ("no", "yes")
        for c in told.changes:                                     # nothing is changed that need not be
            back = changed.with_columns(row[c["column"]])
            assert predictor.predict(back)[0] < 0.5
            assert c["to"] in frame[c["column"]].to_list()
        assert json.dumps(told.to_json())
    assert turned >= 10


def test_what_if_never_touches_what_is_fixed(lender):
    predictor, frame = lender
    row = frame[[int(np.flatnonzero(predictor.predict(frame) < 0.5)[0])]]
    with pytest.raises(InputError, match="'race' is never changed"): what_if(predictor, row, table=frame, allowed=["race", "job"])
    free = what_if(predictor, row, table=frame, immutable=["income", "race"])
    assert "income" not in {c["column"] for c in free.changes}
    rising = what_if(predictor, row, table=frame, ways={"income": -1, "children": -1, "since": -1})
    assert all(c["to"] < c["from"] for c in rising.changes if c["column"] in ("income", "children", "since"))
    stuck = what_if(predictor, row, table=frame, allowed=["zip"], most=1)
    assert not stuck.found and "Nothing within 1 change of" in stuck.sentence and stuck.changes == []
    back = what_if(predictor, frame[[int(predictor.predict(frame).argmax())]], table=frame)
    assert back.found and back.wanted == "no"


def test_what_if_of_classes_quantities_and_bad_functions():
    frame = pl.DataFrame({"x": np.linspace(-3, 3, 61), "y": [None, 1.0, 2.0] * 20 + [1.0]})
    three = lambda t: np.stack([t["x"].to_numpy() * -1, 0 * t["x"].to_numpy() + 0.5, t["x"].to_numpy()], 1)
    told = what_if(three, frame[:1], table=frame, wanted="high", classes=["low", "middle", "high"])
    assert told.found and told.decision == "low" and told.changes[0]["to"] == pytest.approx(0.6)
    with pytest.raises(InputError, match="several other decisions"): what_if(three, frame[:1], table=frame)
    price = what_if(lambda t: 100 + 10 * t["x"].to_numpy() + t["y"].fill_null(0).to_numpy(), frame[:1], table=frame, decide=lambda s: (s >= 130).astype(int))
    assert price.found and price.new_score >= 130
    with pytest.raises(InputError, match="not finite"): what_if(lambda t: np.full(len(t), np.nan), frame[:1], table=frame)
    with pytest.raises(InputError, match="gave 1 answers"): what_if(lambda t: np.zeros(1), frame[:1], table=frame)
    with pytest.raises(InputError, match="61 rows"): what_if(three, frame, table=frame)


def test_what_if_changes_together_what_belongs_together():
    years = np.arange(200) % 10
    frame = pl.DataFrame({"years": years, "school": np.array(["low", "middle", "high"])[np.minimum(years // 4, 2)], "other": np.arange(200.0)})
    score = lambda t: (t["school"] == "high").cast(pl.Float64).to_numpy() * 0.7
    told = what_if(score, frame[:1], table=frame, tied=[["years", "school"]])
    changes = {c["column"]: c["to"] for c in told.changes}
    assert changes == {"years": 8, "school": "high"}                       # the nearest years of those who left the high school
    assert {c["column"] for c in what_if(score, frame[:1], table=frame).changes} == {"school"}
    assert not what_if(score, frame[:1], table=frame, allowed=["school", "other"], tied=[["years", "school"]]).found     # half of a pair does not change alone


def test_dependence_of_a_column_that_is_mostly_zero():
    x = np.where(np.arange(100) < 90, 0.0, np.arange(100))
    rows, behind = (Encoded(v[:, None].astype("f4"), np.zeros((len(v), 0), int)) for v in (x, x[80:]))
    found = dependence(exact_shapley(lambda num, cat: num[:, 0], rows, behind, names=["gain"], link="identity", data=pl.DataFrame({"gain": x})), "gain")
    assert found["value"][0] == "0" and found["rows"].to_list()[0] == 90 and found["rows"].sum() == 100 and 2 <= len(found) <= 4


@pytest.mark.parametrize("framing", ["binary", "multiclass", "regression"])
def test_everything_at_once(framing):
    "The certificate, figures, interactions and change of a report, as plain JSON too; where the policy decides by group, the row's own group decides."
    from mlops_workbench.assess.trust import examine
    from mlops_workbench.model.policy import Policy
    from tests.helpers_model import TARGETS
    frame, (target, classes) = applicants(400), TARGETS[framing]
    task = Task("loans", target, framing, classes, ("income", "children", "member", "since", "job", "zip"), ("race",))
    features = Features.fit(frame, task)
    data = Labelled(features.transform(frame), task.labels(frame), np.ones(400))
    member = fit_trees(data, None, framing=framing, classes=max(2, len(classes)), rounds=15, threads=1, params={"min_data_in_leaf": 5, "cat_smooth": 1, "min_data_per_group": 5})
    model = Predictor(task, features, [member], [1.0], Calibration(framing, b=(0.0,) * max(1, len(classes) if framing == "multiclass" else 1)))
    rows, background, others = np.arange(60), np.arange(100, 130), np.arange(200, 230)
    link = "identity" if framing == "regression" else "logit"
    values = shapley(model, data.x[rows], data.x[background], names=features.sources, link=link, data=frame[rows])
    policy = Policy("by_group", group_column="race", thresholds={"black": 0.99, "white": 0.4}) if framing == "binary" else Policy("argmax" if framing == "multiclass" else "none")
    told = examine(model, frame, values, rows=rows, background=background, others=others, policy=policy, groups={"race": frame[rows]["race"]}, fixed=["children"])
    assert told.certificate.additivity < 1e-5 and len(told.dependence) == 3 and repr(told) and told._repr_html_()
    assert json.loads(json.dumps(told.to_json(), allow_nan=False))["certificate"]["checked"] == 5
    if framing != "binary": assert told.change is None
    else:
        assert told.kept["race"] == "sensitive" and told.kept["children"] == "fixed by the settings"
        assert told.change.wanted == "yes" and not {c["column"] for c in told.change.changes} & {"race", "children"}
        if told.change.found: assert told.change.new_score >= 0.4


def test_of_very_many_columns_the_leading_ones_are_paired():
    from mlops_workbench.assess.explain import OTHERS, importance
    from mlops_workbench.assess.trust import PAIRED, examine
    rng, columns = np.random.default_rng(0), tuple(f"x{i}" for i in range(130))
    frame = pl.DataFrame(dict(zip(columns, rng.normal(size=(130, 300)))))
    frame = frame.with_columns(y=(pl.col("x7") * pl.col("x90") + pl.col("x3")).gt(0).cast(pl.Int64))
    task = Task("many", "y", "binary", ("0", "1"), columns)
    features = Features.fit(frame, task)
    data = Labelled(features.transform(frame), task.labels(frame), np.ones(300))
    model = Predictor(task, features, [fit_trees(data, None, framing="binary", rounds=30, threads=1)], [1.0], Calibration("binary", b=(0.0,)))
    rows, background = np.arange(20), np.arange(100, 110)
    values = shapley(model, data.x[rows], data.x[background], names=features.sources, link="logit", data=frame[rows])
    told = examine(model, frame, values, rows=rows, background=background, others=np.arange(0))
    leading = importance(values, bootstrap=1)["column"].head(PAIRED).to_list()
    assert "x3" in leading and set(told.together.names) == {*leading, OTHERS}
    assert "What counts together" in repr(told)


@pytest.mark.parametrize("seed", range(6))
def test_what_if_keeps_no_change_that_could_be_taken_back_or_made_smaller(seed):
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({c: rng.normal(size=800).round(3) for c in "abc"} | {"d": rng.integers(0, 50, 800), "e": rng.choice(["u", "v", "w"], 800)})
    bump = rng.normal(size=5)
    def score(t):
        z = t["a"] * bump[0] + t["b"] * 2 + t["c"].clip(-1, 1) * bump[2] + t["d"] / 25 + (t["e"] == "w").cast(pl.Float64) * bump[4] - 4
        return 1 / (1 + np.exp(-z.to_numpy()))
    row = frame[[int(score(frame).argmin())]]
    told = what_if(score, row, table=frame, most=4, values=6, keep=2)      # a coarse search, so that there is something to take back
    assert told.found
    final = row.with_columns(pl.lit(c["to"], dtype=row.schema[c["column"]]).alias(c["column"]) for c in told.changes)
    assert score(final)[0] >= 0.5
    for c in told.changes:
        name, old, new = c["column"], c["from"], c["to"]
        assert score(final.with_columns(row[name]))[0] < 0.5, f"{name} need not change"
        if isinstance(old, str): continue
        nearer = frame[name].filter(frame[name].is_between(min(old, new), max(old, new), closed="none")).unique()
        for v in nearer.to_list(): assert score(final.with_columns(pl.lit(v, dtype=row.schema[name]).alias(name)))[0] < 0.5, f"{name} need not go beyond {v}"
