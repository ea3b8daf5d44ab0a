"""AutoGluon's `good_quality` for so many seconds, on the arrays of `tables.as_arrays`.

    python autogluon_tabular.py FOLDER SECONDS SEED
"""
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from autogluon.tabular import TabularPredictor


def main(folder: Path, seconds: float, seed: int) -> None:
    about = json.loads((folder / "about.json").read_text())
    x, y, test = (np.load(folder / f"{name}.npy") for name in ("x_train", "y_train", "x_test"))
    def frame(values: np.ndarray) -> pd.DataFrame:
        found = pd.DataFrame(values, columns=about["columns"])
        for j in about["categories"]: found[about["columns"][j]] = found.iloc[:, j].astype("Int64").astype("string").astype("category")
        return found
    framing = about["framing"]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        predictor = TabularPredictor("y", path=place, problem_type=framing, eval_metric="root_mean_squared_error" if framing == "regression" else "log_loss", verbosity=0)
        predictor.fit(frame(x).assign(y=y), time_limit=seconds, presets="good_quality", num_cpus=2)
        took = time.perf_counter() - begun
        if framing == "regression": p = predictor.predict(frame(test)).to_numpy()
        else:
            p = predictor.predict_proba(frame(test)).to_numpy()
            if framing == "binary": p = p[:, 1]
    np.save(folder / "predictions.npy", p)
    print(json.dumps({"seconds": took}))


if __name__ == "__main__": main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
