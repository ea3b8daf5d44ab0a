"What is decided now, and what a threshold must keep, from the settings to the report."
import json

import numpy as np
import polars as pl
import pytest

from mlops_workbench.core.errors import InputError
from mlops_workbench.core.settings import TaskSettings
from mlops_workbench.model.task import frame_task

from .command import mlw

pytestmark = pytest.mark.long


def rows(n=400):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, n))
    good = rng.random(n) < 1 / (1 + np.exp(-2 * a - b))
    clerk = np.where(rng.random(n) < 0.3, ~good, good)
    return pl.DataFrame({"a": a, "b": b, "good": np.where(good, "yes", "no"), "clerk": np.where(clerk, "yes", "no")}).with_columns(
        clerk=pl.when(pl.int_range(n) % 20 > 0).then("clerk"))


def project(folder, assess=""):
    rows().write_csv(folder / "rows.csv")
    (folder / "settings.ini").write_text("[project]\nname = demo\n[data]\nsource = rows.csv\n[task]\ntarget = good\nstatus_quo = clerk\nfolds = 2\n[tune]\ntrials = 2\nfamilies = linear\n"
                                         f"[assess]\nbootstrap = 200\nexplain_rows = 10\n{assess}[gates]\nbetter = gain >= 0, block\n[wandb]\nmode = disabled\n")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, warm):
    "A project whose model is tuned."
    folder = tmp_path_factory.mktemp("project")
    project(folder)
    for job in ("ingest", "tune"): mlw("run", job, cwd=folder)
    return folder


def test_the_present_decision_is_compared_with_and_not_learned_from(tuned):
    project(tuned, "operating = precision >= 0.6, selection_rate <= 0.5\n")
    mlw("run", "assess", cwd=tuned)
    folder = next((tuned / "store" / "runs").glob("*-assess-*"))
    found = json.loads((folder / "assessment.json").read_text())
    now = found["status_quo"]
    assert (now["n"], now["left_out"], now["column"]) == (380, 20, "clerk") and now["gain"]["low"] > 0
    assert found["gates"][0]["answer"] == "pass"
    assert all(e["value"] is not None for e in found["operating_point"]["estimates"].values()) and found["operating_point"]["estimates"]["selection_rate"]["value"] <= 0.5
    report = (folder / "report.html").read_text()
    for said in ("what is done now", "Is it better, and what is that worth?", "Precision against recall", "The operating point"): assert said in report, said
    task = json.loads((next((tuned / "store" / "runs").glob("*-tune-*")) / "task.json").read_text())
    assert task["features"] == ["a", "b"] and task["excluded"]["clerk"] == "the present decision"


@pytest.mark.parametrize("asked, said", [("precison >= 0.5", "precision"), ("recall >= 50", "give 0 to 1"), ("recall", "write, for example")])
def test_a_condition_that_is_not_understood_stops_the_job_and_says_why(asked, said, tuned):
    project(tuned, f"operating = {asked}\n")
    done = mlw("run", "assess", cwd=tuned, fails=True)
    assert done.returncode != 0 and said in done.stdout + done.stderr, (done.stdout, done.stderr)


def test_a_status_quo_that_is_no_column_or_no_class_is_named():
    with pytest.raises(InputError, match="clerc"): frame_task(rows(), TaskSettings(target="good", status_quo="clerc"), name="demo")
    from mlops_workbench.assess.status_quo import present_decisions
    task = frame_task(rows(), TaskSettings(target="good", status_quo="clerk"), name="demo")
    with pytest.raises(InputError, match="(?s)unknown label .perhaps.*clerk"): present_decisions(task, rows().with_columns(clerk=pl.lit("perhaps")))
