"""What the benchmarks of tuning share: peers in environments of their own, paired intervals, and rows that say whether a target is met."""
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PEERS = {"lightgbm_optuna": ["lightgbm==4.7.0", "optuna==5.0.0", "scikit-learn==1.9.1"], "autogluon_tabular": ["autogluon.tabular[all]==1.6.3", "torch==2.13.0"]}


def environment(peer: str) -> str:
    "The Python of the peer's own environment, made when it is not there."
    folder = ROOT / f".venv-{peer.replace('_', '-')}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"making {folder.name} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PEERS[peer]], check=True, stderr=subprocess.DEVNULL)
        (folder / "ready").touch()
    return str(python)


def run_peer(peer: str, name: str, seconds: float, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    "The peer's predictions for the test rows, and what it says."
    import tables
    with tempfile.TemporaryDirectory() as folder:
        tables.as_arrays(name, Path(folder))
        done = subprocess.run([environment(peer), str(ROOT / "benchmarks" / "peers" / f"{peer}.py"), folder, str(seconds), str(seed)], capture_output=True, text=True)
        if done.returncode: raise SystemExit(f"{peer} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return np.load(Path(folder) / "predictions.npy"), json.loads(done.stdout.splitlines()[-1])


OURS = """
import json, sys, time, warnings
sys.path.insert(0, sys.argv[1])
import numpy as np, tables
from mlops_workbench.tune.study import fit_model
warnings.simplefilter("ignore")
name, seconds, seed, families, out = sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), sys.argv[5].split(","), sys.argv[6]
train, test, task = tables.load(name)
begun = time.perf_counter()
fit = fit_model(train, task, trials=0, seconds=seconds, families=families, device="cpu", seed=seed)
took = time.perf_counter() - begun
np.savez(out, model=fit.predictor.predict(test), **{f: p.predict(test) for f, p in fit.singles.items()})
print(json.dumps({"seconds": took, "trials": len(fit.leaderboard), "members": [m.family for m in fit.predictor.members], "steps": [(s.family, s.trials) for s in fit.steps]}))
"""


def run_ours(name: str, seconds: float, seed: int, families: str = "network,trees,linear") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    "Our predictions for the test rows, by the model and by the best of each family, and how long it took."
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out.npz"
        done = subprocess.run([sys.executable, "-c", OURS, str(ROOT / "benchmarks"), name, str(seconds), str(seed), families, out], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        if done.returncode: raise SystemExit(f"fit_model ended with {done.returncode}:\n{done.stderr[-3000:]}")
        with np.load(out) as found: return dict(found), json.loads(done.stdout.splitlines()[-1])


def truth(name: str) -> tuple[np.ndarray, str]:
    "The labels of the test rows, and the framing."
    import tables
    _, test, task = tables.load(name)
    return task.labels(test), task.framing


def losses(y: np.ndarray, p: np.ndarray, framing: str) -> np.ndarray:
    "Each row's loss [n]: log loss, or squared error."
    if framing == "regression": return (y - p) ** 2
    q = np.where(y == 1, p, 1 - p) if framing == "binary" else p[np.arange(len(y)), y]
    return -np.log(np.clip(q, 1e-15, 1))


def auc(y: np.ndarray, p: np.ndarray, w: np.ndarray | None = None) -> float:
    "The area under the ROC curve, of rows that count w times."
    w = np.ones(len(y)) if w is None else w
    values, at = np.unique(p, return_inverse=True)
    pos, neg = (np.bincount(at, w * (y == k), len(values)) for k in (1, 0))
    return float((pos * (np.cumsum(neg) - neg / 2)).sum() / (pos.sum() * neg.sum()))


def paired(y: np.ndarray, ours: np.ndarray, theirs: np.ndarray, framing: str, *, replicates: int = 1000) -> dict[str, tuple[float, float, float]]:
    "Ours less theirs, with the ends of the paired bootstrap's 95 % interval: of the loss and, where there are two classes, the AUC."
    rng, n = np.random.default_rng(0), len(y)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=replicates).astype(float)
    apart = losses(y, ours, framing) - losses(y, theirs, framing)
    draws = {"loss": drawn @ apart / n}
    found = {"loss": float(apart.mean())}
    if framing == "binary":
        found["auc"] = auc(y, ours) - auc(y, theirs)
        draws["auc"] = np.array([auc(y, ours, w) - auc(y, theirs, w) for w in drawn[:300]])
    return {k: (found[k], *map(float, np.quantile(draws[k], [0.025, 0.975]))) for k in found}


@dataclass
class Row:
    "A line of the table."
    what: str
    against: str
    target: str
    found: str
    met: bool
    beside: dict[str, Any] = field(default_factory=dict)

    def print(self) -> None:
        print(f"{'met   ' if self.met else 'MISSED'}  {self.what}, against {self.against}: {self.found} (target: {self.target})", flush=True)
        for name, value in self.beside.items(): print(f"          {name}: {value}", flush=True)


def quality(name: str, seconds: float, seeds: tuple[int, ...], peer: str) -> Row:
    "Whether the model is no worse than the peer's after the same time, in the median of the seeds."
    y, framing = truth(name)
    scores: dict[str, list[float]] = {}
    differences: list[dict[str, tuple[float, float, float]]] = []
    for seed in seeds:
        theirs, told = run_peer(peer, name, seconds, seed)
        ours, took = run_ours(name, seconds, seed)
        differences.append(paired(y, ours["model"], theirs, framing))
        for who, p in {peer: theirs, **ours}.items(): scores.setdefault(who, []).append(float(losses(y, p, framing).mean()))
        if framing == "binary":
            for who, p in {peer: theirs, **ours}.items(): scores.setdefault(f"{who} AUC", []).append(auc(y, p))
        print(f"  {name}, seed {seed}: {told.get('trials', '')} trials of {peer} in {told['seconds']:.0f} s, ours {took['trials']} in {took['seconds']:.0f} s; {differences[-1]}", flush=True)
    middle = {k: sorted((d[k] for d in differences), key=lambda d: d[0])[len(seeds) // 2] for k in differences[0]}
    met = middle["loss"][1] <= 0 and ("auc" not in middle or middle["auc"][2] >= 0)
    found = "; ".join(f"{'AUC' if k == 'auc' else 'log loss' if framing != 'regression' else 'squared error'} {d:+.4f} [{low:+.4f}, {high:+.4f}]" for k, (d, low, high) in middle.items())
    return Row(f"{name} after {seconds:.0f} s", peer.replace("_", " + "), "no worse", found, met, {k: " ".join(f"{v:.4f}" for v in sorted(s)) for k, s in scores.items()})
