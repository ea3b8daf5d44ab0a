"""What takes longer: quality after 60 s on three small tables against LightGBM tuned by Optuna, and after 10 minutes against AutoGluon's `good_quality`.

    python benchmarks/tune_long.py [FILE]

Each row is kept in FILE (benchmarks/tune_long.jsonl) as it comes, and a row that is there is not measured again: the benchmark may be interrupted and goes on. Exit status 1 when a target is missed.
"""
import json
import sys
from dataclasses import asdict
from pathlib import Path

from side_by_side import ROOT, Row, quality

SMALL, LONG = ("digits", "diabetes", "interactions"), ("digits", "interactions", "adult")


def main(file: Path) -> int:
    kept = {tuple(found.pop("key")): Row(**found) for found in map(json.loads, file.read_text().splitlines())} if file.exists() else {}
    plan = [(name, 60.0, (0, 1, 2), "lightgbm_optuna") for name in SMALL] + [(name, 600.0, (0,), "autogluon_tabular") for name in LONG]
    rows: dict[str, list[Row]] = {}
    for name, seconds, seeds, peer in plan:
        row = kept.get((name, peer))
        if row is None:
            row = quality(name, seconds, seeds, peer)
            with open(file, "a") as out: out.write(json.dumps({"key": [name, peer]} | asdict(row)) + "\n")
        rows.setdefault(peer, []).append(row)
        row.print()
    missed = {peer: sum(not r.met for r in many) for peer, many in rows.items()}
    for peer, n in missed.items(): print(f"{peer}: no worse on {len(rows[peer]) - n} of {len(rows[peer])} (target: all but one)")
    return int(any(n > 1 for n in missed.values()))


if __name__ == "__main__": sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "benchmarks" / "tune_long.jsonl"))
