"""Bundles and the registry: sealed, never lost, and never two of one version, however many deploy at once."""

import json
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
import yaml

from mlops_workbench.core.errors import InputError, NotFoundError, StoreError, TamperedError
from mlops_workbench.deploy.bundle import load_bundle, save_bundle
from mlops_workbench.deploy.registry import Registry

from .helpers_model import deploy, toy_bundle, trained_bundle


def test_many_processes_deploy_at_once(tmp_path):
    code = ("import sys; sys.path.insert(0, sys.argv[2]); from tests.helpers_model import deploy, toy_bundle\n"
            "b = toy_bundle()\nfor _ in range(4): deploy(sys.argv[1], b)")
    from pathlib import Path
    root = str(Path(__file__).parents[1])
    store = tmp_path / "a store"
    workers = [subprocess.Popen([sys.executable, "-c", code, str(store), root], stderr=subprocess.PIPE, text=True) for _ in range(6)]
    for w in workers:
        _, errors = w.communicate()
        assert w.returncode == 0, errors
    registry = Registry(store)
    assert [v["version"] for v in registry.versions("loans")] == list(range(1, 25))
    events = registry.events("loans")
    assert len(events) == 48 and len({e.time for e in events}) == 48
    promoted = [e for e in events if e.event == "promoted"]
    assert [e.previous for e in promoted] == [None] + [e.version for e in promoted[:-1]]
    for v in range(1, 25): assert load_bundle(store, f"loans@{v}").version == v


@pytest.mark.parametrize("seed", range(5))
def test_promotions_and_rollbacks_follow_a_plain_model(tmp_path, seed):
    registry, stack, times = Registry(tmp_path), [], []
    draw = random.Random(seed)
    for _ in range(4): registry.register(save_bundle(toy_bundle(), tmp_path))
    for _ in range(12):
        if len(stack) > 1 and draw.random() < 0.4:
            stack.pop()
            assert registry.rollback("loans").version == stack[-1]
        else:
            version = draw.choice([v for v in range(1, 5) if v not in stack]) if len(stack) < 4 else None
            if version is None: continue
            registry.promote("loans", version)
            stack.append(version)
        times.append((registry.events("loans")[-1].time, stack[-1]))
    for at, champion in times: assert registry.champion("loans", at=at) == champion
    for (_, champion), (later, _) in zip(times, times[1:]): assert registry.champion("loans", at=later - timedelta(microseconds=1)) == champion
    assert registry.champion("loans", at=times[0][0] - timedelta(microseconds=1)) is None


def test_a_time_without_a_zone_is_utc(tmp_path):
    deploy(tmp_path, toy_bundle())
    registry = Registry(tmp_path)
    at = registry.events("loans")[-1].time
    for same in (at, at.replace(tzinfo=None), at.astimezone(timezone(timedelta(hours=5))), at.isoformat(), at.replace(tzinfo=None).isoformat()):
        assert registry.champion("loans", at=same) == 1
    assert registry.champion("loans", at=datetime(2020, 1, 1)) is None
    assert registry.events("loans")[0].time.tzinfo == UTC or registry.events("loans")[0].time.utcoffset() == timedelta(0)


def test_a_clock_that_stands_still_or_goes_back(tmp_path, monkeypatch):
    from mlops_workbench.deploy import registry as module
    real, moments = module.utc, iter([datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)])
    bundle, registry = save_bundle(toy_bundle(), tmp_path), Registry(tmp_path)
    second = save_bundle(toy_bundle(), tmp_path)
    monkeypatch.setattr(module, "utc", lambda at: next(moments) if at is None else real(at))
    registry.register(bundle)
    registry.register(second)
    registry.promote("loans", 2)
    assert [(e.event, e.version) for e in registry.events("loans")] == [("registered", 1), ("registered", 2), ("promoted", 2)]


@pytest.mark.parametrize("file", ["model.onnx", "bundle.json", "card.md", "reference.parquet"])
@pytest.mark.parametrize("how", ["edited", "removed"])
def test_a_tampered_file_is_named(tmp_path, file, how):
    deploy(tmp_path, toy_bundle())
    path = tmp_path / "models/loans/1" / file
    if how == "removed": path.unlink()
    else:
        data = bytearray(path.read_bytes())
        at = data.index(b"loans") if file == "bundle.json" else len(data) // 2
        data[at] ^= 1
        path.write_bytes(bytes(data))
    with pytest.raises(NotFoundError if (file, how) == ("bundle.json", "removed") else TamperedError) as e: load_bundle(tmp_path, "loans")
    assert e.value.exit_status == 2
    if (file, how) != ("bundle.json", "removed"): assert file in str(e.value)


def test_a_bundle_put_in_the_place_of_another_is_refused(tmp_path):
    deploy(tmp_path, toy_bundle())
    deploy(tmp_path, trained_bundle())
    for file in (tmp_path / "models/loans/2").iterdir(): (tmp_path / "models/loans/1" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(TamperedError): load_bundle(tmp_path, "loans@1")


def test_bundle_json_says_what_it_must(tmp_path):
    lineage = {"dataset": "loans@7", "runs": ["tune-1", "assess-1"], "git": "abc"}
    evidence = {"performance": [{"metric": "auc", "estimate": 0.9, "low": 0.8, "high": 0.95, "n": 100}], "gates": [{"gate": "g", "answer": "pass"}]}
    bundle = deploy(tmp_path, trained_bundle(lineage=lineage, assessment=evidence, contract="kind: DataContract"))
    record = json.loads((tmp_path / "models/loans/1/bundle.json").read_text())
    assert record["lineage"] == lineage and record["metrics"][0]["low"] == 0.8 and record["gates"][0]["answer"] == "pass" and record["contract"].startswith("kind")
    assert (record["format"], record["name"], record["version"]) == (1, "loans", 1)
    assert set(record["files"]) == {"model.onnx", "card.md", "reference.parquet"} and record["policy"]["kind"] == "threshold"
    assert {i["name"] for i in record["signature"]["inputs"]} == set(bundle.graph.columns)
    loaded = load_bundle(tmp_path, "loans")
    assert loaded.reference is not None and set(loaded.reference.columns) == set(bundle.graph.columns) and "race" not in loaded.reference.columns


def test_the_card_is_valid_whatever_is_missing(tmp_path):
    for evidence in (None, {}, {"performance": []}, {"fairness": {}}, {"gates": None}, {"performance": {"auc": {"value": 0.5}}}, {"performance": "odd", "calibration": [1, 2], "fairness": {"race": {"groups": []}}}):
        bundle = save_bundle(toy_bundle(assessment=evidence), tmp_path)
        _, front, text = bundle.card.split("---\n", 2)
        assert yaml.safe_load(front)["library_name"] == "onnx" and f"# loans, version {bundle.version}" in text


def test_the_card_escapes_what_comes_from_data():
    evidence = {"performance": [{"metric": "a|b", "estimate": 1.0, "note": "<script>x</script>\nnew line"}]}
    text = toy_bundle(assessment=evidence).card
    assert "<script>" not in text.replace("\\<", "") and "a\\|b" in text and "x\\</script> new line" in text


def test_a_real_assessment_makes_a_card():
    import numpy as np
    import polars as pl

    from mlops_workbench.assess.assessment import assess_predictions
    from mlops_workbench.model.task import Task

    from .helpers_model import TARGETS, applicants
    rows, (target, classes) = applicants(400, seed=5), TARGETS["binary"]
    task = Task("loans", target, "binary", classes, ("income",), ("race",))
    score = trained_bundle().predict(rows)["probability_yes"]
    predictions = pl.DataFrame({"row": range(400), "fold": np.arange(400) % 5, "label": task.labels(rows), "score": score, "score_constant": [0.5] * 400})
    assessment = assess_predictions(task, predictions, rows.select("race"), gates={"fairness": "selection_rate_ratio(race) >= 0.8, block"})
    bundle = toy_bundle(task=task, assessment=assessment)
    for part in ("## Performance", "## By group", "### race", "## Gates", "selection\\_rate\\_ratio(race) >= 0.8"): assert part in bundle.card
    assert bundle.record["gates"][0]["gate"] == "fairness" and bundle.record["metrics"]


def test_a_failed_save_leaves_no_version(tmp_path, monkeypatch):
    import shutil
    monkeypatch.setattr(shutil, "copytree", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match="No space left"): save_bundle(toy_bundle(), tmp_path)
    monkeypatch.undo()
    assert save_bundle(toy_bundle(), tmp_path).version == 1


def test_a_registry_that_cannot_be_written(tmp_path):
    bundle = save_bundle(toy_bundle(), tmp_path)
    (tmp_path / "registry").write_text("in the way")
    with pytest.raises(StoreError): Registry(tmp_path).register(bundle)


def test_names_and_references():
    for name in ("", "../x", "a/b", "-a", "a b", "x" * 200):
        with pytest.raises(InputError): toy_bundle(name=name)
