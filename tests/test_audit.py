"""Auditing anyone's table from the command line, in an empty folder: the published COMPAS table to the digit, odd names, and bad input."""
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.test_cli import ENV, is_one_block, mlw

from mlops_workbench.assess.audit import audit

# Larson, Mattu, Kirchner and Angwin, "How we analyzed the COMPAS recidivism algorithm", ProPublica, 2016: TN, FP, FN, TP of two-year recidivism
# at a decile score of 5 or more; "Other" is what remains of all defendants.
COUNTS = {"African-American": (990, 805, 532, 1369), "Caucasian": (1139, 349, 461, 505), "Other": (552, 128, 223, 161)}
PUBLISHED = {   # FPR, FNR, precision (to two places), accuracy (Dressel and Farid, Science Advances 4, 2018, to one place of a per cent)
    "African-American": ("44.85", "27.99", "0.63", "63.8"), "Caucasian": ("23.45", "47.72", "0.59", "67.0"), "(all rows)": ("32.35", "37.40", "0.61", "65.4")}
AUDIT = ["--label", "two_year_recid", "--score", "decile_score", "--threshold", 5, "--group", "race"]
SMALL = ["--label", "y", "--score", "s", "--threshold", 0.5]


def compas() -> pl.DataFrame:
    rows = [(race, 1 + i % 4 if d == 0 else 5 + i % 6, y) for race, cells in COUNTS.items() for n, (y, d) in zip(cells, ((0, 0), (0, 1), (1, 0), (1, 1))) for i in range(n)]
    return pl.DataFrame(rows, schema=["race", "decile_score", "two_year_recid"], orient="row").sample(fraction=1, shuffle=True, seed=0)


def people(**columns: list) -> pl.DataFrame:
    "400 people; columns given replace those made."
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    made = {"y": y, "s": np.round(np.clip(rng.normal(0.35 + 0.3 * y, 0.2), 0, 1), 3), "g": rng.choice(["a", "b"], 400), "h": rng.choice(["x", "y", "z"], 400)}
    return pl.DataFrame(made).with_columns(**{k: pl.Series(v, strict=False) for k, v in columns.items()})


def run(tmp_path: Path, frame: pl.DataFrame, *args, name: str = "t.csv"):
    folder = tmp_path / "empty"
    folder.mkdir(exist_ok=True)
    frame.write_parquet(tmp_path / name) if name.endswith("parquet") else frame.write_csv(tmp_path / name)
    return mlw("assess", "--predictions", tmp_path / name, *args, cwd=folder), folder


def printed(text: str, title: str) -> dict[str, list[str]]:
    "The first printed table that has this heading, as group -> cells."
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("group") and title in line)
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[at + 1 : lines.index("", at)]]
    return {r[0]: r[1:] for r in rows}


@pytest.mark.parametrize("name", ["compas.csv", "compas.parquet"])
def test_the_published_compas_table_is_reproduced_to_the_digit(tmp_path, name):
    done, folder = run(tmp_path, compas(), *AUDIT, "--out", "page/audit.html", "--json", "audit.json", name=name)
    assert done.returncode == 0, done.stderr
    counts, errors = printed(done.stdout, "TN"), printed(done.stdout, "FPR")
    trust, right = printed(done.stdout, "precision"), printed(done.stdout, "accuracy")
    for race, cells in COUNTS.items(): assert counts[race][:5] == [f"{sum(cells):,}", *(f"{c:,}" for c in cells)]
    for race, (fpr, fnr, precision, accuracy) in PUBLISHED.items():
        assert errors[race][0].split(" ")[0] == fpr and errors[race][1].split(" ")[0] == fnr
        assert f"{float(trust[race][0].split(' ')[0]) / 100:.2f}" == precision and f"{float(right[race][-1].split(' ')[0]):.1f}" == accuracy
    assert "7,214 rows, 7,214 used" in done.stdout and "Decided positive is decile_score >= 5" in done.stdout
    page = (folder / "page" / "audit.html").read_text()
    for value in ("44.85", "23.45", "27.99", "47.72", "decile_score &gt;= 5", "7,214"): assert value in page
    found = json.loads((folder / "audit.json").read_text())
    assert [(g["group"], g["tn"], g["fp"], g["fn"], g["tp"]) for g in found["groups"]["race"]] == [(r, *c) for r, c in COUNTS.items()]
    assert sorted(p.name for p in folder.iterdir()) == ["audit.json", "page"], "an audit leaves nothing but what was asked for"


def test_a_file_with_a_column_twice_as_published(tmp_path):
    path = tmp_path / "two-years.csv"
    rows = compas().rows()
    path.write_text("race,decile_score,two_year_recid,decile_score\n" + "".join(f"{r},{s},{y},{s}\n" for r, s, y in rows))
    done = mlw("assess", "--predictions", path, *AUDIT, cwd=tmp_path)
    assert done.returncode == 0 and "they say the same" in done.stdout and printed(done.stdout, "FPR")["Caucasian"][0].startswith("23.45")
    path.write_text("race,decile_score,two_year_recid,decile_score\n" + "".join(f"{r},{s},{y},{11 - s}\n" for r, s, y in rows))
    is_one_block(mlw("assess", "--predictions", path, *AUDIT, cwd=tmp_path).stderr, "two columns are called 'decile_score', and they differ")


def test_in_a_process_of_its_own_in_an_empty_folder(tmp_path):
    compas().head(500).write_csv(tmp_path / "t.csv")
    (tmp_path / "empty").mkdir()
    code = "from mlops_workbench.ui.entry import script; script()"
    done = subprocess.run([sys.executable, "-c", code, "assess", "--predictions", "../t.csv", *map(str, AUDIT), "--json", "-"], cwd=tmp_path / "empty", env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["used"] == 500 and not done.stderr and not list((tmp_path / "empty").iterdir())


def test_several_columns_and_their_intersection(tmp_path):
    frame = people(h=[None if i % 10 == 0 else "xyz"[i % 3] for i in range(400)])
    done, folder = run(tmp_path, frame, *SMALL, "--group", "g,h", "--json", "a.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "a.json").read_text())
    assert list(found["groups"]) == ["g", "h", "g & h"] and "(missing)" in {r["group"] for r in found["groups"]["h"]}
    assert all(sum(r["n"] for r in t) == 400 for t in found["groups"].values())
    again = run(tmp_path, frame, *SMALL, "--group", "g", "--group", "h", "--json", "b.json")[1]
    assert json.loads((again / "b.json").read_text())["groups"] == found["groups"]
    for r in found["groups"]["g"]:
        own = frame.filter(pl.col("g") == r["group"])
        y, d = own["y"].to_numpy(), own["s"].to_numpy() >= 0.5
        assert r["fpr"] == pytest.approx(d[y == 0].mean()) and r["fdr"] == pytest.approx(1 - y[d].mean()) and r["fpr_low"] < r["fpr"] < r["fpr_high"]


def test_each_group_against_a_reference(tmp_path):
    done, folder = run(tmp_path, compas().with_columns(sex=pl.Series(["f", "m", "m"] * 2404 + ["f", "m"])), *AUDIT[:-2], "--group", "race,sex", "--reference", "Caucasian,m", "--json", "a.json")
    assert done.returncode == 0, done.stderr
    assert "FPR(race): 1.91 times" in done.stdout and "44.85 % against 23.45 %" in done.stdout     # ProPublica: nearly twice
    found = json.loads((folder / "a.json").read_text())["against"]
    assert {c: {r["reference"] for r in rows} for c, rows in found.items()} == {"race": {"Caucasian"}, "sex": {"m"}, "race & sex": {"Caucasian & m"}}
    row = next(r for r in found["race"] if r["rate"] == "fpr" and r["group"] == "African-American")
    assert row["ratio"] == pytest.approx((805 / 1795) / (349 / 1488)) and row["low"] < row["difference"] < row["high"] and row["p_value"] < 1e-10
    is_one_block(run(tmp_path, compas(), *AUDIT, "--reference", "Caucasien")[0].stderr, "no column has the group 'Caucasien'", "did you mean 'Caucasian'?")


def test_rows_that_are_left_out_are_counted_with_why(tmp_path):
    y, s = people()["y"].to_list(), people()["s"].to_list()
    frame = people(y=[None, None, None, *y[3:]], s=[None, *s[1:10], None, None, *s[12:]])
    done, folder = run(tmp_path, frame, *SMALL, "--group", "g", "--json", "a.json")
    assert "400 rows, 395 used" in done.stdout and "3 rows were left out: no label in y" in done.stdout and "2 rows were left out: no score in s" in done.stdout
    assert json.loads((folder / "a.json").read_text())["left_out"] == {"no label in y": 3, "no score in s": 2}


@pytest.mark.parametrize(("values", "more"), [(("0", "1"), []), (("false", "true"), []), (("False", "TRUE"), []), (("no", "yes"), ["--positive", "yes"]), (("paid", "défaut 😀"), ["--positive", "défaut 😀"])])
def test_labels_in_their_spellings(tmp_path, values, more):
    frame = people(y=[values[v] for v in people()["y"]])
    done, folder = run(tmp_path, frame, *SMALL, "--group", "g", "--json", "a.json", *more)
    assert done.returncode == 0, done.stderr
    plain = audit(people(), label="y", score="s", threshold=0.5, groups=["g"]).to_json()
    assert json.loads((folder / "a.json").read_text())["groups"] == json.loads(json.dumps(plain))["groups"]


def test_decisions_instead_of_a_threshold(tmp_path):
    frame = people().with_columns(d=pl.when(pl.col("s") >= 0.5).then(pl.lit("High")).otherwise(pl.lit("Low")))
    asked = ["--label", "y", "--decision", "d", "--group", "g"]
    is_one_block(run(tmp_path, frame, *asked)[0].stderr, "the decision is 'High' or 'Low': which is positive?", "--decided 'High'")
    done, folder = run(tmp_path, frame, *asked, "--decided", "High", "--json", "a.json")
    found = json.loads((folder / "a.json").read_text())
    assert done.returncode == 0 and found["rule"] == "d = High" and "auc" not in found["everybody"]
    scored = json.loads((run(tmp_path, frame, *SMALL, "--group", "g", "--json", "b.json")[1] / "b.json").read_text())
    assert found["everybody"]["fpr"] == scored["everybody"]["fpr"] and "auc" in scored["everybody"]
    both = run(tmp_path, frame, *asked, "--decided", "High", "--score", "s", "--json", "c.json")[1]
    assert json.loads((both / "c.json").read_text())["everybody"]["auc"] == scored["everybody"]["auc"]


@pytest.mark.parametrize(("args", "parts"), [
    (["--label", "yy", *SMALL[2:], "--group", "g"], ["the label 'yy' is not a column", "did you mean 'y'?"]),
    ([*SMALL, "--group", "gg"], ["the group 'gg' is not a column", "did you mean 'g'?"]),
    ([*SMALL, "--group", "g,hh"], ["the group 'hh' is not a column"]),
    ([*SMALL], ["by which groups?"]),
    (["--score", "s", "--threshold", 1, "--group", "g"], ["which column is the label?"]),
    (["--label", "y", "--group", "g"], ["nothing says what is decided"]),
    (["--label", "y", "--score", "s", "--group", "g"], ["a score alone decides nothing", "--threshold NUMBER"]),
    (["--label", "y", "--threshold", 1, "--group", "g"], ["a threshold needs a score"]),
    ([*SMALL, "--decision", "y", "--group", "g"], ["both a threshold and a decision"]),
    (["--label", "y", "--score", "s", "--threshold", "nan", "--group", "g"], ["the threshold is nan"]),
    (["--label", "h", *SMALL[2:], "--group", "g"], ["the label has 3 values, not two", "'x' or 'y' or 'z'"]),
    (["--label", "g", *SMALL[2:], "--group", "h"], ["the label is 'a' or 'b': which is positive?", "--positive 'a'"]),
    (["--label", "g", *SMALL[2:], "--group", "h", "--positive", "A1"], ["no row has the label 'A1'"]),
    (["--label", "y", "--score", "g", "--threshold", 1, "--group", "h"], ["the score is not a number: '", "400 of 400 rows"]),
    ([*SMALL, "--group", "y"], ["'y' is the label, and cannot be a group"]),
    ([*SMALL, "--group", "g", "--out", "page.pdf"], ["names no page", "ends in .html"]),
    ([*SMALL, "--group", "g", "--weight", "ww"], ["the weight 'ww' is not a column", "did you mean 'w'?"]),
    ([*SMALL, "--group", "g", "--weight", "h"], ["the weight is no number of 0 or more: '", "400 of 400 rows"]),
    ([*SMALL, "--group", "g", "--weight", "minus"], ["the weight is no number of 0 or more: '-1'", "1 of 400 rows", "row 8"]),
    ([*SMALL, "--group", "g", "--weight", "s"], ["'s' is the score, and cannot be the weight"]),
    ([*SMALL, "--group", "g,w", "--weight", "w"], ["'w' is the weight, and cannot be a group"]),
    ([*SMALL, "--group", "g", "--weight", "none"], ["no row has a label and a score and a weight above 0"]),
    ([*SMALL, "--group", "g", "--data", "t.csv"], ["--data is for a model of the project"]),
])
def test_what_cannot_be_audited_is_refused_in_one_block(tmp_path, args, parts):
    done, folder = run(tmp_path, people(w=[1.5] * 400, minus=[-1 if i == 7 else 1 for i in range(400)], none=[0] * 400), *args)
    assert done.returncode == 2 and not done.stdout and not list(folder.iterdir())
    is_one_block(done.stderr, *parts)


def test_columns_without_a_value_and_files_that_are_not_there(tmp_path):
    is_one_block(run(tmp_path, people(g=[None] * 400), *SMALL, "--group", "g")[0].stderr, "no row has a value in 'g'")
    is_one_block(run(tmp_path, people(y=[None] * 400), *SMALL, "--group", "g")[0].stderr, "every label is missing")
    is_one_block(run(tmp_path, people(s=[None] * 400), *SMALL, "--group", "g")[0].stderr, "no row has a label and a score")
    is_one_block(mlw("assess", "--predictions", "nowhere.csv", *SMALL, "--group", "g", cwd=tmp_path).stderr, "no such file", "nowhere.csv")
    is_one_block(mlw("assess", "--group", "g", cwd=tmp_path).stderr, "--group is for a table of predictions", "--predictions")
    is_one_block(mlw("assess", cwd=tmp_path).stderr, "nothing to assess is named")
    (tmp_path / "file").touch()
    is_one_block(run(tmp_path, people(), *SMALL, "--group", "g", "--out", tmp_path / "file" / "a.html")[0].stderr, "cannot be written")


def test_a_group_of_one_row_and_groups_of_one_class_are_ordinary(tmp_path):
    g = ["lone", *["positive"] * 60, *["negative"] * 60, *["both"] * 279]
    y = [1, *[1] * 60, *[0] * 60, *people()["y"].to_list()[121:]]
    done, folder = run(tmp_path, people(g=g, y=y), *SMALL, "--group", "g", "--out", "a.html", "--json", "a.json")
    assert done.returncode == 0, done.stderr
    rows = {r["group"]: r for r in json.loads((folder / "a.json").read_text())["groups"]["g"]}
    assert rows["lone"]["n"] == 1 and rows["lone"]["small"] and rows["lone"]["auc"] is None and rows["lone"]["fpr"] is None
    assert rows["positive"]["fpr"] is None and rows["positive"]["tpr"] is not None and rows["negative"]["fnr"] is None and rows["both"]["auc"] > 0.5
    assert printed(done.stdout, "FPR")["positive"][0] == "–" and "lone" in done.stdout


def test_one_class_in_all_rows_and_a_threshold_that_nobody_reaches_are_said(tmp_path):
    assert "every row has the same label" in run(tmp_path, people(y=[0] * 400), *SMALL, "--group", "g")[0].stdout
    done = run(tmp_path, people(), "--label", "y", "--score", "s", "--threshold", 7, "--group", "g")[0]
    assert done.returncode == 0 and "every row has the same decision" in done.stdout
    upside = run(tmp_path, people(y=[1 - v for v in people()["y"]]), *SMALL, "--group", "g")[0]
    assert "high scores go with negative labels" in upside.stdout


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_weighed_rows_have_the_rates_of_repeated_ones_and_the_certainty_of_their_own(tmp_path, name):
    times = np.random.default_rng(1).integers(1, 5, 400)
    frame = people(w=times.tolist(), other=["x"] * 400)
    asked = [*SMALL, "--group", "g,h", "--weight", "w"]
    done, folder = run(tmp_path, frame, *asked, "--json", "a.json", "--out", "a.html", name=name)
    assert done.returncode == 0, done.stderr
    found, whole = json.loads((folder / "a.json").read_text()), audit(frame.select(pl.exclude("w").repeat_by("w").explode()), label="y", score="s", threshold=0.5, groups=["g,h"]).to_json()
    assert found["weight"] == "w" and found["used"] == 400 and "weight" not in whole
    for c in ("g", "h", "g & h"):
        theirs = {r["group"]: r for r in whole["groups"][c]}
        for r in found["groups"][c]:
            t = theirs[r["group"]]
            assert all(r[k] == (None if t[k] is None else pytest.approx(t[k])) for k in ("tn", "fp", "fn", "tp", "tpr", "fpr", "precision", "accuracy", "auc")) and r["n"] < t["n"] and r["effective"] < r["n"]
            assert r["accuracy_high"] - r["accuracy_low"] > t["accuracy_high"] - t["accuracy_low"], "a weight is not a number of people"
        if c != "g & h": assert [r["estimate"] for r in found["disparities"][c]] == pytest.approx([r["estimate"] for r in whole["disparities"][c]])
    g = next(r for r in found["groups"]["g"] if r["group"] == "a")
    at, d = frame["g"].to_numpy() == "a", frame["s"].to_numpy() >= 0.5
    assert g["selection_rate"] == pytest.approx(np.average(d[at], weights=times[at])) and g["effective"] == pytest.approx(times[at].sum() ** 2 / (times[at] ** 2).sum())
    assert "effective n" in done.stdout and ", effective " in done.stdout and "of the weight in w" in done.stdout
    page = (folder / "a.html").read_text()
    assert "Kish" in page and "Rao and Scott" in page and "Fisher" not in page and "effective n" in page


def test_rows_without_a_weight_are_left_out_and_counted(tmp_path):
    frame = people(w=[None, None, 0, *[2.5] * 397])
    done, folder = run(tmp_path, frame, *SMALL, "--group", "g", "--weight", "w", "--json", "a.json")
    found = json.loads((folder / "a.json").read_text())
    assert found["left_out"] == {"no weight in w": 2, "a weight of 0 in w": 1} and found["used"] == 397 and "2 rows were left out: no weight in w" in done.stdout
    plain = audit(people()[3:], label="y", score="s", threshold=0.5, groups=["g"]).to_json()
    for r, p in zip(found["groups"]["g"], plain["groups"]["g"]):
        assert r["effective"] == pytest.approx(r["n"]) and all(r[k] == pytest.approx(p[k], abs=1e-6) for k in ("n", "tpr", "tpr_low", "tpr_high", "auc", "auc_low")), "of one weight"


def test_a_group_of_one_heavy_row_is_small(tmp_path):
    frame = people(w=[1000 if i == 0 else 1 for i in range(400)], g=["a"] * 200 + ["b"] * 200)
    done, folder = run(tmp_path, frame, *SMALL, "--group", "g", "--weight", "w", "--json", "a.json")
    rows = {r["group"]: r for r in json.loads((folder / "a.json").read_text())["groups"]["g"]}
    assert rows["a"]["small"] and rows["a"]["n"] == 200 and rows["a"]["effective"] < 2 and not rows["b"]["small"]
    assert rows["a"]["accuracy_high"] - rows["a"]["accuracy_low"] > 0.5 and "fewer than two groups" in done.stdout


ODD = ["<script>alert(1)</script>", 'say "x" & \'y\'', "😀 emoji", "x" * 10_000, "x" * 9_999 + "y", "$\\frac{a}$", "two\nlines", "& ampersand & more"]


def test_odd_names_are_escaped_in_the_page_and_cut_in_the_terminal(tmp_path):
    column = '<img src=x onerror="alert(1)"> ' + "g" * 10_000
    frame = people(g=[ODD[i % len(ODD)] for i in range(400)]).rename({"g": column, "y": "<b>label</b>"})
    done, folder = run(tmp_path, frame, "--label", "<b>label</b>", "--score", "s", "--threshold", 0.5, "--group", column, "--group", "h", "--out", "a.html", "--json", "a.json")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert max(map(len, done.stdout.splitlines())) < 900 and "\x1b" not in done.stdout
    page = (folder / "a.html").read_text()
    assert "<script" not in page and "<img src=x" not in page and "<b>label" not in page and "&lt;script&gt;" in page and "😀" in page
    assert len(page) < 1_000_000 and "x" * 1000 not in page
    assert not re.findall(r"<script|@import|url\(|\bsrc=[\"'](?!data:)|<link[^>]+href=[\"'](?!data:)", page), "the page asks for nothing"
    found = json.loads((folder / "a.json").read_text())
    assert {r["group"] for r in found["groups"][column]} == set(ODD), "the JSON has the names in full"
    cut = [line.split("  ")[0] for line in done.stdout.split("\nBy ")[1].splitlines() if line.startswith("xxxx")]
    assert len(set(cut)) == 2, "two long names that are alike where they are cut stay apart"


def test_numbers_and_many_values_as_groups_are_said(tmp_path):
    done, folder = run(tmp_path, people(g=list(range(20, 60)) * 10, h=[f"zip{i % 80}" for i in range(400)]), *SMALL, "--group", "g,h", "--json", "a.json")
    found = json.loads((folder / "a.json").read_text())
    assert "ranges between quartiles" in done.stdout and "h has 80 values: the 49 most frequent are groups" in done.stdout
    assert len(found["groups"]["g"]) == 4 and len(found["groups"]["h"]) == 50 and "25 smaller groups are in the JSON" in done.stdout


def test_infinite_numbers_and_quartiles_close_together_are_groups(tmp_path):
    far, near = [math.inf, -math.inf, *range(398)], np.linspace(-122.45, -122.39, 400).tolist()
    done, folder = run(tmp_path, people(g=far, h=near, year=(1985 + np.arange(400) / 1000).tolist()), *SMALL, "--group", "g,h,year", "--json", "a.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "a.json").read_text())["groups"]
    assert {r["group"]: r["n"] for r in found["h"]} == {g: 100 for g in ("from -122.45 to -122.44", "above -122.44 to -122.42", "above -122.42 to -122.41", "above -122.41 to -122.39")}
    assert {r["group"] for r in found["g"]} == {"from −∞ to 99.25", "above 99.25 to 198.5", "above 198.5 to 297.8", "above 297.8 to ∞"} and [len(found[c]) for c in ("g", "year")] == [4, 4]


def test_any_number_of_columns_is_crossed():
    frame = people(**{f"c{k}": (np.arange(400) * k % 397).tolist() for k in range(1, 33)})
    found = audit(frame, label="y", score="s", threshold=0.5, groups=[f"c{k}" for k in range(1, 33)], replicates=10, permutations=10)
    assert len(found.groups) == 33 and list(found.groups.values())[-1]["n"].sum() == 400


def test_an_audit_is_the_same_every_time(tmp_path):
    a, b = ((run(tmp_path, people(), *SMALL, "--group", "g,h", "--json", f"{n}.json")[1] / f"{n}.json").read_bytes() for n in "ab")
    assert a == b and os.path.getsize(tmp_path / "empty" / "a.json") < 200_000
