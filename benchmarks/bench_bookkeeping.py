"""What a study's bookkeeping costs beside the training: asking TPE, writing the journal, telling; over 10,000 trials in one folder on disk.

Trials are asked and told 32 at a time, as a population is, and then one at a time. The training is that of the smallest population worth training: 32 networks of width 32 on 1,600 rows, on the same
threads in the same run. Beside it: the same journal asked and told by Optuna alone, one at a time. Exits 1 if the bookkeeping of the populations is 2 % of their training or more.

Run: python benchmarks/bench_bookkeeping.py [TRIALS]
"""

import sys
import tempfile
import time
import warnings

import numpy as np
import optuna
import torch
from mlops_workbench.core.show import table
from mlops_workbench.model.features import Encoded
from mlops_workbench.model.network import Labelled, fit_encoding
from mlops_workbench.model.population import train_population
from mlops_workbench.model.stack import NetworkParams
from mlops_workbench.tune.devices import threads
from mlops_workbench.tune.goals import Goals
from mlops_workbench.tune.samplers import quiet_optuna
from mlops_workbench.tune.families import network_space
from mlops_workbench.tune.studies import Study
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

BATCH, WIDTH, LIMIT = 32, 32, 0.02


def loss(params: dict) -> float:
    return (np.log10(params["learning_rate"]) + 2.5) ** 2 + params["dropout"] ** 2 + 0.1 * abs(params["layers"] - 2) + 10 / params["width"]


def training(trials: int) -> float:
    "Seconds of one trial, in a population."
    rng = np.random.default_rng(0)
    def rows(n: int) -> Labelled:
        num, cat = rng.normal(size=(n, 8)).astype(np.float32), rng.integers(2, 6, (n, 2))
        return Labelled(Encoded(num, cat), (np.sin(2 * num[:, 0]) + cat[:, 0] - 3.5 + rng.normal(size=n) > 0).astype(np.int64), np.ones(n))
    fit, valid = rows(1600), rows(400)
    encoding = fit_encoding(fit.x, fit.y, n_categories=[6, 6], regression=False)
    params = [NetworkParams(width=WIDTH, learning_rate=float(10 ** rng.uniform(-3, -2)), seed=i) for i in range(trials)]
    begun = time.perf_counter()
    train_population(fit, valid, params, encoding=encoding, framing="binary", classes=2, device="cpu", seed=0)
    return (time.perf_counter() - begun) / trials


def bookkeeping(study: Study, trials: int, batch: int) -> tuple[float, float]:
    "Seconds of a trial: on the average, and over the last tenth."
    begun = late = time.perf_counter()
    told = None
    for i in range(0, trials, batch):
        if i * 10 >= trials * 9 and late == begun: late, last = time.perf_counter(), i
        with study.batch():
            for t in told or (): study.tell(t, loss(t.params), facts={"epochs": 20})
            told = study.ask(batch)
    with study.batch():
        for t in told or (): study.tell(t, loss(t.params), facts={"epochs": 20})
    end = time.perf_counter()
    return (end - begun) / trials, (end - late) / (trials - last)


def alone(path: str, trials: int) -> float:
    "Seconds of a trial under Optuna alone, in a study that is already there."
    study = optuna.load_study(study_name="study", storage=JournalStorage(JournalFileBackend(path)), sampler=optuna.samplers.TPESampler(seed=0))
    space, begun = network_space(2000), time.perf_counter()
    for _ in range(trials):
        t = study.ask(space.distributions())
        study.tell(t, loss(space.read(t.params)))
    return (time.perf_counter() - begun) / trials


def main() -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads())
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder, quiet_optuna():
        trained = training(BATCH)
        with Study(folder, network_space(2000), Goals.of()) as study: average, late = bookkeeping(study, n, BATCH)
        trained = min(trained, training(BATCH))
        with Study(folder, network_space(2000), Goals.of()) as study:
            begun = time.perf_counter()
            study.trials()
            opened = time.perf_counter() - begun
            single = bookkeeping(study, 50, 1)[0]
        optunas = alone(f"{folder}/journal.log", 5)
    rows = [{"what": f"training one of a population of {BATCH}, width {WIDTH}", "ms a trial": 1e3 * trained, "share of training": 1.0},
            {"what": f"bookkeeping, {BATCH} at a time, {n:,} trials", "ms a trial": 1e3 * average, "share of training": average / trained},
            {"what": "the same, its last tenth", "ms a trial": 1e3 * late, "share of training": late / trained},
            {"what": f"one at a time, after {n:,}", "ms a trial": 1e3 * single, "share of training": single / trained},
            {"what": f"Optuna alone, one at a time, after {n:,}", "ms a trial": 1e3 * optunas, "share of training": optunas / trained}]
    print(table(rows).plain)
    print(f"learning {n:,} trials anew takes {opened:.1f} s; the limit is {LIMIT:.0%} of the training")
    return int(average / trained >= LIMIT)


if __name__ == "__main__": sys.exit(main())
