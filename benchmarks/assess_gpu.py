"""Shapley values on a GPU, in under eight minutes: checks that it computes what the CPU computes, then measures, then prints a table.

    python benchmarks/assess_gpu.py [rows]

A network (two hidden layers of 128) is trained for two epochs on made rows of 14 columns, eight numbers and six categories. Exact values of some rows must be those of the CPU, and sampled ones as near to
them. Then 100,000 rows are explained against 50 background rows on the GPU, from encoded rows to attributions, and the median of three runs is held against the CPU's on 2,000 of the rows, whose time grows with the
number of rows. Exit status 1 when the target is missed, 2 where there is no GPU.
"""
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from side_by_side import Row

from mlops_workbench.assess.explain import exact_shapley, shapley
from mlops_workbench.model.features import Encoded
from mlops_workbench.model.network import Labelled, NetworkMember, fit_encoding
from mlops_workbench.model.population import train_population
from mlops_workbench.model.stack import NetworkParams

ROWS, BACKGROUND, ON_CPU, TARGET = 100_000, 50, 2_000, 30.0
NAMES = [f"x{i}" for i in range(8)] + [f"c{i}" for i in range(6)]


def people(n: int, seed: int) -> Labelled:
    "Rows with missing numbers, some of them often equal, and products in what they are labelled by."
    rng = np.random.default_rng(seed)
    num, cat = rng.normal(size=(n, 8)).astype(np.float32), rng.integers(2, 10, (n, 6))
    num[:, 6:] = np.maximum(num[:, 6:], 0.5)
    num[rng.random(num.shape) < 0.05] = np.nan
    score = np.nan_to_num(num[:, 0] * num[:, 1] + np.sin(3 * num[:, 2])) + 0.3 * (cat[:, 0] - 6) * (cat[:, 1] > 5) + rng.normal(size=n)
    return Labelled(Encoded(num, cat), (score > 0).astype(np.int64), np.ones(n))


def trained(device: str) -> NetworkMember:
    train, held = people(20_000, 0), people(4_000, 1)
    done = train_population(train, held, [NetworkParams()], encoding=fit_encoding(train.x, train.y, n_categories=[10] * 6), framing="binary", epochs=2, device=device)[0]
    assert done.member is not None
    return done.member


def check(member: NetworkMember, rows: Encoded, background: Encoded, device: str) -> float:
    "The largest difference of an exact value; the GPU must compute what the CPU computes, and sample as well."
    cpu, gpu = (exact_shapley(member, rows, background, names=NAMES, device=d).values for d in ("cpu", device))
    apart = float(np.abs(cpu - gpu).max() / np.abs(cpu).max())
    assert apart < 1e-4, f"exact values differ by {apart:.1e}"
    off = lambda d: float(np.sqrt(np.mean([np.mean((shapley(member, rows, background, names=NAMES, device=d, seed=s, permutations=2).values - cpu) ** 2) for s in range(8)])))
    ours, theirs = off(device), off("cpu")
    assert 0.7 < ours / theirs < 1.4, f"sampled values are off by {ours:.2e} on the GPU and {theirs:.2e} on the CPU"
    told = shapley(member, rows, background, names=NAMES, device=device, error=0.01)
    assert told.additivity_error < 1e-4 and told.reached is not None and told.reached <= 0.01
    print(f"largest difference of an exact value: {apart:.1e} of the largest; sampled values are off by {ours:.2e} on the GPU and {theirs:.2e} on the CPU", flush=True)
    return apart


def seconds(run: Callable[[], Any], times: int = 3) -> float:
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def main(rows: int, device: str = "cuda") -> int:
    if device == "cuda" and not torch.cuda.is_available():
        print("no GPU on this machine")
        return 2
    print(torch.cuda.get_device_name(0) if device == "cuda" else device, f"torch {torch.__version__}", flush=True)
    member, x, background = trained(device), people(rows, 2).x, people(BACKGROUND, 3).x
    apart = check(member, x[:8], background, device)
    part = x[: min(ON_CPU, rows)]
    explain = lambda some, d: shapley(member, some, background, names=NAMES, device=d)
    for d in ("cpu", device): explain(part[:200], d)                     # threads and kernels have started
    there, here = seconds(lambda: explain(x, device)) / len(x), seconds(lambda: explain(part, "cpu")) / len(part)
    ratio = here / there
    Row(f"Shapley values of {rows:,} rows, 14 columns, {BACKGROUND} background rows, on the GPU", f"the same on the CPU with {torch.get_num_threads()} threads", f"{TARGET:g} times as fast", f"{ratio:.1f} times as fast", ratio >= TARGET,
        {"GPU": f"{there * len(x):.2f} s, {there * 1e6:.1f} µs a row", "CPU": f"{here * 1e3:.2f} ms a row, measured on {len(part):,} rows", "largest difference of an exact value": f"{apart:.1e} of the largest"}).print()
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__": sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROWS))
