"""The disparities are fairlearn's: to 1e-12 in value, and with the same intervals as resampling rows."""
import numpy as np
import pytest
from fairlearn import metrics as fl

from mlops_workbench.assess.fairness import by_group, count_cells, disparities, disparity_of, draw_counts

FAIRLEARN = {
    "selection_rate_ratio": fl.demographic_parity_ratio,
    "selection_rate_difference": fl.demographic_parity_difference,
    "equal_opportunity_difference": fl.equal_opportunity_difference,
    "equalized_odds_difference": fl.equalized_odds_difference,
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


def test_rates_by_group_equal_metric_frame() -> None:
    labels, decisions, group = people(1, 6)
    frame = fl.MetricFrame(
        metrics={"selection_rate": fl.selection_rate, "tpr": fl.true_positive_rate, "fpr": fl.false_positive_rate, "n": fl.count},
        y_true=labels, y_pred=decisions, sensitive_features=group).by_group
    ours = by_group(labels, decisions, group)
    for row in ours.iter_rows(named=True):
        for rate in ("n", "selection_rate", "tpr", "fpr"):
            assert row[rate] == pytest.approx(frame.loc[row["group"], rate], abs=1e-12)


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
