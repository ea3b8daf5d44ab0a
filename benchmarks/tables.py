"""The tables of the benchmarks: each as training rows, test rows and the task, and the same as plain arrays for the peers."""
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

TABLES = ("adult", "digits", "diabetes", "interactions")


def _adult() -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    from mlops_workbench.data.table import read_table
    folder = os.environ.get("MLW_TEST_DATA")
    if not folder: raise SystemExit("MLW_TEST_DATA names no folder with adult/adult.data; see the README of the tests")
    train, test = (read_table(f"{folder}/adult/{name}", missing=["?"]) for name in ("adult.data", "adult.test"))
    return train, test, {"target": "Y", "framing": "binary", "classes": ("<=50K", ">50K"), "exclude": ("fnlwgt",)}


def _bundled(name: str) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    from sklearn import datasets
    found: Any = getattr(datasets, f"load_{name}")()
    frame = pl.DataFrame(found.data.astype(float), schema=[f"x{i}" for i in range(found.data.shape[1])])
    frame = frame.with_columns(y=pl.Series(found.target.astype(float) if name == "diabetes" else found.target))
    order, n = np.random.default_rng(0).permutation(len(frame)), len(frame) * 2 // 3
    about = {"framing": "regression"} if name == "diabetes" else {"framing": "multiclass", "classes": tuple(str(c) for c in sorted(set(found.target.tolist())))}
    return frame[order[:n]], frame[order[n:]], {"target": "y", **about}


def _interactions(n: int = 12_000) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    "Made: products, a ratio, a band and a category that turns the sign of another column; a tenth of the numbers is missing."
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(n, 8)), rng.integers(0, 4, n)
    score = 1.5 * x[:, 0] * x[:, 1] + np.sin(3 * x[:, 2]) + np.where(c % 2 == 0, 1, -1) * x[:, 3] + (np.abs(x[:, 4]) < 0.5) * 2 - 1 + 0.5 * x[:, 5] / (0.5 + x[:, 6] ** 2)
    y = rng.random(n) < 1 / (1 + np.exp(-1.5 * score))
    x[rng.random(x.shape) < 0.1] = np.nan
    frame = pl.DataFrame(x, schema=[f"x{i}" for i in range(8)]).with_columns(pl.all().fill_nan(None)).with_columns(c=pl.Series(np.array(list("abcd"))[c]), y=pl.Series(np.where(y, "yes", "no")))
    return frame[: n * 2 // 3], frame[n * 2 // 3:], {"target": "y", "framing": "binary", "classes": ("no", "yes")}


def load(name: str) -> tuple[pl.DataFrame, pl.DataFrame, Any]:
    "Training rows, test rows and the task."
    from mlops_workbench.model.task import Task
    train, test, about = {"adult": _adult, "interactions": _interactions}.get(name, lambda: _bundled(name))()
    hidden = {about["target"], *about.pop("exclude", ())}
    return train, test, Task(name, about.pop("target"), about.pop("framing"), features=tuple(c for c in train.columns if c not in hidden), **about)


def as_arrays(name: str, folder: Path) -> None:
    "Writes the table for a peer: x float64 with categories as codes and NaN for missing, y, and which columns are categories."
    train, test, task = load(name)
    texts = [c for c in task.features if train[c].dtype == pl.String]
    codes = {c: {v: i for i, v in enumerate(sorted(train[c].drop_nulls().unique()))} for c in texts}
    def numbers(frame: pl.DataFrame) -> np.ndarray:
        return np.column_stack([(frame[c].replace_strict(codes[c], default=None, return_dtype=pl.Float64) if c in codes else frame[c].cast(pl.Float64)).fill_null(float("nan")).to_numpy() for c in task.features])
    for part, frame in (("train", train), ("test", test)):
        np.save(folder / f"x_{part}.npy", numbers(frame))
        np.save(folder / f"y_{part}.npy", task.labels(frame))
    (folder / "about.json").write_text(json.dumps({"framing": task.framing, "classes": len(task.classes), "categories": [task.features.index(c) for c in texts], "columns": list(task.features)}))
