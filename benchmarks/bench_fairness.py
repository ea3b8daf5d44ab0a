"""Error rates by group and their disparities: `mlops_workbench.assess.fairness` beside fairlearn's MetricFrame, in the same run.

    python benchmarks/bench_fairness.py [rows]

Both are given the same arrays of labels, decisions and names of 50 groups, and must find the same rates and disparities, to 1e-12. With intervals, the
workbench draws the counts 1,000 times. MetricFrame would resample the rows and be made again for each: that is measured for 3 replicates, and
multiplied. The times are the best of five for the workbench, and of two for one MetricFrame.
"""
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from fairlearn import metrics as fl
from side_by_side import Row

from mlops_workbench.assess.fairness import DISPARITIES, by_group, count_cells, disparities, disparity_of, rates

GROUPS, REPLICATES, MEASURED = 50, 1000, 3
RATES = {"selection_rate": fl.selection_rate, "tpr": fl.true_positive_rate, "fpr": fl.false_positive_rate, "fnr": fl.false_negative_rate}


def people(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    group = rng.choice(GROUPS, rows, p=rng.dirichlet(np.full(GROUPS, 5.0)))
    labels = (rng.random(rows) < rng.uniform(0.3, 0.7, GROUPS)[group]).astype(np.int64)
    decisions = (rng.random(rows) < 0.3 * labels + rng.uniform(0.2, 0.6, GROUPS)[group]).astype(np.int64)
    return labels, decisions, np.array([f"group {i}" for i in range(GROUPS)])[group]


def ours(labels: np.ndarray, decisions: np.ndarray, groups: np.ndarray) -> tuple[dict, dict]:
    names, counts = count_cells(labels, decisions, groups)
    return {r: dict(zip(names, rates(counts, r))) for r in RATES}, {d: float(disparity_of(counts, d)) for d in DISPARITIES}


def theirs(labels: np.ndarray, decisions: np.ndarray, groups: np.ndarray) -> tuple[dict, dict]:
    frame = fl.MetricFrame(metrics=RATES, y_true=labels, y_pred=decisions, sensitive_features=groups)
    gaps, ratios = frame.difference(), frame.ratio()
    return {r: frame.by_group[r].to_dict() for r in RATES}, {
        "selection_rate_ratio": ratios["selection_rate"], "selection_rate_difference": gaps["selection_rate"], "equal_opportunity_difference": gaps["tpr"],
        "equalized_odds_difference": max(gaps["tpr"], gaps["fpr"]), "equal_opportunity_ratio": ratios["tpr"], "equalized_odds_ratio": min(ratios["tpr"], ratios["fpr"])}


def with_intervals(labels: np.ndarray, decisions: np.ndarray, groups: np.ndarray) -> Any:
    return by_group(labels, decisions, groups, which=list(RATES)), disparities(labels, decisions, groups, replicates=REPLICATES, permutations=0)


def replicate(data: tuple[np.ndarray, ...], rng: np.random.Generator) -> None:
    rows = rng.integers(0, len(data[0]), len(data[0]))
    theirs(*(x[rows] for x in data))


def seconds(run: Callable[[], Any], times: int) -> float:
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def furthest(a: tuple[dict, dict], b: tuple[dict, dict]) -> float:
    "The largest difference between the two in any rate of any group, or disparity."
    return max(*(abs(a[0][r][g] - b[0][r][g]) for r in RATES for g in b[0][r]), *(abs(a[1][d] - b[1][d]) for d in b[1]))


def main(rows: int) -> int:
    data, rng = people(rows), np.random.default_rng(1)
    gap = furthest(ours(*data), theirs(*data))
    if not gap <= 1e-12: raise SystemExit(f"the two differ by {gap:.3g}")
    once, peer = seconds(lambda: ours(*data), 5), seconds(lambda: theirs(*data), 2)
    drawn = seconds(lambda: with_intervals(*data), 5)
    begun = time.perf_counter()
    for _ in range(MEASURED): replicate(data, rng)
    each = (time.perf_counter() - begun) / MEASURED
    what = f"{rows:,} rows in {GROUPS} groups"
    found = [
        Row(f"rates by group and disparities, {what}", "fairlearn's MetricFrame", "50 times as fast", f"{peer / once:,.0f} times as fast", peer >= 50 * once,
            {"workbench": f"{once:.3f} s", "MetricFrame": f"{peer:.1f} s", "largest difference": f"{gap:.1e}"}),
        Row(f"the same with intervals from {REPLICATES:,} replicates, {what}", "fairlearn's MetricFrame of each replicate", "10,000 times as fast",
            f"{REPLICATES * each / drawn:,.0f} times as fast", REPLICATES * each >= 10_000 * drawn,
            {"workbench": f"{drawn:.3f} s, measured", "MetricFrame": f"{each:.1f} s a replicate ({MEASURED} measured), so {REPLICATES * each:,.0f} s for {REPLICATES:,}"})]
    for row in found: row.print()
    return 0 if all(r.met for r in found) else 1


if __name__ == "__main__": sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
