"""Shapley values of a network on the census table: `assess.explain.shapley` beside shap's KernelExplainer and PermutationExplainer, in the same run.

    python benchmarks/bench_explain.py [relative error]

A network (two hidden layers of 128) is trained for a few epochs on all 14 columns of Adult. Forty test rows are explained against 50 background rows. The truth is
`exact_shapley`, which is first held against all 2^14 coalitions asked in the plain way. Each method is run with several budgets and, in rounds in which all take turns, several seeds: a budget's
error is the root mean square over rows, columns and seeds, relative to the values', and its time the median of the rounds. What a method needs for the asked error (1 %, unless told otherwise) is read
between the two budgets around it, on logarithmic scales. The ratio is that of those times; beside it stand its extremes over the rounds, the times of each round alone.
The peers call the same network through torch in batches: rows of float64 with the categories as codes, as a user would write it. Exit status 1 if a target is missed.
"""
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import tables
from side_by_side import Row

from mlops_workbench.assess.coalitions import all_coalitions, log_odds
from mlops_workbench.assess.explain import exact_shapley, shapley
from mlops_workbench.model.features import Encoded, Features
from mlops_workbench.model.network import Labelled, NetworkMember, fit_encoding
from mlops_workbench.model.population import train_population
from mlops_workbench.model.stack import NetworkParams

TARGETS = {"KernelExplainer": 100.0, "PermutationExplainer": 25.0}


def trained() -> tuple[NetworkMember, Features, Encoded, Encoded]:
    "The network, its features, forty test rows and 50 training rows."
    train, test, task = tables.load("adult")
    task = replace(task, features=tuple(c for c in train.columns if c != task.target))      # fnlwgt too: 14 columns
    features = Features.fit(train, task)
    x, y = features.transform(train), task.labels(train)
    rows = Labelled(x, y, np.ones(len(y)))
    held = np.random.default_rng(0).random(len(y)) < 0.15
    encoding = fit_encoding(x[~held], y[~held], n_categories=features.n_categories)
    done = train_population(rows[~held], rows[held], [NetworkParams()], encoding=encoding, framing="binary", epochs=4)[0]
    print(f"trained for 4 epochs: validation loss {done.loss:.4f}", flush=True)
    assert done.member is not None
    rng = np.random.default_rng(1)
    return done.member, features, features.transform(test[rng.choice(len(test), 40, replace=False)]), x[rng.choice(len(train), 50, replace=False)]


def as_a_user(member: NetworkMember, cut: int) -> Callable[[np.ndarray], np.ndarray]:
    "The log-odds of rows [n, 14], by torch, 16,384 at a time."
    import torch
    module = member.module()

    @torch.inference_mode()
    def predict(x: np.ndarray) -> np.ndarray:
        num, cat = torch.from_numpy(x[:, :cut].astype(np.float32)), torch.from_numpy(x[:, cut:].astype(np.int64))
        return log_odds(torch.cat([module(num[i:i + 16_384], cat[i:i + 16_384]) for i in range(0, len(x), 16_384)]).numpy().astype(np.float64))
    return predict


def plain_truth(predict: Callable[[np.ndarray], np.ndarray], row: np.ndarray, background: np.ndarray) -> np.ndarray:
    "The Shapley values [14] of one row by all 2^14 coalitions, in the plain way."
    from math import factorial
    inside, d = all_coalitions(14), 14
    v = np.mean([predict(np.where(inside, row, b)) for b in background], axis=0)
    size, found = inside.sum(1), []
    for p in range(d):
        out = np.flatnonzero(~inside[:, p])
        w = np.array([factorial(s) * factorial(d - 1 - s) / factorial(d) for s in range(d)])[size[out]]
        found.append((w * (v[out + 2**p] - v[out])).sum())
    return np.array(found)


def measure(ways: dict[str, tuple[Callable[[int, int], np.ndarray], list[int]]], truth: np.ndarray, rounds: int = 3) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    "For each way the errors [budgets] and the seconds [rounds, budgets]; in each round with a seed of its own, the least of the runs that fit in a third of a second."
    off, took = ({name: np.zeros((rounds, len(budgets))) for name, (_, budgets) in ways.items()} for _ in range(2))
    for seed in range(rounds):
        for name, (values, budgets) in ways.items():
            for k, budget in enumerate(budgets):
                each, until = [], time.perf_counter() + 1 / 3
                while not each or time.perf_counter() < until:
                    begun = time.perf_counter()
                    found = values(budget, seed)
                    each.append(time.perf_counter() - begun)
                off[name][seed, k], took[name][seed, k] = np.linalg.norm(found - truth) / np.linalg.norm(truth), min(each)
    return {name: (np.sqrt((off[name] ** 2).mean(axis=0)), took[name]) for name in ways}


def needed(error: float, off: np.ndarray, costs: np.ndarray) -> float:
    "What the error costs, between the first budget that reaches it and the one before, on logarithmic scales."
    enough = np.flatnonzero(off <= error)
    if not len(enough): raise SystemExit(f"no budget reached an error of {error:.1%}: {off}")
    k = int(enough[0])
    if k == 0: return float(costs[0])
    share = np.log(off[k - 1] / error) / np.log(off[k - 1] / off[k])
    return float(np.exp((1 - share) * np.log(costs[k - 1]) + share * np.log(costs[k])))


def main(error: float) -> int:
    import shap
    member, features, rows, background = trained()
    cut, names = rows.num.shape[1], features.sources
    table = lambda x: np.concatenate([x.num.astype(np.float64), x.cat.astype(np.float64)], axis=1)
    predict, x, behind = as_a_user(member, cut), table(rows), table(background)
    begun = time.perf_counter()
    truth = exact_shapley(member, rows, background, names=names).values
    exact = (time.perf_counter() - begun) / len(x)
    assert len(names) == 14 == truth.shape[1]
    plain = plain_truth(predict, x[0], behind)
    apart = float(np.linalg.norm(plain - truth[0]) / np.linalg.norm(plain))
    print(f"exact values: {exact * 1e3:.0f} ms a row; from all 2^14 coalitions asked in the plain way they differ by {apart:.1e}", flush=True)
    if apart > 1e-4: raise SystemExit("the exact values are wrong")
    shapley(member, rows[:2], background, names=names)      # torch has started its threads
    begun = time.perf_counter()
    asked = shapley(member, rows, background, names=names, error=error)
    beside = {"exact values, ours": f"{exact * 1e3:.0f} ms a row",
              f"shapley(error={error:g})": f"{(time.perf_counter() - begun) / len(x) * 1e3:.1f} ms a row, said {asked.reached:.2%}, off by {np.linalg.norm(asked.values - truth) / np.linalg.norm(truth):.2%}"}

    def kernel(budget: int, seed: int) -> np.ndarray:
        np.random.seed(seed)
        return shap.KernelExplainer(predict, behind).shap_values(x, nsamples=budget, silent=True, l1_reg=0)
    def permutation(budget: int, seed: int) -> np.ndarray:
        masker = shap.maskers.Independent(behind, max_samples=len(behind))
        return shap.explainers.PermutationExplainer(predict, masker, seed=seed)(x, max_evals=budget * (2 * 14 + 1), silent=True, batch_size=100).values
    kernel(30, 0)
    permutation(1, 0)                                        # numba has compiled
    ways = {"shapley": (lambda k, seed: shapley(member, rows, background, names=names, permutations=k, seed=seed).values, [1, 2, 3, 4, 8]),
            "KernelExplainer": (kernel, [500, 1000, 2000]), "PermutationExplainer": (permutation, [8, 16, 32, 48])}
    found = measure(ways, truth)
    middle, lines = {name: needed(error, off, np.median(took, axis=0)) for name, (off, took) in found.items()}, []
    for name, (off, took) in found.items():
        print(f"{name}: " + "; ".join(f"{budget:,}: {e:.2%} off, {s / len(x) * 1e3:.1f} ms a row" for budget, e, s in zip(ways[name][1], off, np.median(took, axis=0))), flush=True)
    for peer, target in TARGETS.items():
        ratio = middle[peer] / middle["shapley"]
        each = [needed(error, found[peer][0], found[peer][1][i]) / needed(error, found["shapley"][0], found["shapley"][1][i]) for i in range(len(found[peer][1]))]
        lines.append(Row(f"Shapley values of {len(x)} rows, at an error of {error:.0%}", f"shap's {peer}", f"{target:.0f} times as fast", f"{ratio:.0f} times as fast ({min(each):.0f} to {max(each):.0f} in {len(each)} rounds)",
                         ratio >= target, {"workbench": f"{middle['shapley'] / len(x) * 1e3:.2f} ms a row", peer: f"{middle[peer] / len(x) * 1e3:.1f} ms a row"} | beside))
    for line in lines: line.print()
    return 0 if all(line.met for line in lines) else 1


if __name__ == "__main__": raise SystemExit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.01))
