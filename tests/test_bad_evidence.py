"""Bad evidence, as a user meets it: every odd input of an assessment ends in one clear error, or is handled and said."""

import importlib.util
import os
import re
import warnings
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlops_workbench.assess.assessment import assess_predictions, assess_scores
from mlops_workbench.assess.audit import audit, write_audit
from mlops_workbench.assess.doubts import doubts_html, find_doubts
from mlops_workbench.assess.report import html_page
from mlops_workbench.assess.summary import summary, summary_html
from mlops_workbench.assess.tables import write_tables
from mlops_workbench.assess.value import check_value, outcome_values
from mlops_workbench.core import show
from mlops_workbench.core.errors import InputError, SettingsError
from mlops_workbench.core.settings import AssessSettings
from mlops_workbench.model.policy import Policy
from mlops_workbench.model.task import Task

pytestmark = pytest.mark.long

N = 300
RNG = np.random.default_rng(0)
P = RNG.random(N)
Y = (RNG.random(N) < P).astype(int)
P3 = RNG.dirichlet([1, 1, 1], N)
Y3 = np.array([RNG.choice(3, p=p) for p in P3])
RACE = pl.DataFrame({"race": RNG.choice(["black", "white"], N)})
TWO = Task(name="loans", target="loan", framing="binary", classes=("no", "yes"), features=("a",), sensitive=("race",), value={"tp": 1, "fp": -1, "fn": 0, "tn": 0})
THREE = replace(TWO, framing="multiclass", classes=("a", "b", "c"), value={})
SIZE = replace(TWO, framing="regression", classes=(), value={})
FAIR = {"fair": "selection_rate_ratio(race) >= 0.8, block"}


def odd(x, value, at=7):
    "The array with one row replaced."
    x = np.array(x, float)
    x[at] = value
    return x


def told(labels, scores):
    "Predictions in five folds."
    return pl.DataFrame({"fold": np.arange(len(labels)) % 5, "label": labels}).with_columns(score=pl.Series(np.asarray(scores)))


def one_block(error):
    "The error says what, where and what to do, and would end a command with status 2."
    assert error.what and error.where and error.remedy and error.exit_status == 2 and len(str(error)) < 600 and "Traceback" not in str(error)


@pytest.mark.parametrize("task,labels,scores,words", [
    (TWO, Y, P[:200], "300 labels but 200 scores"),
    (TWO, Y[:200], P, "200 labels but 300 scores"),
    (TWO, Y[:0], P[:0], "no predictions"),
    (THREE, Y3, P3 * 0.7, "300 of 300 rows of probabilities are not one in sum"),
    (THREE, Y3, odd(P3, [0.5, 0.5, 0.5]), r"1 of 300 rows of probabilities is not one in sum: 0.5, 0.5, 0.5\n  where: row 8"),
    (THREE, Y3, P3 - 0.1, "not a probability from 0 to 1"),
    (TWO, Y, np.log(P / (1 - P)), "not a probability from 0 to 1.*(?s:.)*not its margins or logits"),
    (THREE, Y3, P3[:, :2] / P3[:, :2].sum(1, keepdims=True), r"shape \(300, 2\)(?s:.)*give 3 probabilities for each row, in the order a, b, c"),
    (THREE, Y3, P, r"shape \(300,\)"),
    (TWO, Y, np.column_stack([1 - P, P]), "probability of 'yes'"),
    (THREE, Y3, [[0.2, 0.8]] + P3[1:].tolist(), "not numbers, or not as many in each row"),
    (TWO, odd(Y, 2), P, r"1 of 300 labels is not one of the codes 0 \(no\), 1 \(yes\): 2\n  where: row 8"),
    (THREE, odd(Y3, 3), P3, "a class that the model has not learned cannot be assessed"),
    (TWO, odd(Y, -1), P, "not one of the codes"),
    (TWO, Y + 0.5, P, "not one of the codes"),
    (TWO, np.where(Y == 1, "yes", "no"), P, "not one of the codes(?s:.)*`task.labels` gives"),
    (TWO, Y, odd(P, np.nan), r"1 of 300 scores is not a finite number: nan\n  where: row 8"),
    (THREE, Y3, odd(P3, np.nan), "1 of 300 scores is not a finite number: nan, nan, nan"),
    (SIZE, Y.astype(float), odd(P, np.inf), "not a finite number: inf"),
    (SIZE, odd(Y, np.nan), P, "1 of 300 labels is not a finite number"),
    (TWO, Y, np.full(N, np.nan), "300 of 300 scores are not a finite number"),
    (SIZE, np.full(N, "x"), P, "not numbers"),
])
def test_what_is_no_answer_is_refused_with_its_row(task, labels, scores, words):
    policy = Policy("threshold", threshold=0.5) if task.framing == "binary" else Policy("argmax") if task.framing == "multiclass" else Policy("none")
    with pytest.raises(InputError, match=words) as e: assess_scores(task, labels, scores, RACE[: len(labels)], policy=policy)
    one_block(e.value)
    if len(labels) == len(scores) > 0:
        frame = pl.DataFrame({"fold": np.arange(N) % 5, "label": labels}).with_columns(score=pl.Series(scores))
        with pytest.raises(InputError, match=words) as e: assess_predictions(task, frame, RACE)
        one_block(e.value)


def test_a_model_beside_it_that_answers_nan_is_refused_too():
    with pytest.raises(InputError, match="1 of 300 scores is not a finite number"): assess_predictions(TWO, told(Y, P).with_columns(score_linear=pl.Series(odd(P, np.nan))), RACE)


def test_a_label_that_was_never_seen_in_training_is_named_with_its_column_and_row():
    frame = pl.DataFrame({"loan": ["no", "yes", "maybe", "no", "maybe"]})
    with pytest.raises(InputError, match=r"unknown label 'maybe' in 2 of 5 rows\n  where: column 'loan', row 2\n  remedy: the task's classes are no, yes"): TWO.labels(frame)


@pytest.mark.parametrize("more,words", [({"weights": np.ones(3)}, "3 weights"), ({"present": np.ones(3)}, "3 present decisions"), ({"rows": RACE[:3]}, "3 rows to slice")])
def test_what_goes_with_the_rows_has_their_number(more, words):
    with pytest.raises(InputError, match=words): assess_predictions(TWO, told(Y, P), RACE, **more)
    with pytest.raises(InputError, match="3 rows of sensitive columns"): assess_predictions(TWO, told(Y, P), RACE[:3])


@pytest.mark.parametrize("value,words", [({"tp": 1.0}, "the value of 'fp' is missing"), ({"tp": 1, "fp": 0, "fn": 0, "tn": float("nan")}, "'tn' is nan"),
                                         ({"tp": 1, "fp": 0, "fn": 0, "tn": 0, "fq": 1}, "no outcome 'fq'"), ({}, "'tp' is missing")])
def test_costs_that_are_not_four_numbers_are_refused(value, words):
    with pytest.raises(SettingsError, match=words): check_value(value)
    with pytest.raises(SettingsError, match=words): outcome_values(Y, Y, value)


def shown(a):
    "The whole assessment as HTML, made without a warning."
    parts = {s: a.section(s) for s in ("performance", "slices", "fairness", "candidates", "uncertainty")}
    return parts | {"summary": summary_html(summary(a)), "verdict": show.stack([show.note(s) for s in (*a.reasons, *a.notes)] + list(a.tables().values()))}


@pytest.mark.parametrize("name,groups,words", [
    ("a group of one row", ["only"] + ["black", "white"] * 149 + ["black"], "only"),
    ("a group with one class", np.where(Y == 1, "all good", np.where(RNG.random(N) < 0.5, "mixed", "mixed too")).tolist(), "all good"),
    ("every row of one group", ["same"] * N, "same"),
    ("all missing", [None] * N, "missing"),
    ("all but one missing", [None] * (N - 1) + ["black"], "missing"),
    ("each row its own group", [f"g{i}" for i in range(N)], "g1"),
])
def test_groups_that_cannot_be_compared_are_ordinary_and_said(name, groups, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        a = assess_predictions(TWO, told(Y, P), pl.DataFrame({"race": pl.Series(groups, dtype=pl.String)}), gates=FAIR, settings=AssessSettings(bootstrap=200))
        page = re.sub(r'base64,[^"]*', '', "".join(p.markup for p in shown(a).values()))
    assert words in page and not re.search(r'\bnan\b', page, re.I)
    rows = a.fairness["race"].groups
    assert rows["n"].sum() == N
    gate = a.gates[0]
    if "group of one row" not in name and "one class" not in name: assert gate.answer == "undecided" and gate.sentence, "what cannot be compared does not pass"
    for r in rows.to_dicts():
        if r["n"] == 1: assert r["small"] and r["selection_rate_high"] - r["selection_rate_low"] > 0.5, "one row says next to nothing"
    if name == "a group with one class": assert rows.filter(group="all good")["auc"][0] is None


HERE = RNG.integers(0, 2, (N, 2))
EVERY = {"binary": (TWO, Y, P), "multiclass": (THREE, Y3, P3), "regression": (SIZE, P, P), "quantiles": (replace(SIZE, loss="quantile", quantiles=(0.1, 0.9)), P, np.column_stack([P / 2, P])),
         "multilabel": (replace(TWO, framing="multilabel", target="a, b", classes=("a", "b"), targets=("a", "b"), value={}), HERE, RNG.random((N, 2))),
         "hierarchical": (replace(THREE, framing="hierarchical", classes=("a/b", "a/c", "d/e"), levels=("k",), separator="/"), Y3, P3)}


@pytest.mark.parametrize("groups", [[None] * N, ["same"] * N, [f"g{i % 20}" for i in range(N)]], ids=["all missing", "one group", "all small"])
@pytest.mark.parametrize("form", EVERY)
def test_without_two_groups_to_compare_every_framing_is_assessed(form, groups, tmp_path):
    task, labels, scores = EVERY[form]
    a = assess_predictions(task, told(labels, scores), pl.DataFrame({"race": pl.Series(groups, dtype=pl.String)}), settings=AssessSettings(bootstrap=50))
    gaps = a.fairness["race"].disparities
    assert gaps.schema["estimate"] == pl.Float64 and gaps["estimate"].null_count() == len(gaps) and shown(a) and write_tables(a, tmp_path)


def test_every_two_sensitive_columns_are_crossed_and_what_is_not_shown_is_said():
    rng = np.random.default_rng(2)
    people = pl.DataFrame({"race": rng.choice(list("abcde"), N), "country": rng.choice([f"L{i}" for i in range(60)], N), "sex": rng.choice(["f", "m"], N)})
    a = assess_predictions(TWO, told(Y, P), people, gates={"fair": "selection_rate_ratio(race & country) >= 0.8"}, settings=AssessSettings(bootstrap=50))
    assert list(a.fairness) == [*people.columns, "race & country", "race & sex", "country & sex", "race & country & sex"] and a.fairness["race & country"].groups["small"].all()
    assert a.fairness["race & sex"].groups["n"].sum() == N and a.gates[0].answer == "undecided" and len(a.gates[0].sentence) < 300
    assert a.notes[0] == f"country has {people['country'].n_unique()} values: the 49 most frequent are groups, the others are one."
    with pytest.raises(SettingsError, match=r"'country & race' is not assessed(?s:.)*write selection_rate_ratio\(race & country\)"): assess_predictions(TWO, told(Y, P), people, gates={"fair": "selection_rate_ratio(country & race) >= 0.8"})
    wide = pl.DataFrame({f"c{k}": RNG.choice(["a", "b"], N) for k in range(7)})
    b = assess_predictions(TWO, told(Y, P), wide, settings=AssessSettings(bootstrap=10))
    assert len(b.fairness) == 7 + 15 + 1 and "every two of the first 6 are crossed" in b.notes[0]
    with pytest.raises(SettingsError, match=r"'c0 & c6' is not assessed(?s:.)*the first 6 sensitive columns are crossed"): assess_predictions(TWO, told(Y, P), wide, gates={"fair": "selection_rate_ratio(c0 & c6) >= 0.8"})


def test_the_first_screen_names_the_worst_disparities_and_says_how_likely_chance_is():
    rng = np.random.default_rng(3)
    groups = {f"c{k}": rng.choice(["a", "b"], N) for k in range(4)} | {"few": [f"L{i % 50}" for i in range(N)]}
    people = pl.DataFrame(groups | {"worst": np.where(P > 0.6, "high", "low")})
    a = assess_predictions(TWO, told(Y, P), people, gates={"odds": "equal_opportunity_difference(worst) <= 0.01"}, settings=AssessSettings(bootstrap=200))
    said = summary(a)["For whom does it work worse?"]
    assert said[0].startswith("equal_opportunity_difference(worst) is ") and all("as much or more would be seen with p " in s for s in said[:5])
    assert [any(f"{m}({c}" in s for s in said) for m, c in (("selection_rate_ratio", ""), ("equalized_odds_difference", ""), ("selection_rate_ratio", "few)"))] == [True, True, False]
    assert "are less far apart, or it is not known" in said[5] and max(map(len, said)) < 700 and len(said) == 6
    assert "err on the side of showing a disparity" in a.section("fairness").markup
    small = assess_predictions(TWO, told(Y, P), people.select("few"), settings=AssessSettings(bootstrap=50))
    assert summary(small)["For whom does it work worse?"][0] == "selection_rate_ratio(few) is not known: fewer than two groups of at least 30 people have this rate; left out, fewer than 30 people: L0, L1, L10, L11, L12 and 45 more."


def test_one_class_two_rows_and_equal_scores_are_assessed_and_one_row_is_not():
    for labels, scores in ((np.ones(N, int), P), (np.zeros(N, int), P), (Y, np.full(N, 0.5)), (Y, np.zeros(N)), (np.array([0, 1]), P[:2])):
        a = assess_predictions(TWO, told(labels, scores), RACE[: len(labels)], settings=AssessSettings(bootstrap=200))
        assert a.n == len(labels) and shown(a)
    with pytest.raises(InputError, match="1 prediction"): assess_predictions(TWO, told(Y[:1], P[:1]), RACE[:1])


ODD = ["<script>document.title='owned'</script>", 'say "x" & \'y\'', "😀 emoji", "x" * 10_000, "long " * 2_000, "x" * 9_999 + "y", "$\\frac{a}$", "two\nlines", "<img src=x onerror=document.title='owned'>", "", " "]
LONG = "<img src=x onerror=\"document.title='owned'\"> " + "g" * 10_000


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    "A report's sections and an audit page of data whose every name is odd."
    folder = tmp_path_factory.mktemp("odd")
    classes = ("<b>no</b>" + "n" * 3000, "yes '\" 😀" + "y" * 3000)
    task = Task(name="loans", target="<i>loan</i>", framing="binary", classes=classes, features=(LONG, "a"), sensitive=("<u>race</u>", LONG), value={"tp": 1, "fp": -4, "fn": 0, "tn": 0})
    rng, n = np.random.default_rng(1), 900
    score = rng.beta(3, 2, n)
    y = (rng.random(n) < score).astype(int)
    frame = pl.DataFrame({LONG: rng.choice(ODD, n), "a": score + rng.normal(size=n) / 9, "<u>race</u>": rng.choice(ODD[:3], n), "<i>loan</i>": np.array(classes)[y]})
    rows = pl.DataFrame({"row": np.arange(n), "fold": np.arange(n) % 5, "label": y, "score": score})
    a = assess_predictions(task, rows, frame.select(task.sensitive), rows=frame, gates={"f": "selection_rate_ratio(<u>race</u>) >= 0.8, block"}, slices={"<s>": "a > 0.5"})
    doubts = find_doubts(task, frame, rows, y, score, lambda f: np.full(len(f), 0.5), replicates=100)
    write_tables(a, folder / "tables")
    report = html_page(shown(a) | {"doubts <script>": doubts_html(doubts)}, folder / "report.html", title=f"Assessment of {task.name}")
    told = audit(frame.with_columns(score=pl.Series(score)), label="<i>loan</i>", positive=classes[1], groups=[LONG, "<u>race</u>"], score="score", threshold=0.6, source="<b>x</b>.csv")
    return {"report": report, "audit": write_audit(told, folder / "audit.html")}


@pytest.mark.parametrize("name", ["report", "audit"])
def test_odd_names_are_text_on_the_page_and_do_not_fill_it(pages, name):
    page = pages[name].read_text()
    assert not re.search(r"<script|<img src=x|<u>|<i>loan|<b>(no|x)", page) and "&lt;script&gt;" in page and "😀" in page
    assert len(page) < 2_000_000 and not re.search(r"[xgyn]{200}", page) and max(len(unescape(t)) for t in re.findall(r">([^<]*)<", re.sub(r"<style>.*?</style>", "", page, flags=re.S))) < 3100


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("name", ["report", "audit"])
def test_in_a_browser_nothing_executes_and_nothing_overflows(pages, name, width):
    chromium = Path(os.environ.get("CHROMIUM") or "/usr/bin/chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not chromium.exists(): pytest.skip(f"no browser at {chromium}")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=str(chromium), args=["--no-sandbox", "--disable-gpu"])
        page, asked, said = browser.new_context(offline=True, viewport={"width": width, "height": 900}).new_page(), [], []
        page.on("request", lambda r: asked.append(r.url))
        page.on("console", lambda m: said.append(m.text))
        page.on("pageerror", lambda e: said.append(str(e)))
        page.goto(pages[name].as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert "owned" != page.title() and said == [] and [u for u in asked if not u.startswith(("data:", "file:"))] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        cut = page.evaluate("""[...document.querySelectorAll('p,h1,h2,h3,summary,dd,li,figcaption,[role=note]')].filter(e => e.scrollWidth > e.clientWidth + 2 && getComputedStyle(e).display !== 'inline').map(e => e.outerHTML.slice(0, 200))""")
        assert cut == []
        browser.close()


@pytest.mark.parametrize("name,rows,limit", [("AUDIT", 200_000, 500), ("ASSESS", 60_000, 1500)])
def test_memory_grows_by_a_few_numbers_a_row(name, rows, limit):
    "`benchmarks/bench_large.py` asks the same of ten million rows."
    spec = importlib.util.spec_from_file_location("bench_large", Path(__file__).parents[1] / "benchmarks" / "bench_large.py")
    assert spec and spec.loader
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    (_, few), (_, many) = (bench.cost(getattr(bench, name), n) for n in (1000, rows))
    assert (many - few) / rows < limit
