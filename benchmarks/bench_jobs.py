"""What running a job costs besides the job: `mlw run` beside the `papermill` command on the same notebooks, in the same run.

    python benchmarks/bench_jobs.py [rounds]

One notebook does nothing, the other imports torch, shap, optuna, fairlearn and pandas. Each is run through the real command lines, in turn, `rounds` times (5), and the medians are
compared: `papermill in out`; `mlw run` cold, and warm, each with the mirror to Weights & Biases disabled and as it is by default (offline). The targets: warm at most one fifth
of papermill, cold no worse. Checkpoints are off: a section restored from an earlier run would cost nothing. With MLW_BENCH_STRICT=1 a missed target is exit status 1.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
NOTEBOOKS = {"empty": "count", "imports": "import fairlearn.metrics, optuna, pandas, shap, torch\ncount"}


def notebook(path: Path, code: str) -> None:
    cell = lambda source, **metadata: {"cell_type": "code", "id": f"c{len(source)}", "execution_count": None, "outputs": [], "metadata": metadata, "source": source.splitlines(True)}
    path.write_text(json.dumps({"cells": [cell("count: int = 1  # how often", tags=["parameters"]), cell(code)], "nbformat": 4, "nbformat_minor": 5,
                                "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}}))


def seconds(command: list[str], env: dict[str, str], cwd: Path) -> float:
    begun = time.perf_counter()
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True)
    taken = time.perf_counter() - begun
    if done.returncode: sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return taken


def main(rounds: int) -> int:
    root, warm = Path(tempfile.mkdtemp(prefix="bench-jobs-")), tempfile.mkdtemp(prefix="mlw-b-", dir="/tmp")
    (root / "jobs").mkdir()
    (root / "settings.ini").write_text("[project]\nname = bench\n")
    for name, code in NOTEBOOKS.items(): notebook(root / "jobs" / f"{name}.ipynb", code)
    base = {k: v for k, v in os.environ.items() if not k.startswith(("MLW_", "WANDB_"))} | {"MLW_WARM_FOLDER": warm}
    off, cold = base | {"MLW_WANDB_MODE": "disabled"}, {"MLW_RUN_WARM": "false"}
    ways = {"papermill": (None, base), "cold, no mirror": ("cold", off | cold), "cold": ("cold", base | cold), "warm, no mirror": ("warm", off), "warm": ("warm", base)}
    print("loading the warm process:", f"{seconds([str(BIN / 'mlw'), 'warm', 'start'], base, root):.1f} s")
    times: dict[tuple[str, str], list[float]] = {}
    try:
        for turn in range(rounds + 1):       # the first turn only fills the caches of the file system
            for name in NOTEBOOKS:
                for way, (kind, env) in ways.items():
                    command = [str(BIN / "papermill"), f"jobs/{name}.ipynb", "out.ipynb", "--no-progress-bar"] if kind is None else [str(BIN / "mlw"), "run", name, "--force", "--no-checkpoints"]
                    taken = seconds(command, env, root)
                    if turn: times.setdefault((name, way), []).append(taken)
                    time.sleep(0.3)          # what is detached (the mirror) should not weigh on the next one
        refused = [line for f in Path(warm).glob("*.log") for line in f.read_text().splitlines() if line.startswith("refused")]
    finally: subprocess.run([str(BIN / "mlw"), "warm", "stop"], env=base, cwd=root, capture_output=True)
    missed = []
    for name in NOTEBOOKS:
        them = statistics.median(times[name, "papermill"])
        print(f"\n{name}: papermill {them:.2f} s")
        for way in list(ways)[1:]:
            ours = statistics.median(times[name, way])
            limit = 0.2 if way.startswith("warm") else 1.0
            print(f"  mlw run, {way:<16} {ours:.2f} s   {ours / them:.2f} of papermill (target {limit:g})   from {min(times[name, way]):.2f} to {max(times[name, way]):.2f} s")
            if ours / them > limit: missed.append(f"{name}, {way}: {ours / them:.2f}")
    if refused: print("\nnot all warm runs were warm:", refused[0])
    print("\nmissed: " + "; ".join(missed) if missed else "\nall targets met")
    shutil.rmtree(root, ignore_errors=True)
    shutil.rmtree(warm, ignore_errors=True)
    return 1 if missed and os.environ.get("MLW_BENCH_STRICT") else 0


if __name__ == "__main__": sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
