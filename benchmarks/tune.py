"""Tuning beside the peers, in one run: quality after 120 s on Adult, networks alone, trials per second on the CPU, and what the bookkeeping costs.

    python benchmarks/tune.py [quality] [networks] [speed] [bookkeeping]

Without a word all of them, in about 30 minutes on two cores. Peers run in environments of their own. Exit status 1 when a target is missed.
"""
import statistics
import subprocess
import sys
import time

import optuna
import side_by_side
import tables
import torch
import torch.nn.functional as F
from side_by_side import ROOT, Row, auc, run_ours, run_peer, truth

SEEDS, SECONDS = (0, 1, 2), 120.0


def networks_alone() -> list[Row]:
    "The AUC of networks alone, against the same peer; one seed each, the median of three."
    y, framing = truth("adult")
    apart = []
    for seed in SEEDS:
        theirs, _ = run_peer("lightgbm_optuna", "adult", SECONDS, seed)
        ours, took = run_ours("adult", SECONDS, seed, "network")
        apart.append(auc(y, ours["model"]) - auc(y, theirs))
        print(f"  adult, networks alone, seed {seed}: AUC {auc(y, ours['model']):.4f}, theirs {auc(y, theirs):.4f}; {took['trials']} trials", flush=True)
    middle = statistics.median(apart)
    return [Row("networks alone, adult after 120 s", "lightgbm + optuna", "AUC within 0.004", f"AUC {middle:+.4f}", middle >= -0.004)]


def one_at_a_time(params, rows, held, epochs: int, batch: int) -> float:
    "The same network in plain PyTorch: a sequence of linear layers, AdamW, a schedule, the loss after each epoch."
    torch.manual_seed(params.seed)
    parts, width = [], rows.kept.shape[1]
    for _ in range(params.layers):
        parts += [torch.nn.Linear(width, params.width), torch.nn.ReLU(), torch.nn.Dropout(params.dropout)]
        width = params.width
    model = torch.nn.Sequential(*parts, torch.nn.Linear(width, 1)).to(rows.y.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay, fused=True)
    steps = epochs * (len(rows) // batch)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, params.learning_rate, total_steps=steps)
    best = float("inf")
    for _ in range(epochs):
        model.train()
        order = torch.randperm(len(rows), device=rows.y.device)
        for i in range(0, len(rows) - batch + 1, batch):
            at = order[i:i + batch]
            loss = F.binary_cross_entropy_with_logits(model(rows.kept[at])[:, 0], rows.y[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            plan.step()
        model.eval()
        with torch.no_grad(): best = min(best, F.binary_cross_entropy_with_logits(model(held.kept)[:, 0], held.y).item())
    return best


def speed() -> list[Row]:
    "Trials per second: a population beside the same networks one at a time, both asked of Optuna; the same rows, epochs, batches and threads, and no rungs."
    from mlops_workbench.model.population import train_population
    from mlops_workbench.model.rows import DeviceRows
    from mlops_workbench.model.stack import NetworkParams
    from mlops_workbench.tune.data import tuning_data
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    train, _, task = tables.load("adult")
    data = tuning_data(train, task)
    rows, held = (DeviceRows(part, data.encoding, framing="binary", bagged=False) for part in (data.fit, data.valid))
    found, epochs, batch = [], 2, 512
    def asked(study: optuna.Study, n: int, width: int) -> tuple[list, list]:
        trials = [study.ask() for _ in range(n)]
        return trials, [NetworkParams(t.suggest_float("rate", 1e-3, 1e-2, log=True), t.suggest_float("decay", 1e-3, 0.1, log=True), t.suggest_float("dropout", 0.05, 0.4), width, 2, seed=t.number) for t in trials]
    for width, many, few, target in ((32, 64, 8, 8.0), (128, 16, 4, 3.0), (256, 8, 3, 1.5)):
        ratios, rates = [], []
        one_at_a_time(NetworkParams(width=width, layers=2), rows, held, 1, batch)   # what torch imports for its first optimizer counts for nobody
        for turn in range(5):
            study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=turn))
            begun = time.perf_counter()
            trials, params = asked(study, many, width)
            for t, r in zip(trials, train_population(data.fit, data.valid, params, encoding=data.encoding, framing="binary", epochs=epochs, batch=batch, rungs=())): study.tell(t, r.loss)
            together = (time.perf_counter() - begun) / many
            study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=turn))
            begun = time.perf_counter()
            for _ in range(few):
                (trial,), (params_,) = asked(study, 1, width)
                study.tell(trial, one_at_a_time(params_, rows, held, epochs, batch))
            alone = (time.perf_counter() - begun) / few
            ratios.append(alone / together)
            rates.append(1 / together)
        ratio = statistics.median(ratios)
        found.append(Row(f"trials per second, width {width}", "the same networks one at a time under Optuna", f"{target:g} times", f"{ratio:.1f} times ({statistics.median(rates):.2f} trials/s of {epochs} epochs)", ratio >= target,
                         {"turns": " ".join(f"{r:.1f}" for r in ratios), "threads": torch.get_num_threads()}))
    return found


def bookkeeping() -> list[Row]:
    "What `bench_bookkeeping.py` finds."
    done = subprocess.run([sys.executable, str(ROOT / "benchmarks" / "bench_bookkeeping.py")], capture_output=True, text=True)
    print(done.stdout, done.stderr[-2000:], flush=True)
    return [Row("bookkeeping of 10,000 trials", "the training itself", "under 2 %", "see above", done.returncode == 0)]


PARTS = {"quality": lambda: [side_by_side.quality("adult", SECONDS, SEEDS, "lightgbm_optuna")], "networks": networks_alone, "speed": speed, "bookkeeping": bookkeeping}


def main(wanted: list[str]) -> int:
    unknown = [w for w in wanted if w not in PARTS]
    if unknown: raise SystemExit(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    rows: list[Row] = []
    for name in wanted or PARTS:
        print(f"== {name}", flush=True)
        rows += PARTS[name]()
    print()
    for row in rows: row.print()
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__": sys.exit(main(sys.argv[1:]))
