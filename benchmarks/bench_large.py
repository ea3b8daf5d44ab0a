"""What ten million rows cost: `mlw assess --predictions` on a Parquet file, and `assess_predictions` on arrays, in seconds and bytes of memory a row.

    python benchmarks/bench_large.py [--rows 10000000]

Each is run in a process of its own, and once with a thousand rows, whose peak memory is taken off. Exits with 1 if the audit needs more than 300 bytes of memory a row or
the assessment more than 600.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MADE = """
import numpy as np, polars as pl, sys
n, path = int(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(0)
score = rng.random(n, dtype=np.float32)
pl.DataFrame({"label": (rng.random(n, dtype=np.float32) < score).astype(np.int8), "score": score, "race": pl.Series(rng.integers(0, 4, n, dtype=np.int8)).replace_strict({0: "black", 1: "white", 2: "asian", 3: None}),
              "sex": pl.Series(rng.integers(0, 2, n, dtype=np.int8)).replace_strict({0: "f", 1: "m"}), "other": rng.random(n), "text": pl.Series(rng.integers(0, 1000, n)).cast(pl.String)}).write_parquet(path)
"""
AUDIT = """
import resource, sys, json
from mlops_workbench.ui.cli import main
sys.argv = ["mlw", "assess", "--predictions", sys.argv[1], "--label", "label", "--score", "score", "--threshold", "0.5", "--group", "race,sex", "--json", sys.argv[2], "--out", sys.argv[2] + ".html"]
status = main()
print(json.dumps({"rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "status": status}))
"""
ASSESS = """
import resource, sys, json
import polars as pl
from mlops_workbench.assess.assessment import assess_predictions
from mlops_workbench.model.task import Task
frame = pl.read_parquet(sys.argv[1], columns=["label", "score", "race", "sex"])
task = Task(name="t", target="label", framing="binary", classes=("0", "1"), features=("x",), sensitive=("race", "sex"), value={"tp": 1, "fp": -1, "fn": 0, "tn": 0})
a = assess_predictions(task, frame.select("label", "score"), frame.select("race", "sex"), gates={"fair": "selection_rate_ratio(race) >= 0.8, block"})
for name in ("performance", "slices", "fairness", "candidates", "uncertainty"): a.section(name)
print(json.dumps({"rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "status": 0}))
"""
LIMITS = {"audit": 300, "assessment": 600}   # bytes a row


def cost(code: str, rows: int) -> tuple[float, int]:
    "Seconds, and the peak memory in bytes."
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        subprocess.run([sys.executable, "-c", MADE, str(rows), path], check=True)
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, path, Path(folder) / "out.json"], capture_output=True, text=True)
        told = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"status": 1}
        if told["status"]: raise SystemExit(done.stderr[-2000:])
        return time.perf_counter() - begun, told["rss"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the large table")
    parser.add_argument("--what", nargs="*", default=list(LIMITS), choices=list(LIMITS), help="what is measured")
    args, missed = parser.parse_args(), False
    for name, code in (("audit", AUDIT), ("assessment", ASSESS)):
        if name not in args.what: continue
        _, few = cost(code, 1000)
        seconds, peak = cost(code, args.rows)
        each = (peak - few) / args.rows
        missed |= each > LIMITS[name]
        print(f"{name}: {args.rows:,} rows in {seconds:.1f} s, peak memory {peak / 1e9:.2f} GB, {each:.0f} bytes a row (limit {LIMITS[name]:,})", flush=True)
    return int(missed)


if __name__ == "__main__": sys.exit(main())
