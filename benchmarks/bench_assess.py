"""The assess job on Adult, whole: what its record says it took, and where.

    python benchmarks/bench_assess.py [trials]

A project of both files (48,842 rows, a third of which, 16,281, are held out) is made in a temporary folder, its data is ingested, and a model is tuned in a few trials (6, unless told otherwise): none of that is in
the time, which is that of the assess job alone, kernel, imports and report included. Exit status 1 from 60 seconds on.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
from side_by_side import ROOT, Row
from tables import load

MOST = 60.0


def mlw(project: Path, trials: int, *command: str) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLW_")} | {"PYTHONPATH": str(ROOT), "MLW_RUN_WARM": "off", "MLW_WANDB_MODE": "disabled", "MLW_TUNE_TRIALS": str(trials)}
    done = subprocess.run([Path(sys.executable).with_name("mlw"), *command], cwd=project, env=env, capture_output=True, text=True)
    if done.returncode: raise SystemExit(f"mlw {' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def main(trials: int) -> int:
    with tempfile.TemporaryDirectory(prefix="bench-assess-") as folder:
        table, project = Path(folder) / "adult.csv", Path(folder) / "adult"
        train, test, task = load("adult")
        pl.concat([train, test]).with_columns(pl.col(task.target).str.strip_chars_end(".")).write_csv(table)
        mlw(Path(folder), trials, "new", str(project), "--data", str(table), "--target", task.target, "--positive", ">50K", "--sensitive", "sex,race")
        settings = project / "settings.ini"
        settings.write_text(settings.read_text().replace("\ntest_share = 0.2\n", f"\ntest_share = {1 / 3}\n"))
        for job in ("ingest", "tune", "assess"): mlw(project, trials, "run", job)
        record = next(r for r in (json.loads(p.read_text()) for p in project.glob("store/runs/*/run.json")) if r["job"] == "assess")
    parts = {s["title"]: f"{s['seconds']:.1f} s" for s in record["sections"] if s["seconds"]}
    Row(f"the whole assess job on Adult, {len(test):,} test rows, {os.cpu_count()} cores", "the clock", f"under {MOST:.0f} s", f"{record['seconds']:.1f} s", record["seconds"] < MOST, parts).print()
    return 0 if record["seconds"] < MOST else 1


if __name__ == "__main__": sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 6))
