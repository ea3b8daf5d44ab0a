"""Slices of Adult's 48,842 rows and 13 columns to depth three: `mlops_workbench.assess.slices` beside the same beam search by Polars' group_by, in the same run.

    python benchmarks/bench_slices.py

The losses are those of LightGBM, each row predicted by a model of the other half. Polars is given the columns with their values named and their bins cut, which is
not in its time but is in ours; it groups by every column, every pair of columns and every triple that the beam extends, and both must count the same rows and
means in every slice. Two faster ways to ask Polars stand beside: integer codes in place of text, and all groupings of a level collected at once. Exits with 1 below ten times.
"""
import sys
import time
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import tables
from side_by_side import Row

from mlops_workbench.assess.conditions import code_column
from mlops_workbench.assess.slices import Slice, find_slices

BEAM, BINS, TARGET = 100, 5, 10.0
STATS = (pl.len().alias("n"), pl.col("loss").mean().alias("mean"), pl.col("loss").var().alias("spread"))


def rows_and_losses() -> tuple[pl.DataFrame, np.ndarray]:
    "The columns, and the log loss of each row under a model of the other half."
    import lightgbm as lgb
    train, test, task = tables.load("adult")
    frame = pl.concat([train, test])
    x = np.column_stack([(frame[c].cast(pl.Categorical).to_physical() if frame[c].dtype == pl.String else frame[c]).cast(pl.Float64).fill_null(float("nan")).to_numpy() for c in task.features])
    y, half, p = task.labels(frame), np.random.default_rng(0).random(len(frame)) < 0.5, np.empty(len(frame))
    for part in (half, ~half): p[~part] = lgb.train({"objective": "binary", "verbose": -1, "seed": 0}, lgb.Dataset(x[part], y[part]), 100).predict(x[~part])
    return frame.select(task.features), -np.log(np.clip(np.where(y == 1, p, 1 - p), 1e-15, 1))


def grouped(named: pl.DataFrame, support: int, at_once: bool) -> dict[tuple[tuple[str, Any], ...], tuple[int, float]]:
    "Every slice with enough rows as ((column, value), ...) with its rows and mean loss, level by level from the same beam."
    n, total, whole = len(named), named["loss"].sum(), named["loss"].var()
    columns, found = [c for c in named.columns if c != "loss"], {}
    def ask(keys: list[tuple[str, ...]]) -> list[pl.DataFrame]:
        if at_once: return pl.collect_all([named.lazy().group_by(k).agg(*STATS) for k in keys])
        return [named.group_by(k).agg(*STATS) for k in keys]
    def slices(keys: list[tuple[str, ...]]) -> list[tuple[tuple[tuple[str, Any], ...], int, float, float]]:
        out = []
        for k, table in zip(keys, ask(keys)):
            some = table.filter(pl.col("n") >= support, pl.col("n") <= n - 2, *(pl.col(c).is_not_null() for c in k))
            out += [(tuple(zip(k, r)), m, mean, spread) for *r, m, mean, spread in some.rows()]
        return out
    for d in (1, 2):
        level = slices(list(combinations(columns, d)))
        found |= {s: (m, mean) for s, m, mean, _ in level}
    squares = whole * (n - 1) + total * total / n
    def t(item: tuple[Any, int, float, float]) -> float:
        _, m, mean, spread = item
        rest = n - m
        other = (total - m * mean) / rest
        left = (squares - spread * (m - 1) - m * mean * mean - rest * other * other) / (rest - 1)
        return (mean - other) / max(spread / m + left / rest, whole * (1 / m + 1 / rest)) ** 0.5
    best = [dict(s) for s, *_ in sorted(level, key=t, reverse=True)[:BEAM]]
    parents = {frozenset(b.items()) for b in best}
    keys = sorted({tuple(sorted({*b, c}, key=columns.index)) for b in best for c in columns if c not in b})
    for s, m, mean, _ in slices(keys):
        if any(frozenset(p) in parents for p in combinations(s, 2)): found[s] = (m, mean)
    return found


def race(ways: dict[str, Callable[[], Any]], rounds: int = 7) -> dict[str, tuple[float, float, Any]]:
    "The least seconds, the least processor seconds and the answer of each, taken in turn so that what else the machine does falls on all."
    found: dict[str, tuple[float, float, Any]] = {}
    for _ in range(rounds):
        for name, run in ways.items():
            begun, spent = time.perf_counter(), time.process_time()
            answer = run()
            took, used = time.perf_counter() - begun, time.process_time() - spent
            least = found.get(name, (took, used, None))
            found[name] = (min(least[0], took), min(least[1], used), answer)
    return found


def main() -> int:
    rows, losses = rows_and_losses()
    support = -(-len(rows) // 100)
    coded = {c: code_column(rows[c], bins=BINS, min_support=support) for c in rows.columns}
    numbers = pl.DataFrame({c: pl.Series(np.where(k < len(said), k, 255), dtype=pl.UInt8).replace(255, None) for c, (k, said) in coded.items()}).with_columns(loss=losses)
    named = numbers.with_columns(pl.col(c).replace_strict(range(len(said)), [str(s) for s in said], default=None, return_dtype=pl.String) for c, (_, said) in coded.items())
    every = find_slices(rows, losses, beam=BEAM, bins=BINS, alpha=1, redundant=True, top=10**6)
    found = race({"ours": lambda: find_slices(rows, losses, beam=BEAM, bins=BINS), "text": lambda: grouped(named, support, False), "integer codes": lambda: grouped(numbers, support, False),
                  "integer codes, a level at once": lambda: grouped(numbers, support, True)})
    ours, used, _ = found.pop("ours")
    theirs = {Slice("", tuple(next(c for c in coded[k][1] if str(c) == v) for k, v in s)).predicate: x for s, x in found["text"][2].items()}
    same = {r["slice"]: (r["n"], r["loss"]) for r in every.table.to_dicts()}
    if same.keys() != theirs.keys() or any(same[k][0] != n or abs(same[k][1] - mean) > 1e-9 for k, (n, mean) in theirs.items()):
        raise SystemExit(f"the slices differ: {len(same)} and {len(theirs)}, {sorted(same.keys() ^ theirs.keys())[:5]}")
    if any(len(slices) != len(theirs) for *_, slices in found.values()): raise SystemExit("the ways to ask Polars differ")
    ratio = found["text"][0] / ours
    Row(f"{every.tried:,} slices of {len(rows):,} rows and {rows.width} columns, the same rows and means in each", "Polars' group_by", f"at least {TARGET:g} times as fast", f"{ratio:.1f} times, {ours:.3f} s",
        ratio >= TARGET, {"processor time": f"{used:.3f} s"} | {f"group_by, {way}": f"{s:.2f} s, {s / ours:.1f} times; processor time {cpu:.2f} s, {cpu / used:.1f} times" for way, (s, cpu, _) in found.items()}).print()
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__": sys.exit(main())
