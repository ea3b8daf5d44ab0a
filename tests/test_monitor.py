"""The monitor: quiet when nothing changed, loud when something did, undecided when it cannot know."""

import json

import numpy as np
import polars as pl
import pytest

from mlops_workbench.core.errors import InputError, NotFoundError
from mlops_workbench.deploy.registry import utc
from mlops_workbench.deploy.score import log_predictions
from mlops_workbench.operate.monitor import logged, monitor, observed

from .helpers_model import applicants, bundle_of_everything, deploy, everything, people, toy_bundle, trained_bundle


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("monitored")
    deploy(folder, trained_bundle())
    return folder


def test_rows_like_those_in_training_are_quiet(store):
    alarms = [monitor(store, "loans", current=applicants(400, seed=s)).status for s in range(100, 112)]
    assert alarms.count("alert") <= 3, alarms   # 5 % are expected


def test_prose_and_large_whole_numbers_are_watched(tmp_path):
    "Texts that are all new are no alarm, longer ones are; so are whole numbers that moved by less than a double can tell."
    deploy(tmp_path, bundle_of_everything())
    named = lambda frame: {c for c in ("remark", "account", "hash") if any(f"'{c}'" in a for a in monitor(tmp_path, "loans", current=frame).alerts)}
    rows = everything(400, seed=7)
    assert named(rows) == set()
    assert named(rows.with_columns(account=pl.col("account") + 40)) == {"account"}
    assert named(rows.with_columns(remark=pl.col("remark") + " and so on and so on")) == {"remark"}
    log_predictions(tmp_path, bundle := bundle_of_everything(), bundle.raw(rows), bundle.predict(rows))
    assert named(None) == set()


CHANGES = {
    "income": pl.col("income") * 1.5, "children": pl.col("children") + 1, "member": pl.lit(True), "since": pl.col("since").dt.offset_by("2y"),
    "job": pl.lit("nurse"), "zip": pl.when(pl.int_range(400) % 3 == 0).then(pl.lit("99999")).otherwise("zip"),
}


@pytest.mark.parametrize("column", CHANGES)
def test_a_change_in_one_column_is_named(store, column):
    found = monitor(store, "loans", current=applicants(400, seed=1).with_columns(CHANGES[column].alias(column)))
    assert found.status == "alert" and any(f"'{column}'" in a for a in found.alerts)
    assert not any(f"'{c}'" in a for c in CHANGES if c != column for a in found.alerts)


def test_values_that_go_missing_and_texts_never_seen(store):
    rows = applicants(300, seed=2).with_columns(income=pl.when(pl.int_range(300) % 4 > 0).then("income"), job=pl.when(pl.int_range(300) % 5 == 0).then(pl.lit("astronaut")).otherwise("job"))
    found = monitor(store, "loans", current=rows)
    assert any("'income' is missing more often: 0.250" in a for a in found.alerts) and any("'job' has values that the reference does not have: 0.200" in a for a in found.alerts)


def test_too_few_rows_decide_nothing(store):
    for rows in (0, 1, 49):
        found = monitor(store, "loans", current=applicants(600, seed=3).head(rows).with_columns(income=pl.lit(1e6)))
        assert (found.status, found.rows, found.alerts) == ("undecided", rows, [])
        assert "undecided" in found._repr_html_()


def test_only_this_versions_rows_since_then(tmp_path):
    first = deploy(tmp_path, toy_bundle())
    second = deploy(tmp_path, toy_bundle())
    odd = people(100).with_columns(income=pl.lit(200.0))
    log_predictions(tmp_path, first, odd, first.predict(odd))
    log_predictions(tmp_path, second, odd, second.predict(odd))
    now = utc(None)
    same = people(100, seed=4)
    log_predictions(tmp_path, second, same, second.predict(same))
    assert monitor(tmp_path, "loans@1").status == "alert" and monitor(tmp_path, "loans@1").rows == 100
    assert monitor(tmp_path, "loans").rows == 200 and monitor(tmp_path, "loans").status == "alert"
    recent = monitor(tmp_path, "loans", since=now)
    assert recent.rows == 100 and recent.status == "quiet" and recent.first >= now


def test_the_log_reads_back_as_it_was_asked(tmp_path):
    bundle, rows = deploy(tmp_path, trained_bundle()), applicants(50, seed=5)
    log_predictions(tmp_path, bundle, rows, bundle.predict(rows))
    from mlops_workbench.deploy.score import read_predictions
    assert logged(bundle, read_predictions(tmp_path, "loans")).equals(observed(bundle, rows))


def test_out_of_sample_answers_of_the_reference_are_used(tmp_path):
    rows = people(300)
    swapped = rows.with_columns(probability_no=pl.lit(0.9), probability_yes=pl.lit(0.1) + pl.int_range(300) / 1e4)
    deploy(tmp_path, toy_bundle(reference=swapped))
    found = monitor(tmp_path, "loans", current=people(300, seed=6))
    assert [a for a in found.alerts if "drifted" in a] == [a for a in found.alerts if "answer: probability_yes" in a] != []


@pytest.mark.parametrize("framing, answers", [("multiclass", 3), ("regression", 1)])
def test_every_framing(tmp_path, framing, answers):
    deploy(tmp_path, trained_bundle(framing))
    found = monitor(tmp_path, "loans", current=applicants(200, seed=7))
    assert sum(c.startswith("answer: ") for c in found.table["column"]) == answers
    json.dumps(found.to_json(), allow_nan=False)


def test_errors(tmp_path):
    with pytest.raises(NotFoundError): monitor(tmp_path, "loans")
    deploy(tmp_path, toy_bundle())
    assert monitor(tmp_path, "loans").status == "undecided"
    with pytest.raises(InputError, match="income"): monitor(tmp_path, "loans", current=people(60).drop("income"))


def test_the_table_escapes(tmp_path):
    deploy(tmp_path, toy_bundle())
    rows = people(100).with_columns(job=pl.Series(np.array(["<script>", "clerk"])[np.arange(100) % 2]))
    assert "<script>" not in monitor(tmp_path, "loans", current=rows)._repr_html_()
