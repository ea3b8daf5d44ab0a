"""Makes the small project that the browser looks at: python -m tests.browser.project FOLDER

Its jobs are run in this one process, cell by cell, since their kernels would take longer than they do."""
import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
import polars as pl

from mlops_workbench.jobs.execute import packaged_folder
from mlops_workbench.ui.project import plan_project, write_project


def loans(rows: int = 700, seed: int = 0) -> pl.DataFrame:
    "Loans that are paid back more often where income is high, and less often in the south."
    rng = np.random.default_rng(seed)
    region, income, debt = rng.choice(["north", "south", "east"], rows, p=[0.5, 0.35, 0.15]), rng.normal(3, 1, rows).round(2), rng.uniform(0, 1, rows).round(3)
    paid = 1.2 * (income - 3) - 2 * (debt - 0.5) + np.where(region == "south", -0.6, 0) + rng.logistic(0, 0.8, rows) + 0.6 > 0
    return pl.DataFrame({"income": income, "debt": debt, "age": rng.integers(19, 80, rows), "job": rng.choice(["clerk", "nurse", "driver"], rows), "region": region, "paid": np.where(paid, "yes", "no")})


def run_cells(job: str, **parameters) -> None:
    "Run the code cells of a packaged job here."
    names: dict = {}
    for cell in json.loads((packaged_folder() / f"{job}.ipynb").read_text())["cells"]:
        if cell["cell_type"] != "code": continue
        exec(compile("".join(cell["source"]), f"{job}.ipynb", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", []): names |= parameters


def make(folder: Path) -> None:
    "A project with two versions of a dataset and of a model."
    folder.parent.mkdir(parents=True, exist_ok=True)
    table = folder.parent / "loans.csv"
    loans().write_csv(table)
    plan = plan_project("loans", data=str(table), target="paid", sensitive=["region"], positive="yes")
    change = lambda part, **to: dataclasses.replace(getattr(plan.settings, part), **to)
    settings = dataclasses.replace(plan.settings, tune=change("tune", trials=2, families=["linear", "trees"], device="cpu"), assess=change("assess", bootstrap=200, explain_rows=20),
                                   wandb=change("wandb", mode="disabled"), data=change("data", source=f"../{table.name}"), task=change("task", value_fp=-3.0, small=0, test_share=0.4))
    write_project(folder, settings)
    os.environ["MLW_ROOT"] = str(folder)
    os.chdir(folder)
    for job in ("ingest", "validate", "tune", "assess", "deploy"): run_cells(job)
    loans(800, seed=1).write_csv(table)
    run_cells("ingest")
    for job in ("tune", "assess", "deploy"): run_cells(job)


if __name__ == "__main__": make(Path(sys.argv[1]).resolve())
