"Anyone's table: the census data as published becomes a project whose pipeline promotes a model that holds on the test file."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DATA = os.environ.get("MLW_TEST_DATA", "")
MLW = Path(sys.executable).with_name("mlw")
pytestmark = pytest.mark.long


@pytest.mark.skipif(not DATA, reason="MLW_TEST_DATA names no folder with adult/adult.data")
def test_the_census_data_as_it_lies_there(tmp_path):
    adult = Path(DATA) / "adult"
    env = {k: v for k, v in os.environ.items() if k not in ("MLW_ROOT", "MLW_STORE")} | {"MLW_TUNE_TRIALS": "4", "MLW_TUNE_FAMILIES": "trees,linear", "MLW_WANDB_MODE": "disabled"}
    def mlw(*args, cwd):
        done = subprocess.run([MLW, *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    mlw("new", "adult", "--data", adult / "adult.data", "--target", "Y", "--sensitive", "race,sex", cwd=tmp_path)
    project = tmp_path / "adult"
    mlw("run", "pipeline", cwd=project)
    assert "champion" in mlw("models", cwd=project)
    told = mlw("assess", "--data", adult / "adult.test", cwd=project)   # its labels end in a full stop
    assert "selection_rate_ratio(sex)" in told
    record = json.loads(mlw("runs", "--job", "assess", "--limit", "1", "--json", cwd=project))[0]
    assert record["metrics"]["auc"] >= 0.91
    assert {i["kind"] for i in record["inputs"]} == {"file", "model"}
    mlw("score", adult / "adult.test", "--out", "answers.csv", cwd=project)
    assert sum(1 for _ in open(project / "answers.csv")) == 16_281 + 1
