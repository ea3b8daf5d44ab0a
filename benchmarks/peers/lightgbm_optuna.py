"""LightGBM tuned by Optuna for so many seconds, as one would do it; then the best is fitted again on all rows, which is not counted.

    python lightgbm_optuna.py FOLDER SECONDS SEED

FOLDER has the arrays of `tables.as_arrays`; what is predicted for the test rows is left there as predictions.npy.
"""
import json
import sys
import time
from pathlib import Path

import lightgbm as lgb
import numpy as np
import optuna


def main(folder: Path, seconds: float, seed: int) -> None:
    about = json.loads((folder / "about.json").read_text())
    x, y, test = (np.load(folder / f"{name}.npy") for name in ("x_train", "y_train", "x_test"))
    objective = {"binary": ("binary", "binary_logloss"), "multiclass": ("multiclass", "multi_logloss"), "regression": ("regression", "l2")}[about["framing"]]
    fixed = {"objective": objective[0], "metric": objective[1], "verbosity": -1, "num_threads": 2, "seed": seed, "bagging_freq": 1, "feature_pre_filter": False}
    if about["framing"] == "multiclass": fixed["num_class"] = about["classes"]
    begun, rng = time.perf_counter(), np.random.default_rng(seed)
    order, n = rng.permutation(len(y)), len(y) // 5
    held, fit = order[:n], order[n:]
    table = lambda rows, like=None: lgb.Dataset(x[rows], y[rows], categorical_feature=about["categories"], reference=like, free_raw_data=False, params={"feature_pre_filter": False, "verbosity": -1})
    best: dict = {"loss": np.inf}

    def trial(t: optuna.Trial) -> float:
        params = {"learning_rate": t.suggest_float("learning_rate", 0.01, 0.2, log=True), "num_leaves": t.suggest_int("num_leaves", 4, 256, log=True),
                  "min_data_in_leaf": t.suggest_int("min_data_in_leaf", 3, 100, log=True), "feature_fraction": t.suggest_float("feature_fraction", 0.3, 1.0),
                  "bagging_fraction": t.suggest_float("bagging_fraction", 0.5, 1.0), "lambda_l1": t.suggest_float("lambda_l1", 1e-8, 10.0, log=True),
                  "lambda_l2": t.suggest_float("lambda_l2", 1e-8, 10.0, log=True)}
        data = table(fit)
        booster = lgb.train(fixed | params, data, 2000, valid_sets=[table(held, data)], callbacks=[lgb.early_stopping(50, verbose=False)])
        loss = booster.best_score["valid_0"][objective[1]]
        if loss < best["loss"]: best.update(loss=loss, params=params, rounds=booster.best_iteration)
        return loss

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True))
    study.optimize(trial, timeout=seconds)
    took = time.perf_counter() - begun
    booster = lgb.train(fixed | best["params"], table(np.arange(len(y))), best["rounds"])
    np.save(folder / "predictions.npy", booster.predict(test))
    print(json.dumps({"seconds": took, "trials": len(study.trials), "validation loss": best["loss"], "params": best["params"], "rounds": best["rounds"]}))


if __name__ == "__main__": main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
