"""Scoring a file: order, bounded memory, odd input, and nothing half-written."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

from mlops_workbench.core.errors import InputError
from mlops_workbench.deploy.bundle import load_bundle
from mlops_workbench.deploy.score import append_log, log_frame, read_predictions, score_file
from mlops_workbench.model.policy import Policy

from .helpers_model import applicants, bundle_of_everything, deploy, everything, people, toy_bundle, trained_bundle


@pytest.fixture(scope="module")
def bundle(): return trained_bundle()


@pytest.mark.parametrize("framing", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_every_framing_and_form(tmp_path, framing, ending):
    bundle, rows = trained_bundle(framing), applicants(300, seed=1)
    source = tmp_path / f"new.{ending}"
    rows.write_csv(source) if ending == "csv" else rows.write_parquet(source)
    if ending == "csv":   # a CSV file has no booleans: they come as 1 and 0
        rows.with_columns(pl.col("member").cast(int)).write_csv(source)
    done = score_file(source, tmp_path / "out.parquet", bundle, rows=64)
    got, expected = pl.read_parquet(tmp_path / "out.parquet"), bundle.predict(rows)
    assert done.rows == 300 and got.columns == expected.columns == done.columns
    assert [t for c, t in got.schema.items() if c.startswith("probability") or c == "value"] == [pl.Float64] * {"binary": 2, "multiclass": 3, "regression": 1}[framing]
    np.testing.assert_allclose(got[got.columns[0]], expected[expected.columns[0]], rtol=1e-5, atol=1e-6)
    if framing != "regression": assert got["decision"].to_list() == expected["decision"].to_list()


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_columns_of_every_kind(tmp_path, ending):
    "Dates with a time, prose, and whole numbers of 64 bits are scored and logged as they are, missing ones as missing."
    bundle, rows = bundle_of_everything(), everything(300, seed=1, odd=True)
    source, store = tmp_path / f"new.{ending}", tmp_path / "store"
    if ending == "parquet": rows.write_parquet(source)
    else: rows.with_columns(pl.col("member").cast(int)).write_csv(source)
    score_file(source, tmp_path / "out.parquet", bundle, rows=64, log=store)
    np.testing.assert_allclose(pl.read_parquet(tmp_path / "out.parquet")["probability_yes"], bundle.predict(rows)["probability_yes"], atol=1e-6)
    log = read_predictions(store, "loans")
    assert log["input_account"].to_list() == rows["account"].to_list()
    assert log["input_hash"].to_list() == [None if v is None else v - 2**63 for v in rows["hash"]]
    assert log["input_remark"].to_list() == rows["remark"].fill_null("").to_list()


def test_order_batches_and_the_target_ignored(tmp_path):
    rows = people(10_007).with_row_index("id")
    rows.write_csv(tmp_path / "in.csv")
    told = []
    done = score_file(tmp_path / "in.csv", tmp_path / "out.csv", toy_bundle(), keep=["id"], rows=1000, progress=told.append)
    got = pl.read_csv(tmp_path / "out.csv")
    assert got["id"].to_list() == list(range(10_007)) and done.rows == told[-1] == 10_007 and len(told) >= 10
    assert "approve" not in got.columns
    np.testing.assert_allclose(got["probability_yes"], toy_bundle().predict(rows)["probability_yes"], atol=1e-6)


def test_no_more_rows_are_held_than_asked_for(tmp_path, monkeypatch):
    seen, bundle = [], toy_bundle()
    original = type(bundle).predict
    monkeypatch.setattr(type(bundle), "predict", lambda self, frame: (seen.append(frame.height), original(self, frame))[1])
    people(5000).write_csv(tmp_path / "in.csv")
    score_file(tmp_path / "in.csv", tmp_path / "out.csv", bundle, rows=700)
    assert max(seen) <= 700 and sum(seen) == 5000


ODD = {
    "bom": "\ufeffincome,job\n40,clerk\n".encode(), "latin-1": "income;job\n40;employé\n".encode("latin-1"), "semicolon": b"income;job\n40;clerk\n", "tab": b"income\tjob\n40\tclerk\n",
    "missing": b"income,job\n?,NA\n", "spaces": b"income, job\n40, clerk\n", "quoted": b'income,job\n40,"clerk, senior"\n', "unseen": b"income,job\n40,astronaut\n",
    "crlf": b"income,job\r\n40,clerk\r\n", "order": b"job,x,income\nclerk,1,40\n", "unnamed": b",income,job\n1,40,clerk\n", "all missing": b"income,job\n,\n,clerk\n",
}


@pytest.mark.parametrize("name", ODD)
def test_odd_but_legal_files(tmp_path, name):
    (tmp_path / "in.csv").write_bytes(ODD[name])
    done = score_file(tmp_path / "in.csv", tmp_path / "out.csv", toy_bundle())
    got = pl.read_csv(tmp_path / "out.csv")
    income, job = (None, None) if name in ("missing", "all missing") else (40.0, "clerk" if name not in ("latin-1", "quoted", "unseen") else "other")
    expected = toy_bundle().predict(pl.DataFrame({"income": [income], "job": [job]}, schema={"income": pl.Float64, "job": pl.String}))
    assert done.rows == got.height and got["probability_yes"][0] == pytest.approx(expected["probability_yes"][0], abs=1e-6)


BAD = {"empty": b"", "header only": b"income,job\n", "ragged": b"income,job\n40,clerk\n50,nurse,extra\n", "twice": b"income,income,job\n1,2,clerk\n",
       "no column": b"income,jobs\n40,clerk\n", "text for a number": b"income,job\n40,clerk\nmany,nurse\n"}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_leave_what_was_there(tmp_path, name):
    (tmp_path / "in.csv").write_bytes(BAD[name])
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(InputError) as e: score_file(tmp_path / "in.csv", tmp_path / "out.csv", toy_bundle(), rows=1, log=tmp_path / "store")
    if name in ("no column", "text for a number"): assert {"no column": "'job'", "text for a number": "'income'"}[name] in str(e.value)
    assert (tmp_path / "out.csv").read_text() == "old" and not list(tmp_path.glob(".*")) and not (tmp_path / "store").exists()


def test_no_such_file(tmp_path):
    with pytest.raises(Exception, match="nowhere.csv") as e: score_file(tmp_path / "nowhere.csv", tmp_path / "out.csv", toy_bundle())
    assert e.value.exit_status == 2 and not list(tmp_path.iterdir())


def test_digits_that_are_a_code_stay_text(tmp_path, bundle):
    rows = applicants(200, seed=2).filter(pl.col("zip") == "10115").with_columns(pl.col("member").cast(int))
    rows.write_csv(tmp_path / "in.csv")
    score_file(tmp_path / "in.csv", tmp_path / "out.csv", bundle)
    np.testing.assert_allclose(pl.read_csv(tmp_path / "out.csv")["probability_yes"], bundle.predict(rows)["probability_yes"], atol=1e-6)


def test_a_derived_column_is_derived_again(tmp_path):
    bundle = trained_bundle(policy=Policy("by_group", group_column="race", thresholds={"black": 0.0, "white": 1.5}, fallback=0.5))
    rows = applicants(100, seed=3).drop("race").with_columns(pl.col("member").cast(int))
    rows.write_csv(tmp_path / "in.csv")
    score_file(tmp_path / "in.csv", tmp_path / "out.csv", bundle, keep=["black"])
    got = pl.read_csv(tmp_path / "out.csv")
    assert got.filter(pl.col("black") == 1)["decision"].unique().to_list() == ["yes"] and got.filter(pl.col("black") == 0)["decision"].unique().to_list() == ["no"]
    rows.drop("black").write_csv(tmp_path / "in.csv")
    with pytest.raises(InputError, match="race"): score_file(tmp_path / "in.csv", tmp_path / "out.csv", bundle)


def test_kept_columns_that_change_type_between_batches(tmp_path):
    (tmp_path / "in.csv").write_text("id,income,job\n" + "1,40,clerk\n" * 50 + "x,40,clerk\n")
    score_file(tmp_path / "in.csv", tmp_path / "out.parquet", toy_bundle(), keep=["id"], rows=10)
    assert pl.read_parquet(tmp_path / "out.parquet")["id"].to_list() == ["1"] * 50 + ["x"]


def test_a_kept_column_with_the_name_of_an_answer(tmp_path):
    people(3).with_columns(label=pl.lit("mine")).write_csv(tmp_path / "in.csv")
    with pytest.raises(InputError, match="'label'"): score_file(tmp_path / "in.csv", tmp_path / "out.csv", toy_bundle(), keep=["label"])


def test_a_killed_scoring_leaves_nothing_under_the_name(tmp_path):
    deploy(tmp_path / "store", toy_bundle())
    people(200_000).write_csv(tmp_path / "in.csv")
    code = ("import sys, time; from mlops_workbench.deploy.bundle import load_bundle; from mlops_workbench.deploy.score import score_file\n"
            "score_file(sys.argv[1] + '/in.csv', sys.argv[1] + '/out.csv', load_bundle(sys.argv[1] + '/store', 'loans'), rows=1000, progress=lambda n: (print(n, flush=True), time.sleep(0.05)))")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "1000"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out.csv").exists()
    assert score_file(tmp_path / "in.csv", tmp_path / "out.csv", load_bundle(tmp_path / "store", "loans")).rows == 200_000


def test_the_log_has_every_row_of_a_scored_file(tmp_path):
    bundle = deploy(tmp_path / "store", toy_bundle())
    rows = people(2500)
    rows.write_parquet(tmp_path / "in.parquet")
    score_file(tmp_path / "in.parquet", tmp_path / "out.csv", bundle, rows=1000, log=tmp_path / "store")
    log = read_predictions(tmp_path / "store", "loans", version=1)
    assert log.height == 2500 and log["request"].n_unique() == 1
    assert log["input_job"].to_list() == rows["job"].fill_null("").to_list()
    assert log["output_decision"].to_list() == bundle.predict(rows)["decision"].to_list()


def test_a_column_that_changes_its_type_between_versions(tmp_path):
    bundle, rows = toy_bundle(), people(3)
    frame = log_frame(bundle, bundle.raw(rows), bundle.predict(rows), source="test")
    append_log(tmp_path, "loans", frame)
    append_log(tmp_path, "loans", frame.with_columns(pl.col("input_income").cast(pl.String), input_job=pl.lit(1.0)))
    log = read_predictions(tmp_path, "loans")
    assert log["input_income"].count() == log["input_income_text"].count() == log["input_job_number"].count() == 3


def test_since_is_utc(tmp_path):
    bundle = toy_bundle()
    append_log(tmp_path, "loans", log_frame(bundle, bundle.raw(people(2)), bundle.predict(people(2)), source="old", at=None))
    time.sleep(0.01)
    from mlops_workbench.deploy.registry import utc
    now = utc(None)
    append_log(tmp_path, "loans", log_frame(bundle, bundle.raw(people(3)), bundle.predict(people(3)), source="new"))
    assert read_predictions(tmp_path, "loans", since=now).height == read_predictions(tmp_path, "loans", since=now.replace(tzinfo=None)).height == 3
