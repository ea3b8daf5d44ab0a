"""The disparities are fairlearn's: to 1e-12 in value, and with the same intervals as resampling rows."""
import numpy as np
import pytest
from fairlearn import metrics as fl

from scipy.stats import fisher_exact, permutation_test
from scipy.stats.contingency import relative_risk

from mlops_workbench.assess.fairness import RATES, against, by_group, cell_codes, count_cells, cross, disparities, disparity_of, draw_counts, draw_weights, fisher_p, group_names, permutation_p, shrunken
from mlops_workbench.assess.metrics import wilson

FAIRLEARN = {
    "selection_rate_ratio": fl.demographic_parity_ratio,
    "selection_rate_difference": fl.demographic_parity_difference,
    "equal_opportunity_difference": fl.equal_opportunity_difference,
    "equalized_odds_difference": fl.equalized_odds_difference,
    "equal_opportunity_ratio": fl.equal_opportunity_ratio,
    "equalized_odds_ratio": fl.equalized_odds_ratio,
}


def people(seed: int, groups: int, n: int = 1500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = rng.choice(groups, n, p=rng.dirichlet(np.full(groups, 8.0)))
    labels = (rng.random(n) < rng.uniform(0.3, 0.8, groups)[group]).astype(int)
    decisions = (rng.random(n) < 0.3 * labels + rng.uniform(0.2, 0.6, groups)[group]).astype(int)
    return labels, decisions, np.array([f"g{g}" for g in group])


@pytest.mark.parametrize("groups", [2, 3, 7, 20])
@pytest.mark.parametrize("metric", FAIRLEARN)
def test_disparities_equal_fairlearn(metric: str, groups: int) -> None:
    for seed in range(5):
        labels, decisions, group = people(seed, groups)
        ours = disparities(labels, decisions, group, metrics=[metric], small=0, replicates=10)["estimate"][0]
        theirs = FAIRLEARN[metric](labels, decisions, sensitive_features=group)
        assert ours == pytest.approx(theirs, abs=1e-12)


def test_a_rate_that_is_0_in_every_group_is_no_ratio_and_is_said() -> None:
    labels, decisions, group = people(1, 3)
    careful, wrong, nobody = decisions * labels, decisions * (1 - labels), np.zeros_like(decisions)      # no false positives, no true ones, neither
    for made, weights in ((careful, None), (careful, np.random.default_rng(0).lognormal(size=len(group))), (nobody, None)):
        found = {r["metric"]: r for r in disparities(labels, made, group, weights=weights, small=0, replicates=100).to_dicts()}
        for metric, theirs in FAIRLEARN.items():
            expected = theirs(labels, made, sensitive_features=group, sample_weight=weights)
            assert (found[metric]["estimate"] is None) == np.isnan(expected) and found[metric]["estimate"] in (None, pytest.approx(expected, abs=1e-12))
    assert found["selection_rate_ratio"]["note"] == "the rate is 0 in every group" and found["equalized_odds_ratio"]["note"] == "both rates are 0 in every group"
    row = disparities(labels, wrong, group, metrics=["equalized_odds_ratio"], small=0).row(0, named=True)
    assert row["estimate"] == pytest.approx(fl.MetricFrame(metrics=fl.false_positive_rate, y_true=labels, y_pred=wrong, sensitive_features=group).ratio(), abs=1e-12) and row["low"] < row["estimate"] < row["high"] and row["p_value"] < 1


def test_rates_by_group_equal_metric_frame() -> None:
    labels, decisions, group = people(1, 6)
    frame = fl.MetricFrame(
        metrics={"selection_rate": fl.selection_rate, "tpr": fl.true_positive_rate, "fpr": fl.false_positive_rate, "n": fl.count},
        y_true=labels, y_pred=decisions, sensitive_features=group).by_group
    ours = by_group(labels, decisions, group)
    for row in ours.iter_rows(named=True):
        for rate in ("n", "selection_rate", "tpr", "fpr"):
            assert row[rate] == pytest.approx(frame.loc[row["group"], rate], abs=1e-12)


def test_every_rate_equals_fairlearn_or_scikit_learn_in_every_intersection() -> None:
    labels, decisions, first = people(2, 4, 4000)
    second = np.random.default_rng(1).choice(["x", "y & z", ""], 4000)
    accuracy, precision = (lambda t, p: float((t == p).mean())), (lambda t, p: float(t[p == 1].mean()) if (p == 1).any() else float("nan"))
    theirs = {"base_rate": lambda t, p: t.mean(), "selection_rate": fl.selection_rate, "tpr": fl.true_positive_rate, "fpr": fl.false_positive_rate, "fnr": fl.false_negative_rate,
              "accuracy": accuracy, "precision": precision, "fdr": lambda t, p: 1 - precision(t, p), "npv": lambda t, p: float((t[p == 0] == 0).mean())}
    assert set(theirs) == set(RATES)
    second = group_names(second.tolist())
    frame = fl.MetricFrame(metrics=theirs, y_true=labels, y_pred=decisions, sensitive_features={"a": first, "b": second}).by_group
    ours = by_group(labels, decisions, cross(first, second), which=list(RATES))
    assert len(ours) == 12
    for (a, b), row in frame.iterrows():
        name = f"{a} & ({b})" if " & " in b else f"{a} & {b}"
        mine = ours.filter(group=name).row(0, named=True)
        for rate in RATES: assert mine[rate] == pytest.approx(row[rate], abs=1e-12), (name, rate)


@pytest.mark.parametrize("metric", FAIRLEARN)
def test_intervals_equal_those_of_resampled_rows(metric: str) -> None:
    labels, decisions, group = people(3, 3)
    rng = np.random.default_rng(0)

    def again() -> float:
        i = rng.integers(0, len(labels), len(labels))
        return float(disparity_of(count_cells(labels[i], decisions[i], group[i])[1], metric))

    rows = np.array([again() for _ in range(2000)])
    drawn = disparity_of(draw_counts(count_cells(labels, decisions, group)[1], replicates=4000), metric)
    for q in (0.025, 0.5, 0.975):
        assert np.quantile(drawn, q) == pytest.approx(np.quantile(rows, q), abs=0.012)


def test_a_small_group_is_shown_and_left_out_and_it_is_said() -> None:
    labels, decisions, group = people(4, 3)
    labels, decisions = np.append(labels, [1, 1, 0]), np.append(decisions, [0, 0, 0])
    group = np.append(group, ["tiny"] * 3)
    assert by_group(labels, decisions, group).filter(group="tiny")["small"].to_list() == [True]
    row = disparities(labels, decisions, group, metrics=["selection_rate_ratio"]).row(0, named=True)
    assert row["estimate"] > 0 and row["left_out"] == 1 and "tiny" in row["note"]
    assert disparities(labels, decisions, group, metrics=["selection_rate_ratio"], small=0)["estimate"][0] == 0


def test_a_group_of_one_class_leaves_the_other_groups_comparable() -> None:
    labels, decisions, group = people(5, 3)
    labels, decisions, group = np.append(labels, np.zeros(50, int)), np.append(decisions, np.zeros(50, int)), np.append(group, ["negatives"] * 50)
    row = disparities(labels, decisions, group, metrics=["equal_opportunity_difference"]).row(0, named=True)
    keep = group != "negatives"
    assert row["estimate"] == pytest.approx(fl.equal_opportunity_difference(labels[keep], decisions[keep], sensitive_features=group[keep]), abs=1e-12)


def test_the_p_value_of_two_groups_is_that_of_scipys_permutations_of_the_rows() -> None:
    labels, decisions, group = people(6, 2, 400)
    decisions[group == "g0"] |= np.random.default_rng(0).random((group == "g0").sum()) < 0.12
    counts = count_cells(labels, decisions, group)[1]
    first, second = decisions[group == "g0"], decisions[group == "g1"]
    theirs = permutation_test((first, second), lambda a, b, axis: np.abs(a.mean(axis) - b.mean(axis)), n_resamples=5000, alternative="greater", vectorized=True, rng=np.random.default_rng(1)).pvalue
    assert permutation_p(counts, ["selection_rate_difference"], permutations=5000)["selection_rate_difference"] == pytest.approx(theirs, abs=0.02)
    exact = fisher_exact([[first.sum(), (1 - first).sum()], [second.sum(), (1 - second).sum()]])[1]
    assert permutation_p(counts, ["selection_rate_difference"], permutations=20000)["selection_rate_difference"] == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("metric", FAIRLEARN)
def test_the_p_values_of_exchangeable_groups_are_uniform(metric: str) -> None:
    found = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 600)
        decisions = (rng.random(600) < 0.3 + 0.4 * labels).astype(int)   # by the label, never by the group
        group = rng.choice(list("abcde"), 600, p=[0.4, 0.3, 0.15, 0.1, 0.05])
        found.append(permutation_p(count_cells(labels, decisions, group)[1], [metric], permutations=199, seed=seed)[metric])
    assert 0.005 <= np.mean(np.array(found) <= 0.05) <= 0.1 and np.mean(found) == pytest.approx(0.5, abs=0.07)


def test_the_groups_of_ties_at_the_border_are_the_same_every_time() -> None:
    names = [f"n{i:03}" for i in range(80)] * 3 + ["often"] * 9
    assert len({tuple(group_names(names)) for _ in range(5)}) == 1 and {"often", "n000", "(other)"} <= set(group_names(names))


def test_a_group_against_another_equals_scipy() -> None:
    labels, decisions, group = people(8, 3)
    for row in against(labels, decisions, group, reference="g1", which=["selection_rate", "fpr"]).to_dicts():
        some = np.ones(len(labels), bool) if row["rate"] == "selection_rate" else labels == 0
        (x, n), (y, m) = ((int(decisions[some & (group == g)].sum()), int((some & (group == g)).sum())) for g in (row["group"], "g1"))
        theirs = relative_risk(x, n, y, m)
        ends = theirs.confidence_interval(0.95)
        assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == pytest.approx((theirs.relative_risk, ends.low, ends.high), abs=1e-9)
        assert (row["p_value"], row["difference"]) == pytest.approx((fisher_exact([[x, n - x], [y, m - y]])[1], x / n - y / m)) and row["low"] <= row["difference"] <= row["high"]


def test_fishers_p_value_equals_scipys_for_tables_of_every_size() -> None:
    rng = np.random.default_rng(0)
    for size in (3, 30, 300, 30_000):
        for _ in range(60):
            n, m = (int(v) for v in rng.integers(1, size + 1, 2))
            share = rng.random()
            x, y = int(rng.binomial(n, share)), int(rng.binomial(m, min(share * rng.uniform(0.9, 1.1), 1)))
            assert fisher_p(x, n, y, m) == pytest.approx(fisher_exact([[x, n - x], [y, m - y]])[1], rel=1e-5, abs=1e-12)


def test_permutations_in_pieces_are_the_same_test() -> None:
    rng = np.random.default_rng(0)
    group, labels = rng.integers(0, 600, 40_000), rng.integers(0, 2, 40_000)
    decisions = (rng.random(40_000) < 0.4).astype(int)
    found = permutation_p(count_cells(labels, decisions, group)[1], list(FAIRLEARN), permutations=2000)   # three pieces
    assert all(0.0 < p <= 1.0 for p in found.values()) and found["selection_rate_difference"] > 0.01


@pytest.mark.parametrize("metric", FAIRLEARN)
def test_weighted_disparities_equal_fairlearn_and_those_of_repeated_rows(metric: str) -> None:
    labels, decisions, group = people(3, 5)
    rng = np.random.default_rng(3)
    weights, times = rng.lognormal(size=len(group)), rng.integers(1, 5, len(group))
    ours = disparities(labels, decisions, group, metrics=[metric], weights=weights, small=0, replicates=10)["estimate"][0]
    assert ours == pytest.approx(FAIRLEARN[metric](labels, decisions, sensitive_features=group, sample_weight=weights), abs=1e-12)
    repeated = disparities(*(np.repeat(v, times) for v in (labels, decisions, group)), metrics=[metric], small=0, replicates=10)["estimate"][0]
    assert disparities(labels, decisions, group, metrics=[metric], weights=times, small=0, replicates=10)["estimate"][0] == pytest.approx(repeated, abs=1e-12)


def test_rows_of_one_weight_are_counted() -> None:
    labels, decisions, group = people(4, 4)
    for f in (by_group, disparities, against, shrunken):
        more = {"replicates": 4000} if f is disparities else {}
        plain, weighed = f(labels, decisions, group, **more), f(labels, decisions, group, weights=np.full(len(group), 0.3), **more)
        assert plain.columns == [c for c in weighed.columns if c != "effective"] and "effective" in weighed.columns
        for c in (c for c in plain.columns if c != "p_value"):
            if plain[c].dtype.is_float(): assert weighed[c].to_list() == pytest.approx(plain[c].to_list(), abs=0.02 if f is disparities else 1e-6), (f.__name__, c)
            else: assert weighed[c].to_list() == plain[c].to_list(), (f.__name__, c)


def test_weighted_rates_and_effective_sizes_are_those_of_numpy() -> None:
    labels, decisions, group = people(5, 4)
    w = np.random.default_rng(5).lognormal(size=len(group))
    for row in by_group(labels, decisions, group, weights=w, scores=decisions + 0.1 * labels).to_dicts():
        at, true = group == row["group"], (group == row["group"]) & (labels == 1)
        assert row["n"] == at.sum() and row["effective"] == pytest.approx(w[at].sum() ** 2 / (w[at] ** 2).sum())
        assert row["selection_rate"] == pytest.approx(np.average(decisions[at], weights=w[at])) and row["tpr"] == pytest.approx(np.average(decisions[true], weights=w[true]))
        p, people_ = row["tpr"], w[true].sum() ** 2 / (w[true] ** 2).sum()
        people_ = min(people_, p * (1 - p) / ((w[true] ** 2 * (decisions[true] - p) ** 2).sum() / w[true].sum() ** 2))
        assert (row["tpr_low"], row["tpr_high"]) == pytest.approx(tuple(map(float, wilson(p * people_, people_))))


@pytest.mark.parametrize("related", [False, True], ids=["weights that say nothing", "weights that go with the rate"])
def test_weighted_intervals_hold_the_truth(related: bool) -> None:
    "Of 600 samples with uneven weights, about 95 of 100 intervals of a rate, and of a difference, hold the truth; at 95 % fewer than 92.6 of 100 would come once in 300 times."
    rng, n, held, apart = np.random.default_rng(6), 240, 0, 0
    for _ in range(600):
        group, wanted = np.repeat(["a", "b"], n // 2), np.repeat([0.3, 0.45], n // 2)
        kind = rng.random(n) < 0.5                                   # half of the people were asked a third as often, and weigh three times as much
        chance = np.where(kind, wanted + 0.2, wanted - 0.2) if related else wanted
        asked = np.flatnonzero(rng.random(n) < np.where(kind, 1 / 3, 1))
        d, w = (rng.random(n) < chance).astype(int)[asked], np.where(kind, 3.0, 1.0)[asked] * rng.lognormal(0, 0.3, len(asked))
        table = by_group(np.ones(len(asked)), d, group[asked], weights=w, which=["tpr"]).sort("group")
        held += sum(r["tpr_low"] <= t <= r["tpr_high"] for r, t in zip(table.to_dicts(), (0.3, 0.45))) / 2
        r = against(np.ones(len(asked)), d, group[asked], weights=w, which=["tpr"], reference="a").row(0, named=True)
        apart += r["low"] <= 0.15 <= r["high"]
    assert held / 600 > 0.926 and apart / 600 > 0.926, (held / 600, apart / 600)


def test_weighted_draws_are_those_of_drawing_rows() -> None:
    labels, decisions, group = people(7, 3, 6000)
    rng = np.random.default_rng(7)
    w = rng.lognormal(size=6000)
    names = ["g0", "g1", "g2"]
    drawn = disparity_of(draw_weights(cell_codes(names, labels, decisions, group), w, 3, replicates=2000), "equalized_odds_difference")
    def again() -> float:
        i = rng.integers(0, 6000, 6000)
        return float(disparity_of(np.bincount(cell_codes(names, labels[i], decisions[i], group[i]), w[i], 12).reshape(3, 2, 2), "equalized_odds_difference"))
    rows = [again() for _ in range(600)]
    assert drawn.std() == pytest.approx(np.std(rows), rel=0.15) and drawn.mean() == pytest.approx(np.mean(rows), abs=0.01)


def test_the_weighted_p_value_keeps_its_level() -> None:
    "Among groups that do not differ, 5 of 100 p values are below 0.05; 34 or more of 400 would come once in 300 times."
    rng, small = np.random.default_rng(8), 0
    for _ in range(400):
        w, group = rng.lognormal(0, 0.7, 400), rng.choice(list("abcd"), 400)
        small += disparities(np.ones(400), rng.integers(0, 2, 400), group, metrics=["selection_rate_difference"], weights=w, replicates=10)["p_value"][0] < 0.05
    assert small <= 33
