"""What the mirror in Weights & Biases adds to a run: the same small job with the mirror offline and without, by turns, in one process.

    python benchmarks/bench_track.py [rounds]

The time is what the caller of `run_job` waits. Mirrors are waited for between two runs, and the time that they take by themselves is reported too. The
job makes a series of 200 numbers and a figure. Last, a mirror made in the run's own process, as before, is timed beside it.
"""
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import nbformat

CELLS = ["from mlops_workbench.core.runs import job_run\nrun = job_run('small')", "for i in range(200): run.metric('loss', 1 / (i + 1), step=i)\nrun.metric('final', 0.5)"]


def main(rounds: int = 7) -> dict:
    from mlops_workbench.core.settings import read_settings
    from mlops_workbench.core.track import mirror, wait_for_mirrors
    from mlops_workbench.jobs.execute import run_job
    for name in [n for n in os.environ if n.startswith("MLW_")]: del os.environ[name]
    os.environ["MPLBACKEND"] = "agg"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "jobs").mkdir()
        (root / "settings.ini").write_text("[project]\nname = bench\n")
        kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS], metadata=kernel), root / "jobs" / "small.ipynb")
        os.chdir(root)
        took, alone = {"offline": [], "disabled": []}, []
        for i in range(rounds + 1):
            for mode in sorted(took, reverse=bool(i % 2)):
                settings = read_settings()
                settings.wandb.mode = mode
                begun = time.perf_counter()
                record = run_job("small", settings=settings, force=True)
                seconds = time.perf_counter() - begun
                if mode == "disabled": plain = record
                begun = time.perf_counter()
                assert record["status"] == "succeeded" and wait_for_mirrors() == []
                if i: took[mode].append(seconds)   # the first of each warms up
                if i and mode == "offline": alone.append(time.perf_counter() - begun)
        settings.wandb.mode = "offline"
        begun = time.perf_counter()
        assert mirror(plain, root / "store" / "runs" / plain["id"], settings) is None
        waited = time.perf_counter() - begun
        os.chdir("/")
    median = {mode: statistics.median(times) for mode, times in took.items()}
    return {"rounds": rounds, "with_mirror_s": round(median["offline"], 3), "without_s": round(median["disabled"], 3), "added_s": round(median["offline"] - median["disabled"], 3),
            "ratio": round(median["offline"] / median["disabled"], 3), "mirror_by_itself_s": round(statistics.median(alone), 3), "when_waited_for_s": round(waited, 3),
            "spread_without_s": round(max(took["disabled"]) - min(took["disabled"]), 3)}


if __name__ == "__main__":
    found = main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
    print(json.dumps(found, indent=1))
    sys.exit(found["added_s"] >= 0.5)
