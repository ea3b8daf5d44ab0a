"""Tuning on a GPU, in under eight minutes: checks that it computes what the CPU computes, then measures, then prints a table.

    python benchmarks/tune_gpu.py

Trials per second of a population (made rows, two hidden layers of 128 and of 512 units) beside the same networks one at a time on the same GPU under Optuna and, where `ray` is installed, beside Ray Tune with sixteen
trials on the GPU; and the share of the GPU's arithmetic in use at width 512, against a large matrix product in bfloat16. Exit status 1 when a target is missed, 2 where there is no GPU.
"""
import statistics
import sys
import time

import numpy as np
import optuna
import torch
from mlops_workbench.model.features import Encoded
from mlops_workbench.model.network import Labelled, fit_encoding
from mlops_workbench.model.population import Population, find_size, train_population
from mlops_workbench.model.rows import DeviceRows
from mlops_workbench.model.stack import NetworkParams
from side_by_side import Row
from tune import one_at_a_time

EPOCHS, BATCH, ROWS = 3, 1024, 100_000


def example(n: int, seed: int) -> Labelled:
    rng = np.random.default_rng(seed)
    num, cat = rng.normal(size=(n, 16)).astype(np.float32), rng.integers(2, 12, (n, 6))
    score = num[:, 0] * num[:, 1] + np.sin(3 * num[:, 2]) + 0.3 * (cat[:, 0] - 7) + rng.normal(size=n)
    return Labelled(Encoded(num, cat), (score > 0).astype(np.int64), np.ones(n))


def check(train: Labelled, valid: Labelled, encoding) -> None:
    "The GPU must compute what the CPU computes, graphs, halves of the stack and all."
    params = [NetworkParams(3e-3, dropout=0.1 * (i % 3), width=(32, 64)[i % 2], layers=1 + i % 3, seed=i) for i in range(6)] + [
        NetworkParams(width=32, backbone="residual", seed=7), NetworkParams(width=32, backbone="members", members=4, seed=8), NetworkParams(width=32, inputs="periodic", seed=9)]
    part, held = train[np.arange(8192)], valid[np.arange(2048)]
    cpu, gpu = (train_population(part, held, params, encoding=encoding, framing="binary", epochs=2, batch=512, rungs=(), device=d) for d in ("cpu", "cuda"))
    worst = max(abs(a.loss - b.loss) for a, b in zip(cpu, gpu))
    print(f"largest difference of a loss between CPU (float32) and GPU (bfloat16 products): {worst:.4f}")
    assert worst < 0.02, [(a.params, a.loss, b.loss) for a, b in zip(cpu, gpu)]
    failed: list[int] = []
    from mlops_workbench.model.stack import Stack
    plain = Stack.forward
    def short(self, x, *, train=False):
        if train and len(self.ids) > 3 and not failed:
            failed.append(len(self.ids))
            raise torch.OutOfMemoryError("as if memory had run out")
        return plain(self, x, train=train)
    Stack.forward = short
    try: halved = train_population(part, held, params[:6], encoding=encoding, framing="binary", epochs=2, batch=512, rungs=(), device="cuda")
    finally: Stack.forward = plain
    assert failed and max(abs(a.loss - b.loss) for a, b in zip(halved, gpu)) < 0.02, "a halved stack must end where a whole one does"


def product_rate() -> float:
    "Floating point operations per second of a large product in bfloat16."
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5): a @ b
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(20): a @ b
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - begun)


def epochs_of(population: Population, n: int) -> float:
    "Seconds of an epoch, after one that warms up and records."
    population.advance()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(n): population.advance()
    torch.cuda.synchronize()
    return (time.perf_counter() - begun) / n


def ray_rate(width: int) -> float | None:
    "Trials per second of Ray Tune with sixteen trials on the GPU; nothing where ray is not installed."
    try:
        import ray
        from ray import tune
    except ImportError: return None
    train, valid = example(ROWS, 0), example(10_000, 1)
    encoding = fit_encoding(train.x, train.y, n_categories=[12] * 6)
    def objective(config: dict) -> dict:
        rows, held = (DeviceRows(part, encoding, framing="binary", device="cuda") for part in (train, valid))
        return {"loss": one_at_a_time(NetworkParams(config["rate"], width=width, layers=2, seed=config["seed"]), rows, held, EPOCHS, BATCH)}
    ray.init(num_gpus=1, include_dashboard=False, log_to_driver=False)
    begun = time.perf_counter()
    tune.Tuner(tune.with_resources(objective, {"gpu": 1 / 16, "cpu": 1}), param_space={"rate": tune.loguniform(1e-3, 1e-2), "seed": tune.randint(0, 1000)},
               tune_config=tune.TuneConfig(num_samples=32, max_concurrent_trials=16)).fit()
    rate = 32 / (time.perf_counter() - begun)
    ray.shutdown()
    return rate


def main() -> int:
    if not torch.cuda.is_available():
        print("no GPU on this machine")
        return 2
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_float32_matmul_precision("high")
    print(torch.cuda.get_device_name(0), f"torch {torch.__version__}")
    train, valid = example(ROWS, 0), example(10_000, 1)
    encoding = fit_encoding(train.x, train.y, n_categories=[12] * 6)
    check(train, valid, encoding)
    rows, held = (DeviceRows(part, encoding, framing="binary", device="cuda") for part in (train, valid))
    found, peak = [], product_rate()
    for width, target in ((128, 50.0), (512, 15.0)):
        size = find_size(train, NetworkParams(width=width), encoding=encoding, framing="binary", device="cuda", most=512)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
        trials = [study.ask() for _ in range(size)]
        params = [NetworkParams(t.suggest_float("rate", 1e-3, 1e-2, log=True), width=width, layers=2, seed=t.number) for t in trials]
        begun = time.perf_counter()
        for t, r in zip(trials, train_population(train, valid, params, encoding=encoding, framing="binary", epochs=EPOCHS, batch=BATCH, rungs=(), device="cuda")): study.tell(t, r.loss)
        together = size / (time.perf_counter() - begun)
        times = []
        for i in range(3):
            begun = time.perf_counter()
            trial = study.ask()
            study.tell(trial, one_at_a_time(NetworkParams(trial.suggest_float("rate", 1e-3, 1e-2, log=True), width=width, layers=2, seed=i), rows, held, EPOCHS, BATCH))
            times.append(time.perf_counter() - begun)
        alone = 1 / statistics.median(times)
        found.append(Row(f"trials per second on the GPU, width {width}, {size} at once", "one at a time under Optuna", f"{target:g} times", f"{together / alone:.1f} times ({together:.1f} against {alone:.2f} per second)", together / alone >= target))
        if width == 128 and (ray := ray_rate(width)):
            found.append(Row(f"the same, width {width}", "Ray Tune with 16 trials on the GPU", "8 times", f"{together / ray:.1f} times ({ray:.2f} per second)", together / ray >= 8))
        if width == 512:
            seconds = epochs_of(Population(params, rows, epochs=4, batch=BATCH, device="cuda", encoding=encoding, outputs=1), 2)
            work = 2 * BATCH * (len(rows) // BATCH) * size * (2 * encoding.width * width + 3 * width * width + 3 * width)     # forward, and both ways back; none to the input
            found.append(Row("GPU arithmetic in use, width 512", "a product of 8,192 squared in bfloat16", "35 %", f"{work / seconds / peak:.0%} of {peak / 1e12:.0f} TFLOP/s", work / seconds / peak >= 0.35))
    print()
    for row in found: row.print()
    return 0 if all(row.met for row in found) else 1


if __name__ == "__main__": sys.exit(main())
