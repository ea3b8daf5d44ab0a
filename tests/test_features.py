"Features fitted on odd columns, and the same numbers from Python and from the graph, to the last bit."
from datetime import date, datetime, UTC

import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
from onnx import TensorProto, helper

from mlops_workbench.assess.explain import shapley
from mlops_workbench.core.settings import TaskSettings
from mlops_workbench.model.features import Encoded, Features
from mlops_workbench.model.graph import IR, ML_OPSET, OPSET, Graph, _Builder, _feature_nodes, to_onnx
from mlops_workbench.model.policy import Policy
from mlops_workbench.model.predictor import Predictor
from mlops_workbench.model.task import Task, frame_task
from mlops_workbench.tune.study import fit_model

from .helpers_model import everything

AWKWARD = ["", " ", " \n\t", "late", "LATE", "Late.", "late,broken", "late\0broken", "\0", "\0" * 3, "very\nlate", "very  late", "very-late", "translate", "lately", "late_", "late2",
           "👍", "late👍", "👍late👍", "👩‍👩‍👧 late", "ÄRGER", "ärger", "A\u0308rger", "ǅ", "ß", "ẞ", "straße STRASSE", "İstanbul", "ΟΔΟΣ οδος", "ſ K late", "晚了", "לאחר", "late\u200bbroken",
           "\ufefflate", "late\u00a0broken", "x" * 10_000, "late " * 2000, "é" * 10_000, ",;" * 5000 + "late", "\U0010ffff", "nan", "null", "None", "(?s).*", "[late]", "\\x00", "late\r\nbroken"]


def answers(features: Features, frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    "What the graph's own nodes make of the rows: numbers and codes."
    g = _Builder()
    num, cat = _feature_nodes(g, features)
    outputs = [helper.make_tensor_value_info(num, TensorProto.FLOAT, ["n", features.d_num]), helper.make_tensor_value_info(cat, TensorProto.INT64, ["n", len(features.categorical)])]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    model = helper.make_model(helper.make_graph(g.nodes, "features", list(g.inputs.values()), outputs, g.constants), opset_imports=opsets, ir_version=IR)
    onnx.checker.check_model(model)
    raw = features.raw(frame)
    feeds = {c: raw[c].to_numpy().reshape(-1, 1) for c in raw.columns}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    num, cat = session.run(None, {c: x.astype(object) if raw[c].dtype == pl.String else x for c, x in feeds.items()})
    return num, cat


def agree(features: Features, frame: pl.DataFrame) -> np.ndarray:
    "The numbers of the rows, which are those of the graph."
    x, (num, cat) = features.transform(frame), answers(Features.from_json(features.to_json()), frame)
    np.testing.assert_array_equal(num, x.num)
    np.testing.assert_array_equal(cat, x.cat)
    assert x.num.shape == (len(frame), features.d_num) and len(features.sources) == features.d_num + x.cat.shape[1]
    return x.num


def fitted(frame: pl.DataFrame, columns=None) -> Features:
    classes = tuple(sorted(map(str, frame["y"].unique()))) if "y" in frame.columns else ("0", "1")
    return Features.fit(frame, Task("t", "y", "binary", classes=classes, features=tuple(columns or (c for c in frame.columns if c != "y"))))


def remarks(n: int = 400) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    words = ["late", "broken", "very", "ärger", "straße", "οδος", "istanbul", "cable"]
    return pl.DataFrame({"remark": [" ".join(rng.choice(words, rng.integers(3, 9))) + f" {i}" for i in range(n)], "y": rng.integers(0, 2, n)})


def test_awkward_text():
    features = fitted(remarks().drop("y"))
    assert features.columns == {"remark": "text"} and {"late", "ärger", "οδος", "straße"} <= set(features.texts[0].words)
    num = agree(features, pl.DataFrame({"remark": [*AWKWARD, None]}))
    has = {t: num[i, 1 + features.texts[0].words.index("late")] == 1 for i, t in enumerate(AWKWARD)}
    for text in ("late", "LATE", "Late.", "late,broken", "late\0broken", "late👍", "👩‍👩‍👧 late", "late_", "[late]", "late\u00a0broken", "late " * 2000): assert has[text], text[:20]
    for text in ("", "translate", "lately", "late2", "x" * 10_000): assert not has[text], text[:20]
    assert [t for i, t in enumerate([*AWKWARD, None]) if np.isnan(num[i, 0])] == ["", " ", " \n\t", None]


def test_random_text():
    "Texts of characters drawn from all of Unicode, beside separators and the vocabulary's own letters in both cases."
    rng, features = np.random.default_rng(1), fitted(remarks().drop("y"))
    own = list("lateLATEbrokenÄÉäβς οδοςΟΔΟΣ  ,.\0\n")
    def text() -> str:
        points = rng.integers(0, 0x110000, 5)
        return "".join(rng.permutation(own)[: rng.integers(0, 30)]) + "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000) + " late "
    agree(features, pl.DataFrame({"remark": [text() for _ in range(500)]}))


@pytest.mark.parametrize("target", ["y", "amount", "kind", "none"])
def test_phrases_go_by_the_target(target):
    "Of many words, those that go with the target are kept, whatever its framing; without one, the most frequent."
    rng = np.random.default_rng(0)
    telling = rng.random(2000) < 0.025
    noise = [" ".join(f"w{j}" for j in rng.integers(0, 300, 8)) for _ in range(2000)]
    frame = pl.DataFrame({"remark": [f"{t} {'Refund' if k else ''} {i}" for i, (t, k) in enumerate(zip(noise, telling))],
                          "y": telling.astype(int), "amount": telling * 10.0 + rng.normal(size=2000), "kind": np.where(telling, "a", rng.choice(["b", "c"], 2000))})
    framing = {"y": ("binary", ("0", "1")), "amount": ("regression", ()), "kind": ("multiclass", ("a", "b", "c")), "none": ("binary", ("0", "1"))}[target]
    words = Features.fit(frame, Task("t", target, framing[0], classes=framing[1], features=("remark",))).texts[0].words
    assert (len(words) == 200, "refund" in words[:3]) == ((True, False) if target == "none" else (False, True))


def test_what_is_text_and_what_a_category():
    n = 600
    frame = pl.DataFrame({
        "few sentences": ["came far too late ", " was broken on arrival"] * (n // 2), "names": [f"Ann Smith{i}" for i in range(n)],
        "codes": [f"a-{i} b-{i}" for i in range(n)], "prose": [f"this is remark number {i}" for i in range(n)], "y": [0, 1] * (n // 2)})
    assert fitted(frame).columns == {"prose": "text", "few sentences": "category", "names": "category", "codes": "category"}


def test_dates_of_all_kinds():
    odd = [date(1, 1, 1), date(9999, 12, 31), date(1600, 2, 29), date(1969, 12, 31), date(2000, 2, 29), date(1900, 3, 1), None, date(1970, 1, 1)]
    frame = pl.DataFrame({"day": odd})
    features = fitted(frame)
    assert features.numeric[0].parts == ("month", "day", "weekday")
    num = agree(features, frame)
    known = [i for i, d in enumerate(odd) if d]
    for j, part in enumerate(("month", "day", "weekday"), 1):
        np.testing.assert_array_equal(num[known, j], frame["day"].drop_nulls().dt.__getattribute__(part)().to_numpy())
    assert np.isnan(num[6]).all()


def test_moments_in_time_zones():
    "A moment is the same in every zone, and has the hour of UTC."
    utc = pl.Series("at", [datetime(2024, 3, 31, h, 59, 59, 999_000, tzinfo=UTC) for h in range(24)])
    features = fitted(pl.DataFrame({"at": utc}))
    assert features.numeric[0].parts == ("hour",)
    expected = agree(features, pl.DataFrame({"at": utc}))
    assert expected[:, 1].tolist() == list(range(24))
    for zone in ("Europe/Berlin", "Asia/Kathmandu", "America/New_York"):
        np.testing.assert_array_equal(agree(features, pl.DataFrame({"at": utc.dt.convert_time_zone(zone)})), expected)
    for unit in ("ms", "us", "ns"): np.testing.assert_array_equal(agree(features, pl.DataFrame({"at": utc.dt.cast_time_unit(unit).dt.replace_time_zone(None)})), expected)
    np.testing.assert_array_equal(agree(features, pl.DataFrame({"at": utc.dt.strftime("%Y-%m-%dT%H:%M:%S%.f%:z")})), expected)


def test_dates_too_far_for_a_calendar():
    features = fitted(pl.DataFrame({"day": pl.Series([0, 40, 500], dtype=pl.Int32).cast(pl.Date)}))
    num = agree(features, pl.DataFrame({"day": pl.Series([2**31 - 1, -(2**31), 90_000_000], dtype=pl.Int32).cast(pl.Date)}))
    assert np.isfinite(num[:, 0]).all() and np.isnan(num[:2, 1:]).all() and np.isfinite(num[2, 1:]).all()


def test_columns_of_nothing_and_of_one_value():
    n = 50
    frame = pl.DataFrame({"one": [7.0] * n, "none": pl.Series([None] * n, dtype=pl.Float64), "null": [None] * n, "nan": [float("nan")] * n, "infinite": [float("inf")] * n,
                          "no date": pl.Series([None] * n, dtype=pl.Date), "no text": pl.Series([None] * n, dtype=pl.String), "blank": [" "] * n, "same": ["one and the same"] * n})
    agree(fitted(frame), frame)
    for c in frame.columns: agree(fitted(frame, [c]), frame)
    agree(fitted(frame), frame.clear())


def test_infinite_values_are_missing():
    frame = pl.DataFrame({"x": [1.0, 2.0, float("inf"), -float("inf"), float("nan"), 1e300, None, 3.0]})
    features = fitted(frame)
    assert features.numeric[0].offset == 2.0 and features.numeric[0].scale == 1.0
    assert np.isnan(agree(features, frame)[:, 0]).tolist() == [False, False, True, True, True, True, True, False]


def test_five_thousand_columns():
    "Wide tables are only wide: every column is there, in its order."
    rng = np.random.default_rng(0)
    numbers = {f"n{i}": rng.normal(size=60) for i in range(4000)}
    texts = {f"t{i}": rng.choice(["a", "b", "c"], 60) for i in range(1000)}
    frame = pl.DataFrame(numbers | texts)
    features = fitted(frame)
    x = features.transform(frame)
    assert x.num.shape == (60, 4000) and x.cat.shape == (60, 1000) and features.sources == frame.columns
    np.testing.assert_allclose(x.num[:, 3999] * features.numeric[3999].scale + features.numeric[3999].offset, numbers["n3999"], rtol=1e-5, atol=1e-6)


def test_whole_numbers_beyond_double():
    "Neighbours that a double cannot tell apart differ by their own difference, in Python and in the graph."
    ids = pl.Series("id", [2**60 + d for d in (-1, 0, 1, 2)] * 50)
    features = fitted(pl.DataFrame({"id": ids}))
    num = agree(features, pl.DataFrame({"id": [2**60 - 1, 2**60, 2**60 + 1, None, -(2**63) + 1, 2**63 - 1]}))[:, 0] * features.numeric[0].scale
    assert features.columns == {"id": "integer"} and (num[1] - num[0], num[2] - num[1]) == (1, 1)
    assert np.isnan(num[3]) and num[4] < -(2**62) and num[5] > 2**62
    for other in (pl.Series([2**60 + 1], dtype=pl.Int128), pl.Series([2**60 + 1], dtype=pl.UInt64), pl.Series([str(2**60 + 1)]).cast(pl.Decimal(38, 0))):
        assert agree(features, other.alias("id").to_frame())[0, 0] * features.numeric[0].scale == num[2]


def test_differences_at_the_ends_of_64_bits():
    ends = [-(2**63) + 1, -(2**62), -1, 0, 1, 2**62, 2**63 - 1]
    for middle in ends:
        features = fitted(pl.DataFrame({"x": [middle] * 9 + [ends[0], ends[-1]]}))
        num = agree(features, pl.DataFrame({"x": ends}))[:, 0].astype(float) * features.numeric[0].scale
        np.testing.assert_allclose(num, [float(v - middle) for v in ends], rtol=1e-6)


def test_whole_numbers_without_a_sign():
    high = pl.Series("hash", [2**64 - 3, 2**64 - 2, 2**64 - 1] * 20, dtype=pl.UInt64)
    features = fitted(pl.DataFrame({"hash": high}))
    num = agree(features, pl.DataFrame({"hash": pl.Series([2**64 - 3, 2**64 - 2, 2**64 - 1, None, 0], dtype=pl.UInt64)}))[:, 0] * features.numeric[0].scale
    assert features.columns == {"hash": "unsigned"} and (num[1] - num[0], num[2] - num[1]) == (1, 1) and np.isnan(num[3]) and num[4] < -(2**62)


def test_sentinels_of_whole_numbers():
    frame = pl.DataFrame({"id": [2**60, 2**60 + 1, 2**60 + 2, 2**60 + 3, -1]})
    task = Task("t", "y", "binary", classes=("0", "1"), features=("id",), sentinels={"id": (-1.0, 0.5)})
    features = Features.fit(frame, task)
    assert features.numeric[0].offset == 2**60 + 1
    assert np.isnan(agree(features, frame)[:, 0]).tolist() == [False] * 4 + [True]


def test_decimals():
    frame = pl.DataFrame({"price": pl.Series(["1234567890.12", "1234567890.13", None, "-5.00"]).cast(pl.Decimal(20, 2))})
    features = fitted(frame)
    num = agree(features, frame)[:, 0] * features.numeric[0].scale + features.numeric[0].offset
    assert features.columns == {"price": "number"} and np.isnan(num[2])
    np.testing.assert_allclose(num[[0, 1, 3]], [1234567890.12, 1234567890.13, -5.0], rtol=1e-6, atol=100)


def test_all_kinds_at_once():
    "Numbers, whole numbers, dates, texts and categories beside one another, in every order of columns."
    frame = everything(500)
    features = list(c for c in frame.columns if c != "y")
    for order in (features, features[::-1], sorted(features)):
        fit = fitted(frame, order)
        agree(fit, frame)
        agree(fit, everything(100, seed=1, odd=True))
    assert set(fit.columns.values()) == {"number", "integer", "unsigned", "boolean", "date", "text", "category"}
    for kind in set(fit.columns.values()): agree(fitted(frame, [c for c, k in fit.columns.items() if k == kind]), everything(50, seed=2, odd=True))


def test_a_task_keeps_prose_and_drops_names():
    frame = everything(600).with_columns(name=pl.format("Ann Smith{}", pl.int_range(600)), member=pl.lit(None, pl.Boolean))
    task = frame_task(frame, TaskSettings(target="y"), name="t")
    assert {"remark", "account", "at", "born"} <= set(task.features) and task.excluded["name"] == "names its row"


def test_a_model_of_every_kind(tmp_path):
    "Searched, saved, loaded, explained by raw column, and the same in the graph."
    frame = everything(900)
    frame = frame.with_columns(y=pl.when(pl.int_range(900) % 5 == 0).then(pl.lit("no")).otherwise("y"))      # so that no column gives the answer away
    task = Task("t", "y", "binary", classes=("no", "yes"), features=tuple(c for c in frame.columns if c != "y"))
    fit_model(frame, task, trials=6, families=["network", "trees", "linear"], device="cpu").predictor.save(tmp_path / "model")
    made, odd = Predictor.load(tmp_path / "model"), everything(300, seed=8, odd=True)
    answered = Graph(to_onnx(made, Policy("threshold"))).run(odd)["probability_yes"]
    np.testing.assert_allclose(answered, made.predict(odd), atol=5e-6)
    x = made.features.transform(odd)
    told = shapley(lambda num, cat: made.predict_encoded(Encoded(num, cat)), x[:5], x[100:120], names=made.features.sources, data=odd[:5])
    assert set(told.names) == set(task.features) and told.additivity_error < 1e-6 and told.values.shape == (5, len(task.features))
    moved = dict(zip(told.names, np.abs(told.values).mean(0)))
    assert min(moved["remark"], moved["member"]) > max(v for c, v in moved.items() if c not in ("remark", "member"))
