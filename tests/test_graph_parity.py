"The graph answers as the predictor and its policy do: every framing, batch size, and odd value."
from pathlib import Path

import lightgbm
import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
from fastcore.test import expect_fail

from mlops_workbench.core.errors import InputError
from mlops_workbench.model.baselines import fit_constant, fit_linear
from mlops_workbench.model.calibrate import Calibration
from mlops_workbench.model.features import Features
from mlops_workbench.model.graph import Graph, floor32, to_onnx, trees_onnx
from mlops_workbench.model.network import Labelled, NetworkMember, fit_encoding
from mlops_workbench.model.policy import Policy
from mlops_workbench.model.predictor import Predictor
from mlops_workbench.model.task import Task
from mlops_workbench.model.trees import fit_trees

CLASSES = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c"), "regression": ()}


def table(n: int, seed: int, *, odd: bool) -> pl.DataFrame:
    "Rows of every kind; the odd ones with missing values, sentinels, unseen categories and empty strings."
    rng = np.random.default_rng(seed)
    def holes(values, missing): return [missing if odd and u < 0.2 else v for v, u in zip(values, rng.random(n))]
    return pl.DataFrame({
        "income": holes(holes(rng.lognormal(9, 1, n).round(2).tolist(), None), 999999.375),
        "big": holes((2**40 + rng.integers(0, 1000, n)).tolist(), None),
        "always there": rng.normal(-3, 1, n),
        "member": holes((rng.random(n) < 0.5).tolist(), None),
        "day": pl.Series(holes(rng.integers(18_000, 19_000, n).tolist(), None), dtype=pl.Int32).cast(pl.Date),
        "job": holes(rng.choice(["clerk", "nurse", "a driver", "été"], n).tolist(), "astronaut"),
        "town": holes(rng.choice([f"town {i}" for i in range(40)], n).tolist(), ""),
        "at": pl.Series(holes(rng.integers(1_600_000_000_000, 1_700_000_000_000, n).tolist(), None), dtype=pl.Int64).cast(pl.Datetime("ms")),
        "account": holes((2**60 + rng.integers(-500, 500, n)).tolist(), None),
        "remark": holes([" ".join(rng.choice(["late", "Broken", "ärger", "cable"], rng.integers(3, 7))) + f" {i}" for i in range(n)], "👍"),
        "race": holes(rng.choice(["black", "white", "asian"], n).tolist(), None),
    }, strict=False)


def target(frame: pl.DataFrame, framing: str) -> np.ndarray:
    x = frame.select(pl.col("income").log() - 9 + pl.col("member").cast(float) + (pl.col("job") == "nurse").cast(float)
                     + (pl.col("town") < "town 2").cast(float) + (pl.col("big") - 2**40) / 500).to_series().to_numpy()
    if framing == "regression": return 100 * x
    return (x > 2).astype(int) if framing == "binary" else np.digitize(x, [1.5, 2.5])


def network(x, y, features: Features, framing: str, k: int, seed: int) -> NetworkMember:
    "An untrained network: any weights will do."
    rng, encoding = np.random.default_rng(seed), fit_encoding(x, y, n_categories=features.n_categories, regression=framing == "regression")
    shapes = {"w0": (encoding.width, 8), "b0": (8,), "w1": (8, 8), "b1": (8,), "wo": (8, k), "bo": (k,)}
    weights = {name: rng.normal(size=shape).astype(np.float32) / shape[0] ** 0.5 for name, shape in shapes.items()}
    return NetworkMember(encoding, weights, framing, center=30.0, scale=200.0)


def predictor(framing: str, *, families=("network", "network", "linear", "constant", "trees", "trees"), drop=(), rounds=40) -> Predictor:
    features = tuple(c for c in table(1, 0, odd=False).columns if c not in ("race", *drop))
    task = Task(name="parity", target="y", framing=framing, classes=CLASSES[framing], features=features, sentinels={"income": (-1.0, 999999.375), "big": (666.0,)})
    whole = table(1800, 1, odd=False)
    y, train = target(whole, framing), whole.with_columns(income=pl.when(pl.int_range(1800) % 9 > 0).then("income"), job=pl.when(pl.int_range(1800) % 7 > 0).then("job"))
    features, k = Features.fit(train, task), len(task.classes) if framing == "multiclass" else 1
    x = features.transform(train)
    rows, classes = Labelled(x, y, np.ones(1800)), max(len(task.classes), 2)
    params = {"min_data_in_leaf": 5, "cat_smooth": 1, "min_data_per_group": 5}
    make = {
        "network": lambda i: network(x, y, features, framing, k, i),
        "linear": lambda i: fit_linear(rows[:1200], rows[1200:], framing=framing, n_categories=features.n_categories, classes=classes),
        "constant": lambda i: fit_constant(rows, framing=framing, classes=classes),
        "trees": lambda i: fit_trees(rows, None, framing=framing, classes=classes, params=params, rounds=rounds, threads=1, seed=i),
    }
    members = [make[f](i) for i, f in enumerate(families)]
    b = (0.1, -0.2, 0.0) if k == 3 else (0.2,)
    return Predictor(task, features, members, [i + 1.0 for i in range(len(members))], Calibration(framing, 1.3, b))


FITS = [("binary", "threshold"), ("binary", "by_group"), ("binary", "value"), ("binary", "argmax"), ("multiclass", "argmax"), ("regression", "none")]
POLICIES = {
    "threshold": Policy("threshold", threshold=0.4),
    "by_group": Policy("by_group", group_column="race", thresholds={"black": 0.3, "white": 0.6}, fallback=0.45),
    "value": Policy("value", values=((0.0, -1.0), (-3.0, 1.0))),
    "argmax": Policy("argmax"),
    "none": Policy("none"),
}


def agree(made, policy: Policy, graph: Graph, frame: pl.DataFrame) -> None:
    expected, found = made.predict(frame), graph.run(frame, 400)
    if made.task.framing == "regression":
        np.testing.assert_allclose(found["value"].to_numpy(), expected, rtol=2e-5, atol=1e-2)
        return
    p = found.select(f"probability_{c}" for c in made.task.classes).to_numpy()
    both = np.stack([1 - expected, expected], 1) if expected.ndim == 1 else expected
    np.testing.assert_allclose(p, both, atol=5e-6)
    groups = frame["race"] if policy.kind == "by_group" else None
    decided = np.array(made.task.classes)[policy.decide(expected, groups)]
    assert found["decision"].to_list() == decided.tolist()
    assert found["label"].to_list() == np.array(made.task.classes)[both.argmax(1)].tolist()


@pytest.fixture(scope="module", params=list(CLASSES))
def made(request): return predictor(request.param)


@pytest.mark.parametrize("framing, policy", FITS)
def test_parity_at_every_batch_size(framing, policy):
    made, policy = predictor(framing), POLICIES[policy]
    graph = Graph(to_onnx(made, policy))
    for n in (1, 2, 7, 1000):
        for odd in (False, True): agree(made, policy, graph, table(n, n, odd=odd))


@pytest.mark.parametrize("families", [("network",), ("constant",), ("linear", "network"), ("trees",), ("constant", "trees")])
@pytest.mark.parametrize("drop", [(), ("job", "town"), ("income", "big", "always there", "member", "day", "at", "account"), ("income", "big", "always there", "member", "day", "at", "account", "remark")])
def test_members_and_features_of_one_kind(families, drop):
    made = predictor("binary", families=families, drop=drop, rounds=5)
    graph = Graph(to_onnx(made, POLICIES["threshold"]))
    for n in (1, 7): agree(made, POLICIES["threshold"], graph, table(n, n, odd=True))


def test_a_value_missing_for_the_first_time():
    "A column that was complete in training may be missing later; LightGBM then reads 0."
    made = predictor("binary", families=("trees",))
    frame = table(500, 5, odd=False).with_columns(pl.lit(None, pl.Float64).alias("always there"), big=pl.lit(None, pl.Int64))
    agree(made, POLICIES["threshold"], Graph(to_onnx(made, POLICIES["threshold"])), frame)


def test_a_sentinel_is_a_missing_value():
    made = predictor("binary", families=("linear", "trees"))
    graph = Graph(to_onnx(made, POLICIES["threshold"]))
    frame = table(50, 4, odd=False)
    known, unknown, coded = (graph.run(frame.with_columns(income=pl.lit(v, pl.Float64))) for v in (20_000.0, None, 999999.375))
    assert coded.equals(unknown) and not coded.equals(known)


def test_trees_that_never_split():
    made = predictor("binary", families=("trees",), rounds=3, drop=("income", "big", "member", "day", "job", "town", "at", "account", "remark"))
    x = made.features.transform(table(200, 0, odd=False))
    made.members = [fit_trees(Labelled(x, np.arange(200) % 2, np.ones(200)), None, framing="binary", rounds=3, params={"min_data_in_leaf": 150}, threads=1)]
    agree(made, POLICIES["threshold"], Graph(to_onnx(made, POLICIES["threshold"])), table(7, 0, odd=True))


def test_thresholds_between_neighbouring_floats():
    "Every value of float32 falls on the side of a threshold that LightGBM gave it in double."
    lows = np.array([1.0, 2.0, 3.0], np.float32)
    x = np.concatenate([lows, np.nextafter(lows, np.float32(9))]).repeat(50)
    y = np.concatenate([np.zeros(3), np.ones(3)]).repeat(50)
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "min_data_in_leaf": 1, "min_data_in_bin": 1}, lightgbm.Dataset(x[:, None], y), 20)
    text, expected = booster.model_to_string(), booster.predict(x[:, None])
    np.testing.assert_array_equal(lightgbm.Booster(model_str=floor32(text)).predict(x[:, None]), expected)
    model = trees_onnx(text, 1)
    found = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {model.graph.input[0].name: x[:, None]})[-1][:, 1]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_groups_known_by_a_number():
    "A policy may decide by a column that is also a numeric feature."
    made = predictor("binary", families=("linear",))
    policy = Policy("by_group", group_column="member", thresholds={"true": 0.2, "false": 0.9}, fallback=0.5)
    frame = table(300, 9, odd=True)
    found = Graph(to_onnx(made, policy)).run(frame)["decision"]
    assert found.to_list() == np.array(made.task.classes)[policy.decide(made.predict(frame), frame["member"])].tolist()


def test_groups_known_by_a_large_whole_number():
    "Neighbours that are one double are two groups."
    made = predictor("binary", families=("linear",))
    policy = Policy("by_group", group_column="account", thresholds={str(2**60 + 1): 0.0, str(2**60 - 1): 1.1}, fallback=0.5)
    frame = table(300, 9, odd=False).with_columns(account=pl.Series([2**60 - 1, 2**60, 2**60 + 1, None] * 75))
    found = Graph(to_onnx(made, policy)).run(frame)["decision"]
    assert found.to_list() == np.array(made.task.classes)[policy.decide(made.predict(frame), frame["account"])].tolist()
    assert found[2] == "yes" and found[0] == "no"


def test_columns_named_like_outputs():
    frame = table(200, 3, odd=False).rename({"income": "probability", "job": "label", "big": "decision"})
    task = Task(name="t", target="y", framing="binary", classes=("0", "1"), features=("probability", "label", "decision"))
    features = Features.fit(frame, task)
    x = features.transform(frame)
    made = Predictor(task, features, [network(x, np.arange(200) % 2, features, "binary", 1, 0)], [1.0], Calibration("binary"))
    graph = Graph(to_onnx(made, Policy("argmax")))
    assert [o["name"] for o in graph.outputs] == ["probability_", "label_", "decision_"]
    np.testing.assert_allclose(graph.run(frame)["probability_1"], made.predict(frame), atol=5e-6)


def test_the_graph_is_portable(made):
    policy = Policy("none") if made.task.framing == "regression" else Policy("argmax")
    data = to_onnx(made, policy)
    model = onnx.load_from_string(data)
    assert {o.domain: o.version for o in model.opset_import} == {"": 20, "ai.onnx.ml": 3} and model.ir_version == 10
    assert not model.functions and not any(t.external_data for t in model.graph.initializer)
    assert b"/site-packages/" not in data and str(Path.cwd()).encode() not in data  # no paths of the machine that built it


def test_what_the_graph_refuses(made):
    policy = Policy("none") if made.task.framing == "regression" else Policy("argmax")
    graph, frame = Graph(to_onnx(made, policy)), table(3, 0, odd=False)
    with expect_fail(InputError, "column 'job' is missing"): graph.run(frame.drop("job"))
    with expect_fail(InputError, "column 'income' should hold numbers"): graph.run(frame.with_columns(income=pl.lit("much")))
    assert graph.run(frame.clear()).schema == graph.run(frame).schema
    with expect_fail(InputError, "cannot be loaded"): Graph(b"not a model")
